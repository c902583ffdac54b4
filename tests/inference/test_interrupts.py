"""An interrupt or an error, wherever it comes, is its own caller's: the others answer as alone and the engine ends empty."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from helpers import is_empty, make_limner, make_sdxl, make_stream, picture, psnr
from limner.detokenizer import samplers
from limner.detokenizer.drawing_options import DrawingOptions
from limner.detokenizer.guidance import Guidance
from limner.inference import scheduler
from limner.inference.engine import Engine
from limner.inference.requests import RowGroup
from limner.mllm import decoding, sampling
from limner.mllm.cache import StreamCache
from limner.mllm.decoding import Decoder, Row
from limner.mllm.events import PictureDone, PictureStep, TextPiece
from limner.mllm.stream import StreamModel
from limner.mllm.text_stream import TextStream

SHOWN = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "hello"}]}]
OPTIONS = {"images": "force", "max_images": 2, "max_new_tokens": 8, "seed": 1, "num_inference_steps": 3}


@pytest.fixture(params=["seen", "queries"])
def model(request):
    return make_limner(prompt_tokens=6, shapes=((32, 32), (16, 32)), drawn_images=request.param)


def places(model):
    """Where an interrupt may come, and whether it does before the work there or after it."""
    return {
        "vision tower": (model.mllm.vision_tower, "forward", False),
        "layer": (model.mllm.llm.model.layers[1], "forward", True),
        "head": (StreamModel, "logits", False),
        "keys": (decoding, "append_keys", False),
        "keys appended": (decoding, "append_keys", True),
        "choose": (Decoder, "choose", False),
        "sample": (sampling, "sample", True),
        "leave a group": (RowGroup, "take", False),
        "join": (StreamCache, "join", False),
        "begin a drawing": (scheduler, "begin_drawing", False),
        "network": (model.detokenizer.mmdit, "forward", False),
        "guidance": (Guidance, "combine", False),
        "autoencoder": (model.detokenizer.autoencoder, "decode", False),
        "picture fed": (Decoder, "feed_images", True),
        "after a picture": (Engine, "_choose", False),
        "before a unit of work": (Engine, "drive", False),
        "after a unit of work": (Engine, "drive", True),
        "those that were left": (Engine, "_drop_left", False),
    }


def interrupted(monkeypatch, place, number):
    """The ``number``-th call of a function raises KeyboardInterrupt, once."""
    target, name, after = place
    plain, calls = getattr(target, name), []

    def call(*args, **options):
        calls.append(name)
        if after or len(calls) != number:
            result = plain(*args, **options)
        if len(calls) == number:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(target, name, call)


def answer(events):
    """A reply and its events, at most as many units of work as it can take."""
    found = []
    while True:
        try:
            found.append(next(events))
        except StopIteration as stopped:
            return stopped.value[0], found


def told(events):
    """What events say, however often a step was done."""
    kinds = [type(event).__name__ for event in events if not isinstance(event, (TextPiece, PictureStep))]
    return kinds, "".join(event.text for event in events if isinstance(event, TextPiece))


@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", places(make_limner()))
def test_an_interrupt_anywhere_hits_the_one_who_drives_and_nobody_else(model, monkeypatch, name, temperature):
    options = {**OPTIONS, "temperature": temperature}
    plain, events = answer(model.stream(SHOWN, **options))
    units, step = [], Engine.step

    def counted(engine):
        units.append(1)
        assert len(units) < 200, "nothing goes on"
        step(engine)

    monkeypatch.setattr(Engine, "step", counted)
    hits = 0
    for number in range(1, 6):
        units.clear()
        other = model.stream(SHOWN, **options)
        first = next(other)
        with monkeypatch.context() as patched:
            interrupted(patched, places(model)[name], number)
            try:
                model.generate("something else" if number % 2 else SHOWN, **{**options, "seed": 5})
            except KeyboardInterrupt:
                hits += 1
        reply, rest = answer(other)
        assert reply.text == plain.text and told([first, *rest]) == told(events), number
        assert all(psnr(a, b) >= 45 for a, b in zip(reply.images, plain.images, strict=True))
        assert is_empty(model.engine)
    assert (
        hits
        or (name, temperature) == ("sample", 0.0)
        or (name, model.config.drawn_images)
        == (
            "vision tower",
            "queries",
        )
    )


def broken(steps, at):
    """A sampler that is interrupted in its ``at``-th step, once."""
    calls = []

    def sampler(*args):
        inner = steps(*args)
        sent = next(inner)
        while True:
            prediction = yield sent
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            try:
                sent = inner.send(prediction)
            except StopIteration as stopped:
                return stopped.value

    return sampler


def test_a_drawing_whose_sampler_was_interrupted_is_drawn_from_its_beginning(model, monkeypatch):
    plain, _ = answer(model.stream("a", **OPTIONS))
    monkeypatch.setattr(samplers, "euler", broken(samplers.euler, 2))
    with pytest.raises(KeyboardInterrupt):
        model.generate("b", **OPTIONS)
    monkeypatch.setattr(samplers, "euler", broken(samplers.euler, 5))
    other = model.stream("a", **OPTIONS)
    next(other)
    with pytest.raises(KeyboardInterrupt):
        model.generate("b", **OPTIONS)
    reply, events = answer(other)
    assert [image.tobytes() for image in reply.images] == [e.image.tobytes() for e in events if type(e) is PictureDone]
    assert all(psnr(a, b) >= 45 for a, b in zip(reply.images, plain.images, strict=True)) and is_empty(model.engine)


def test_a_drawing_with_sdxl_s_scheduler_begins_anew_too(monkeypatch):
    detokenizer = make_sdxl()
    with torch.inference_mode():
        condition = detokenizer.adapter(torch.randn(1, 4, 48))
    options = DrawingOptions(num_inference_steps=4)
    plain, other = (detokenizer.begin(condition, 32, 32, seeds=[(0, 0)], options=options) for _ in range(2))
    detokenizer.advance([other])
    with monkeypatch.context() as patched:
        interrupted(patched, (EulerDiscreteScheduler, "step", False), 1)
        with pytest.raises(KeyboardInterrupt):
            detokenizer.advance([other])
    assert other.done == 0 and torch.equal(detokenizer.run(other), detokenizer.run(plain))


def test_a_drawing_that_cannot_begin_ends_its_own_request_alone(model, monkeypatch):
    """Two requests reach their pictures at the same time."""
    plain, begin = model.generate("a", **OPTIONS), scheduler.begin_drawing

    def begin_one(detokenizer, group, config, options, seeds):
        if seeds == [7]:
            raise ValueError("no such picture")
        return begin(detokenizer, group, config, options, seeds)

    monkeypatch.setattr(scheduler, "begin_drawing", begin_one)
    streams = [model.stream("a", **OPTIONS), model.stream("b", **{**OPTIONS, "seed": 7})]
    requests = [stream.gi_frame.f_locals["request"] for stream in streams]
    for request in requests:
        model.engine.submit(request)
    while not all(request.over for request in requests):
        model.engine.step()
    assert requests[0].error is None and str(requests[1].error) == "no such picture"
    images = [event.image for event in requests[0].events if isinstance(event, PictureDone)]
    assert all(psnr(a, b) >= 45 for a, b in zip(images, plain.images, strict=True))
    for request in requests:
        model.engine.leave(request)
    assert is_empty(model.engine)


@pytest.mark.parametrize("temperature", [1e-40, 1e-6])
def test_the_lowest_temperatures_choose_the_likeliest_token(temperature):
    model = make_limner()
    options = {"images": "never", "max_new_tokens": 8}
    assert model.generate("b", temperature=temperature, **options).text == model.generate("b", **options).text


def test_who_sees_that_a_reply_has_ended_finds_all_its_events():
    _, encoder = make_stream()
    seen = []
    row = Row(
        0, SimpleNamespace(), lambda event: seen.append(row.finish_reason), None, TextStream(encoder.tokenizer), [], ""
    )
    row.finish("stop")
    assert seen == [""] and row.finish_reason == "stop"


def test_an_interrupt_loses_no_row_that_was_just_read(model, monkeypatch):
    """The one who drives reads another's conversation first."""
    plain = told(answer(model.stream("a", **OPTIONS))[1])
    request = model.stream("a", **OPTIONS).gi_frame.f_locals["request"]
    model.engine.submit(request)
    with monkeypatch.context() as patched:
        interrupted(patched, (Decoder, "choose", False), 1)
        with pytest.raises(KeyboardInterrupt):
            model.generate("b", **OPTIONS)
    for _ in range(100):
        model.engine.step()
    assert request.over and told(request.events) == plain
    model.engine.leave(request)
    assert is_empty(model.engine)


@torch.inference_mode()
def test_a_cache_is_what_it_was_and_a_branch_is_not_remembered():
    stream, encoder = make_stream(prompt_tokens=6)
    cache, _ = Decoder(stream, encoder).prefill([encoder.encode("abc")])
    lengths, hidden, keys = list(cache.lengths), cache.hidden, [list(own) for own in cache.keys]
    shapes = [layer.keys.shape for layer in cache.past.layers]
    embeds = torch.randn(1, 3, stream.width)
    with pytest.raises(KeyboardInterrupt), cache.restored_on_error():
        cache.extend(embeds)
        decoding.append_keys(cache, [[1, 2, 3]])
        raise KeyboardInterrupt
    assert (cache.lengths, cache.keys) == (lengths, keys) and cache.hidden is hidden
    assert [layer.keys.shape for layer in cache.past.layers] == shapes
    out = cache.extend(embeds, branch=2)
    assert torch.equal(cache.hidden, torch.cat([hidden, out[:, :1]], 1)[:, -6:])

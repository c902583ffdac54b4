"""The engine: requests in any company answer as alone, none is lost, and nobody keeps anybody waiting."""

import copy
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from streams import finish, in_a_random_order

from helpers import is_empty, make_limner, picture, psnr
from limner.inference.engine import Engine
from limner.inference.scheduler import EngineLimits
from limner.mllm.cache import StreamCache
from limner.mllm.decoding import Decoder
from limner.mllm.events import PictureDone, PictureStep
from limner.train.adapter_training import AdapterTraining

NEAR = 1e-4
"""Two logits closer than this may change places in company"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = make_limner(prompt_tokens=6, shapes=((32, 32), (16, 32)))
    folder = tmp_path_factory.mktemp("adapters") / "a"
    config = LoraConfig(r=2, target_modules=["q_proj", "qkv"])
    with AdapterTraining(made, "a", {"llm": config, "mmdit": config}) as training:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        training.save(folder, dict(made.named_parameters()), {})
    made.load_adapter(folder)
    made.set_adapters([])
    return made


def ask(rng):
    """Arguments of `Limner.stream`."""
    shown = [{"type": "image", "image": picture(rng.randint(0, 9))}] if rng.random() < 0.3 else []
    said = "".join(rng.choice("abc def ") for _ in range(rng.randint(1, 30))) + "x"
    sampled = {"temperature": rng.choice((0.7, 2.0)), "top_k": rng.choice((0, 5)), "top_p": rng.choice((1.0, 0.9))}
    guided = {"guidance_scale": 2.0, "image_guidance_scale": 1.5}
    return {
        "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": said}]}],
        "seed": rng.randint(0, 10**6),
        "images": rng.choice(("auto", "force", "force", "never")),
        "max_images": rng.randint(1, 2),
        "max_new_tokens": rng.randint(1, 10),
        "num_inference_steps": rng.randint(1, 5),
        "sampler": rng.choice(("euler", "heun", "multistep")),
        "adapters": rng.choice((None, None, {"a": 1.0}, {"a": 0.5})),
        "stop": rng.choice(((), ("q",))),
        **rng.choice(({}, sampled)),
        **rng.choice(({}, guided, {"guidance_scale": 1.0})),
        **rng.choice(({}, {"height": 32, "width": 16})),
    }


class Margins:
    """The smallest distance of the two best scores of a row, wherever it chose the best one."""

    def __init__(self, monkeypatch):
        self.least = {}

        def choose(decoder, rows, logits, chosen=Decoder.choose):
            best = logits.float().topk(2).values
            for row, (first, second) in zip(rows, best.tolist(), strict=True):
                self.least[row.request] = min(self.least.get(row.request, 9.0), first - second)
            return chosen(decoder, rows, logits)

        monkeypatch.setattr(Decoder, "choose", choose)

    def take(self):
        least, self.least = min(self.least.values(), default=9.0), {}
        return least


def company(model, rng, count):
    """Requests, and their replies in a random order (`in_a_random_order`)."""
    asked = [ask(rng) for _ in range(count)]
    return asked, *in_a_random_order(model, rng, asked, keep_cache=0.3)


@pytest.mark.parametrize("requests", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_request_in_any_company_answers_as_alone(model, monkeypatch, requests):
    """Joins, cancellations, other options, adapters and sizes beside it: the same words, and pictures to 45 dB; none is lost."""
    margins, rng = Margins(monkeypatch), random.Random(26)
    done = other_words = cancelled = pictures_seen = exact = 0
    while done + cancelled < requests:
        asked, replies, left = company(model, rng, rng.randint(2, 8))
        assert is_empty(model.engine)
        for number, (options, reply) in enumerate(zip(asked, replies.values(), strict=True)):
            if reply is None:
                assert number in left
                cancelled += 1
                continue
            done += 1
            margins.take()
            alone = finish(model.stream(**options))
            if alone.text != reply.text or len(alone.images) != len(reply.images):
                other_words += 1
                assert margins.take() < NEAR, (options, alone, reply)
                continue
            assert alone.finish_reason == reply.finish_reason
            for own, other in zip(alone.images, reply.images, strict=True):
                pictures_seen += 1
                exact += own.tobytes() == other.tobytes()
                assert own.size == other.size and psnr(own, other) >= 45
    print(
        f"{done} answered, {cancelled} left, {other_words} with other words, {exact} of {pictures_seen} pictures exact"
    )
    assert other_words <= 0.01 * done and pictures_seen > requests / 4 and cancelled > requests / 50


def test_a_request_alone_is_the_same_to_the_last_bit_whatever_went_before(model):
    options = {"messages": "draw a cat", "seed": 3, "images": "force", "max_images": 1}
    before = model.generate(**options)
    company(model, random.Random(1), 5)
    after = model.generate(**options)
    assert before.text == after.text and before.images[0].tobytes() == after.images[0].tobytes()


def test_threads_answer_as_one_by_one(model):
    rng = random.Random(5)
    asked = [{**ask(rng), "temperature": 0.0} for _ in range(24)]
    alone = [model.generate(**options) for options in asked]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda options: model.generate(**options), asked))
    assert is_empty(model.engine)
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text
        assert all(psnr(a, b) >= 45 for a, b in zip(one.images, other.images, strict=True))


def test_a_held_stream_is_in_nobody_s_way_and_loses_nothing(model):
    options = {"seed": 3, "images": "force", "max_images": 1, "max_new_tokens": 6, "num_inference_steps": 4}
    plain = list(model.stream("a", **options))
    held = model.stream("a", **options)
    first = [next(held), next(held)]
    assert len(model.generate(["b", "c"], **options)) == 2
    assert [type(e) for e in [*first, *held]] == [type(e) for e in plain]


def test_drawings_at_times_of_their_own_take_one_evaluation_together(model, monkeypatch):
    """Four of other requests, seeds, steps and guidance: four steps and no more than the longest has."""
    batches, plain = [], model.detokenizer.mmdit.forward
    options = {"images": "force", "max_images": 1, "max_new_tokens": 1, "height": 32, "width": 32}
    streams = [
        model.stream("a", seed=n, num_inference_steps=steps, guidance_scale=scale, **options)
        for n, (steps, scale) in enumerate(((2, 1.0), (4, 2.0), (3, 1.0), (4, 1.0)))
    ]
    alone = [
        model.generate("a", seed=n, num_inference_steps=steps, guidance_scale=scale, **options)
        for n, (steps, scale) in enumerate(((2, 1.0), (4, 2.0), (3, 1.0), (4, 1.0)))
    ]
    monkeypatch.setattr(
        model.detokenizer.mmdit, "forward", lambda x, *a, **k: batches.append(len(x)) or plain(x, *a, **k)
    )
    requests = submit(model.engine, streams)
    while not all(request.over for request in requests):
        model.engine.step()
    # guidance doubles the rows of one of them
    assert batches == [5, 5, 4, 3]
    for request, one in zip(requests, alone, strict=True):
        (image,) = [event.image for event in request.events if isinstance(event, PictureDone)]
        assert psnr(image, one.images[0]) >= 45
    for request in requests:
        model.engine.leave(request)


def submit(engine, streams):
    """The requests of streams, begun without anybody who drives."""
    requests = [stream.gi_frame.f_locals["request"] for stream in streams]
    for request in requests:
        engine.submit(request)
    return requests


def test_words_and_pictures_take_turns(model, monkeypatch):
    """Beside a long drawing a reply begins at the next unit of work and goes on; the drawing ends all the same."""
    clock = iter(range(10**6))
    # every unit of work takes as long
    monkeypatch.setattr("limner.inference.scheduler.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    engine = model.engine
    options = {"max_images": 1, "max_new_tokens": 1, "num_inference_steps": 40}
    (drawing,) = submit(engine, [model.stream("a", images="force", **options)])
    while not any(isinstance(event, PictureStep) for event in drawing.events):
        engine.step()
    (talk,) = submit(engine, [model.stream("hello", images="never", max_new_tokens=12, seed=4)])
    engine.step()
    (row,) = talk.rows
    assert row.num_text_tokens == 1
    order = ""
    while not (drawing.over and talk.over):
        words, steps = row.num_text_tokens, len(drawing.events)
        engine.step()
        order += "w" * (row.num_text_tokens > words) + "p" * (len(drawing.events) > steps)
    assert order.count("w") == row.num_text_tokens - 1 > 5 and order.count("p") > 36
    beside = order[: order.rindex("w")]
    assert "ppp" not in beside and "www" not in beside, order
    for request in (drawing, talk):
        engine.leave(request)


def test_a_cancelled_request_is_gone_after_one_unit(model):
    engine = model.engine
    for stage in ("queued", "writing", "drawing"):
        options = {"seed": 1, "max_images": 1, "num_inference_steps": 30, "max_new_tokens": 8}
        stream = model.stream(["a", "b"], images="never" if stage == "writing" else "force", **options)
        (request,) = submit(engine, [stream])
        if stage != "queued":
            while not getattr(engine, stage):
                engine.step()
        engine.busy = True  # somebody is at work
        engine.leave(request)
        engine.busy = False
        engine.drive()
        assert is_empty(engine), stage


def test_a_stream_that_nobody_begins_costs_nothing(model):
    model.stream("a", images="force")
    assert is_empty(model.engine)


def test_limits_hold_and_rows_wait_in_their_order(model):
    limited = copy.copy(model)
    options = {"max_new_tokens": 4, "images": "never", "seed": 2}
    needed = len(model.encoder.encode("abc", add_generation_prompt=True).input_ids) + 4
    plain = model.generate(["abc"] * 7, **options)
    for limits in (EngineLimits(rows=2), EngineLimits(tokens=2 * needed + 1)):
        limited.engine = Engine(limited, limits)
        most, step = 0, limited.engine.step

        def counted(engine=limited.engine, step=step):
            nonlocal most
            step()
            most = max(most, len(list(engine._rows())))

        limited.engine.step = counted
        assert [reply.text for reply in limited.generate(["abc"] * 7, **options)] == [reply.text for reply in plain]
        assert most <= 2
    limited.engine = Engine(limited, EngineLimits(tokens=needed - 1))
    with pytest.raises(ValueError, match=f"may take {needed} tokens; this engine holds {needed - 1}"):
        limited.stream("abc", **options)
    with pytest.raises(ValueError, match="at least 1"):
        EngineLimits(rows=0)


def test_an_error_ends_its_own_request_alone(model, monkeypatch):
    plain = model.generate("a", images="force", max_images=1, seed=1)
    held = model.stream("a", images="force", max_images=1, seed=1)
    next(held)

    def broken(*args, **options):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "prefill", broken)
        with pytest.raises(RuntimeError, match="no memory left"):
            model.generate("b")
        with pytest.raises(RuntimeError, match="no memory left"):
            model.generate(["b", "c"])
    assert psnr(finish(held).images[0], plain.images[0]) >= 45 and is_empty(model.engine)


@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_interrupt_hits_the_one_who_drives_and_nobody_else(model, monkeypatch, at):
    """Wherever in the backbone it comes: layers that had taken the tokens give them back."""
    options = {"images": "auto", "max_images": 1, "max_new_tokens": 8, "seed": 1}
    plain = model.generate("a", **options)
    other = model.stream("a", **options)
    next(other)
    layer, calls = model.mllm.llm.model.layers[1], [0]

    def interrupted(*args):
        calls[0] += 1
        if calls[0] == at + 1:
            raise KeyboardInterrupt

    hook = layer.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.generate("something else", images="never", max_new_tokens=12)
    hook.remove()
    reply = finish(other)
    assert reply.text == plain.text and is_empty(model.engine)
    assert all(psnr(a, b) >= 45 for a, b in zip(reply.images, plain.images, strict=True))


def test_a_copy_of_a_model_in_use_begins_empty(model):
    held = model.stream("a", images="force", max_images=1)
    next(held)
    other = copy.deepcopy(model)
    assert is_empty(other.engine) and other.engine.model is other and not is_empty(model.engine)
    assert other.generate("a", max_new_tokens=2).text == model.generate("a", max_new_tokens=2).text
    held.close()


def test_what_conditions_a_drawing_is_all_that_is_kept_of_the_hidden_states(model, monkeypatch):
    widths, plain = [], StreamCache.extend

    def seen(cache, *args, **options):
        out = plain(cache, *args, **options)
        widths.append(cache.hidden.shape[1])
        return out

    monkeypatch.setattr(StreamCache, "extend", seen)
    model.generate("a long prompt, longer than what is kept", images="never", max_new_tokens=30, seed=2)
    assert max(widths) == model.config.prompt_tokens == 6 and len(widths) > 3


def test_a_waiting_thread_takes_over_from_one_that_does_not_come_back(model):
    held = model.stream("a", images="force", max_images=1, num_inference_steps=30)
    next(held)  # drives, and then its consumer does something else
    done = threading.Event()
    thread = threading.Thread(target=lambda: model.generate("b", max_new_tokens=2) and done.set())
    thread.start()
    assert done.wait(20)
    thread.join()
    held.close()
    assert is_empty(model.engine)


def test_drawings_of_other_sizes_take_turns(model):
    options = {"images": "force", "max_images": 1, "max_new_tokens": 1, "num_inference_steps": 6, "width": 32}
    requests = submit(model.engine, [model.stream("a", height=height, **options) for height in (16, 32)])
    order = []
    while not all(request.over for request in requests):
        before = [len(request.events) for request in requests]
        model.engine.step()
        order += [n for n, request in enumerate(requests) if len(request.events) > before[n] and model.engine.drawing]
    steps = [[event.step for event in request.events if isinstance(event, PictureStep)] for request in requests]
    assert steps == [list(range(1, 7))] * 2
    assert [0, 0] not in [order[i : i + 2] for i in range(2, len(order) - 3)], order
    for request in requests:
        model.engine.leave(request)


def test_the_rows_of_a_request_go_on_together_after_pictures_of_other_sizes(model, monkeypatch):
    """Its batch is the same every time, whatever else there is: all pictures are there at once."""
    shapes, end = model.mllm.vocabulary.shapes, model.mllm.vocabulary.end_of_turn[0]
    monkeypatch.setattr(
        Decoder, "choose", lambda _, rows, logits: [end if r.num_images else shapes[r.index] for r in rows]
    )
    (request,) = submit(model.engine, [model.stream(["a", "b"], num_inference_steps=3)])
    counts = set()
    while not request.over:
        model.engine.step()
        counts.add(sum(isinstance(event, PictureDone) for event in request.events))
    sizes = [event.image.size for event in request.events if isinstance(event, PictureDone)]
    assert counts == {0, 2} and sizes == [(32, 32), (32, 16)]
    model.engine.leave(request)


def test_the_rows_of_a_request_draw_together(model, monkeypatch):
    """One that reaches its picture first waits for the other."""
    picture_id, letter = model.mllm.vocabulary.shapes[0], model.encoder.text_ids("a")[0]
    end, together, plain = model.mllm.vocabulary.end_of_turn[0], [], Decoder.feed_queries

    def choose(decoder, rows, logits):
        return [end if r.num_images else letter if r.num_text_tokens < 3 * r.index else picture_id for r in rows]

    monkeypatch.setattr(Decoder, "choose", choose)
    monkeypatch.setattr(Decoder, "feed_queries", lambda d, rows, c: together.append(len(rows)) or plain(d, rows, c))
    model.generate(["a", "b"], num_inference_steps=1)
    assert together == [2]


def test_what_is_no_number_is_refused_and_company_is_not(model):
    """In place of a black picture with exit status 0, words without sense, and torch's own error where they are sampled."""
    drawn = {"images": "force", "max_new_tokens": 1, "num_inference_steps": 1}
    alone = model.generate("abc", **drawn)
    sane = model.stream("abc", **drawn)
    for wrong in (
        {**drawn, "guidance_scale": 3e38},
        {"images": "never", "adapters": {"a": 1e38}},
        {"images": "never", "adapters": {"a": 1e38}, "temperature": 1.0},
    ):
        with pytest.raises(
            ValueError, match="not finite numbers: a guidance scale or an adapter's weight is too large"
        ):
            model.generate("abc", **wrong)
    wrong = model.stream("abc", **drawn, guidance_scale=3e38)
    next(sane), next(wrong)
    reply = finish(sane)
    assert reply.text == alone.text and psnr(reply.images[0], alone.images[0]) > 45
    with pytest.raises(ValueError, match="not finite"):
        finish(wrong)
    assert is_empty(model.engine)

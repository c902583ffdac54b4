"""Replies to random requests: limits, image policies, batches, sampling, stop strings, histories with pictures."""

from __future__ import annotations

import functools
import string

from hypothesis import strategies as st
from PIL import Image

from cases import Outcome, try_cases
from helpers import make_limner, picture
from limner.inference.model import Limner
from limner.mllm.events import Finished, PictureBegun, PictureDone, TextPiece
from limner.mllm.messages import EmittedText

TITLE = "generations with random limits, policies, batches, sampling and stop strings: well-formed"
CASES = 10_000

SHAPES = ((32, 32), (16, 32))
MODELS = [
    {},
    {"shapes": SHAPES, "prompt_tokens": 6},
    {"drawn_images": "queries"},
    {"drawn_images": "queries", "shapes": SHAPES},
    {"tile_grids": ((1, 2), (2, 1))},
]

texts = st.text(string.ascii_letters + " <>/_'", min_size=1, max_size=12).filter(str.strip)
pictures = st.builds(picture, st.integers(0, 3), st.sampled_from([(32, 32), (16, 32), (40, 24)]))
parts = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}), pictures.map(lambda own: {"type": "image", "image": own})
)
users = st.lists(parts, min_size=1, max_size=3).map(lambda content: {"role": "user", "content": content})
assistants = st.lists(parts, min_size=1, max_size=2).map(lambda content: {"role": "assistant", "content": content})
conversations = st.one_of(
    texts, st.tuples(users).map(list), st.tuples(users, assistants, users).map(list), st.just("draw it")
)
options = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 12), "num_inference_steps": st.integers(1, 2)},
    optional={
        "max_images": st.integers(1, 3),
        "images": st.sampled_from(["auto", "force", "never"]),
        "temperature": st.sampled_from([0.5, 1.5, 3.0]),
        "top_p": st.sampled_from([0.3, 0.9]),
        "top_k": st.sampled_from([1, 5, 50]),
        "stop": st.lists(st.text(string.printable, min_size=1, max_size=2), min_size=1, max_size=3),
        "guidance_scale": st.sampled_from([0.0, 1.0, 7.0]),
        "sampler": st.sampled_from(["euler", "heun", "multistep"]),
    },
)
sizes = st.sampled_from([{}, {}, {"height": 16, "width": 32}, {"height": 32, "width": 16}])
requests = st.fixed_dictionaries(
    {
        "model": st.sampled_from(range(len(MODELS))),
        "batch": st.lists(conversations, min_size=1, max_size=3),
        "options": st.builds(lambda own, size: own | size, options, sizes),
        "seed": st.integers(0, 2**32),
        "n": st.integers(1, 2),
        "keep_cache": st.booleans(),
    }
)


@functools.cache
def model_of(number: int) -> Limner:
    return make_limner(**MODELS[number])


def check(request: dict) -> None:
    """Raises AssertionError for a reply that is not what was asked for."""
    model, options = model_of(request["model"]), request["options"]
    batch = [own for own in request["batch"] for _ in range(request["n"])]
    seeds = [request["seed"] + row for row in range(len(batch))]
    events = []
    stream = model.stream(batch, seed=seeds, keep_cache=request["keep_cache"], **options)
    try:
        while True:
            events.append(next(stream))
    except StopIteration as stopped:
        replies = stopped.value
    assert len(replies) == len(batch)
    for row, reply in enumerate(replies):
        check_reply(model, options, reply)
        check_events([event for event in events if event.row == row], reply)
        conversation = batch[row]
        before = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
        check_history(model, [*before, *([reply.message()] if reply.parts else [])])


def check_reply(model: Limner, options: dict, reply) -> None:
    asked, vocabulary, config = model.defaults.updated(options), model.mllm.vocabulary, model.config
    written = [part for part in reply.parts if isinstance(part, str)]
    assert len(written) + len(reply.images) == len(reply.parts)
    pairs = zip(reply.parts, reply.parts[1:], strict=False)
    assert not any(isinstance(a, str) and isinstance(b, str) for a, b in pairs), "two texts in a row"
    assert len(reply.images) <= (0 if asked.images == "never" else asked.max_images), "too many pictures"
    assert asked.images != "force" or isinstance(reply.parts[0], Image.Image), "no picture first"
    shapes = {asked.size} if asked.size else set(config.shapes or [config.default_size])
    assert {(image.height, image.width) for image in reply.images} <= shapes, "a picture of another size"
    assert not any(stop in text for stop in asked.stop for text in written), "a stop string in the text"
    cut = [text for text in written if not isinstance(text, EmittedText)]
    ids = [token for text in written if isinstance(text, EmittedText) for token in text.ids]
    assert not (vocabulary.control | set(vocabulary.end_of_turn)) & set(ids), "a control token in the text"
    assert not any(name in text for name in ("<img", "</img", "<patch", "<shape") for text in written), "its name"
    assert len(ids) <= asked.max_new_tokens, "too many tokens"
    if cut:
        assert cut == written[-1:] == reply.parts[-1:] and asked.stop and reply.finish_reason == "stop"
    elif reply.parts and not (asked.stop and len(ids) == asked.max_new_tokens):
        # a stop string right at the beginning leaves no text
        limited = len(ids) == asked.max_new_tokens
        assert reply.finish_reason == ("length" if limited else "stop"), f"{reply.finish_reason}, {len(ids)} tokens"
    assert reply.finish_reason in ("stop", "length")


def check_events(events: list, reply) -> None:
    assert isinstance(events[-1], Finished) and events[-1].reason == reply.finish_reason
    assert sum(isinstance(event, Finished) for event in events) == 1
    told, open_picture = [], None
    for event in events:
        if isinstance(event, TextPiece):
            assert open_picture is None, "words within a picture"
            told = [*told[:-1], told[-1] + event.text] if told and isinstance(told[-1], str) else [*told, event.text]
        elif isinstance(event, PictureBegun):
            assert open_picture is None
            open_picture = event.index
        elif isinstance(event, PictureDone):
            assert open_picture == event.index
            open_picture = None
            told.append(event.image)
    assert open_picture is None, "a picture was not closed"
    assert [p for p in told if p] == [p for p in reply.parts if p], "events tell another reply"


def check_history(model: Limner, messages: list) -> None:
    """The conversation as it is read next: every picture is BOI, its features' slots, EOI; no slot is anywhere else."""
    vocabulary, config = model.mllm.vocabulary, model.config
    encoded = model.encoder.encode(messages)
    ids, slots = encoded.input_ids, list(vocabulary.slots[: config.image_tokens])
    inside = 0
    for start, _ in encoded.views:
        assert ids[start : start + len(slots)] == slots
        around = ids[start - 1], ids[start + len(slots)]
        assert around in ((vocabulary.boi, vocabulary.eoi), (vocabulary.patch, vocabulary.end_patch))
        inside += len(slots)
    assert sum(token in vocabulary.slots for token in ids) == inside, "a stray slot"
    assert ids.count(vocabulary.boi) == ids.count(vocabulary.eoi) == len(encoded.pictures), "a stray BOI"


def run(cases: int, seed: int) -> Outcome:
    """Try `cases` requests."""
    return try_cases(requests, check, cases, seed)

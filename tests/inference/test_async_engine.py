"""Coroutines are answered as callers of the model are."""

import asyncio

import pytest

from helpers import make_limner
from limner.inference.async_engine import AsyncEngine, EngineClosedError
from limner.mllm.events import Finished, PictureDone, PictureStep

OPTIONS = {"images": "force", "max_images": 1, "max_new_tokens": 6, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def model():
    return make_limner()


@pytest.fixture
def engine(model):
    engine = AsyncEngine(model)
    yield engine
    engine.close()


async def answer(engine, *given, **options):
    request = await engine.request(*given, **{**OPTIONS, **options})
    events = [event async for event in engine.events(request)]
    return request.replies, events


def pixels(replies):
    return [image.tobytes() for reply in replies for image in reply.images]


def test_a_coroutine_gets_what_generate_gives(model, engine):
    expected = model.generate("a cat", seed=3, n=2, **OPTIONS)
    replies, events = asyncio.run(answer(engine, "a cat", seed=3, n=2))
    assert pixels(replies) == pixels(expected) and [r.parts[1:] for r in replies] == [r.parts[1:] for r in expected]
    assert sum(isinstance(event, PictureDone) for event in events) == 2 and isinstance(events[-1], Finished)


def test_several_at_once_and_one_that_leaves(model, engine):
    alone = [model.generate(word, **OPTIONS) for word in "abc"]

    async def leave():
        events = engine.events(await engine.request("d", **OPTIONS))
        async for event in events:
            if isinstance(event, PictureStep):
                break
        await events.aclose()

    async def main():
        return await asyncio.gather(*(answer(engine, word) for word in "abc"), leave())

    *answered, _ = asyncio.run(main())
    for (replies, _), reply in zip(answered, alone, strict=True):
        assert replies[0].text == reply.text and replies[0].images[0].size == reply.images[0].size
    assert not model.engine.drawing and not model.engine.writing and not engine.delivers


def test_mistakes_and_failures_are_raised_where_they_are_waited_for(model, engine, monkeypatch):
    with pytest.raises(ValueError, match="n is 0"):
        asyncio.run(answer(engine, "a", n=0))

    def fail():
        raise RuntimeError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(model.engine, "step", fail)
        with pytest.raises(RuntimeError, match="broken"):
            asyncio.run(answer(engine, "a"))
    assert len(asyncio.run(answer(engine, "a"))[0]) == 1


def test_a_closed_engine_says_so(model):
    engine = AsyncEngine(model)

    async def main():
        request = await engine.request("a", **OPTIONS)
        async for _ in engine.events(request):
            await asyncio.to_thread(engine.close)

    with pytest.raises(EngineClosedError, match="before this request was answered"):
        asyncio.run(main())
    assert not model.engine.requests and not engine.thread.is_alive()


def test_partial_images_lead_to_the_picture_and_leave_it_as_it_is(model, engine):
    whole, _ = asyncio.run(answer(engine, "a cat", num_inference_steps=8))
    shown, events = asyncio.run(answer(engine, "a cat", num_inference_steps=8, partial_images=3))
    assert pixels(shown) == pixels(whole)
    steps = [event for event in events if isinstance(event, PictureStep)]
    assert [event.step for event in steps if event.image] == [2, 4, 6] and len(steps) == 8
    assert all(event.image.size == whole[0].images[0].size for event in steps if event.image)
    with pytest.raises(ValueError, match="partial_images is -1"):
        asyncio.run(answer(engine, "a cat", partial_images=-1))

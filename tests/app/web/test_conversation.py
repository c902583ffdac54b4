"""Conversations of the page: the turns of a chat, made through the service."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from PIL import Image, ImageChops

from helpers import picture, psnr
from limner.app.server.errors import APIError
from limner.app.web.conversation import BusyError, StoppedError


def said(conversation):
    return [(message["role"], [part["type"] for part in message["content"]]) for message in conversation.chat.messages]


def drawn(conversation, place=-1):
    return [part["image"] for part in conversation.chat.messages[place]["content"] if part["type"] == "image"][-1]


def test_a_turn_is_what_a_chat_makes_of_it(conversation, service, run):
    alone = service.model.chat(**conversation.chat.options)
    replies = [alone.say("draw", images=[picture(1)]), alone.say("again")]
    run(conversation.say("draw", [picture(1)]))
    run(conversation.say("again"))
    assert said(conversation) == [
        ("user", ["image", "text"]),
        ("assistant", ["image", "text"]),
        ("user", ["text"]),
        ("assistant", ["image", "text"]),
    ]
    for place, reply in ((1, replies[0]), (3, replies[1])):
        assert psnr(drawn(conversation, place), reply.images[0]) >= 45
        words = [part["text"] for part in conversation.chat.messages[place]["content"] if part["type"] == "text"]
        assert words == [part for part in reply.parts if isinstance(part, str)]
        assert all(part.ids for part in words), "what was written is never tokenized again"


def test_what_is_there_of_a_reply_is_seen_meanwhile(conversation, run):
    def look():
        if conversation.live is None:
            return None
        (reply,) = conversation.live.replies
        return reply.painting and (reply.painting.step, reply.painting.image is not None), len(reply.parts)

    seen = run(conversation.say("draw"), look)
    assert seen[0] == (None, 0), "before anything happened"
    steps = [painting for painting, _ in filter(None, seen) if painting]
    assert steps[0] == (0, False) and steps[-1][0] == 4 and steps[-1][1], "the picture is seen as it stands"
    assert seen[-1] is None and len(conversation.chat.messages) == 2


def test_a_reply_that_is_stopped_stays_as_far_as_it_is_there(conversation, run):
    def stop():
        if conversation.live and conversation.live.replies[0].parts:
            conversation.stop()

    run(conversation.say("draw", max_new_tokens=60, max_images=9), stop)
    (_, reply) = said(conversation)
    assert reply[1][0] == "image" and len(reply[1]) < 9
    run(conversation.say("and on"))
    assert len(conversation.chat.messages) == 4


def test_a_turn_that_is_stopped_before_anything_came_leaves_nothing(conversation, run):
    run(conversation.say("draw"))
    before = list(conversation.chat.messages)
    for place in (None, 0):
        with pytest.raises(StoppedError):
            run(conversation.say("again", place=place), conversation.stop)
        assert conversation.chat.messages == before and not conversation.is_busy


def test_whoever_leaves_takes_the_turn_with_them(conversation, service):
    async def leave():
        async with aclosing(conversation.say("draw", place=None)) as events:
            await anext(events)
            await anext(events)
            assert service.accepted == 1
            with pytest.raises(BusyError):
                conversation.undo()
            with pytest.raises(BusyError):
                await anext(conversation.say("at the same time"))
        assert service.accepted == 0 and not conversation.is_busy and conversation.live is None

    asyncio.run(leave())
    assert conversation.chat.messages == []


def test_where_too_many_wait_everything_stays(conversations, conversation, run):
    async def crowd():
        others = [conversations.open() for _ in range(3)]
        for other in others:
            other.chat.options = {"max_new_tokens": 50, "images": "never"}
        running = [other.say("hello") for other in others]
        for events in running:
            await anext(events)
        with pytest.raises(APIError) as refused:
            await anext(conversation.say("draw"))
        assert refused.value.status == 429
        for events in running:
            await events.aclose()

    asyncio.run(crowd())
    assert conversation.chat.messages == [] and not conversation.is_busy


def test_candidates_are_those_of_a_chat(conversation, service, run):
    run(conversation.say("draw"))
    alone = service.model.chat(**conversation.chat.options)
    alone.messages = list(conversation.chat.messages)
    wanted = alone.candidates(3)
    run(conversation.more(3, 0))
    found = conversation.candidates.replies
    assert all(psnr(a.images[0], b.images[0]) >= 45 for a, b in zip(found, wanted, strict=True))
    assert len(conversation.chat.messages) == 2
    first = drawn(conversation)
    conversation.choose(None)
    assert drawn(conversation) is first and conversation.candidates is None
    run(conversation.more(2, 0))
    chosen = conversation.candidates.replies[1].images[0]
    conversation.choose(1)
    assert drawn(conversation).tobytes() == chosen.tobytes()
    with pytest.raises(APIError, match="at most"):
        run(conversation.more(99, 0))


def test_an_earlier_message_is_said_anew_with_its_pictures_unless_there_are_others(conversation, run):
    run(conversation.say("draw", [picture(1)]))
    run(conversation.say("again"))
    run(conversation.say("anew", place=0))
    (asked, _) = conversation.chat.messages
    assert [part.get("text") for part in asked["content"]] == [None, "anew"]
    assert drawn(conversation, 0).tobytes() == picture(1).tobytes()
    run(conversation.say("anew", [picture(2)], place=0))
    assert drawn(conversation, 0).tobytes() == picture(2).tobytes() and len(conversation.chat.messages) == 2


def test_a_mask_lets_the_rest_of_a_picture_be(conversation, run):
    run(conversation.say("draw"))
    first = drawn(conversation)
    mask = Image.new("RGBA", first.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (8, 8, 24, 24))
    seen = run(
        conversation.say("fill it", mask=mask),
        lambda: (
            conversation.live and [part for part in conversation.live.replies[0].parts if not isinstance(part, str)]
        ),
    )
    (live,) = [pictures for pictures in seen if pictures][-1]
    assert live.tobytes() == drawn(conversation).tobytes(), "it is seen like that at once"
    left, top, right, bottom = ImageChops.difference(first, drawn(conversation)).getbbox()
    assert 8 <= left < right <= 24 and 8 <= top < bottom <= 24


def test_a_conversation_that_became_too_long_goes_on_with_its_end(conversation, service, run):
    conversation.chat.options["images"] = "never"
    for _ in range(3):
        run(conversation.say("word " * 60))
    conversation.chat.options["max_new_tokens"] = service.model.mllm.max_position_embeddings - 500
    run(conversation.say("more"))
    assert conversation.chat.forgotten and len(conversation.chat.messages) == 8


def test_pictures_have_names_as_long_as_they_are_in_it(conversation, run):
    run(conversation.say("draw", [picture(1)]))
    shown, made = drawn(conversation, 0), drawn(conversation)
    names = [conversation.name(image) for image in (shown, made)]
    assert [conversation.picture(name) for name in names] == [shown, made]
    assert [conversation.place_of(name) for name in names] == [0, 1]
    conversation.undo()
    conversation.forget_pictures()
    assert [conversation.picture(name) for name in names] == [None, None] and conversation.place_of(names[0]) is None


def test_a_tab_that_is_loaded_again_has_a_copy(conversations, conversation, run):
    run(conversation.say("draw"))
    again = asyncio.run(conversations.reopen(conversation.key, "ko"))
    assert again.key != conversation.key and again.chat.messages == conversation.chat.messages
    run(again.say("more"))
    assert len(conversation.chat.messages) == 2 and again.chat.options == conversation.chat.options
    other = asyncio.run(conversations.reopen("no such key", "en"))
    assert other.chat.messages == [] and conversations.get("no such key") is None


def test_a_tab_that_is_loaded_again_meanwhile_has_what_was_there(conversations, conversation):
    async def reload():
        async def turn():
            async for _ in conversation.say("draw", max_new_tokens=60, max_images=9):
                await asyncio.sleep(0)

        running = asyncio.create_task(turn())
        while not (conversation.live and conversation.live.replies[0].parts):
            await asyncio.sleep(0)
        again = await conversations.reopen(conversation.key, "en")
        await running
        return again

    again = asyncio.run(reload())
    assert [message["role"] for message in again.chat.messages] == ["user", "assistant"]


def test_a_tab_that_is_closed_stops_its_turn(conversations, conversation, run):
    conversations.tabs["session"] = conversation.key
    with pytest.raises(StoppedError):
        run(conversation.say("draw"), lambda: conversations.leave("session"))
    conversations.leave("session")
    conversations.leave("of nobody")


def test_only_so_many_conversations_are_kept_and_only_so_long(conversations, conversation, monkeypatch):
    monkeypatch.setattr("limner.app.web.conversations.MAX_CONVERSATIONS", 3)
    conversations.open()
    last = conversations.open()
    assert conversations.get(conversation.key) is conversation, "which it was used for"
    conversations.open()
    assert len(conversations.kept) == 3 and conversations.get(conversation.key) is conversation
    later = conversations.kept[last.key][1] + conversations.service.options.expire + 1
    monkeypatch.setattr("limner.app.web.conversations.time", SimpleNamespace(monotonic=lambda: later))
    assert conversations.get(last.key) is last
    fresh = conversations.open()
    assert set(conversations.kept) == {last.key, fresh.key}

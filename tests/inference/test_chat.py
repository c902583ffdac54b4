"""What a chat can do with its turns beside going on: candidates, messages said anew, parts of pictures edited."""

import numpy as np
import pytest
from PIL import Image

from helpers import make_limner, picture, psnr
from limner.mllm.events import Finished, PictureDone

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def model():
    return make_limner(shapes=((32, 32), (16, 32)))


@pytest.fixture
def chat(model):
    """Two exchanges after a system message, each with a picture."""
    chat = model.chat(seed=3, images="force", max_images=1, max_new_tokens=3, height=32, width=32)
    chat.messages.append(SYSTEM)
    chat.say("draw", images=[picture(1)])
    chat.say("again")
    return chat


def drawn(message):
    return [part["image"] for part in message["content"] if part["type"] == "image"][-1]


def test_candidates_answer_the_last_message_with_rising_seeds_and_change_nothing(chat, model):
    before, events = list(chat.messages), []
    replies = chat.candidates(3, callback=events.append)
    assert chat.messages == before and len(replies) == 3
    assert psnr(replies[0].images[0], drawn(before[-1])) >= 45, "the first has the chat's own seed"
    assert {event.row for event in events if isinstance(event, Finished)} == {0, 1, 2}
    assert len({reply.images[0].tobytes() for reply in replies}) == 3
    assert psnr(chat.candidates(1, seed=5)[0].images[0], replies[2].images[0]) >= 45
    chat.choose(replies[1])
    assert chat.messages[:-1] == before[:-1] and drawn(chat.messages[-1]).tobytes() == replies[1].images[0].tobytes()
    alone = model.chat(**chat.options)
    alone.messages = before[:-2]
    assert psnr(alone.say("again", seed=4).images[0], replies[1].images[0]) >= 45, (
        "what stood before is what it answers"
    )


def test_a_choice_is_a_copy(chat):
    (reply,) = chat.candidates(1)
    chat.choose(reply)
    reply.images[0].paste((0, 0, 0), (0, 0, 32, 32))
    assert np.asarray(drawn(chat.messages[-1])).any()


def test_candidates_of_an_earlier_message_drop_what_came_after_it_when_one_is_chosen(chat):
    (reply,) = chat.candidates(1, index=1)
    assert psnr(reply.images[0], drawn(chat.messages[2])) >= 45 and len(chat.messages) == 5
    chat.choose(reply, index=1)
    assert len(chat.messages) == 3 and chat.say("more").images


def test_a_message_is_said_anew_with_its_pictures_and_what_came_after_is_gone(chat):
    shown = drawn(chat.messages[1])
    chat.edit_message(1, "draw a cat", seed=8)
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    assert chat.messages[1]["content"][1] == {"type": "text", "text": "draw a cat"}
    assert drawn(chat.messages[1]).tobytes() == shown.tobytes()
    chat.edit_message(-2, "draw", images=[])
    assert [part["type"] for part in chat.messages[1]["content"]] == ["text"]


@pytest.mark.parametrize("index", [0, 2, 5, -1, -6, 1.5])
def test_only_messages_of_the_user_are_edited_and_answered_again(chat, index):
    before = list(chat.messages)
    for call in (
        lambda: chat.edit_message(index, "x"),
        lambda: chat.candidates(2, index),
        lambda: chat.choose(None, index),
    ):
        with pytest.raises(ValueError, match=r"the user's; those are 1, 3|must be a whole number"):
            call()
    assert chat.messages == before


def test_nothing_is_lost_where_an_edit_fails(chat, model):
    before = list(chat.messages)
    for words, options in (("", {"images": []}), ("x", {"steps": 3})):
        with pytest.raises(ValueError, match=r"the message is empty|unknown options steps"):
            chat.edit_message(1, words, **options)
        assert chat.messages == before
    for n in (0, "2"):
        with pytest.raises(ValueError, match="n is"):
            chat.candidates(n)
    with pytest.raises(ValueError, match="the conversation is empty"):
        model.chat().candidates()


def test_a_mask_lets_the_rest_of_the_last_picture_be(chat):
    before = np.asarray(drawn(chat.messages[-1]))
    events = []
    reply = chat.say("a cat there", mask=(8, 4, 24, 20), callback=events.append)
    after, shown = np.asarray(reply.images[0]), np.asarray(drawn(chat.messages[-2]))
    outside = np.ones((32, 32), bool)
    outside[4:20, 8:24] = False
    assert (shown[~outside] == 128).all() and (shown[outside] == before[outside]).all(), "in the colour of masks"
    assert (after[outside] == before[outside]).all() and (after[~outside] != 128).any()
    (event,) = (event for event in events if isinstance(event, PictureDone))
    assert event.image.tobytes() == reply.images[0].tobytes() == drawn(chat.messages[-1]).tobytes()
    for again in (*chat.candidates(2), chat.retry(seed=9), chat.edit_message(-2, "a dog there")):
        assert (np.asarray(again.images[0])[outside] == before[outside]).all(), (
            "the mask is known to whatever answers it"
        )
    again = np.asarray(chat.say("again").images[0])
    assert (again[outside] != before[outside]).any(), "only to the message that it came with"


def test_a_mask_of_a_shown_picture_is_brought_to_the_size_of_the_answer(model):
    chat = model.chat(images="force", max_images=1, max_new_tokens=3)
    mask = Image.new("1", (96, 48))
    mask.paste(1, (0, 0, 48, 48))
    large = picture(2, (48, 96))
    reply = chat.say("fill it", images=large, mask=mask)
    assert reply.images[0].size == drawn(chat.messages[-2]).size == (32, 16), "the model's shape that is nearest"
    half = large.resize((32, 16), Image.Resampling.LANCZOS)
    assert (np.asarray(reply.images[0])[:, 17:] == np.asarray(half)[:, 17:]).all()
    assert chat.say("fill it", images=large, mask=mask, height=32, width=32).images[0].size == (32, 32)
    assert chat.retry().images[0].size == (32, 32), "as it was shown, whatever shape the model would choose"


def test_a_mask_needs_one_picture(model, chat):
    with pytest.raises(ValueError, match="there is no picture to edit"):
        model.chat().say("x", mask=(0, 0, 8, 8))
    with pytest.raises(ValueError, match="of one picture, and 2 are shown"):
        chat.say("x", images=[picture(0), picture(1)], mask=(0, 0, 8, 8))
    with pytest.raises(ValueError, match="does not lie in the picture"):
        chat.say("x", mask=(0, 0, 33, 8))

"""A conversation as HTML: its order, what can be done with it, and nothing of what was said as HTML."""

import re

from PIL import Image

from helpers import picture
from limner.app.web.conversation import Candidates, LiveReply, LiveTurn
from limner.app.web.examples import EXAMPLES
from limner.app.web.rendering import chat_messages, placeholder
from limner.inference.reply import Reply
from limner.mllm.events import PictureBegun, PictureStep, TextPiece


def message(role, *parts):
    content = [
        {"type": "image", "image": part} if isinstance(part, Image.Image) else {"type": "text", "text": part}
        for part in parts
    ]
    return {"role": role, "content": content}


def actions(html):
    return re.findall(r'class="act" name="(\w+)" value="(\w*)"', html)


def test_words_and_pictures_in_order_with_what_can_be_done(conversation):
    one, two = picture(1), picture(2)
    conversation.chat.messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        message("user", one, "draw"),
        message("assistant", "here", one, two, "and there"),
        message("user", "more"),
        message("assistant", two),
    ]
    shown = chat_messages(conversation)
    assert [entry["role"] for entry in shown] == ["user", "assistant", "user", "assistant"]
    names = {conversation.name(one): "one", conversation.name(two): "two"}
    told = re.findall(r'(?<=>)here|and there|<div class="pictures">|</div>|value="\w+"', shown[1]["content"])
    told = [names.get(each.split('"')[1], each) if each.startswith("value") else each for each in told]
    assert told == ["here", '<div class="pictures">', "one", "two", "</div>", "and there"]
    assert [actions(entry["content"]) for entry in shown] == [
        [("edit", "1")],
        [],
        [("edit", "3")],
        [("retry", "3"), ("more", "3"), ("undo", "3")],
    ]
    assert 'alt="Picture: here"' in shown[1]["content"] and 'alt="A picture of yours"' in shown[0]["content"]
    conversation.language = "ko"
    assert ">되돌리기<" in chat_messages(conversation)[3]["content"]


def test_what_was_said_is_no_html(conversation):
    evil = "a <img src=x onerror=\"alert(1)\"> & 'b'\n\n**c** <loc-1>\u2028d"
    conversation.chat.messages = [message("user", evil), message("assistant", evil, picture(1))]
    for entry in chat_messages(conversation):
        html = entry["content"]
        assert "<img src=x" not in html and "&lt;img src=x" in html and "\n" not in html
        assert set(re.findall(r"<(\w+)", html)) <= {"p", "br", "div", "button", "img"}
        assert all(value.count('"') == 2 for value in re.findall(r'alt="[^>]*?"(?= |>)', html))


def test_a_turn_that_is_answered_stands_in_place_of_what_it_replaces(conversation):
    conversation.chat.messages = [message("user", "one"), message("assistant", "two")]
    reply = LiveReply()
    conversation.live = LiveTurn(0, message("user", "anew"), [reply])
    (asked, answer) = chat_messages(conversation)
    assert "anew" in asked["content"] and not actions(asked["content"]) and "Waiting for its turn" in answer["content"]
    reply.take(TextPiece(0, "so "))
    reply.take(TextPiece(0, "far"))
    reply.take(PictureBegun(0, 0, (32, 48)))
    (_, answer) = chat_messages(conversation)
    assert "so far" in answer["content"] and '<img alt="Painting" width="48" height="32">' in answer["content"]
    reply.take(PictureStep(0, 0, 1, 4, picture(1)))
    reply.take(PictureStep(0, 0, 2, 4))
    (_, answer) = chat_messages(conversation)
    assert '<img src="data:image/jpeg;base64,' in answer["content"], "the picture as it stood last"
    assert '<progress max="4" value="2"' in answer["content"]


def test_candidates_stand_in_place_of_the_reply(conversation):
    conversation.chat.messages = [message("user", "one"), message("assistant", "two"), message("user", "three"),
                                  message("assistant", "four")]  # fmt: skip
    conversation.candidates = Candidates(0, [Reply(["a"], "stop"), Reply(["b", picture(1)], "stop")])
    (asked, answer) = chat_messages(conversation)
    assert "one" in asked["content"] and not actions(asked["content"])
    assert actions(answer["content"]) == [("choose", "0"), ("choose", "1"), ("keep", "")]
    assert answer["content"].count('class="choice"') == 2 and "two" not in answer["content"]


def test_an_empty_conversation_offers_everything():
    html = placeholder("zh-CN")
    assert re.findall(r'name="example" value="(\d+)"', html) == [str(index) for index in range(len(EXAMPLES))]
    assert "画一个草地上的红色苹果" in html and html.count("<img") == sum(len(example.scenes) for example in EXAMPLES)
    assert "\n" not in html, "Markdown would read what follows an empty line"

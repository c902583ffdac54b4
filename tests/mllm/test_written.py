"""The words a picture is to carry: found in quotes, alike in training and while a reply is made."""

import pytest
from PIL import Image

from helpers import make_limner
from limner.inference import drawing
from limner.mllm.written import LONGEST, quoted, to_write


@pytest.mark.parametrize(
    "text, words",
    [
        ('a red sign "OPEN"', ("OPEN",)),
        ("一块牌子，写着“咖啡”和「茶」", ("咖啡", "茶")),
        ('"A 1" and «B»', ("A 1", "B")),
        ("the cat's toy isn't here", ()),
        ('an inch " alone', ()),
        ('"" and "  "', ()),
        (f'"{"x" * (LONGEST + 1)}"', ()),
        ('"one\ntwo"', ()),
    ],
)
def test_what_is_quoted(text, words):
    assert quoted(text) == words


def test_the_plan_goes_before_the_request():
    assert to_write('A sign "OPEN":', 'a sign that says "open"') == ("OPEN",)
    assert to_write("A red sign:", 'a sign that says "open"') == ("open",)
    assert to_write("", "a sign") == ()


def conversation(image):
    def user(text):
        return {"role": "user", "content": [{"type": "text", "text": text}]}

    def assistant(*parts):
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
        return {"role": "assistant", "content": content}

    return [
        user('a sign "ONE"'),
        assistant("Here:", image, 'and one more, "TWO":', image, "Done.", image),
        user("the same in red"),
        assistant(image),
        user('now "THREE"'),
        assistant("Good:", image),
    ]


def test_pictures_of_a_conversation():
    model, image = make_limner(), Image.new("RGB", (32, 32))
    encoded = model.encoder.encode(conversation(image), training=True)
    assert [p.words for p in encoded.pictures] == [("ONE",), ("TWO",), ("ONE",), (), ("THREE",)]
    shown = {"type": "image", "image": image}
    asked = [{"role": "user", "content": [shown, {"type": "text", "text": 'put "HI" on it'}]}]
    encoded = model.encoder.encode(asked, add_generation_prompt=True)
    assert encoded.pictures[0].words == () and quoted(encoded.asked) == ("HI",)


def test_a_reply_hands_them_to_the_drawing(monkeypatch):
    model, seen = make_limner(), []
    real = drawing.condition_of
    monkeypatch.setattr(
        drawing, "condition_of", lambda d, group, *more: seen.append([r.words for r in group]) or real(d, group, *more)
    )
    asked = ['draw a sign "OPEN"', "draw a cat"]
    model.generate(asked, images="force", max_images=1, max_new_tokens=2, num_inference_steps=1)
    assert seen == [[("OPEN",), ()]]

"""The words a picture is to carry: found in quotes, alike in training and while a reply is made."""

import pytest
from PIL import Image

from helpers import make_limner
from limner.inference import drawing
from limner.mllm.glyph_text import MAX_CHARACTERS, find_glyph_text, quoted_strings


@pytest.mark.parametrize(
    "text, words",
    [
        ('a red sign "OPEN"', ("OPEN",)),
        ("一块牌子，写着“咖啡”和「茶」", ("咖啡", "茶")),
        ('"A 1" and «B»', ("A 1", "B")),
        ("the cat's toy isn't here", ()),
        ('an inch " alone', ()),
        ('"" and "  "', ()),
        (f'"{"x" * (MAX_CHARACTERS + 1)}"', ()),
        ('"one\ntwo"', ()),
    ],
)
def test_what_is_quoted(text, words):
    assert quoted_strings(text) == words


def test_the_plan_goes_before_the_request():
    assert find_glyph_text('A sign "OPEN":', 'a sign that says "open"') == ("OPEN",)
    assert find_glyph_text("A red sign:", 'a sign that says "open"') == ("open",)
    assert find_glyph_text("", "a sign") == ()


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
    assert [p.glyph_text for p in encoded.pictures] == [("ONE",), ("TWO",), ("ONE",), (), ("THREE",)]
    shown = {"type": "image", "image": image}
    asked = [{"role": "user", "content": [shown, {"type": "text", "text": 'put "HI" on it'}]}]
    encoded = model.encoder.encode(asked, add_generation_prompt=True)
    assert encoded.pictures[0].glyph_text == () and quoted_strings(encoded.last_request) == ("HI",)


def test_a_reply_hands_them_to_the_drawing(monkeypatch):
    model, seen = make_limner(), []
    real = drawing.build_condition
    monkeypatch.setattr(
        drawing,
        "build_condition",
        lambda d, group, *more: seen.append([r.glyph_text for r in group]) or real(d, group, *more),
    )
    asked = ['draw a sign "OPEN"', "draw a cat"]
    model.generate(asked, images="force", max_images=1, max_new_tokens=2, num_inference_steps=1)
    assert seen == [[("OPEN",), ()]]

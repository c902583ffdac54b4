"""Masks: what forms they are read from, and what of a drawing they let in."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import make_limner, picture
from limner.inference.masks import fit_mask, keep_outside, masked, read_mask
from limner.mllm.events import PictureDone
from limner.world.scene import MASKED

BOX = (3, 5, 20, 11)
"""Left, top, right, bottom"""


@pytest.fixture(scope="module")
def model():
    return make_limner(shapes=((32, 32), (16, 32)))


def array_of(box=BOX, size=(32, 32)):
    values = np.zeros(size, bool)
    values[box[1] : box[3], box[0] : box[2]] = True
    return values


def openai_mask():
    """Transparent where it is to be edited; under it any colour."""
    alpha = Image.fromarray(np.where(array_of(), 0, 255).astype(np.uint8))
    mask = picture(3).convert("RGBA")
    mask.putalpha(alpha)
    return mask


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: BOX,
        lambda: [np.int64(value) for value in BOX],
        array_of,
        lambda: array_of().astype(np.float32),
        lambda: torch.from_numpy(array_of())[None].float(),
        lambda: Image.fromarray(array_of()),
        lambda: Image.fromarray(np.where(array_of(), 200, 100).astype(np.uint8)),
        lambda: Image.fromarray(np.where(array_of(), 255, 0).astype(np.uint8)).convert("RGB"),
        lambda: Image.fromarray(np.where(array_of(), 65535, 0).astype(np.uint16)),
        openai_mask,
        lambda: openai_mask().convert("LA"),
        lambda: openai_mask().convert("LA").convert("La"),
        lambda: openai_mask().convert("PA"),
        lambda: png(openai_mask()),
        lambda: png(openai_mask().convert("P")),
        lambda: io.BytesIO(png(Image.fromarray(array_of()))),
    ],
)
def test_a_mask_is_a_box_or_white_or_where_it_is_transparent(make):
    mask = read_mask(make(), picture(0))
    assert mask.mode == "L" and (np.asarray(mask) == np.where(array_of(), 255, 0)).all()


def test_a_mask_of_another_size_or_of_nothing_is_refused(tmp_path):
    Image.new("1", (32, 32)).save(tmp_path / "empty.png")
    for mask, words in (
        (Image.new("1", (32, 16), 1), "the mask is 32 x 16 pixels and the picture 32 x 32"),
        (tmp_path / "empty.png", "marks nothing"),
        (Image.new("RGBA", (32, 32), "white").crop((0, 0, 33, 32)).crop((0, 0, 32, 32)), "marks nothing"),
        ((0, 0, 32, 33), r"the box \(0, 0, 32, 33\) does not lie in the picture"),
        ((-1, 0, 32, 32), "does not lie"),
        ((4, 4, 4, 8), "left must be less than right"),
        ((8, 4, 4, 8), "left must be less than right"),
        ((1, 2, 3), "is not left, top, right and bottom"),
        ((1.5, 2, 3, 4), "a side of the box is 1.5"),
        (tmp_path / "gone.png", "no such file"),
        (b"no picture", "not a picture of a format"),
        ("http://127.0.0.1/mask.png", "allow"),
    ):
        with pytest.raises(ValueError, match=words):
            read_mask(mask, picture(0))


def test_what_is_marked_is_hidden_and_only_that_is_drawn():
    before, drawn, mask = picture(0), picture(1), read_mask(BOX, picture(0))
    hidden, kept = np.asarray(masked(before, mask, (1, 2, 3))), np.asarray(keep_outside(drawn, before, mask))
    inside = array_of()
    assert (hidden[inside] == (1, 2, 3)).all() and (hidden[~inside] == np.asarray(before)[~inside]).all()
    assert (kept[inside] == np.asarray(drawn)[inside]).all() and (kept[~inside] == np.asarray(before)[~inside]).all()
    whole = read_mask((0, 0, 32, 32), before)
    assert keep_outside(drawn, before, whole).tobytes() == drawn.tobytes(), "a mask of everything is a new picture"


def test_picture_and_mask_are_scaled_and_cropped_alike():
    before = picture(0, (128, 256))
    fitted, mask = fit_mask(before, read_mask((64 + 41, 9, 64 + 87, 33), before), (32, 32))
    assert fitted.size == mask.size == (32, 32) and set(mask.getdata()) == {0, 255}
    # of 256 x 128 the middle, a quarter as large: 10.25 to 21.75 and 2.25 to 8.25
    assert mask.getbbox() == (10, 2, 22, 9), "a pixel that is marked in part is marked"
    with pytest.raises(ValueError, match="nothing of what the mask marks is left"):
        fit_mask(before, read_mask((0, 0, 40, 128), before), (32, 32))


def test_edit_draws_one_picture_within_the_mask(model):
    before, events = picture(0), []
    reply = model.edit(before, "a cat", mask=BOX, seed=3, callback=events.append)
    inside = array_of()
    assert (np.asarray(reply.images[0])[~inside] == np.asarray(before)[~inside]).all()
    drawn = [event.image for event in events if isinstance(event, PictureDone)]
    assert drawn[-1].tobytes() == reply.images[0].tobytes()
    content = [
        {"type": "image", "image": masked(before, read_mask(BOX, before), (128, 128, 128))},
        {"type": "text", "text": "a cat"},
    ]
    alone = model.draw([{"role": "user", "content": content}], seed=3, height=32, width=32)
    assert (np.asarray(reply.images[0])[inside] == np.asarray(alone.images[0])[inside]).all()
    whole = model.edit(before, "a cat", seed=3)
    content[0]["image"] = before
    assert whole.images[0].tobytes() == model.draw([{"role": "user", "content": content}], seed=3).images[0].tobytes()
    wide = model.edit(picture(0, (40, 90)), "a cat", mask=(0, 0, 45, 40), seed=3)
    assert wide.images[0].size == (32, 16)
    with pytest.raises(ValueError, match="no adapter 'x'"):
        model.edit(before, "a cat", adapters={"x": 1.0})


def test_the_colour_of_masks_is_the_model_s(tmp_path):
    model = make_limner(mask_color=(255, 0, 255))
    shown = []
    real = model.generate
    model.generate = lambda messages, **options: shown.append(messages) or real(messages, **options)
    model.edit(picture(0), "a cat", mask=BOX)
    hidden = shown[0][0][0]["content"][0]["image"]
    assert hidden.getpixel((5, 6)) == (255, 0, 255)
    chat = model.chat(images="force", max_images=1, max_new_tokens=2)
    chat.say("a cat", images=picture(0), mask=BOX)
    assert chat.messages[0]["content"][0]["image"].getpixel((5, 6)) == (255, 0, 255)


def test_nano_s_masks_have_the_colour_that_its_world_has():
    from limner.inference.model_folders import embedded
    from limner.inference.parts import load_config

    assert load_config(embedded("nano")).mask_color == MASKED, "an older folder says nothing of it"
    with pytest.raises(ValueError, match="mask_color is"):
        make_limner(mask_color=(0, 0, 256))

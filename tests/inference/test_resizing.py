"""Pictures of any size are edited: fitted to what the model holds, never stretched, and the answer has its nearest shape."""

import numpy as np
import pytest
from PIL import Image

import limner
from helpers import make_limner, picture
from limner.app.cli import main as cli
from limner.inference.resizing import reference_size, resize_and_crop
from limner.mllm.config import LimnerConfig

NANO = LimnerConfig(shapes=((128, 128), (96, 160), (160, 96)), default_size=(128, 128))
SD3 = LimnerConfig(default_size=(1024, 1024))


@pytest.mark.parametrize(
    ("config", "shown", "size", "expected"),
    [
        (NANO, (128, 128), (128, 128), (128, 128)),
        (NANO, (96, 96), (128, 128), (96, 96)),  # as they are
        (NANO, (480, 640), (128, 128), (96, 160)),
        (NANO, (640, 480), (128, 128), (160, 96)),
        (NANO, (256, 256), (128, 128), (128, 128)),
        (NANO, (480, 640), (192, 256), (192, 256)),  # the size that is asked for counts as a shape
        (NANO, (256, 256), (256, 256), (256, 256)),
        (SD3, (768, 1024), (1024, 1024), (768, 1024)),
        (SD3, (3000, 4000), (1024, 1024), (880, 1168)),
        (SD3, (100, 4000), (1024, 1024), (64, 3072)),
        (SD3, (2, 4000), (1024, 1024), (16, 3072)),
    ],
)
def test_what_a_drawing_refers_to(config, shown, size, expected):
    image = Image.new("RGB", shown[::-1])
    max_side, size_multiple = (256, 16) if config is NANO else (3072, 16)
    assert reference_size(image, config, size, size_multiple, max_side) == expected
    assert resize_and_crop(image, expected).size == expected[::-1]


def test_nothing_is_stretched():
    """A circle stays one, in any shape."""
    side = np.arange(400)
    disc = (np.hypot(side - 200, (side - 200)[:, None]) < 100).astype(np.uint8) * 255
    wide = Image.fromarray(np.pad(disc, ((0, 0), (200, 200)))).convert("RGB")
    for size in ((96, 160), (128, 128), (160, 96)):
        seen = np.asarray(resize_and_crop(wide, size).convert("L")) > 127
        assert abs(seen.any(0).sum() - seen.any(1).sum()) <= 1


def test_a_photo_is_edited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").save("photo.jpg")
    assert cli.main(["edit", "photo.jpg", "make it blue", "--out", "blue.png"]) == 0
    assert Image.open("blue.png").size == (160, 96)
    told = [line for line in capsys.readouterr().err.splitlines() if "640 x 480" in line]
    assert len(told) == 1 and "cut to 160 x 96, and the answer is 160 x 96" in told[0]
    assert cli.main(["edit", "photo.jpg", "make it blue", "--size", "96x96", "--out", "small.png"]) == 0
    assert Image.open("small.png").size == (96, 96)
    chat = limner.load("nano", device="cpu").chat()
    chat.say("what do you see?", images=["photo.jpg"])
    assert chat.say("draw a red apple").images


def test_a_picture_of_the_model_s_own_is_taken_as_it_is():
    model = make_limner(shapes=((32, 32), (16, 32)))
    assert model.resize_note(picture(0, (16, 32))) is None and model.resize_note(picture(0, (8, 8))) is None
    assert "answer is 32 x 32" in model.resize_note(picture(0, (64, 60)))
    assert "answer is 64 x 48" in model.resize_note(picture(0, (600, 600)), (48, 64))

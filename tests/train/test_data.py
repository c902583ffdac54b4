"""What the vision tower sees in training is what it sees in use."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import make_limner, picture
from limner.mllm.stream import collate
from limner.mllm.views import normalise, normalise_pixels, stack_pixels, stretch_floats, stretch_pixels
from limner.train.data import joint_batch

RNG = np.random.default_rng(0)


def noise(height, width):
    """The picture that resizing has most to do with: noise beside hard edges."""
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 2 :] = np.where(pixels[height // 2 :] > 127, 255, 0)
    return Image.fromarray(pixels)


def chat(*images, drawn):
    return [
        {"role": "user", "content": [*({"type": "image", "image": i} for i in images), {"type": "text", "text": "x"}]},
        {"role": "assistant", "content": [{"type": "image", "image": drawn}]},
    ]


@pytest.mark.parametrize("drawn_images", ["seen", "queries"])
@pytest.mark.parametrize("grids", [(), ((1, 1), (1, 2), (2, 1))])
def test_views_are_those_of_inference(grids, drawn_images):
    encoder = make_limner(tile_grids=grids, drawn_images=drawn_images).encoder
    size = encoder.config.image_size
    talks = [
        chat(noise(size, size), noise(size, 2 * size + 1), drawn=noise(size, size)),
        chat(drawn=noise(size // 2, size)),
        chat(noise(3 * size + 5, size + 2), drawn=noise(size // 2, size)),
    ]
    made = joint_batch(talks, encoder)
    encoded = [encoder.encode(talk, training=True) for talk in talks]
    unseen = [p.image for e in encoded for p in e.pictures if p.drawn and drawn_images == "queries"]
    expected = torch.cat(
        [collate(encoded, encoder.vocabulary, encoder.config).pixel_values]
        + [normalise(image, encoder.config)[None] for image in unseen]
    )
    views = made.views()
    assert views.shape == expected.shape and len(made.stream.view_positions) == len(views) - len(unseen)
    steps = (views - expected).abs() / 2 * 255  # nano's numbers go from -1 to 1
    assert steps.max() < 2.01, "two of 255 steps at most"
    exact = [not row.any() for row in steps]
    whole = [view.image.size == (size, size) for e in encoded for _, view in e.views]
    whole += [image.size == (size, size) for image in unseen]
    assert all(same for same, square in zip(exact, whole, strict=True) if square) and sum(whole) >= 2
    assert (steps > 0.5).float().mean() < 0.02, "and that in a few pixels"
    targets = [p.image for e in encoded for p in e.pictures if p.drawn]
    for view, image in zip(made.target_views, targets, strict=True):
        assert (views[view] - normalise(image, encoder.config)).abs().max() < 2.01 * 2 / 255


def test_large_and_small_pictures_are_stretched_as_by_pillow():
    config = make_limner().config
    for height, width, size in ((96, 160, 128), (160, 96, 128), (40, 64, 128), (511, 733, 224), (1024, 1024, 448)):
        config.image_size = size
        image = noise(height, width)
        pixels = stack_pixels([image])
        on_gpu = stretch_floats(pixels.permute(0, 3, 1, 2).float(), size).permute(0, 2, 3, 1).to(torch.uint8)
        for stretched, most in ((stretch_pixels(pixels, size), 2), (on_gpu, 1)):
            steps = (normalise_pixels(stretched, config)[0] - normalise(image, config)).abs() / 2 * 255
            assert steps.max() < most + 0.01 and (steps > 0.5).float().mean() < 0.05, (height, width)


def test_a_picture_travels_once_as_bytes():
    encoder = make_limner(shapes=((32, 32), (16, 32))).encoder
    shown = picture(1)
    made = joint_batch([chat(shown, drawn=picture(2)), chat(drawn=picture(3, (16, 32)))], encoder)
    assert [tuple(p.shape) for p in made.pictures] == [(2, 32, 32, 3), (1, 16, 32, 3)]
    assert all(p.dtype == torch.uint8 for p in made.pictures) and len(made.tiles) == 0
    assert len(made.stream.pixel_values) == 0 and made.view_index.tolist() == [0, 1, 2]
    moved = made.to(torch.device("cpu"))
    assert torch.equal(moved.views(), made.views())
    empty = joint_batch([[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]], encoder)
    assert empty.views().shape == (0, 3, encoder.config.image_size, encoder.config.image_size)

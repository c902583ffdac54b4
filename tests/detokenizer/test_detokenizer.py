import json

import pytest
import torch

from helpers import make_limner
from limner.detokenizer.autoencoder import Autoencoder, kl_autoencoder, to_pixels, to_uint8
from limner.detokenizer.drawing_options import DrawingOptions
from limner.detokenizer.mmdit_detokenizer import MMDiTDetokenizer


@pytest.fixture
def detokenizer():
    return make_limner().detokenizer


def condition(detokenizer, rows=2):
    return detokenizer.adapter(torch.randn(rows, 4, 16))


@pytest.mark.parametrize("sampler", ["euler", "heun", "multistep"])
@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
@torch.inference_mode()
def test_draw_reports_steps_and_gives_pictures_of_the_asked_size(detokenizer, sampler, size):
    seen = []
    out = detokenizer.draw(
        condition(detokenizer),
        *size,
        seeds=[(0, 0), (1, 0)],
        options=DrawingOptions(num_inference_steps=3, sampler=sampler),
        callback=lambda a, b: seen.append((a, b)),
    )
    assert out.shape == (2, *size, 3) and out.dtype == torch.uint8
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not torch.equal(out[0], out[1])


@torch.inference_mode()
def test_what_it_expects_on_the_way_is_the_picture_in_the_end(detokenizer):
    """One step further along a straight path: all that is left to do at the velocity that was just given."""
    options = DrawingOptions(num_inference_steps=3)
    drawing = detokenizer.begin(condition(detokenizer), 32, 32, seeds=[(0, 0), (1, 0)], options=options)
    while drawing.latents is None:
        x, t = drawing.x, drawing.t
        detokenizer.advance([drawing])
        if drawing.latents is None:
            straight = x + (drawing.x - x) * t / (t - drawing.t)
            torch.testing.assert_close(drawing.estimate, straight, atol=1e-4, rtol=1e-4)
            assert not torch.equal(detokenizer.decode(drawing)[0], detokenizer.decode(drawing)[1])
    torch.testing.assert_close(drawing.estimate, drawing.latents)


@torch.inference_mode()
def test_guided_passes_in_one_batch_equal_passes_one_by_one(detokenizer):
    """Against a plain loop over separate forwards, with references and image guidance."""
    from limner.detokenizer import flow, samplers

    base = condition(detokenizer)
    references = [[torch.randn(4, 8, 8)], []]
    base = type(base)(base.context, base.context_mask, base.pooled, references)
    mmdit = detokenizer.mmdit

    def one(x, t, form):
        packed = mmdit.pack_references(form.references)
        return mmdit(
            x, torch.full((2,), t), form.context, form.pooled, context_mask=form.context_mask, references=packed
        )

    def velocity(x, t):
        full, plain = one(x, t, base), one(x, t, base.without_context())
        nothing = one(x, t, base.without_context().without_references())
        return nothing + 1.5 * (plain - nothing) + 3.0 * (full - plain)

    noise = torch.stack([samplers.noise_like((4, 8, 8), s, 0) for s in (5, 6)])
    times = flow.inference_timesteps(4, detokenizer.timestep_shift(32, 32))
    expected = to_uint8(detokenizer.autoencoder.decode(samplers.integrate(samplers.euler(noise, times), velocity)))
    out = detokenizer.draw(
        base,
        32,
        32,
        seeds=[(5, 0), (6, 0)],
        options=DrawingOptions(num_inference_steps=4, guidance_scale=3.0, image_guidance_scale=1.5),
    )
    assert (out.int() - expected.int()).abs().max() <= 1


def test_sizes_that_cannot_be_drawn_name_those_that_can(detokenizer):
    with pytest.raises(ValueError, match="multiples of 8, from 8 up to 64"):
        detokenizer.draw(condition(detokenizer), 33, 32, seeds=[(0, 0)] * 2, options=DrawingOptions())
    with pytest.raises(ValueError, match="up to 64"):
        detokenizer.check_size(32, 4096)
    with pytest.raises(ValueError, match="at least 1"):
        DrawingOptions(num_inference_steps=-1)


def test_save_and_load(detokenizer, tmp_path):
    detokenizer.save_pretrained(tmp_path)
    again = MMDiTDetokenizer.from_pretrained(tmp_path).eval()
    c = condition(detokenizer)
    a, b = (
        d.draw(c, 32, 32, seeds=[(0, 0)] * 2, options=DrawingOptions(num_inference_steps=2))
        for d in (detokenizer, again)
    )
    assert torch.equal(a, b)
    config = json.loads((tmp_path / "mmdit/config.json").read_text())
    (tmp_path / "mmdit/config.json").write_text(json.dumps(config | {"colour": 1}))
    with pytest.raises(ValueError, match="unknown keys colour"):
        MMDiTDetokenizer.from_pretrained(tmp_path)
    (tmp_path / "mmdit/config.json").write_text(json.dumps(config | {"width": 64}))
    with pytest.raises(ValueError, match="does not fit its configuration: adaln_in"):
        MMDiTDetokenizer.from_pretrained(tmp_path)


def test_autoencoder_round_trip_sizes_and_scale(tmp_path):
    vae = kl_autoencoder((8, 16), 4, 4)
    vae.vae.register_to_config(scaling_factor=2.0, shift_factor=0.5)
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    latents = vae.encode(pixels)
    assert vae.downsample_factor == 8 and latents.shape == (1, 4, 4, 6) and vae.decode(latents).shape == pixels.shape
    torch.testing.assert_close(latents, (vae.moments(pixels)[0] - 0.5) * 2)
    vae.save_pretrained(tmp_path)
    torch.testing.assert_close(Autoencoder.from_pretrained(tmp_path).encode(pixels), latents)
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(torch.zeros(1, 3, 30, 32))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(ValueError, match="AutoencoderTiny"):
        Autoencoder.from_pretrained(tmp_path)


def test_bytes_and_pixels_are_inverse():
    image = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_pixels(image)), image)

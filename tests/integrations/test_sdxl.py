"""The SDXL de-tokenizer against diffusers' own pipelines, with the same embeddings and noise."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLInstructPix2PixPipeline, StableDiffusionXLPipeline

from helpers import make_sdxl
from limner.detokenizer.drawing_options import DrawingOptions
from limner.detokenizer.guidance import Guidance
from limner.integrations.sdxl.detokenizer import SDXLAdapterConfig, SDXLDetokenizer


def pipeline(kind, made: SDXLDetokenizer):
    pipe = kind(
        vae=made.autoencoder.vae,
        unet=made.unet,
        scheduler=made.scheduler,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(condition):
    context, pooled = condition.negative
    return {
        "prompt_embeds": condition.context,
        "negative_prompt_embeds": context[None],
        "output_type": "latent",
        "pooled_prompt_embeds": condition.pooled,
        "negative_pooled_prompt_embeds": pooled[None],
    }


def latents(made, noise, condition, guidance, steps):
    drawing = made.begin_at(noise, condition, guidance, steps)
    while drawing.latents is None:
        made.advance([drawing])
    torch.testing.assert_close(drawing.estimate, drawing.latents)  # after the last step nothing is left to expect
    return drawing.latents


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_it_expects_on_the_way_is_what_diffusers_expects(kind):
    made, noise = make_sdxl(), torch.randn(1, 4, 16, 24)
    plain = {key: value for key, value in made.scheduler.config.items() if not key.startswith("_")}
    made.scheduler = EulerDiscreteScheduler.from_config(plain | {"prediction_type": kind})
    with torch.no_grad():
        drawing = made.begin_at(noise, made.adapter(torch.randn(1, 4, 48)), Guidance(5.0), 4)
    made.scheduler.set_timesteps(4)
    x = noise * made.scheduler.init_noise_sigma
    for timestep in made.scheduler.timesteps:
        sent, send = [], drawing.send
        drawing.send = lambda *given, sent=sent, send=send: (sent.append(given[0]), send(*given))
        made.advance([drawing])
        drawing.send = send
        made.scheduler.scale_model_input(x, timestep)
        step = made.scheduler.step(sent[0], timestep, x)
        torch.testing.assert_close(drawing.estimate, step.pred_original_sample, atol=1e-4, rtol=1e-4)
        x = step.prev_sample


@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_the_loop_is_that_of_diffusers_pipeline(scale):
    made, noise = make_sdxl(), torch.randn(1, 4, 16, 24)
    with torch.no_grad():
        condition = made.adapter(torch.randn(1, 4, 48))
        theirs = pipeline(StableDiffusionXLPipeline, made)(
            **embeddings(condition),
            latents=noise.clone(),
            height=32,
            width=48,
            guidance_scale=scale,
            num_inference_steps=10,
        ).images
    ours = latents(made, noise, condition, Guidance(scale), 10)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("image_scale", [1.5, 1.0])
def test_the_loop_with_a_picture_is_that_of_diffusers_pipeline(image_scale):
    made, noise = make_sdxl(channels=8), torch.randn(1, 4, 16, 16)
    picture = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        condition = made.adapter(torch.randn(1, 4, 48))
        theirs = pipeline(StableDiffusionXLInstructPix2PixPipeline, made)(
            **embeddings(condition),
            image=picture.permute(2, 0, 1)[None].float() / 255,
            latents=noise.clone(),
            height=32,
            width=32,
            guidance_scale=7.5,
            image_guidance_scale=image_scale,
            num_inference_steps=10,
        ).images
    reference = made.encode_reference(picture, (32, 32))
    condition.references.append([reference])
    ours = latents(made, noise, condition, Guidance(7.5, image_scale), 10)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    condition.references[0] = []
    assert not torch.allclose(latents(made, noise, condition, Guidance(7.5, image_scale), 10), theirs, atol=1e-2)


def test_a_picture_alone_and_in_a_batch_and_after_saving(tmp_path):
    made = make_sdxl(channels=8)
    with torch.no_grad():
        condition = made.adapter(torch.randn(2, 4, 48))
    other = torch.randint(0, 256, (20, 50, 3), dtype=torch.uint8)  # any size: it is stretched to the drawing's
    condition.references.extend([[made.encode_reference(other, (32, 48))], []])
    options = DrawingOptions(num_inference_steps=3, guidance_scale=5.0, image_guidance_scale=1.5)
    both = made.draw(condition, 32, 48, seeds=[(1, 0), (2, 0)], options=options)
    assert both.shape == (2, 32, 48, 3) and both.float().std() > 1
    alone = made.draw(condition.rows([0]), 32, 48, seeds=[(1, 0)], options=options)
    assert (both[0].int() - alone[0].int()).abs().max() <= 1
    made.save_pretrained(tmp_path)
    again = SDXLDetokenizer.from_pretrained(tmp_path).draw(condition.rows([0]), 32, 48, seeds=[(1, 0)], options=options)
    assert torch.equal(alone, again)


def test_what_makes_no_sense_is_refused():
    made = make_sdxl()
    with torch.no_grad():
        condition = made.adapter(torch.randn(1, 4, 48))
    with pytest.raises(ValueError, match="multiples of 4"):
        made.draw(condition, 33, 32, seeds=[(0, 0)], options=DrawingOptions())
    with pytest.raises(ValueError, match="2 seeds for 1 pictures"):
        made.draw(condition, 32, 32, seeds=[(0, 0), (1, 0)], options=DrawingOptions())
    with pytest.raises(ValueError, match="not with 'heun'"):
        made.draw(condition, 32, 32, seeds=[(0, 0)], options=DrawingOptions(sampler="heun"))
    with pytest.raises(ValueError, match="no place for the prompt"):
        made.adapter(torch.randn(1, 4, 48), torch.randn(1, 3, 32))
    with pytest.raises(ValueError, match="prompt_width must be 0"):
        SDXLAdapterConfig(prompt_width=3)
    with pytest.raises(ValueError, match="a UNet of 6 channels"):
        make_sdxl(channels=6)

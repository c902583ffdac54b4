"""Released SD3 checkpoints: full-size names and shapes, both layouts, the way back, whole sampling loops, hostile files."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

from limner.detokenizer import samplers
from limner.detokenizer.mmdit import MMDiT
from limner.detokenizer.mmdit_config import MMDiTConfig
from limner.integrations.sd3.files import load_mmdit, save_diffusers
from limner.integrations.sd3.layouts import config_from_diffusers, config_to_diffusers, weights_from_diffusers

RELEASED = {
    "sd3-medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    },
    "sd3.5-medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
    "sd3.5-large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
}
"""The public configurations (config.json of stabilityai's repositories)."""
COMMON = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
}
TINY = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "caption_projection_dim": 128,
    "num_layers": 3,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 80,
}
KINDS = {
    "sd3": {},
    "sd3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "sd3.5-large": {"qk_norm": "rms_norm"},
}


@pytest.mark.parametrize("name", RELEASED)
def test_full_size_names_and_shapes(name):
    """On the meta device: diffusers' class, from the public configuration, maps onto ours with nothing left or missing."""
    with torch.device("meta"):
        theirs = SD3Transformer2DModel(**COMMON, **RELEASED[name])
        config = config_from_diffusers(theirs.config)
        ours = MMDiT(config)
        mapped = weights_from_diffusers(theirs.state_dict(), config)
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    back = config_to_diffusers(config)
    assert all(back[key] == value for key, value in (COMMON | RELEASED[name]).items())


def original(kind: str) -> dict[str, torch.Tensor]:
    """Random weights under the names of the original single files."""
    width, shapes = 128, {}

    def linear(name, inputs, outputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    shapes |= {
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "x_embedder.proj.bias": (width,),
        "pos_embed": (1, 6400, width),
    }
    for name, size in (("t_embedder", 256), ("y_embedder", 20)):
        linear(f"{name}.mlp.0", size, width)
        linear(f"{name}.mlp.2", width, width)
    linear("context_embedder", 24, width)
    linear("final_layer.adaLN_modulation.1", width, 2 * width)
    linear("final_layer.linear", width, 16)
    for i in range(3):
        for block in ("x_block", "context_block"):
            there, last = f"joint_blocks.{i}.{block}", i == 2 and block == "context_block"
            dual = block == "x_block" and i in KINDS[kind].get("dual_attention_layers", ())
            linear(f"{there}.adaLN_modulation.1", width, (2 if last else 9 if dual else 6) * width)
            for attention in ("attn", "attn2") if dual else ("attn",):
                linear(f"{there}.{attention}.qkv", width, 3 * width)
                if not last:
                    linear(f"{there}.{attention}.proj", width, width)
                if "qk_norm" in KINDS[kind]:
                    shapes |= {f"{there}.{attention}.ln_{x}.weight": (64,) for x in "qk"}
            if not last:
                linear(f"{there}.mlp.fc1", width, 4 * width)
                linear(f"{there}.mlp.fc2", 4 * width, width)
    generator = torch.Generator().manual_seed(0)
    return {f"model.diffusion_model.{k}": 0.1 * torch.randn(s, generator=generator) for k, s in shapes.items()}


def inputs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*s, generator=generator) for s in ((2, 4, 8, 12), (2, 5, 24), (2, 20))]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_single_file_equals_diffusers_reading_of_it(kind, tmp_path):
    weights = original(kind)
    save_file(weights | {"first_stage_model.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    ours = load_mmdit(tmp_path / "model.safetensors")
    theirs = SD3Transformer2DModel(**TINY, **KINDS[kind])
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(weights))
    converted["pos_embed.pos_embed"] = theirs.pos_embed.pos_embed  # the tiny file's table is random
    theirs.load_state_dict(converted)
    latents, context, pooled = inputs()
    t = torch.tensor([0.3, 0.9])
    expected = theirs(latents, context, pooled, t * 1000).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(latents, t, context, pooled), expected, atol=1e-5, rtol=1e-5)


def test_what_was_trained_with_references_goes_to_diffusers_without_them(tmp_path):
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(**TINY)
    theirs.save_pretrained(tmp_path / "transformer")
    ours = load_mmdit(tmp_path / "transformer", max_references=2)
    with torch.no_grad():
        ours.reference_embed.normal_()
    with pytest.raises(ValueError, match="drop_references leaves them out"):
        save_diffusers(ours, tmp_path / "refused")
    save_diffusers(ours, tmp_path / "back", drop_references=True)
    back = SD3Transformer2DModel.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(value, back[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_equal(kind, tmp_path):
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(**TINY, **KINDS[kind])
    theirs.save_pretrained(tmp_path / "pipeline/transformer", max_shard_size="1MB")
    assert len(list((tmp_path / "pipeline/transformer").glob("*.safetensors"))) > 1
    ours = load_mmdit(tmp_path / "pipeline")
    save_diffusers(ours, tmp_path / "back")
    back = SD3Transformer2DModel.from_pretrained(tmp_path / "back")
    assert back.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in theirs.state_dict().items())
    again = load_mmdit(tmp_path / "back")
    assert again.config == ours.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in ours.state_dict().items())


@torch.inference_mode()
def test_a_whole_sampling_loop_equals_the_pipeline(tmp_path):
    """Ten guided steps with the pipeline's own scheduler times, embeddings and noise."""
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(**TINY, **KINDS["sd3.5-medium"])
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    theirs.save_pretrained(tmp_path / "transformer")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    pipeline = StableDiffusion3Pipeline(theirs, scheduler, vae, None, None, None, None, None, None)
    pipeline.set_progress_bar_config(disable=True)
    latents, context, pooled = inputs()
    latents, scale = latents[:1], 4.0
    expected = pipeline(
        prompt_embeds=context[:1],
        negative_prompt_embeds=context[1:],
        pooled_prompt_embeds=pooled[:1],
        negative_pooled_prompt_embeds=pooled[1:],
        latents=latents.clone(),
        num_inference_steps=10,
        guidance_scale=scale,
        output_type="latent",
        height=64,
        width=96,
    ).images
    ours = load_mmdit(tmp_path)

    def velocity(x, t):
        both = ours(torch.cat([x, x]), torch.full((2,), t), context, pooled)
        return both[1:] + scale * (both[:1] - both[1:])

    scheduler.set_timesteps(10)
    drawn = samplers.integrate(samplers.euler(latents, scheduler.sigmas), velocity)
    assert (drawn - latents).abs().max() > 0.5
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)


def test_what_is_wrong_is_named(tmp_path):
    weights = original("sd3")
    key = "model.diffusion_model.joint_blocks.1.x_block.mlp.fc1.weight"
    for name, changed, said in (
        (
            "more",
            weights | {"model.diffusion_model.joint_blocks.0.extra": torch.zeros(1)},
            r"no place .*joint_blocks\.0\.extra",
        ),
        (
            "shape",
            weights | {key: torch.zeros(3, 128)},
            r"blocks\.1\.image\.mlp\.0\.weight is \(3, 128\), expected \(512, 128\)",
        ),
        ("less", {k: v for k, v in weights.items() if k != key}, r"mlp\.0\.weight is missing, expected"),
        ("none", {"x": torch.zeros(1)}, "no SD3 in the original layout"),
    ):
        save_file(changed, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=said):
            load_mmdit(tmp_path / f"{name}.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "more.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_mmdit(tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="is no SD3"):
        load_mmdit(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(ValueError, match="not SD3Transformer2DModel"):
        load_mmdit(tmp_path)
    SD3Transformer2DModel(**TINY).save_pretrained(tmp_path / "ok", max_shard_size="1MB")
    index = tmp_path / "ok/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(index.read_text().replace('"diffusion_pytorch_model-00001', '"../diffusion_pytorch_model-00001'))
    with pytest.raises(ValueError, match="not a file of this folder"):
        load_mmdit(tmp_path / "ok")


def test_what_diffusers_cannot_express_is_refused(tmp_path):
    small = {"latent_channels": 4, "width": 64, "depth": 1, "heads": 2, "context_width": 8, "pooled_width": 8}
    for options, said in (
        ({"adaln": "low_rank"}, "low_rank"),
        ({"positions": "rope"}, "rope"),
        ({"max_references": 1}, "1 ref"),
    ):
        with pytest.raises(ValueError, match=f"has no .*{said}"):
            save_diffusers(MMDiT(MMDiTConfig(**(small | options))), tmp_path)

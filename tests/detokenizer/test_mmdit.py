"""The MM-DiT against diffusers, and its own promises: references, masks, modulations, positions, any size."""

import pytest
import torch
from diffusers import SD3Transformer2DModel

from limner.detokenizer.mmdit import GELU, MMDiT
from limner.detokenizer.mmdit_config import MMDiTConfig
from limner.detokenizer.mmdit_positions import apply_rotary, centred_grid, rotary_angles
from limner.integrations.sd3.layouts import config_from_diffusers, weights_from_diffusers

SMALL = {
    "latent_channels": 4,
    "width": 64,
    "depth": 3,
    "heads": 2,
    "context_width": 24,
    "pooled_width": 20,
    "position_table": 24,
    "position_base": 8,
    "max_references": 2,
}


def make(**options):
    model = MMDiT(MMDiTConfig(**(SMALL | options)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch=2, height=8, width=12, tokens=5):
    return (
        torch.randn(batch, 4, height, width),
        torch.rand(batch),
        torch.randn(batch, tokens, 24),
        torch.randn(batch, 20),
    )


@pytest.mark.parametrize(
    ("dual", "norm"), [((), None), ((0, 1), "rms_norm"), ((), "rms_norm")], ids=["sd3", "sd3.5-medium", "sd3.5-large"]
)
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@torch.inference_mode()
def test_equals_diffusers_sd3_transformer(dual, norm, size):
    theirs = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=24,
        caption_projection_dim=64,
        pooled_projection_dim=20,
        pos_embed_max_size=24,
        dual_attention_layers=dual,
        qk_norm=norm,
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    config = config_from_diffusers(theirs.config)
    ours = MMDiT(config)
    ours.load_state_dict(weights_from_diffusers(theirs.state_dict(), config))
    latents, t, context, pooled = inputs(height=size[0], width=size[1])
    expected = theirs(latents, context, pooled, t * 1000).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(latents, t, context, pooled), expected, atol=1e-5, rtol=1e-5)


def test_gelu_is_the_same_function_compiled(monkeypatch):
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    eager = GELU()(x)
    torch.testing.assert_close(eager, torch.nn.functional.gelu(x, approximate="tanh"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(GELU()(x), eager, atol=1e-12, rtol=0)


def test_a_weight_without_a_place_is_named():
    config = MMDiTConfig(**SMALL)
    weights = {
        "pos_embed.proj.weight": torch.zeros(64, 4, 2, 2),
        "pos_embed.proj.bias": torch.zeros(64),
        "surprise.weight": torch.zeros(1),
    }
    with pytest.raises(ValueError, match=r"surprise\.weight"):
        weights_from_diffusers(weights, config)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("adaln", ["full", "low_rank"])
@torch.inference_mode()
def test_what_is_masked_or_padded_has_no_influence(positions, adaln):
    """A batch of rows with 0, 1 and 2 references of different sizes equals each row alone."""
    model = make(positions=positions, adaln=adaln)
    latents, t, context, pooled = inputs(3)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = False
    rows = [[], [torch.randn(4, 8, 12)], [torch.randn(4, 4, 6), torch.randn(4, 8, 8)]]
    together = model(latents, t, context, pooled, context_mask=mask, references=model.pack_references(rows))
    for i, row in enumerate(rows):
        alone = model(
            latents[i : i + 1],
            t[i : i + 1],
            context[i : i + 1, : int(mask[i].sum())],
            pooled[i : i + 1],
            references=model.pack_references([row]),
        )
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@torch.inference_mode()
def test_references_matter_and_so_does_their_order(positions):
    model = make(positions=positions)
    latents, t, context, pooled = inputs(1)
    a, b = torch.randn(4, 8, 12), torch.randn(4, 8, 12)

    def run(row):
        return model(latents, t, context, pooled, references=model.pack_references([row]))

    assert not torch.allclose(run([a]), run([]), atol=1e-3)
    assert not torch.allclose(run([a, b]), run([b, a]), atol=1e-3)


@torch.inference_mode()
def test_modulations_computed_for_all_steps_equal_those_of_each_step():
    model = make()
    latents, _, context, pooled = inputs()
    times = torch.tensor([0.9, 0.5, 0.1])
    mods = model.modulations(times[:, None].expand(-1, 2), pooled)
    for step, t in enumerate(times):
        plain = model(latents, t.expand(2), context, pooled)
        torch.testing.assert_close(model(latents, None, context, None, modulations=mods.at(step, slice(0, 2))), plain)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("size", [(2, 2), (6, 14), (20, 4)])
def test_draws_any_size_that_the_patch_divides(positions, size):
    model = make(positions=positions)
    latents, t, context, pooled = inputs(height=size[0], width=size[1])
    assert model(latents, t, context, pooled).shape == latents.shape
    assert torch.equal(model.unpatchify(_swap(model, latents), *size), latents)


def _swap(model, latents):
    """patchify orders (channels, p, p), unpatchify reads (p, p, channels), as in SD3."""
    tokens = model.patchify(latents)
    return tokens.unflatten(-1, (4, 2, 2)).permute(0, 1, 3, 4, 2).flatten(2)


def test_rope_is_measured_from_the_centre_and_the_table_is_cropped_from_its_middle():
    """So that the middle of a picture and of a reference of another size have the same place."""
    cpu = torch.device("cpu")
    places = centred_grid(MMDiTConfig(**SMALL, positions="rope"), 2, 3, cpu).tolist()
    assert places == [[-0.5, -1], [-0.5, 0], [-0.5, 1], [0.5, -1], [0.5, 0], [0.5, 1]]
    places = centred_grid(MMDiTConfig(**SMALL), 2, 3, cpu).tolist()  # a table of 24 x 24
    assert places == [[11, 10], [11, 11], [11, 12], [12, 10], [12, 11], [12, 12]]


@torch.inference_mode()
def test_rope_moves_with_the_picture():
    """Rotary scores depend on relative places: turning both by the same shift changes nothing."""
    q, k = torch.randn(2, 1, 1, 6, 32).unbind(0)
    places = torch.randint(0, 9, (1, 6, 3)).float()
    scores = [
        apply_rotary(q, rotary_angles(p, 32)) @ apply_rotary(k, rotary_angles(p, 32)).transpose(-1, -2)
        for p in (places, places + torch.tensor([0.0, 3.0, -2.0]))
    ]
    torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-4)


def test_bad_sizes_are_refused():
    model = make()
    with pytest.raises(ValueError, match="patch size 2 must divide"):
        model.patchify(torch.zeros(1, 4, 3, 4))
    with pytest.raises(ValueError, match="table holds 24 x 24"):
        model(torch.zeros(1, 4, 50, 4), torch.zeros(1), torch.zeros(1, 2, 24), torch.zeros(1, 20))
    with pytest.raises(ValueError, match="at most 2"):
        model.pack_references([[torch.zeros(4, 2, 2)] * 3])
    with pytest.raises(ValueError, match="adaln"):
        MMDiTConfig(adaln="none")


def test_a_new_model_predicts_zero_and_every_block_is_the_identity():
    model = MMDiT(MMDiTConfig(**SMALL))
    latents, t, context, pooled = inputs()
    assert model(latents, t, context, pooled).abs().max() == 0
    early: list = []
    model(latents, t, context, pooled, early=early, early_block=2)
    x = model.patch_embed(model.patchify(latents))
    torch.testing.assert_close(early[0], model.add_positions(x, 4, 6, None)[0])

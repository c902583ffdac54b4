from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limner.resamplers import PerceiverResampler, Resampler, default_grid, sincos_2d
from limner.resamplers.attention import PLAIN_ATTENTION_MAX_QUERIES, attention

DATA = Path(__file__).parent.parent / "data"


def test_equals_seed_x_input_resampler():
    """Reference weights, input and output of the public SEED-X module."""
    reference = load_file(DATA / "input_resampler.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in reference.items() if k.startswith("weights.")}
    resampler = Resampler(256, 96, 16, heads=4)
    positions = weights.pop("pos_embed")
    torch.testing.assert_close(resampler.positions((4, 4), positions), positions, atol=1e-6, rtol=0)
    resampler.load_state_dict(weights)
    torch.testing.assert_close(resampler(reference["io.x"]), reference["io.y"], atol=1e-5, rtol=1e-5)


def test_equals_seed_x_detokenizer_resampler():
    reference = load_file(DATA / "detokenizer_resampler.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in reference.items() if k.startswith("weights.")}
    resampler = PerceiverResampler(256, (24, 40), 16, width=64, depth=2, heads=4, head_width=16)
    resampler.load_state_dict(weights)
    tokens, pooled = resampler(reference["io.x"])
    torch.testing.assert_close(tokens, reference["io.prompt_embeds"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, reference["io.pooled_prompt_embeds"], atol=1e-5, rtol=1e-5)
    # any number of tokens in
    assert resampler(reference["io.x"][:, :7])[0].shape == tokens.shape


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("tokens", "grid"), [(16, None), (15, (3, 5)), (7, None)])
def test_any_lengths_and_widths_with_a_pooled_output(depth, tokens, grid):
    resampler = Resampler(24, 40, 9, heads=4, width=32, depth=depth, pooled_width=12)
    tokens_out, pooled = resampler(torch.randn(2, tokens, 24), grid=grid)
    assert tokens_out.shape == (2, 9, 40) and pooled.shape == (2, 12)
    narrow = Resampler(40, 24, 9, heads=4, width=32, depth=depth)
    assert narrow(torch.randn(2, tokens, 40), grid=grid).shape == (2, 9, 24)


@pytest.mark.parametrize("depth", [1, 3])
def test_masked_tokens_have_no_influence(depth):
    resampler = Resampler(24, 32, 4, heads=4, depth=depth)
    x = torch.randn(2, 9, 24)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 5:] = False
    changed = x.clone()
    changed[:, 5:] += 10
    torch.testing.assert_close(resampler(x, mask), resampler(changed, mask))
    assert not torch.allclose(resampler(x), resampler(changed))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_sdpa(masked):
    q, k, v = torch.randn(3, 2, 4, 10, 16).unbind(0)
    mask = torch.rand(2, 10) > 0.4 if masked else None
    theirs = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=None if mask is None else mask[:, None, None]
    )
    torch.testing.assert_close(attention(q, k, v, mask), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_adds_its_bias_however_it_is_computed(masked):
    """Plain products and SDPA (what more queries take) against the formula."""
    q, k, v = torch.randn(3, 2, 4, PLAIN_ATTENTION_MAX_QUERIES + 1, 16).unbind(0)
    bias = torch.randn(4, PLAIN_ATTENTION_MAX_QUERIES + 1, PLAIN_ATTENTION_MAX_QUERIES + 1)
    mask = torch.rand(2, PLAIN_ATTENTION_MAX_QUERIES + 1) > 0.4 if masked else None
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / 4 + bias
    if masked:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    by_hand = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
    torch.testing.assert_close(attention(q, k, v, mask, bias), by_hand, atol=1e-5, rtol=1e-5)
    few = attention(q[:, :, :9], k, v, mask, bias[:, :9])
    torch.testing.assert_close(few, by_hand[:, :, :9], atol=1e-5, rtol=1e-5)


def test_further_layers_and_locality_follow_their_formulas():
    """Against torch's own multi-head attention: two layers, a mask, a pooled output, another width out."""
    resampler = Resampler(24, 40, 4, heads=2, width=32, depth=2, pooled_width=12, local=True).eval()
    x, mask = torch.randn(2, 9, 24), torch.rand(2, 9) > 0.3

    def multihead(layer, query, key, value, mask, bias):
        theirs = torch.nn.MultiheadAttention(32, 2, batch_first=True)
        theirs.load_state_dict(layer.state_dict())
        hidden = (torch.where(mask[:, None, None], 0.0, -torch.inf) + bias).flatten(0, 1)
        return theirs(query, key, value, attn_mask=hidden.expand(4, -1, -1), need_weights=False)[0]

    value = resampler.ln_kv(resampler.kv_proj(x))
    places = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    key_positions = sincos_2d(32, *[(torch.arange(3) + 0.5) * 2 / 3 - 0.5] * 2)
    query_positions = sincos_2d(32, torch.arange(2), torch.arange(2))
    cells = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    distances = (cells[:, None] - ((places + 0.5) * 2 / 3 - 0.5)).square().sum(-1)
    key, query = value + key_positions, resampler.ln_q(resampler.query).expand(2, -1, -1)
    bias = -4.0 * distances[None, None].expand(1, 2, -1, -1)
    first = resampler.query + multihead(resampler.attn, query + query_positions, key, value, mask, bias)
    (block,) = resampler.blocks
    query = block.ln_q(first)
    key, value = torch.cat([key, query + query_positions], 1), torch.cat([value, query], 1)
    mask_and_queries = torch.cat([mask, torch.ones(2, 4, dtype=torch.bool)], dim=1)
    no_bias = torch.zeros(1, 2, 4, 13)
    second = first + multihead(block.attn, query + query_positions, key, value, mask_and_queries, no_bias)
    second = second + block.ff(block.ln_ff(second))
    tokens, pooled = resampler(x, mask)
    torch.testing.assert_close(tokens, resampler.out_proj(second), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, resampler.pooled_proj(second.mean(1)), atol=1e-5, rtol=1e-5)


def test_new_weights_have_the_scale_of_the_published_ones():
    """Qwen-VL's 0.02 for queries; width ** -0.5 for IP-Adapter's latents and CLIP's positions."""
    assert float(Resampler(8, 64, 256, heads=4).query.data.std()) == pytest.approx(0.02, rel=0.05)
    perceiver = PerceiverResampler(8, (24, 40), 256, width=64, depth=1, heads=4, head_width=16)
    for parameter in (perceiver.latents, perceiver.unet_attnpool.positional_embedding):
        assert float(parameter.data.std()) == pytest.approx(64**-0.5, rel=0.05)


def test_only_many_queries_take_sdpa_on_a_cpu(monkeypatch):
    """What few queries gain in time many would pay in memory, for scores of all pairs."""
    calls = []
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, *_, **__: calls.append(q))
    for queries in (1, PLAIN_ATTENTION_MAX_QUERIES, PLAIN_ATTENTION_MAX_QUERIES + 1):
        attention(torch.randn(1, 1, queries, 4), torch.randn(1, 1, 9, 4), torch.randn(1, 1, 9, 4))
    assert [q.shape[2] for q in calls] == [PLAIN_ATTENTION_MAX_QUERIES + 1]


@pytest.mark.parametrize("depth", [1, 2])
def test_normalised_scores_do_not_grow_with_the_weights(depth):
    x = torch.randn(2, 9, 24)
    for qk_norm in (True, False):
        torch.manual_seed(0)
        resampler = Resampler(24, 32, 4, heads=4, depth=depth, qk_norm=qk_norm)
        before = resampler(x)
        for layer in (resampler.attn, *(block.attn for block in resampler.blocks)):
            layer.in_proj_weight.data[:64] *= 100  # of queries and keys
        assert torch.allclose(resampler(x), before, atol=1e-4) == qk_norm


def test_a_local_resampler_begins_at_each_querys_own_place():
    """One patch changed: the query of its cell sees it most, one two cells off hardly; without ``local`` all alike."""

    def seen(local):
        torch.manual_seed(0)
        resampler = Resampler(24, 32, 16, heads=4, local=local)
        x = torch.randn(1, 64, 24)
        changed = x.clone()
        changed[:, 8 * 5 + 2] += 3 * torch.randn(24)  # row 5, column 2: the cell of row 2, column 1
        return (resampler(changed) - resampler(x)).norm(dim=-1).view(4, 4)

    near, everywhere = seen(True), seen(False)
    assert near.argmax() == 2 * 4 + 1
    assert near[2, 3] < 0.01 * near[2, 1]
    assert everywhere[2, 3] > 0.1 * everywhere.max()


def test_a_local_resampler_knows_distances_on_any_grid():
    resampler = Resampler(24, 32, 16, heads=4, local=True)
    assert resampler.squared_distances((4, 4))[5].view(4, 4)[1].tolist() == [1, 0, 1, 4]
    assert resampler.squared_distances((8, 2))[0].view(8, 2)[:2].tolist() == [[0.3125, 6.3125], [0.3125, 6.3125]]
    assert Resampler(24, 32, 4, heads=4).locality is None
    wide = resampler(torch.randn(1, 16, 24), grid=(8, 2))
    wide.sum().backward()
    assert resampler.locality.grad.abs().min() > 0


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide"):
        Resampler(8, 32, 4, heads=3)
    assert Resampler(8, 32, 1, heads=4)(torch.randn(2, 3, 8)).shape == (2, 1, 32)
    with pytest.raises(ValueError, match="depth 0 and num_queries 4 must both be at least 1"):
        Resampler(8, 32, 4, heads=4, depth=0)
    with pytest.raises(ValueError, match="depth 1 and num_queries 0 must"):
        Resampler(8, 32, 0, heads=4)
    with pytest.raises(ValueError, match="a width that 4 divides, not 6"):
        sincos_2d(6, torch.arange(2), torch.arange(2))
    with pytest.raises(ValueError, match="do not fill a grid of 2 x 2"):
        Resampler(8, 32, 4, heads=4)(torch.randn(1, 5, 8), grid=(2, 2))
    assert default_grid(16) == (4, 4) and default_grid(15) == (1, 15)

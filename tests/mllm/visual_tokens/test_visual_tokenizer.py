"""The visual tokenizer: causal codes, prefixes that stand for themselves, what it refuses, and that it learns."""

import json
from dataclasses import replace

import pytest
import torch

from limner.detokenizer.files import load_module, save_module
from limner.mllm.vision_tower import pool_features
from limner.mllm.visual_tokens import (
    VisualTokenizer,
    VisualTokenizerConfig,
    check_codes,
    codes_to_ids,
    ids_to_codes,
)
from limner.mllm.visual_tokens.losses import cosine_loss

SIZES = {
    "patch_width": 12,
    "num_patches": 16,
    "feature_tokens": 4,
    "feature_width": 12,
    "num_tokens": 8,
    "width": 32,
    "heads": 4,
    "encoder_depth": 2,
    "decoder_depth": 2,
    "lengths": (1, 2, 4, 8),
    "pooled_width": 6,
}
CONFIGS = {
    "fsq": VisualTokenizerConfig(**SIZES, levels=(8, 5, 5)),
    "vq": VisualTokenizerConfig(**SIZES, quantizer="vq", codebook_size=40, code_width=5),
}
CONFIGS |= {f"{name}_mlp": replace(config, architecture="mlp") for name, config in CONFIGS.items()}


@pytest.fixture(params=CONFIGS)
def tokenizer(request):
    """Layers over the whole image have begun, and learned a little: where they add zero a test would not see them."""
    made = VisualTokenizer(CONFIGS[request.param])
    if made.config.architecture == "mlp":
        made.initialize(torch.randn(60, 16, 12))
        for part in (made.encoder, made.decoder):
            torch.nn.init.normal_(part.hidden[-1].weight, std=0.1)
    return made.eval()


@pytest.fixture(params=["fsq", "vq"])
def transformer(request):
    return VisualTokenizer(CONFIGS[request.param]).eval()


@torch.no_grad()
def test_images_to_codes_to_image_features(tokenizer):
    features = torch.randn(3, 16, 12)
    output, codes = tokenizer(features), tokenizer.encode(features)
    assert torch.equal(output.codes, codes) and codes.shape == (3, 8) and codes.dtype == torch.long
    assert output.features.shape == pool_features(features, 4).shape and output.pooled.shape == (3, 6)
    torch.testing.assert_close(tokenizer.decode(codes), output.features)


@torch.no_grad()
def test_places_of_patches_are_seen(transformer):
    features = torch.randn(2, 16, 12)
    assert not torch.allclose(transformer.encoder(features), transformer.encoder(features.flip(1)), atol=1e-3)


@torch.no_grad()
def test_at_the_start_tokens_stand_for_places(transformer):
    """A change in one corner changes the state of the token there most, and that code the features there."""
    features = torch.randn(8, 16, 12)
    corner = features.clone()
    corner[:, -1] += 3  # the last of 4 x 4 patches, in the quarter of token 4
    moved = (transformer.encoder(corner) - transformer.encoder(features)).norm(dim=2).mean(0)
    assert moved[:5].argmax() == 4 and moved[4] > 3 * moved[1]
    codes = torch.randint(40, (8, 8))
    changed = codes.clone()
    changed[:, 4] = (codes[:, 4] + 17) % 40
    moved = (transformer.decode(changed) - transformer.decode(codes)).norm(dim=2).mean(0)
    assert moved.argmax() == 3 and moved[3] > 1.5 * moved[0]


@torch.no_grad()
def test_codes_are_causal(transformer):
    """Code i depends on queries up to i alone: changing or removing later ones leaves it as it was."""
    features, queries = torch.randn(4, 16, 12), transformer.encoder.queries
    codes = transformer.encode(features)
    states = transformer.encoder(features)
    queries[5:] += torch.randn(3, 32)
    assert torch.equal(transformer.encode(features)[:, :5], codes[:, :5])
    assert not torch.allclose(transformer.encoder(features)[:, 5:], states[:, 5:])
    transformer.encoder.queries = torch.nn.Parameter(queries[:5])
    torch.testing.assert_close(transformer.encoder(features), states[:, :5])
    transformer.encoder.queries = torch.nn.Parameter(queries + torch.eye(8, 32)[:1])
    assert not torch.allclose(transformer.encoder(features)[:, :5], states[:, :5])


@torch.no_grad()
def test_what_a_prefix_decodes_to_does_not_depend_on_later_codes(tokenizer):
    codes = torch.randint(40, (4, 8))
    lengths = torch.tensor([1, 2, 5, 8])
    mask = tokenizer.prefix_mask(lengths)
    decoded = tokenizer.decode(codes, mask)
    assert torch.equal(tokenizer.decode(torch.where(mask, codes, (codes + 7) % 40), mask), decoded)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(tokenizer.decode(codes[row : row + 1, :length])[0], decoded[row])
    assert not torch.allclose(tokenizer.decode(codes)[:3], decoded[:3])


@torch.no_grad()
def test_nested_dropout_decodes_each_rows_prefix(tokenizer):
    features, lengths = torch.randn(4, 16, 12), torch.tensor([1, 2, 4, 8])
    output = tokenizer(features, lengths)
    expected = tokenizer.decode(output.codes, tokenizer.prefix_mask(lengths))
    torch.testing.assert_close(output.features, expected)
    assert torch.equal(output.codes, tokenizer.encode(features))


@torch.no_grad()
def test_dropped_tokens_are_not_held_to_their_codes():
    tokenizer, features = VisualTokenizer(CONFIGS["vq"]).eval(), torch.randn(4, 16, 12)
    states = tokenizer.encoder(features)  # the norm is none at first
    first = tokenizer(features, torch.ones(4, dtype=torch.long)).quantizer_loss
    errors = (states - tokenizer.quantizer.codebook[tokenizer.encode(features)]).square().mean(2)
    torch.testing.assert_close(first, 0.25 * errors[:, 0].mean())
    torch.testing.assert_close(tokenizer(features).quantizer_loss, 0.25 * errors.mean())


def test_prefix_lengths_are_drawn_alike_from_the_configurations():
    tokenizer = VisualTokenizer(CONFIGS["fsq"])
    drawn = [tokenizer.draw_lengths(4000, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    values, counts = drawn[0].unique(return_counts=True)
    assert values.tolist() == [1, 2, 4, 8] and counts.min() > 900


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_learns(kind):
    """Twelve images get codes of their own, which decode to what is near their features. Every weight takes part."""
    features = torch.randn(12, 16, 12)
    tokenizer = VisualTokenizer(CONFIGS[kind])
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        output = tokenizer(features)
        losses.append(cosine_loss(output.features, pool_features(features, 4)))
        optimizer.zero_grad()
        (losses[-1] + output.quantizer_loss + 1e-3 * output.pooled.square().mean()).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    assert losses[0] > 0.8 and losses[-1] < 0.75
    assert len(tokenizer.eval().encode(features).unique(dim=0)) >= 8


@torch.no_grad()
def test_no_code_rests_at_one_value():
    """Whatever the encoder's vectors are: here all far to one side, where they would have one code."""
    tokenizer = VisualTokenizer(CONFIGS["fsq"])
    tokenizer.encoder.vector_proj.bias.fill_(5)
    features = torch.randn(32, 16, 12)
    for _ in range(90):
        codes = tokenizer(features).codes
    assert min(len(column.unique()) for column in codes.T) > 12
    assert (tokenizer.eval().encode(features) == codes).float().mean() > 0.8
    assert torch.equal(tokenizer.encode(features[:3]), tokenizer.encode(features)[:3])


def test_it_is_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.train()(torch.randn(5, 16, 12))
    tokenizer.eval()
    save_module(tokenizer, tmp_path)
    loaded = load_module(VisualTokenizer, VisualTokenizerConfig, tmp_path).eval()
    features = torch.randn(2, 16, 12)
    assert loaded.config == tokenizer.config
    assert torch.equal(loaded(features).features, tokenizer(features).features)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("fsq", {"levels": [5, 5, 8]}, r"levels \[8, 5, 5\], the configuration names \[5, 5, 8\]: set levels"),
        ("fsq", {"levels": [8, 5, 5, 5]}, "does not fit its configuration: decoder.code_proj.weight"),
        ("fsq", {"quantizer": "vq"}, "does not fit its configuration"),
        ("vq", {"codebook_size": 41}, r"quantizer.cluster_size is \(40,\), expected \(41,\)"),
        ("vq", {"num_tokens": 16, "lengths": [1, 16]}, r"decoder.positions is \(8, 32\), expected \(16, 32\)"),
        ("vq", {"colour": 1}, "unknown keys colour"),
        ("vq", {"heads": "4"}, "heads is '4', which is no int"),
    ],
)
def test_weights_with_another_codebook_or_order_are_refused(kind, changes, said, tmp_path):
    save_module(VisualTokenizer(CONFIGS[kind]), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=said):
        load_module(VisualTokenizer, VisualTokenizerConfig, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "cnn"}, "architecture is 'cnn'; it can be transformer or mlp"),
        (
            {"architecture": "mlp", "feature_width": 8},
            "feature_width is 8, patch_width 12: layers over the whole image",
        ),
        ({"feature_pool": "max"}, "feature_pool is 'max'; it can be grid or sequence"),
        ({"quantizer": "lfq"}, "quantizer is 'lfq'; it can be fsq or vq"),
        ({"levels": (8, 2)}, r"levels are \(8, 2\); there must be some, each of at least 3"),
        ({"levels": ()}, "levels are"),
        ({"lengths": (1, 4, 2, 8)}, "they must rise, from at least 1"),
        ({"lengths": (0, 8)}, "they must rise, from at least 1"),
        ({"lengths": ()}, "they must rise, from at least 1"),
        ({"lengths": (1, 4)}, r"the last of the lengths \(1, 4\) is not num_tokens, 8"),
        ({"heads": 3}, "3 heads and 4 must divide the width of 32"),
        ({"encoder_depth": 0}, "encoder_depth is 0; it must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and less than 1"),
        ({"commitment_weight": -1}, "commitment_weight is -1; it must be a finite number that is not negative"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(CONFIGS["fsq"], **changes)


def test_unknown_keys_are_refused():
    assert VisualTokenizerConfig.from_dict(SIZES) == VisualTokenizerConfig(**SIZES)
    with pytest.raises(ValueError, match=r"unknown keys of a visual tokenizer: depth; there are patch_width,.*"):
        VisualTokenizerConfig.from_dict(SIZES | {"depth": 3})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: t.decode(torch.tensor([[0, t.config.num_codes]])), r"code (200|40) is not in the codebook: its"),
        (lambda t: t.decode(torch.tensor([[-1, 3]])), "code -1 is not in the codebook"),
        (lambda t: t.decode(torch.tensor([[0.0, 3.0]])), "codes are torch.float32; they must be whole numbers"),
        (lambda t: t.decode(torch.zeros(1, 9, dtype=torch.long)), "9 codes of an image: there can be 1 to 8"),
        (lambda t: t.decode(torch.zeros(1, 0, dtype=torch.long)), "0 codes of an image"),
        (lambda t: t.decode(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2).bool()), r"a mask of shape \(1, 2\)"),
        (lambda t: t(torch.randn(2, 16, 12), torch.tensor([0, 4])), "a prefix of 0 tokens: it can have 1 to 8"),
        (lambda t: t(torch.randn(2, 16, 12), torch.tensor([4, 9])), "a prefix of 9 tokens"),
        (lambda t: t.encode(torch.randn(2, 9, 12)), "made for a vision tower with 16 patches of width 12"),
        (lambda t: t(torch.randn(2, 16, 10)), r"features of shape \(2, 16, 10\)"),
    ],
)
def test_what_does_not_fit_is_refused(tokenizer, call, said):
    with pytest.raises(ValueError, match=said):
        call(tokenizer)


def test_codes_and_ids():
    codes = torch.tensor([[0, 7], [199, 3]])
    ids = codes_to_ids(codes, 1000, 200)
    assert ids.tolist() == [[1000, 1007], [1199, 1003]] and torch.equal(ids_to_codes(ids, 1000, 200), codes)
    check_codes(codes[:0], 1)
    with pytest.raises(ValueError, match="ids are 1000 to 1199: code 200 is not in the codebook"):
        ids_to_codes(ids + 1, 1000, 200)
    with pytest.raises(ValueError, match="code 199 is not in the codebook: its 199 codes are 0 to 198"):
        codes_to_ids(codes, 1000, 199)

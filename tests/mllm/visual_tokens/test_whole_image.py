"""Layers over the whole image: they begin with principal components, of which nothing but the rounding is lost. And the draft of
codes that is made by them of the queries' image features."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from limner.mllm.vision_tower import pool_features
from limner.mllm.visual_tokens import VisualTokenizer, VisualTokenizerConfig
from limner.mllm.visual_tokens.draft import CodeDraft

CONFIG = VisualTokenizerConfig(
    patch_width=12,
    num_patches=16,
    feature_tokens=4,
    feature_width=12,
    num_tokens=4,
    lengths=(1, 2, 4),
    levels=(8, 5, 5),
    architecture="mlp",
    width=32,
    encoder_depth=2,
    decoder_depth=1,
)


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Patch features (count, 16, 12) around a mean, that differ in ten ways, fewer than there are numbers in four tokens."""
    generator = torch.Generator().manual_seed(seed)
    ways = torch.randn(10, 16 * 12, generator=torch.Generator().manual_seed(99)) * 0.9 ** torch.arange(10)[:, None]
    mean = torch.linspace(-3, 3, 16 * 12)
    return (mean + torch.randn(count, 10, generator=generator) @ ways).unflatten(1, (16, 12))


@torch.no_grad()
def test_the_encoder_begins_with_principal_components():
    """NumPy's singular vectors of the pooled features, each with a variance of 1, the largest in the first token."""
    tokenizer = VisualTokenizer(replace(CONFIG, num_tokens=2, lengths=(1, 2)))
    given = images(500)
    tokenizer.initialize(given)
    pooled = pool_features(given, 4).flatten(1).double().numpy()
    components = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2][:6]
    expected = (pooled - pooled.mean(0)) @ components.T
    expected /= expected.std(0, ddof=1)
    found = tokenizer.encoder(given).flatten(1).double().numpy()
    assert np.allclose(np.abs(np.sum(found * expected, 0) / 499), 1, atol=1e-3), "each is its own component"
    assert np.allclose(found.std(0, ddof=1), 1, atol=1e-3) and np.allclose(found.mean(0), 0, atol=1e-3)


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
@torch.no_grad()
def test_the_decoder_begins_with_least_squares_of_the_codes(quantizer):
    """No affine map of the codes' vectors is nearer to the images than what it begins with, which is near."""
    tokenizer = VisualTokenizer(replace(CONFIG, quantizer=quantizer, codebook_size=200, code_width=3))
    given = images(3000)
    tokenizer.initialize(given)
    vectors = tokenizer.quantizer.codes_to_vectors(tokenizer.eval().encode(given)).flatten(1).double().numpy()
    target = pool_features(given, 4).flatten(1).double().numpy()
    ones = np.concatenate([vectors, np.ones((3000, 1))], axis=1)
    best = np.square(ones @ np.linalg.lstsq(ones, target, rcond=None)[0] - target).mean()
    error = np.square(tokenizer(given).features.flatten(1).double().numpy() - target).mean()
    assert error < 1.03 * best and best < 0.15 * target.var(0).mean(), (error, best, target.var(0).mean())


@torch.no_grad()
def test_at_the_start_each_token_adds_and_others_images_are_as_near():
    tokenizer = VisualTokenizer(CONFIG)
    tokenizer.initialize(images(3000))
    other = images(500, seed=1)
    target = pool_features(other, 4)
    codes = tokenizer.eval().encode(other)
    errors = [
        float((tokenizer.decode(codes[:, :n]) - target).square().mean() / target.var(0).mean()) for n in (1, 2, 4)
    ]
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] and errors[2] < 0.15, errors


def test_too_few_images_or_numbers_are_refused():
    with pytest.raises(ValueError, match="12 images of 48 numbers have no 12 principal components, the numbers that 4"):
        VisualTokenizer(CONFIG).initialize(images(12))
    many = replace(CONFIG, num_tokens=32, lengths=(1, 32))
    with pytest.raises(ValueError, match="200 images of 48 numbers have no 96 principal components"):
        VisualTokenizer(many).initialize(images(200))


@pytest.fixture(scope="module")
def tokenizer():
    made = VisualTokenizer(CONFIG)
    made.initialize(images(500))
    return made.eval()


@torch.no_grad()
def test_vectors_of_image_features_round_to_the_codes(tokenizer):
    given = images(200, seed=1)
    codes = tokenizer.encode(given)
    vectors = tokenizer.image_vectors(pool_features(given, 4))
    stood_for = tokenizer.quantizer.codes_to_vectors(codes)
    assert vectors.shape == (200, 4, 3) and vectors.std(0).flatten()[:10].min() > 0.2, "those in which they differ"
    steps = 1 / torch.tensor([4, 2, 2])  # of levels (8, 5, 5), between -1 and 1
    assert ((vectors - stood_for).abs() <= steps / 2 + 1e-3).all()


@torch.no_grad()
def test_vectors_of_a_learned_codebook_are_nearest_to_their_codes():
    made = VisualTokenizer(replace(CONFIG, quantizer="vq", codebook_size=50, code_width=3))
    made.initialize(images(500))
    given = images(100, seed=1)
    vectors = made.eval().image_vectors(pool_features(given, 4))
    assert torch.equal(torch.cdist(vectors, made.quantizer.codebook).argmin(-1), made.encode(given))


def test_a_transformer_encodes_patches_alone():
    made = VisualTokenizer(replace(CONFIG, architecture="transformer", width=32, heads=2))
    with pytest.raises(ValueError, match="encodes patches, not image features: one with architecture 'mlp'"):
        made.image_vectors(torch.zeros(1, 4, 12))


@torch.no_grad()
def test_a_draft_is_a_normal_distribution_around_the_best_guess(tokenizer):
    """Torch's own over all codes, around NumPy's line through true and drafted numbers."""
    vectors = tokenizer.quantizer.codes_to_vectors(torch.arange(CONFIG.num_codes))
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(4000, 4, 3, generator=generator) * 2 - 1
    noise = torch.linspace(0.2, 1, 12).unflatten(0, (4, 3))  # of each number
    drafted = 0.5 * true + 0.1 + noise * torch.randn(4000, 4, 3, generator=generator)
    draft = CodeDraft(4, 3)
    draft.initialize(drafted, true)
    found = draft(drafted[:5], vectors).log_softmax(-1)
    given, wanted = drafted.double().flatten(1).numpy(), true.double().flatten(1).numpy()
    lines = [np.polynomial.Polynomial.fit(x, y, 1) for x, y in zip(given.T, wanted.T, strict=True)]
    guessed = np.stack([line(x) for line, x in zip(lines, given.T, strict=True)], axis=1)
    left = torch.from_numpy(np.sqrt(np.square(guessed - wanted).mean(0)))
    centres = torch.from_numpy(guessed[:5])
    normal = torch.distributions.Normal(centres.unflatten(1, (4, 1, 3)), left.unflatten(0, (4, 1, 3)))
    expected = normal.log_prob(vectors.double()).sum(-1).log_softmax(-1)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)

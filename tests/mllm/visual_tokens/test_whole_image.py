"""Layers over the whole image: they begin with principal components, of which nothing but the rounding is lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from limner.mllm.vision_tower import pool_features
from limner.mllm.visual_tokens import VisualTokenizer, VisualTokenizerConfig

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
    tokenizer.begin(given)
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
    tokenizer.begin(given)
    vectors = tokenizer.quantizer.codes_to_vectors(tokenizer.eval().encode(given)).flatten(1).double().numpy()
    target = pool_features(given, 4).flatten(1).double().numpy()
    ones = np.concatenate([vectors, np.ones((3000, 1))], axis=1)
    best = np.square(ones @ np.linalg.lstsq(ones, target, rcond=None)[0] - target).mean()
    error = np.square(tokenizer(given).features.flatten(1).double().numpy() - target).mean()
    assert error < 1.03 * best and best < 0.15 * target.var(0).mean(), (error, best, target.var(0).mean())


@torch.no_grad()
def test_at_the_start_each_token_adds_and_others_images_are_as_near():
    tokenizer = VisualTokenizer(CONFIG)
    tokenizer.begin(images(3000))
    other = images(500, seed=1)
    target = pool_features(other, 4)
    codes = tokenizer.eval().encode(other)
    errors = [
        float((tokenizer.decode(codes[:, :n]) - target).square().mean() / target.var(0).mean()) for n in (1, 2, 4)
    ]
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] and errors[2] < 0.15, errors


def test_too_few_images_or_numbers_are_refused():
    with pytest.raises(ValueError, match="12 images of 48 numbers have no 12 principal components, the numbers that 4"):
        VisualTokenizer(CONFIG).begin(images(12))
    many = replace(CONFIG, num_tokens=32, lengths=(1, 32))
    with pytest.raises(ValueError, match="200 images of 48 numbers have no 96 principal components"):
        VisualTokenizer(many).begin(images(200))

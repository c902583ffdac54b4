"""Encoder and decoder of the visual tokenizer as layers over the whole image, begun from principal components.

What they begin with is a tokenizer already, and an image costs them about a tenth of what it costs the transformers: on a CPU
they get in minutes to where the transformers, begun at random, do not get in an hour. Their weights grow with the number and
width of the image features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..vision_tower import pool_features
from .config import VisualTokenizerConfig

OVERSAMPLING = 32
"""Components more than are needed that the randomised decomposition looks for (Halko et al. 2011, arXiv:0909.4061)"""
MIN_SPREAD = 1e-3
"""Of a component over images, as a part of the first one's, below which it is not scaled to a variance of 1"""
RIDGE = 1e-4
"""Of the least squares by which the decoder begins, in units of the mean square of a code's numbers"""


def hidden_layers(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """``depth`` hidden layers, of which zero comes out at first."""
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.GELU(), nn.LayerNorm(width)]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.GELU()]
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class WholeImageEncoder(nn.Module):
    """Patch features (batch, patches, patch_width) to the vectors of all tokens (batch, num_tokens, vector_width).

    A linear map of the pooled features, and hidden layers that add to it from zero. `initialize` makes the map that of principal
    components: the first token has those in which images differ most.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: VisualTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        inputs, outputs = config.feature_tokens * config.feature_width, config.num_tokens * config.vector_width
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(inputs, outputs)
        self.hidden = hidden_layers(inputs, config.width, config.encoder_depth, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.encode_images(self.pooled(features))

    def encode_images(self, images: Tensor) -> Tensor:
        """Image features in one row (batch, feature_tokens · feature_width) to vectors (batch, num_tokens, vector_width)."""
        # in the precision of the mean: what images have in common is larger than what tells them apart
        x = ((images - self.mean) / self.scale).to(self.linear.weight.dtype)
        return (self.linear(x) + self.hidden(x)).unflatten(1, (self.config.num_tokens, self.config.vector_width))

    def pooled(self, features: Tensor) -> Tensor:
        """Image features of patch features, in one row (batch, feature_tokens · feature_width)."""
        return pool_features(features, self.config.feature_tokens, self.config.feature_pool).flatten(1)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """From image features (images, feature_tokens · feature_width). Raises ValueError for too few images, and for features of
        fewer numbers than the codes have."""
        count = self.linear.out_features
        if count > min(len(images) - 1, images.shape[1]):
            raise ValueError(
                f"{len(images)} images of {images.shape[1]} numbers have no {count} principal components, the numbers that "
                f"{self.config.num_tokens} tokens stand for: more images, or fewer tokens or levels"
            )
        self.mean.copy_(images.mean(0))
        centred = images - self.mean
        self.scale.copy_(centred.square().mean().sqrt())
        most = min(count + OVERSAMPLING, *centred.shape)
        components = torch.svd_lowrank(centred, q=most, niter=4)[2][:, :count]
        spread = (centred @ components).std(0)
        spread = spread.clamp(min=MIN_SPREAD * spread.max())  # what is rounding alone is not made large
        self.linear.weight.copy_((components / spread * self.scale).T)
        self.linear.bias.zero_()


class WholeImageDecoder(nn.Module):
    """Vectors of a prefix of codes (batch, n, vector_width) to image features (batch, feature_tokens, feature_width).

    A linear map of them, 0 in the place of those that are not there, and hidden layers, which are told which are there, that
    add to it from zero. `initialize` fits the map to vectors and images.
    """

    scale: Tensor

    def __init__(self, config: VisualTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        inputs, outputs = config.num_tokens * config.vector_width, config.feature_tokens * config.feature_width
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(inputs, outputs)
        self.hidden = hidden_layers(inputs + config.num_tokens, config.width, config.decoder_depth, outputs)

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (batch, n), False for codes that were dropped."""
        batch, n, _ = vectors.shape
        there = vectors.new_zeros(batch, self.config.num_tokens)
        there[:, :n] = 1 if mask is None else mask.to(vectors)
        padded = nn.functional.pad(vectors, (0, 0, 0, self.config.num_tokens - n))
        x = (padded * there[..., None]).flatten(1)
        features = self.linear(x) + self.scale * self.hidden(torch.cat([x, there], dim=1))
        return features.unflatten(1, (self.config.feature_tokens, self.config.feature_width))

    @torch.no_grad()
    def initialize(self, vectors: Tensor, images: Tensor) -> None:
        """By least squares, from the vectors of all codes (images, num_tokens, vector_width) and image features (images,
        feature_tokens · feature_width)."""
        x, mean = vectors.flatten(1), images.mean(0)
        centre = x.mean(0)
        x, y = x - centre, images - mean
        squares = x.T @ x
        squares.diagonal().add_(RIDGE * squares.diagonal().mean() + torch.finfo(x.dtype).tiny)
        solution = torch.linalg.solve(squares, x.T @ y)
        self.linear.weight.copy_(solution.T)
        self.linear.bias.copy_(mean - centre @ solution)
        self.scale.copy_(y.square().mean().sqrt())

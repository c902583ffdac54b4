"""The visual tokenizer: an image as a short sequence of codes, any prefix of which decodes to image features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vision_tower import pool_features
from .codes import check_codes
from .config import VisualTokenizerConfig
from .quantizers import make_quantizer
from .transformer import CausalQueryEncoder, PrefixDecoder
from .whole_image import WholeImageDecoder, WholeImageEncoder


@dataclass
class VisualTokenizerOutput:
    """What `VisualTokenizer.forward` gives."""

    codes: Tensor
    """(batch, num_tokens), all of them, dropped or not"""
    features: Tensor
    """(batch, feature_tokens, feature_width), decoded from each image's prefix"""
    quantizer_loss: Tensor
    """A scalar: the commitment loss of VQ, 0 for FSQ"""
    pooled: Tensor | None
    """(batch, pooled_width) of what each prefix decodes to, where the configuration has a ``pooled_width``"""


class VisualTokenizer(nn.Module):
    """Patch features of the vision tower to codes, and a prefix of codes back to image features.

    The image features are those that the conditioning adapter takes: the tower's, pooled to ``feature_tokens``. With nested
    dropout (Rippel et al. 2014, arXiv:1402.0915; FlexTok, arXiv:2502.13967) training keeps a random prefix of each image's codes,
    so that the first ones carry what matters most. `load_module` and `save_module` load and save it.

    In training mode codes depend on the batch (batch normalisation before the quantizer) and VQ's codebook moves with every call:
    use ``eval()`` wherever it is not trained.
    """

    def __init__(self, config: VisualTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        transformer = config.architecture == "transformer"
        self.encoder = CausalQueryEncoder(config) if transformer else WholeImageEncoder(config)
        # each number varies over images as much as any other, so none of them rests at one level (arXiv:2005.08520)
        self.vector_norm = nn.BatchNorm1d(config.num_tokens * config.vector_width, affine=False)
        self.quantizer = make_quantizer(config)
        self.decoder = PrefixDecoder(config) if transformer else WholeImageDecoder(config)
        self.pooled_proj = nn.Linear(config.feature_width, config.pooled_width) if config.pooled_width else None

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> VisualTokenizerOutput:
        """The tower's ``features`` (batch, num_patches, patch_width) through the codes of a prefix to image features.

        ``lengths`` (batch,) says how many codes of each image are kept, all by default; see `draw_lengths`. Raises ValueError for
        features of other sizes and for lengths that are not between 1 and ``num_tokens``.
        """
        mask = None if lengths is None else self.prefix_mask(lengths).to(features.device, non_blocking=True)
        vectors, codes, quantizer_loss = self.quantizer(self._vectors(features), mask)
        decoded = self.decoder(vectors, mask)
        pooled = None if self.pooled_proj is None else self.pooled_proj(decoded.mean(1))
        return VisualTokenizerOutput(codes, decoded, quantizer_loss, pooled)

    def encode(self, features: Tensor) -> Tensor:
        """The tower's ``features`` (batch, num_patches, patch_width) to codes (batch, num_tokens).

        Raises ValueError for features of other sizes.
        """
        return self.quantizer.vectors_to_codes(self._vectors(features))

    def decode(self, codes: Tensor, mask: Tensor | None = None, check: bool = True) -> Tensor:
        """A prefix of ``codes`` (batch, n) to image features (batch, feature_tokens, feature_width).

        ``mask`` (batch, n) is False for codes to ignore, where rows have prefixes of different lengths. Codes that it made
        itself need no ``check``, for which the host waits on a GPU. Raises ValueError for codes that are not in the codebook, and
        for none or more than ``num_tokens`` of them.
        """
        n = codes.shape[1]
        if not 1 <= n <= self.config.num_tokens:
            raise ValueError(f"{n} codes of an image: there can be 1 to {self.config.num_tokens}")
        if mask is not None and mask.shape != codes.shape:
            raise ValueError(
                f"a mask of shape {tuple(mask.shape)} for codes of shape {tuple(codes.shape)}: make them equal"
            )
        if check:
            check_codes(codes, self.config.num_codes)
        return self.decoder(self.quantizer.codes_to_vectors(codes).to(self.dtype), mask)

    def image_vectors(self, features: Tensor) -> Tensor:
        """Image features (batch, feature_tokens, feature_width) to the vectors (batch, num_tokens, vector_width) that their codes
        would be rounded from, on the scale of what codes stand for. Raises ValueError for a transformer, which takes patches."""
        if not isinstance(self.encoder, WholeImageEncoder):
            raise ValueError(
                "this visual tokenizer encodes patches, not image features: one with architecture 'mlp' encodes both"
            )
        vectors = self.encoder.encode_images(features.flatten(1).to(self.dtype))
        return self.quantizer.bounded_vectors(self._normalized(vectors))

    @torch.no_grad()
    def initialize(self, features: Tensor) -> None:
        """Initialize from the tower's ``features`` of images (images, num_patches, patch_width).

        A transformer begins with their mean, the best guess without any code; layers over the whole image with their principal
        components and what is best decoded from these when they are rounded. Raises ValueError as `WholeImageEncoder.initialize`.
        """
        pooled = pool_features(features, self.config.feature_tokens, self.config.feature_pool).to(self.dtype)
        if isinstance(self.decoder, PrefixDecoder):
            self.decoder.feature_proj.bias.copy_(pooled.mean((0, 1)))
            return
        assert isinstance(self.encoder, WholeImageEncoder)
        images = pooled.flatten(1)
        self.encoder.initialize(images)
        vectors = self._vectors(features)
        self.quantizer(vectors)  # a codebook of VQ begins from them
        self.decoder.initialize(self.quantizer.codes_to_vectors(self.quantizer.vectors_to_codes(vectors)), images)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; quantization is in fp32."""
        return next(self.encoder.parameters()).dtype

    def prefix_mask(self, lengths: Tensor) -> Tensor:
        """``lengths`` (batch,) to a mask (batch, num_tokens), True for the first ``lengths`` tokens.

        Raises ValueError for lengths that are not between 1 and ``num_tokens``, for which the host waits if they are on a GPU.
        """
        low, high = (int(value) for value in lengths.aminmax())
        if low < 1 or high > self.config.num_tokens:
            wrong = low if low < 1 else high
            raise ValueError(f"a prefix of {wrong} tokens: it can have 1 to {self.config.num_tokens}")
        return torch.arange(self.config.num_tokens, device=lengths.device) < lengths[:, None]

    def draw_lengths(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Random prefix lengths (batch,) for nested dropout, each of the configuration's as likely as the others; on the CPU."""
        choices = torch.randint(len(self.config.lengths), (batch,), generator=generator)
        return torch.tensor(self.config.lengths)[choices]

    def _vectors(self, features: Tensor) -> Tensor:
        """Patch features to the vectors (batch, num_tokens, vector_width) to be quantized."""
        expected = (self.config.num_patches, self.config.patch_width)
        if features.shape[1:] != expected:
            raise ValueError(
                f"features of shape {tuple(features.shape)}: this visual tokenizer was made for a vision tower with "
                f"{expected[0]} patches of width {expected[1]}"
            )
        return self._normalized(self.encoder(features.to(self.dtype)))

    def _normalized(self, vectors: Tensor) -> Tensor:
        return self.vector_norm(vectors.flatten(1)).unflatten(1, vectors.shape[1:])


class PrefixDecoding(Protocol):
    """What decodes a prefix of codes: a `VisualTokenizer`, or another's."""

    def decode(self, codes: Tensor, mask: Tensor | None = None, check: bool = True) -> Tensor: ...


@torch.no_grad()
def needed_lengths(
    tokenizer: PrefixDecoding, codes: Tensor, target: Tensor, lengths: Sequence[int], closeness: float
) -> Tensor:
    """How many of its ``codes`` (batch, n) each image needs (batch,): the fewest of ``lengths``, which ascend, that decode to
    features whose cosine with the image's own, ``target`` (batch, feature_tokens, feature_width), is at least ``closeness`` in
    the mean; the last of them where none do."""
    needed = torch.full_like(codes[:, 0], lengths[-1])
    for length in reversed(lengths[:-1]):
        decoded = tokenizer.decode(codes[:, :length], check=False)
        cosine = F.cosine_similarity(decoded.float(), target.float(), dim=-1).mean(1)
        needed = torch.where(cosine >= closeness, length, needed)
    return needed

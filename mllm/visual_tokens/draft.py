"""A draft of a picture's codes by the queries, which know what to draw before the first code is chosen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VisualTokenizerConfig

MIN_VARIANCE = 1e-3
"""Of a number of the draft, and of what it leaves open of a code's: with FSQ they lie in [-1, 1]"""


def check_draft(config: object) -> None:
    """Raises ValueError where ``config`` is of a visual tokenizer that encodes no image features."""
    if not isinstance(config, VisualTokenizerConfig) or config.architecture != "mlp":
        raise ValueError(
            "draft_by_queries needs a visual tokenizer that encodes image features, one with architecture 'mlp': train such a "
            "one, or set draft_by_queries to false"
        )


class CodeDraft(nn.Module):
    """What the queries of a picture say of its codes, added to the logits by which the backbone predicts them.

    The queries give image features in one pass, the mean of what the picture may be. Their vectors under the frozen visual
    tokenizer are near those of the codes to come: each number of a code has a normal distribution around a line through the
    draft's, of which ``slope``, ``offset`` and ``log_precision`` (num_tokens, vector_width) are learned. The backbone is left to
    learn what the draft does not say, as how one code follows from those before it.
    """

    def __init__(self, num_tokens: int, vector_width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(num_tokens, vector_width))
        self.offset = nn.Parameter(torch.zeros(num_tokens, vector_width))
        self.log_precision = nn.Parameter(torch.zeros(num_tokens, vector_width))
        """Of 1 / variance"""

    def forward(self, drafted: Tensor, vectors: Tensor) -> Tensor:
        """``drafted`` vectors (batch, num_tokens, vector_width) of `VisualTokenizer.image_vectors` to logits (batch, num_tokens,
        num_codes) of the codes that stand for ``vectors`` (num_codes, vector_width): log densities but for a constant, in fp32.
        """
        slope, offset, precision = self.slope.float(), self.offset.float(), self.log_precision.float().exp()
        centre, vectors = slope * drafted.float() + offset, vectors.float()
        return (precision * centre) @ vectors.T - precision @ vectors.square().T / 2

    @torch.no_grad()
    def initialize(self, drafted: Tensor, true: Tensor) -> None:
        """Begin with the least squares of pictures' ``drafted`` vectors and the ``true`` ones, which their codes stand for (each
        pictures, num_tokens, vector_width), and with the variance that these leave."""
        drafted, true = drafted.float(), true.float()
        spread = drafted.var(0, correction=0).clamp(min=MIN_VARIANCE)
        slope = ((drafted - drafted.mean(0)) * (true - true.mean(0))).mean(0) / spread
        offset = true.mean(0) - slope * drafted.mean(0)
        left = (slope * drafted + offset - true).square().mean(0).clamp(min=MIN_VARIANCE)
        self.slope.copy_(slope)
        self.offset.copy_(offset)
        self.log_precision.copy_(-left.log())

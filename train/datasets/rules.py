"""What `limner data filter` lets through. Nothing here imports torch: the command line makes its flags of these fields."""

from __future__ import annotations

from dataclasses import dataclass

from ..option_checks import check_numbers

HASH_SIDE = 8


@dataclass
class Rules:
    """What an example's pictures must be; a rule at its default lets everything through."""

    min_side: int = 0
    """pixels of the shorter side"""
    max_aspect: float = 0.0
    """longer side over shorter side; 0 for any"""
    min_similarity: float = -1.0
    """cosine of picture and caption, by the similarity model; captioned pictures only; -1: off"""
    similarity_model: str = "google/siglip-base-patch16-224"
    """folder or hub id"""
    duplicate_bits: int = -1
    """a picture is a duplicate whose perceptual hash differs from an earlier one's in at most so many of 64 bits; -1: off"""

    def __post_init__(self) -> None:
        check_numbers(self, "min_side", "max_aspect", least=0)
        check_numbers(self, "min_similarity", least=-1, most=1)
        if self.max_aspect and self.max_aspect < 1:
            raise ValueError(f"max_aspect is {self.max_aspect}; longer over shorter side is at least 1 (0: any)")
        if not -1 <= self.duplicate_bits < HASH_SIDE**2:
            raise ValueError(f"duplicate_bits is {self.duplicate_bits}; it must lie between -1 (off) and 63")

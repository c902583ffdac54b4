"""Discrete image tokens: a visual tokenizer on the vision tower's patch features, its quantizers and losses."""

from .codes import check_codes, codes_to_ids, ids_to_codes
from .config import VisualTokenizerConfig
from .tokenizer import VisualTokenizer, VisualTokenizerOutput, needed_lengths

__all__ = [
    "VisualTokenizer",
    "VisualTokenizerConfig",
    "VisualTokenizerOutput",
    "check_codes",
    "codes_to_ids",
    "ids_to_codes",
    "needed_lengths",
]

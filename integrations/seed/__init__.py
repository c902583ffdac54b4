"""SEED's visual tokenizer (Ge et al. 2023, arXiv:2307.08041, and SEED-2 of arXiv:2310.01218)."""

from .tokenizer import SeedTokenizer, SeedTokenizerConfig

__all__ = ["SeedTokenizer", "SeedTokenizerConfig"]

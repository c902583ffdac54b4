"""Options of `limner build`. Nothing here imports torch: the command line makes its flags of these fields."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ((1024, 1024), (832, 1216), (1216, 832), (768, 1344), (1344, 768))
"""Heights and widths in pixels of about a megapixel, as SD3 was trained on."""


@dataclass
class BuildOptions:
    """Sizes of the new parts that join the given ones."""

    num_queries: int = 64
    """learned tokens of a drawing"""
    image_tokens: int = 64
    """tokens that the model sees of a picture"""
    feature_tokens: int = 64
    """image features that a drawing is made of"""
    adapter_width: int = 1024
    """of the conditioning adapter"""
    adapter_depth: int = 4
    """blocks of the conditioning adapter"""
    max_references: int = 1
    """pictures of the conversation that a drawing is shown"""
    prompt_tokens: int = 0
    """of the prompt's hidden states as a second source of context; 0 for none"""
    shapes: tuple[tuple[int, int], ...] = SHAPES
    """sizes that the model may choose, the first where none is said (default: five of about a megapixel)"""
    seed: int = 0
    """of the new parts' weights"""

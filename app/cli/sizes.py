"""Sizes as users write them."""

from __future__ import annotations


def parse_size(text: str) -> tuple[int, int]:
    """ "96x160" to height and width in pixels. Raises ValueError for anything else."""
    height, found, width = text.lower().partition("x")
    if not (found and height.isdigit() and width.isdigit()):
        raise ValueError(f"{text!r} is not HxW, such as 128x128")
    return int(height), int(width)

"""Options of decoding. Nothing here imports torch: the command line reads them before it does."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DecodingOptions:
    """Raises ValueError for values that make no sense."""

    max_new_tokens: int = 256
    """text tokens of a reply; pictures have a limit of their own"""
    max_images: int = 4
    """pictures of a reply"""
    images: str = "auto"
    """auto: the model decides; force: the reply begins with a picture; never: it has none"""
    temperature: float = 0.0
    """0 takes the likeliest token"""
    top_p: float = 1.0
    """sample from the likeliest tokens of this probability together"""
    top_k: int = 0
    """sample from so many of the likeliest tokens; 0 is all"""
    stop: tuple[str, ...] = ()
    """text that ends a reply"""
    height: int | None = None
    """of a picture in pixels; left to the model unless given, with the width"""
    width: int | None = None
    """of a picture in pixels"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if self.images not in ("auto", "force", "never"):
            raise ValueError(f"images is {self.images!r}; it can be auto, force or never")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.max_images < (1 if self.images == "force" else 0):
            raise ValueError(f"max_images is {self.max_images}, too few for images={self.images!r}")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature {self.temperature} and top_k {self.top_k} must be finite and not negative, "
                f"top_p {self.top_p} must be in (0, 1]"
            )
        if not all(self.stop):
            raise ValueError("an empty stop string would stop every reply at once")
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"cannot draw {self.height} x {self.width} pixels: height and width must be positive")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels that were asked for; None leaves the shape to the model."""
        return None if self.height is None or self.width is None else (self.height, self.width)

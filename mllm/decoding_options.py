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
    image_mode: str = "auto"
    """queries: pictures are drawn by learned queries; tokens: by sampled visual tokens; auto: as the model decides"""
    image_tokens: int | None = None
    """queries or tokens of every picture; left to the model unless given"""
    image_temperature: float = 1.0
    """of sampled visual tokens; 0 takes the likeliest one"""
    image_top_p: float = 1.0
    """sample visual tokens from the likeliest ones of this probability together"""
    image_top_k: int = 0
    """sample visual tokens from so many of the likeliest ones; 0 is all"""
    token_guidance_scale: float = 1.0
    """how strictly sampled visual tokens follow the conversation; 1 is no guidance"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if self.images not in ("auto", "force", "never"):
            raise ValueError(f"images is {self.images!r}; it can be auto, force or never")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.max_images < (1 if self.images == "force" else 0):
            raise ValueError(f"max_images is {self.max_images}, too few for images={self.images!r}")
        for of in ("", "image_"):
            temperature, top_k, top_p = (getattr(self, f"{of}{name}") for name in ("temperature", "top_k", "top_p"))
            if not 0 <= temperature < math.inf or not 0 < top_p <= 1 or top_k < 0:
                raise ValueError(
                    f"{of}temperature {temperature} and {of}top_k {top_k} must be finite and not negative, "
                    f"{of}top_p {top_p} must be in (0, 1]"
                )
        if self.image_mode not in ("auto", "queries", "tokens"):
            raise ValueError(f"image_mode is {self.image_mode!r}; it can be auto, queries or tokens")
        if self.image_tokens is not None and self.image_tokens < 1:
            raise ValueError(f"image_tokens is {self.image_tokens}; it must be at least 1")
        if not 0 <= self.token_guidance_scale < math.inf:
            raise ValueError(f"token_guidance_scale is {self.token_guidance_scale}; it must be finite and not negative")
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

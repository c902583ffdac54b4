"""Classifier-free guidance, with a scale for the words, one for the reference pictures and an interval.

Ho and Salimans 2022 (arXiv:2207.12598); the three-way form is InstructPix2Pix's (arXiv:2211.09800, eq. 3);
the interval is Kynkäänniemi et al. 2024 (arXiv:2404.07724).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    """Times in [0, 1] (1 is noise) at which guidance acts; outside, the conditional pass runs alone."""

    def __post_init__(self) -> None:
        low, high = self.interval
        if not (0 <= self.scale < math.inf and 0 <= self.image_scale < math.inf):
            raise ValueError(f"guidance scales {self.scale} and {self.image_scale} must be finite and not negative")
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance interval {self.interval} must lie within (0, 1), low end first")

    def passes(self, t: float, has_references: bool) -> tuple[str, ...]:
        """Which passes time t needs: "full", "no_context" (keeps the references), "nothing" (drops both)."""
        low, high = self.interval
        if not low <= t <= high:
            return ("full",)
        image = has_references and self.image_scale != 1
        if self.scale == 1 and not image:
            return ("full",)
        return ("full", "no_context", "nothing") if image else ("full", "no_context")

    def combine(self, velocities: dict[str, Tensor]) -> Tensor:
        full, plain = velocities["full"], velocities.get("no_context")
        if plain is None:
            return full
        guided = plain + self.scale * (full - plain)
        if "nothing" in velocities:
            guided = guided + (self.image_scale - 1) * (plain - velocities["nothing"])
        return guided

"""Options of drawing. Nothing here imports torch: the command line reads them before it does."""

from __future__ import annotations

from dataclasses import dataclass

from .guidance import Guidance

SAMPLERS = ("euler", "heun", "multistep")


@dataclass(frozen=True)
class DrawingOptions:
    """Raises ValueError for values that make no sense."""

    num_inference_steps: int = 28
    """sampling steps of a picture; more is slower and finer"""
    guidance_scale: float = 4.0
    """how strictly a picture follows the words"""
    image_guidance_scale: float = 1.0
    """how strictly it follows the pictures before it"""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """times in [0, 1], 1 being noise, at which guidance acts"""
    sampler: str = "euler"
    """euler, heun or multistep"""
    partial_images: int = 0
    """how often a picture is shown on the way (`PictureStep.image`): one of visual tokens after its longest prefixes, each a
    drawing of its own, and any at steps of its drawing"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; it must be at least 1")
        if self.partial_images < 0:
            raise ValueError(f"partial_images is {self.partial_images}; it must not be negative")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"no sampler {self.sampler!r}; there are {', '.join(SAMPLERS)}")
        _ = self.guidance  # checks the scales

    @property
    def guidance(self) -> Guidance:
        return Guidance(self.guidance_scale, self.image_guidance_scale, self.guidance_interval)

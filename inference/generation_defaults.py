"""What a model folder says of generating."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class GenerationDefaults:
    """``generation_config.json`` of a model folder: what `generate` does when nothing else is asked."""

    max_new_tokens: int = 256
    max_images: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_inference_steps: int = 28
    guidance_scale: float = 4.0
    image_guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    sampler: str = "euler"
    history: int = 0
    """Exchanges of a chat that the model is shown with the next message; 0 is as many as it holds"""

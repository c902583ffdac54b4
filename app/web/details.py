"""What is known of a picture of a conversation: the words that it was drawn for, and how."""

from __future__ import annotations

from typing import Any

from ...inference.picture_metadata import read_metadata
from .conversation import Conversation


def details(conversation: Conversation, name: str) -> dict[str, Any]:
    """Of the picture of this name: ``shown`` by names of texts and, where it says itself how it was drawn, ``prompt`` and
    ``options``, those of `Limner.generate`. Pictures that were shown to the model say no more than their size."""
    image = conversation.picture(name)
    if image is None:
        return {}
    size = f"{image.width} × {image.height}"
    metadata = read_metadata(image)
    if metadata is None:
        return {"shown": {"size": size}}
    options = metadata.options
    shown = {
        "prompt": metadata.prompt,
        "plan": metadata.plan,
        "seed": metadata.seed,
        "steps": options["num_inference_steps"],
        "guidance": f"{options['guidance_scale']:g}",
        "size": size,
        "adapters": ", ".join(f"{name} {weight:g}" for name, weight in metadata.adapters.items()),
    }
    return {
        "shown": {title: value for title, value in shown.items() if value != ""},
        "prompt": metadata.prompt,
        "options": {**options, "seed": metadata.seed, "adapters": metadata.adapters},
    }

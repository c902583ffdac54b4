"""Messages whose image parts hold a `Scene`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from .scene import Scene, render

Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A conversation and the kind that it counts as in the mixture."""

    kind: str
    messages: list[Message]


def image(scene: Scene | Image.Image) -> dict[str, Any]:
    """A message's part that holds a scene, or the picture of one. It says where the scene has words, if it has some."""
    box = scene.text_box() if isinstance(scene, Scene) else None
    return {"type": "image", "image": scene} | ({"text_box": box} if box else {})


def text(words: str) -> dict[str, Any]:
    """A message's part that holds words."""
    return {"type": "text", "text": words}


def user(*content: Any) -> Message:
    """The user's message: words, and parts as `image` and `text` make them."""
    return {"role": "user", "content": [text(c) if isinstance(c, str) else c for c in content]}


def assistant(*content: Any) -> Message:
    """The assistant's message: words, and parts as `image` and `text` make them."""
    return {"role": "assistant", "content": [text(c) if isinstance(c, str) else c for c in content]}


def rendered(messages: list[Message]) -> list[Message]:
    """The same messages with every scene drawn: what `limner.load(...).generate` takes."""
    return [
        {**m, "content": [image(render(p["image"])) if p["type"] == "image" else p for p in m["content"]]}
        for m in messages
    ]

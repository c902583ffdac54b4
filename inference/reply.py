"""The reply of a model."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ..mllm.messages import Message
from .boxes import Box, parse_boxes, strip_boxes


@dataclass(frozen=True)
class Reply:
    """One reply to a conversation."""

    parts: list[str | Image.Image]
    """Texts and images, in order."""
    finish_reason: str
    """"stop", or "length" when a limit cut the reply."""

    @property
    def text(self) -> str:
        """The text of the reply, without boxes."""
        texts = (strip_boxes(part).strip() for part in self.parts if isinstance(part, str))
        return " ".join(filter(None, texts))

    @property
    def boxes(self) -> list[Box]:
        """The boxes in the text (SEED-X's ``<loc-…>``), in order."""
        return [box for part in self.parts if isinstance(part, str) for box in parse_boxes(part)]

    @property
    def images(self) -> list[Image.Image]:
        return [part for part in self.parts if isinstance(part, Image.Image)]

    def message(self) -> Message:
        """The reply as a message, to continue the conversation."""
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in self.parts
        ]
        return {"role": "assistant", "content": content}

"""The events of a response, in OpenAI's order. A request that does not stream takes the response of the last one."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from typing import Any

from PIL import Image

from ....mllm.events import Finished, PictureBegun, PictureDone, PictureStep, TextPiece
from ..errors import APIError
from ..pictures import encode
from ..service import Answer
from ..streaming import event
from .output import Values, ended, failed, message, picture_call, text_part
from .schemas import ImageGenerationTool
from .stored import item_id


class ResponseEvents:
    """Of one answer. ``response`` is the object before its first item, ``has_pictures`` says whether the conversation has any
    before the reply, ``finish_picture`` is done to each that is drawn, unless it is None."""

    def __init__(
        self,
        answer: Answer,
        response: Values,
        tool: ImageGenerationTool,
        has_pictures: bool,
        finish_picture: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        self.answer, self.response, self.tool = answer, response, tool
        self.has_pictures, self.finish_picture = has_pictures, finish_picture
        self.count = 0
        """Events so far"""
        self.output: list[Values] = []
        """Items that are done"""
        self.words: str | None = None
        """Of the message that is being written"""
        self.plan = ""
        """Words since the last picture"""
        self.has_ended = False
        """What comes now is a picture that had to be drawn (`Call.draws`): it was not planned, and no words of it are used"""
        self.num_partial_images = 0
        """Of the picture that is being drawn"""
        self.images: list[Image.Image] = []
        """As they were given out"""

    def event(self, kind: str, **values: Any) -> Values:
        """The next one."""
        self.count += 1
        return {"type": f"response.{kind}", **values, "sequence_number": self.count - 1}

    async def begun(self) -> AsyncGenerator[Values, None]:
        """The two events before all work."""
        yield self.event("created", response=self.response)
        yield self.event("in_progress", response=self.response)

    async def items(self) -> AsyncGenerator[Values, None]:
        """Those of all items; `last` follows."""
        async for happened in self.answer.events():
            if isinstance(happened, TextPiece):
                made = [] if self.has_ended else self.text_piece(happened.text)
            elif isinstance(happened, PictureBegun):
                made = [*self.end_message("completed"), *self.begin_picture()]
            elif isinstance(happened, PictureStep):
                made = [] if happened.image is None else [await self.partial_image(happened.image)]
            elif isinstance(happened, PictureDone):
                made = await self.end_picture(happened.image)
            else:
                assert isinstance(happened, Finished)
                made = self.end_message("completed" if happened.reason == "stop" else "incomplete")
                self.plan, self.has_ended = "", True
            for each in made:
                yield each

    def last(self) -> Values:
        """The event of the whole response, when all items are there."""
        (reply,) = self.answer.replies
        response = ended(self.response, self.output, reply.finish_reason, self.answer.usage)
        return self.event(response["status"], response=response)

    def failed(self, error: APIError) -> bytes:
        """The last event of a stream that failed on the way."""
        made = self.event("failed", response=failed(self.response, self.output, error.message))
        return event(made, made["type"])

    def place(self, kind: str) -> dict[str, Any]:
        """Of the item that is being made."""
        index = len(self.output)
        return {"item_id": item_id(self.response["id"], kind, index), "output_index": index}

    def text_piece(self, text: str) -> list[Values]:
        """A further piece, before which a message may begin."""
        if not text:
            return []
        place, made = self.place("msg"), []
        if self.words is None:
            self.words, index = "", place["output_index"]
            item = message(place["item_id"], [], "in_progress")
            made += [
                self.event("output_item.added", output_index=index, item=item),
                self.event("content_part.added", **place, content_index=0, part=text_part("")),
            ]
        self.words += text
        return [*made, self.event("output_text.delta", **place, content_index=0, delta=text, logprobs=[])]

    def end_message(self, status: str) -> list[Values]:
        """The end of the message that is being written, if there is one."""
        if self.words is None:
            return []
        place, part = self.place("msg"), text_part(self.words)
        item = message(place["item_id"], [part], status)
        made = [
            self.event("output_text.done", **place, content_index=0, text=self.words, logprobs=[]),
            self.event("content_part.done", **place, content_index=0, part=part),
            self.event("output_item.done", output_index=place["output_index"], item=item),
        ]
        self.plan, self.words = self.words, None
        self.output.append(item)
        return made

    def begin_picture(self) -> list[Values]:
        """A picture is being drawn."""
        place, self.num_partial_images = self.place("ig"), 0
        item = picture_call(place["item_id"], "in_progress")
        return [
            self.event("output_item.added", output_index=place["output_index"], item=item),
            self.event("image_generation_call.in_progress", **place),
            self.event("image_generation_call.generating", **place),
        ]

    async def partial_image(self, image: Image.Image) -> Values:
        """The picture as it stands."""
        self.num_partial_images += 1
        return self.event(
            "image_generation_call.partial_image",
            **self.place("ig"),
            partial_image_index=self.num_partial_images - 1,
            partial_image_b64=(await self.finished(image))[1],
            **self.picture_values(image),
        )

    async def end_picture(self, image: Image.Image) -> list[Values]:
        """The picture is drawn."""
        image, result = await self.finished(image)
        place, plan, self.plan = self.place("ig"), self.plan.strip(), ""
        action = "edit" if self.has_pictures or self.images else "generate"
        values = {**self.picture_values(image), "action": action, "revised_prompt": plan or None}
        item = picture_call(place["item_id"], "completed", result, **values)
        self.images.append(image)
        self.output.append(item)
        return [
            self.event("image_generation_call.completed", **place),
            self.event("output_item.done", output_index=place["output_index"], item=item),
        ]

    async def finished(self, image: Image.Image) -> tuple[Image.Image, str]:
        """A drawn picture as it is given out, and its file in base64."""

        def finish() -> tuple[Image.Image, str]:
            done = image if self.finish_picture is None else self.finish_picture(image)
            quality = self.tool.output_compression
            data = encode(done, self.tool.output_format or "png", 100 if quality is None else quality)
            return done, base64.b64encode(data).decode()

        return await self.answer.service.in_thread(finish)

    def picture_values(self, image: Image.Image) -> Values:
        """What is said of every picture."""
        return {
            "size": f"{image.width}x{image.height}",
            "output_format": self.tool.output_format or "png",
            "background": "opaque",
            "quality": "auto",
        }

"""Messages of a request in the model's form, and replies that come back as history."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel

from ...inference.chat_files import digest
from ...inference.images import PictureLimits, load_image
from ...inference.masks import read_mask
from ...mllm.messages import EmittedText, Message
from .errors import APIError
from .options import ServerOptions
from .store import Store

PICTURE_URL = re.compile(r"https?://[^?#\s()]+/pictures/([A-Za-z0-9_-]{32}\.(?:png|jpeg|webp))")
"""Of a picture that a server gave out: `Service.store` may have it"""
PICTURE_LINK = re.compile(rf"\n*!\[[^\]\n]*\]\({PICTURE_URL.pattern}\)\n*")
"""The same in the Markdown of a reply (`markdown_link`)"""
Part = str | Image.Image


class History:
    """Reads messages. Replies that this server gave are remembered: where their words and pictures come back, the model gets its
    own tokens and their order again, which a message of OpenAI's form does not tell."""

    def __init__(self, store: Store, options: ServerOptions) -> None:
        self.store, self.options = store, options
        self.limits = PictureLimits(
            local_files=False, max_bytes=options.max_body * 2**20, max_pixels=int(options.max_megapixels * 1e6)
        )

    def load_image(self, source: str | bytes, where: str) -> Image.Image:
        """A picture that came with the request (a data URI, or the bytes of a file), that this server gave out, or from a host
        that is allowed. Raises APIError."""
        return self._load(lambda data: load_image(data, self.options.allow_url, self.limits), source, where)

    def load_mask(self, source: str | bytes, picture: Image.Image, where: str) -> Image.Image:
        """As `load_image`, for the mask of a picture (`masks.read_mask`): what is transparent is edited. Raises APIError, also
        for one of another size or that marks nothing."""
        return self._load(lambda data: read_mask(data, picture, self.options.allow_url, self.limits), source, where)

    def _load(self, read: Callable[[str | bytes], Image.Image], source: str | bytes, where: str) -> Image.Image:
        if isinstance(source, str):
            source = self._from_store(source, where)
        try:
            return read(source)
        except ValueError as error:
            raise APIError(f"{where}: {error}", param=where, code="invalid_image") from None

    def _from_store(self, url: str, where: str) -> str | bytes:
        """The file of a picture that this server gave out, else the URL. Raises APIError for what is none."""
        if not re.match(r"(data:|https?://)", url, re.IGNORECASE):
            raise APIError(
                f"{where}: a picture is a data URI or an http(s) URL, not {url[:60]!r}; files of this machine are not read",
                param=where,
                code="invalid_image_url",
            )
        found = PICTURE_URL.fullmatch(url)
        data = self.store.get(found[1]) if found else None
        if found and data is None and not self.options.allow_url:
            raise APIError(f"{where}: the picture at {url} is not here any more: send it along", param=where)
        return url if data is None else data

    def parts(self, content: str | Sequence[Mapping[str, Any]] | None, where: str) -> list[Part]:
        """The texts and pictures of a message's content. Raises APIError for what is neither."""
        if isinstance(content, str | None):
            return [content] if content else []
        parts: list[Part] = []
        for index, part in enumerate(content):
            place, kind = f"{where}.content.{index}", part.get("type")
            if kind in ("text", "input_text", "output_text"):
                parts.append(part["text"])
            elif kind in ("image_url", "input_image"):
                url = part["image_url"]
                parts.append(self.load_image(url["url"] if isinstance(url, Mapping) else url, place))
            elif kind == "refusal":
                parts.append(part["refusal"])
            else:
                raise APIError(f"{place}: parts are texts and pictures, not {kind!r}", param=place)
        return parts

    def linked(self, parts: Sequence[Part]) -> tuple[list[Part], int]:
        """A reply's words with the pictures in the place of their links, and the number of pictures that are not here any more:
        the conversation can go on without them."""
        made: list[Part] = []
        missing = 0
        for part in parts:
            if isinstance(part, Image.Image):
                made.append(part)
                continue
            # the pattern has one group: words and names of pictures take turns
            for index, piece in enumerate(PICTURE_LINK.split(part)):
                if not index % 2:
                    made.append(piece)
                elif (data := self.store.get(piece)) is not None:
                    made.append(load_image(data))
                else:
                    missing += 1
        return [part for part in made if part != ""], missing

    def message(self, role: str, parts: Sequence[Part]) -> Message:
        """A message of these parts; an assistant's that was given here has its own tokens and order again."""
        if role == "assistant":
            parts = self.recalled(parts)
        content = [
            {"type": "image", "image": part} if isinstance(part, Image.Image) else {"type": "text", "text": part}
            for part in parts
            if part != ""
        ]
        return {"role": role, "content": content}

    def remember(self, parts: Sequence[Part]) -> None:
        """Keeps the tokens and the order of a reply's parts."""
        saved = [
            None if isinstance(part, Image.Image) else {"text": str(part), "ids": list(getattr(part, "ids", ()))}
            for part in parts
        ]
        self.store.put(json.dumps(saved).encode(), ".json", key(parts))

    def recalled(self, parts: Sequence[Part]) -> Sequence[Part]:
        """The parts as they were given, where they were given here; else as they are."""
        data = self.store.get(f"{key(parts)}.json")
        if data is None:
            return parts
        pictures = iter([part for part in parts if isinstance(part, Image.Image)])
        return [
            next(pictures) if part is None else EmittedText(part["text"], part["ids"]) if part["ids"] else part["text"]
            for part in json.loads(data)
        ]


def key(parts: Sequence[Part]) -> str:
    """Of a reply's words, put together, and its pictures, in their order: all that a message of OpenAI's form keeps of it."""
    # some clients strip what they keep
    words = "".join(str(part) for part in parts if not isinstance(part, Image.Image)).strip()
    pictures = [digest(part) for part in parts if isinstance(part, Image.Image)]
    return hashlib.sha256(json.dumps([words, *pictures]).encode()).hexdigest()


def check_pictures(body: BaseModel, param: str, options: ServerOptions) -> None:
    """Raises APIError for more pictures than a request may have in this field, before any is read."""
    check_number(count_pictures(body.model_dump(include={param})), param, options)


def check_number(count: int, param: str, options: ServerOptions) -> None:
    """Raises APIError for so many pictures in this field."""
    if count > options.max_pictures:
        raise APIError(
            f"{param}: {count} pictures; a request may have {options.max_pictures}",
            param=param,
            code="too_many_pictures",
        )


def count_pictures(values: Any) -> int:
    """Of JSON values: parts with an ``image_url``, and pictures of the Responses interface, whose data is their ``result``."""
    if isinstance(values, dict):
        own = values.get("image_url") is not None or isinstance(values.get("result"), str)
        return own + sum(map(count_pictures, values.values()))
    return sum(map(count_pictures, values)) if isinstance(values, list) else 0

"""Pictures on their way out: in base64, in data URIs, or behind URLs of this server."""

from __future__ import annotations

import base64
import io

from fastapi import APIRouter, Request, Response
from PIL import Image

from ...inference.output import png_bytes
from .errors import APIError
from .service import Service

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Of the formats that a picture can have, which are also the suffixes of its URL"""
MAX_LINE = 96 * 1024
"""Characters of a picture in a line of a stream; many clients read no line above 128 KiB"""


def encode(image: Image.Image, output_format: str = "png", compression: int = 100) -> bytes:
    """A picture as a file of one of `MEDIA_TYPES`; ``compression`` is the quality of JPEG and WebP from 0 to 100, as OpenAI has
    it."""
    if output_format == "png":
        return png_bytes(image)
    file = io.BytesIO()
    image.save(file, output_format, quality=compression)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def put(service: Service, data: bytes, request: Request, output_format: str = "png") -> str:
    """Keeps a picture for a while and returns its URL, by the name that the client called this server or that it is told."""
    base = service.options.public_url.rstrip("/") or str(request.base_url.replace(path=""))
    return f"{base}/pictures/{service.store.put(data, f'.{output_format}')}"


def streamed(service: Service, data: bytes, request: Request) -> str:
    """The picture as a data URI, or as a URL where that would be too long for a line of a stream."""
    return data_uri(data) if len(data) * 4 // 3 <= MAX_LINE else put(service, data, request)


def markdown_link(url: str) -> str:
    """A picture in a reply's words, for clients that keep nothing else of it; `history.PICTURE_LINK` reads it back."""
    return f"\n\n![picture]({url})\n\n"


def routes(service: Service) -> APIRouter:
    """What is behind the URLs of pictures."""
    router = APIRouter()

    @router.get("/pictures/{name}", include_in_schema=False)
    def picture(name: str) -> Response:
        media_type = MEDIA_TYPES.get(name.rpartition(".")[2])
        data = service.store.get(name) if media_type else None
        if data is None:
            raise APIError("no such picture, or not any more", 404, code="not_found")
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})

    return router

"""Edits that come as forms with files."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ..errors import APIError
from ..streaming import ClientLeftError
from .fields import EditFields, EditRequest

Fields = TypeVar("Fields", bound=BaseModel)

MAX_FIELDS = 64
MAX_FIELD = 256 * 1024
"""Bytes of a field that is no file"""
IMAGE = re.compile(r"image(\[\d*\])?")
"""Names of fields that hold pictures: OpenAI's clients repeat ``image[]``, others ``image``, some count"""


@dataclass
class Edit:
    """What an edit says, in either form."""

    body: EditFields
    images: list[tuple[str, str | bytes]]
    """Names of fields, and URLs or the bytes of files"""
    mask: str | bytes | None = None


@dataclass
class Form:
    """What the fields of a form hold."""

    values: dict[str, Any] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    mask: bytes | None = None


class WholeFormParser(MultiPartParser):
    """Refuses a form that is cut short, which python-multipart does not: a mask that is missing would change the answer."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: int) -> None:
        super().__init__(headers, self._whole(stream), **limits)
        self.is_whole = False

    def on_end(self) -> None:
        """Called at the last boundary."""
        self.is_whole = True

    async def _whole(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self.is_whole:
            raise MultiPartException("it is cut short")


async def read_edit(request: Request, max_pictures: int) -> Edit:
    """The body of a request. Raises APIError, RequestValidationError, and ClientLeftError where it does not come to its end."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return json_edit(await request.body())
        if kind == "multipart/form-data":
            return form_edit(await read_form(request, max_pictures))
    except ClientDisconnect:
        raise ClientLeftError from None
    raise APIError(
        f"the body is {kind or 'of no type'!r:.80}; an edit is multipart/form-data or application/json",
        415,
        code="unsupported_content_type",
    )


def validated(kind: type[Fields], values: Any, strict: bool = True) -> Fields:
    """The fields of a body; those of a form are all text, so that numbers are read from it where it is not ``strict``. Raises
    RequestValidationError, as FastAPI does for the bodies that it reads."""
    try:
        return kind.model_validate(values, strict=strict)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(found, body=values) from None


def json_edit(data: bytes) -> Edit:
    """Raises RequestValidationError, and APIError for what is no JSON."""
    try:
        values = from_json(data)
    except ValueError as error:
        raise APIError(f"the body is no JSON: {error}", code="invalid_json") from None
    body = validated(EditRequest, values)
    images: list[tuple[str, str | bytes]] = [(f"images.{i}", own.image_url) for i, own in enumerate(body.images)]
    return Edit(body, images, body.mask.image_url if body.mask else None)


def form_edit(form: Form) -> Edit:
    """Raises RequestValidationError, and APIError for a form without pictures."""
    body = validated(EditFields, form.values, strict=False)
    if not form.images:
        raise APIError("image is missing", param="image", code="missing_required_parameter")
    several = len(form.images) > 1
    return Edit(body, [(f"image.{i}" if several else "image", data) for i, data in enumerate(form.images)], form.mask)


async def read_form(request: Request, max_pictures: int) -> Form:
    """A form, whose temporary files are closed again. Raises APIError for one that is broken, has too much in it, or has a field
    twice; ClientDisconnect."""
    parser = WholeFormParser(
        request.headers,
        request.stream(),
        max_files=max_pictures + 1,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD,
    )
    try:
        parsed = await parser.parse()
    except MultiPartException as error:
        raise APIError(f"the form cannot be read: {error.message}", code="invalid_form") from None
    form = Form()
    try:
        for name, value in parsed.multi_items():
            if isinstance(value, UploadFile):
                add_file(form, name, await value.read())
            else:
                add_value(form.values, name, value)
    finally:
        await parsed.close()
    return form


def add_file(form: Form, name: str, data: bytes) -> None:
    """Raises APIError for a file that is no picture of an edit, or a second mask."""
    if IMAGE.fullmatch(name):
        form.images.append(data)
    elif name == "mask" and form.mask is None:
        form.mask = data
    elif name == "mask":
        raise APIError("mask: it is given twice", param=name)
    else:
        raise APIError(f"unknown file {name:.80}", param=name[:80], code="unknown_parameter")


def add_value(values: dict[str, Any], name: str, value: str) -> None:
    """Adds a field to the values that a body of JSON would have: ``name[]`` is one of a list and ``name[key]`` of a mapping, as
    OpenAI's clients write them. Raises APIError for one that is there already or that has to be a file."""
    plain, found, key = name.removesuffix("]").partition("[")
    if IMAGE.fullmatch(name) or name == "mask":
        raise APIError(f"{plain}: it is a text, not a file: its part of the form needs a filename", param=plain)
    if not (found and name.endswith("]")):
        place, key = values, name
    elif key:
        place = values.setdefault(plain, {})
    else:
        place = values.setdefault(plain, [])
        if isinstance(place, list):
            place.append(value)
            return
    if not isinstance(place, dict) or key in place:
        raise APIError(f"{name:.80}: it is given twice", param=plain[:80])
    place[key] = value

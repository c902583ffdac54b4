"""Errors as OpenAI's interface has them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ...inference.inputs import ContextLengthError

logger = logging.getLogger(__name__)


class ErrorValues(BaseModel):
    """What went wrong, and which field of the request says so."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of an answer with an error."""

    error: ErrorValues


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": what}
    for status, what in {
        400: "the request makes no sense; `param` names the field",
        401: "a key is missing or unknown",
        403: "the host or origin is not allowed",
        404: "there is no such thing",
        413: "the body is too large",
        415: "the body is of another type than the request takes",
        429: "too many wait; Retry-After says in how many seconds to come back",
        500: "the server failed",
        503: "the server is stopping",
    }.items()
}
"""Answers that any request may get, for the OpenAPI document"""

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Of the error by its status; others below 500 are the request's"""


MAX_MESSAGE, MAX_PARAM = 1000, 200
"""Characters of what an error says, which may repeat a part of the request"""


class APIError(Exception):
    """An answer with an error, raised anywhere in a request."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param = shortened(message, MAX_MESSAGE), param and shortened(param, MAX_PARAM)
        self.status, self.code, self.headers = status, code, headers

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As an answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception) -> APIError:
    """Of what was raised while a request was read or answered: a ValueError is the request's mistake, all else the server's,
    of which a client learns no more than that."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, ContextLengthError):
        return APIError(str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, ValueError):
        return APIError(str(error), code="invalid_value")
    logger.error("a request failed", exc_info=error)
    return APIError("the server failed to answer this request; its log says why", 500, code="internal_error")


def of_validation(error: RequestValidationError) -> APIError:
    """The first thing that a request's fields say wrongly, named as in ``messages.0.content``."""
    # of a union each member says what it misses: the one that went furthest was meant
    first = max(error.errors(), key=lambda each: len(path_of(each, error.body)))
    place = path_of(first, error.body)
    if first["type"] == "json_invalid":
        return APIError(f"the body is no JSON: {first['ctx']['error']}", code="invalid_json")
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        return APIError(f"unknown field {param}", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return APIError(f"{param or 'the body'} is missing", param=param, code="missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    return APIError(f"{param}: {message}" if param else message, param=param, code="invalid_value")


def shortened(text: str, length: int) -> str:
    """At most so many characters of it."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def path_of(error: Mapping[str, Any], body: Any) -> list[str]:
    """The steps through the body, or the parameter, that an error is about. Of a union pydantic names the member too, which is
    none of the client's names."""
    steps, value, place = error["loc"][1:], body, []  # the first one is "body", "query" or "path"
    for index, step in enumerate(steps):
        if (isinstance(value, Mapping) and step in value) or (isinstance(value, list) and step in range(len(value))):
            value = value[step]
        elif index < len(steps) - 1 or (isinstance(body, Mapping) and error["type"] != "missing"):
            continue
        place.append(str(step))
    return place


def add_handlers(app: FastAPI) -> None:
    """All errors of an application in this form."""

    @app.exception_handler(APIError)
    async def api_error(_: Request, error: APIError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return of_validation(error).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return APIError(message, error.status_code, headers=dict(error.headers or {})).response()

    @app.exception_handler(ValueError)
    async def value(_: Request, error: ValueError) -> JSONResponse:
        return as_api_error(error).response()

    @app.exception_handler(Exception)
    async def other(_: Request, error: Exception) -> JSONResponse:
        answer = as_api_error(error).response()
        # it is raised again after that, and uvicorn then closes the connection: a client that was not told so might send its
        # next request by it
        answer.headers["Connection"] = "close"
        return answer

"""A response as OpenAI's objects."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ....inference.generation_config import GenerationConfig
from ..service import Usage
from .schemas import ResponseRequest

Values = dict[str, Any]


def response_values(body: ResponseRequest, response_id: str, seed: int, config: GenerationConfig) -> Values:
    """A response before its first item."""
    choice = body.tool_choice or "auto"
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "completed_at": None,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": config.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump(exclude_none=True, exclude={"input_image_mask"}) for tool in body.tools or ()],
        "top_logprobs": 0,
        "top_p": config.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "seed": seed,
    }


def ended(response: Values, output: Sequence[Values], reason: str, usage: Usage) -> Values:
    """The response when its reply has ended for this reason, "stop" or "length"."""
    complete = reason == "stop"
    return {
        **response,
        "status": "completed" if complete else "incomplete",
        "completed_at": int(time.time()) if complete else None,
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "output": list(output),
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0, "image_tokens": usage.image_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def failed(response: Values, output: Sequence[Values], message: str) -> Values:
    """The response when something went wrong on the way."""
    error = {"code": "server_error", "message": message}
    return {**response, "status": "failed", "error": error, "output": list(output)}


def text_part(text: str) -> Values:
    """The content of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message(item_id: str, content: Sequence[Mapping[str, Any]], status: str) -> Values:
    """An item of words."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": list(content)}


def picture_call(item_id: str, status: str, result: str | None = None, **values: Any) -> Values:
    """An item of a picture."""
    return {"id": item_id, "type": "image_generation_call", "status": status, "result": result, **values}

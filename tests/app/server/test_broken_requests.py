"""Requests that a fuzzer found: each is refused, and its field named."""

import openai
import pytest


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guidance_interval": [0.5]}, "guidance_interval.1"),
        ({"guidance_interval": None, "top_k": -1}, "top_k"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "a", "parts": [{"type": "text", "text": "a"}, {"type": "image"}]}
                ]
            },
            "messages.0",
        ),
    ],
)
def test_a_broken_request_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(
            model="tiny", messages=fields.pop("messages", [{"role": "user", "content": "hello"}]), extra_body=fields
        )
    assert raised.value.param == param

"""Requests that a fuzzer found: each is refused, and its field named."""

import openai
import pytest


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guidance_interval": [0.5]}, "guidance_interval.1"),
        ({"guidance_scale": False}, "guidance_scale"),
        ({"seed": "1"}, "seed"),
        ({"top_logprobs": False}, "top_logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"skip_special_tokens": 1}, "skip_special_tokens"),
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
            model=client.models.list().data[0].id,
            messages=fields.pop("messages", [{"role": "user", "content": "hello"}]),
            extra_body=fields,
        )
    assert raised.value.param == param


@pytest.mark.parametrize("message", [{"role": "é" * 50_000}, {"role": "user", "content": "a", "x" * 50_000: 1}])
def test_an_error_does_not_repeat_a_long_request(server, message):
    answer = server.http.post(
        f"{server.url}/chat/completions", json={"model": server.model.name, "messages": [message]}
    )
    error = answer.json()["error"]
    assert answer.status_code == 400 and len(error["message"]) <= 1000 and len(error["param"]) <= 200

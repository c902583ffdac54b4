"""`/v1/responses`: what is refused, what is kept and removed, several clients."""

import time
from functools import partial

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from responses import FAST, ITEMS, RESPONSE, TOOL, data_uri, events_of, parts, pictures, refused, texts

from limner.app.server.service import Answer
from limner.mllm.events import PictureBegun


def test_fields_without_effect_are_named(http):
    fields = {
        "user": "me",
        "reasoning": {"effort": "low"},
        "tools": [
            TOOL | {"moderation": "low", "partial_images": 1},
            {"type": "function", "name": "f", "parameters": {}, "strict": True},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "text": {"format": {"type": "text"}},
        "stream": False,
        "background": False,
        "store": False,
        "truncation": "disabled",
        "conversation": None,
    }
    answer = http.post("/responses", json={"model": "nano", "input": "hello", **FAST, **fields})
    assert answer.status_code == 200, answer.text
    named = set(answer.headers["X-Limner-Ignored"].split(", "))
    assert named == {"user", "effort", "moderation", "partial_images", "tools", "parallel_tool_calls"}
    response = answer.json()
    RESPONSE.validate_python(response)
    assert response["metadata"] == {"a": "b"} and response["user"] == "me" and not response["store"]
    assert response["tools"] == fields["tools"]
    assert "X-Limner-Ignored" not in http.post("/responses", json={"model": "nano", "input": "hello", **FAST}).headers


def image_part(**fields):
    return [{"role": "user", "content": [{"type": "input_image", **fields}]}]


PICTURE = data_uri(Image.new("RGB", (64, 64)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": " "}]}, "input.0"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text"),
        ({"input": image_part(image_url="file:///etc/passwd")}, "input.0.content.0"),
        ({"input": image_part(image_url="http://127.0.0.1/a.png")}, "input.0.content.0"),
        ({"input": image_part(image_url=PICTURE, file_id="f")}, "input.0.content.0.file_id"),
        (
            {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": PICTURE}]}]},
            "input.0.content",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": ""}]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
        ({"input": [{"type": "image_generation_call", "id": f"ig_{'0' * 48}_0"}]}, "input.0"),
        ({"input": [{"type": "image_generation_call", "result": "abc"}]}, "input.0.result"),
        ({"model": "other"}, "model"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"include": ["message.output_text.logprobs"]}, "include.0"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.type"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools.1"),
        ({"tools": [TOOL | {"size": "17x17"}]}, "tools.0.size"),
        ({"tools": [TOOL | {"size": "large"}]}, "tools.0.size"),
        ({"tools": [TOOL | {"size": "8000x8000"}]}, "tools.0.size"),
        ({"tools": [{"type": "web_search"}, TOOL | {"partial_images": 4}]}, "tools.1.partial_images"),
        ({"tools": [TOOL | {"output_format": "gif"}]}, "tools.0.output_format"),
        ({"tools": [TOOL | {"output_compression": 50}]}, "tools.0.output_compression"),
        ({"tools": [TOOL | {"background": "transparent"}]}, "tools.0.background"),
        ({"tools": [TOOL | {"quality": "high"}]}, "tools.0.quality"),
        ({"tools": [TOOL | {"model": "gpt-image-1"}]}, "tools.0.model"),
        ({"tools": [TOOL | {"action": "edit"}]}, "tools.0.action"),
        ({"tools": [TOOL | {"action": "generate"}], "input": image_part(image_url=PICTURE)}, "tools.0.action"),
        ({"tools": [TOOL | {"input_image_mask": {"image_url": PICTURE}}]}, "tools.0.input_image_mask"),
        (
            {"tools": [TOOL | {"input_image_mask": {"image_url": PICTURE}}], "input": image_part(image_url=PICTURE)},
            "tools.0.input_image_mask.image_url",
        ),
        ({"tools": [TOOL | {"input_image_mask": {"file_id": "f"}}]}, "tools.0.input_image_mask.image_url"),
        ({"max_images": 1, "max_tool_calls": 2}, "max_images"),
        ({"max_tool_calls": 0, "tool_choice": "required"}, "tool_choice"),
        ({"adapters": {"none": 1}}, "adapters"),
        ({"foo": 1}, "foo"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_refused(http, fields, param):
    assert refused(http, **fields)["param"] == param


def test_responses_are_kept_and_removed(create, nano_server, http):
    first = create("draw a red cat", metadata={"a": "b"})
    with nano_server.client() as client:
        assert client.responses.retrieve(first["id"]).to_dict() == first
        client.responses.delete(first["id"])
        with pytest.raises(openai.NotFoundError) as gone:
            client.responses.retrieve(first["id"])
    assert gone.value.body["message"] and gone.value.body["code"] == "not_found"
    assert http.delete(f"/responses/{first['id']}").status_code == 404
    assert http.get(f"/responses/{first['id']}/input_items").status_code == 404
    assert refused(http, previous_response_id=first["id"])["code"] == "previous_response_not_found"
    error = refused(http, input=[{"type": "item_reference", "id": first["output"][0]["id"]}])
    assert "not found" in error["message"]
    unstored = create("hello", store=False)
    assert http.get(f"/responses/{unstored['id']}").status_code == 404
    assert not any(unstored["id"] in path.name for path in nano_server.service.store.folder.iterdir())


def test_pictures_are_counted_however_they_are_named(create, http, nano_server):
    call = create("draw a red cat")["output"][1]
    most = nano_server.service.options.max_pictures
    for item in (call, {"type": "image_generation_call", "id": call["id"]}, {"id": call["id"]}):
        error = refused(http, input=[item] * (most + 1))
        assert (error["param"], error["code"]) == ("input", "too_many_pictures")


def test_a_conversation_that_lost_a_turn_says_so(create, http):
    first = create("draw a red cat")
    second = create("make it blue", previous_response_id=first["id"])
    http.delete(f"/responses/{first['id']}")
    error = refused(http, previous_response_id=second["id"])
    assert error["param"] == "previous_response_id" and first["id"] in error["message"]


def test_responses_expire(create, nano_server, http, monkeypatch):
    first = create("hello")
    monkeypatch.setattr(nano_server.service.store, "seconds", 0.2)
    time.sleep(0.3)
    assert http.get(f"/responses/{first['id']}").status_code == 404


def test_input_items_are_listed(create, nano_server):
    first = create("draw a red cat")
    items = [
        {"role": "developer", "content": "Be kind."},
        *image_part(image_url=PICTURE),
        {"type": "item_reference", "id": first["output"][0]["id"]},
        {"type": "image_generation_call", "id": first["output"][1]["id"]},
        {"role": "assistant", "content": "Here it is."},
        {"role": "user", "content": "thank you"},
    ]
    response = create(items)
    with nano_server.client() as client:
        newest = client.responses.input_items.list(response["id"], limit=4)
        listed = [item.to_dict() for item in newest]  # all pages
        page = newest.to_dict()
        oldest = client.responses.input_items.list(response["id"], order="asc").to_dict()["data"]
    assert page["has_more"] and len(page["data"]) == 4 and page["last_id"] == page["data"][-1]["id"]
    assert listed[::-1] == oldest and len({item["id"] for item in oldest}) == len(items)
    ITEMS.validate_python(oldest)
    assert [item["type"] for item in oldest] == ["message"] * 3 + ["image_generation_call"] + ["message"] * 2
    assert oldest[1]["content"] == [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}]
    assert oldest[2] == first["output"][0] and oldest[3]["result"] == first["output"][1]["result"]
    # an item of the input can be referred to as well
    again = create([{"type": "item_reference", "id": oldest[5]["id"]}])
    assert texts(again) == texts(create("thank you"))


def test_a_client_that_leaves_frees_its_place(nano_server, http):
    body = {"model": "nano", "input": "draw a red cat", "num_inference_steps": 400, "seed": 1}
    left = nano_server.service.metrics.disconnected
    before = left._value.get()
    with http.stream("POST", "/responses", json=body | {"stream": True}) as answer:
        for line in answer.iter_lines():
            if "generating" in line:
                break
    nano_server.wait_until_free()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{nano_server.url}/responses", json=body, timeout=0.5)
    nano_server.wait_until_free()
    assert left._value.get() == before + 2


def test_what_fails_on_the_way_is_the_last_event(http, monkeypatch):
    events = Answer.events

    async def breaking(self):
        async for event in events(self):
            yield event
            if isinstance(event, PictureBegun):
                raise RuntimeError("broken")

    monkeypatch.setattr(Answer, "events", breaking)
    last = events_of(http, input="draw a red cat")[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert response["status"] == "failed" and "broken" not in response["error"]["message"]
    assert [item["type"] for item in response["output"]] == ["message"]
    assert http.get(f"/responses/{response['id']}").status_code == 404
    assert http.post("/responses", json={"model": "nano", "input": "draw a red cat", **FAST}).status_code == 500


def test_two_clients_get_what_each_alone_would(create, nano_server, nano):
    from concurrent.futures import ThreadPoolExecutor

    prompts = ["draw a red cat", "hello", "draw a blue ball"]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(partial(create, store=False), prompts))
    for prompt, response in zip(prompts, made, strict=True):
        reply = nano.generate(prompt, **FAST)
        assert texts(response) == [part for part in parts(reply) if part != "picture"]
        for own, other in zip(pictures(response), reply.images, strict=True):
            difference = np.asarray(own, dtype=float) - np.asarray(other)
            assert np.mean(difference**2) < 255**2 / 10**4.5  # 45 dB

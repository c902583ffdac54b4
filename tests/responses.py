"""`/v1/responses` in a test: requests, events and what is in a response."""

import base64
import io
import json

import numpy as np
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from PIL import Image
from pydantic import TypeAdapter

FAST = {"num_inference_steps": 2, "seed": 5}
RESPONSE, EVENT, ITEMS = TypeAdapter(Response), TypeAdapter(ResponseStreamEvent), TypeAdapter(list[ResponseItem])
TOOL = {"type": "image_generation"}


def forget(server):
    """As if it had just started: what goes on from a kept cache is rounded otherwise than what is read anew."""
    server.engine.kept.kept.clear()


def events_of(http, **fields):
    """The events of a stream, each checked."""
    with http.stream("POST", "/responses", json={"model": "nano", "stream": True, **FAST, **fields}) as answer:
        assert answer.status_code == 200, answer.read()
        blocks = "".join(answer.iter_text()).split("\n\n")
    events = []
    for block in filter(None, blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def refused(http, **fields):
    """The error of a request that is refused."""
    answer = http.post("/responses", json={"model": "nano", "input": "draw a red cat", **FAST, **fields})
    assert answer.status_code in (400, 404), answer.text
    return answer.json()["error"]


def decoded(result):
    return Image.open(io.BytesIO(base64.b64decode(result)))


def texts(response):
    return [item["content"][0]["text"] for item in response["output"] if item["type"] == "message"]


def pictures(response):
    return [decoded(item["result"]) for item in response["output"] if item["type"] == "image_generation_call"]


def same(pictures, others):
    return len(pictures) == len(others) > 0 and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(pictures, others, strict=True)
    )


def parts(reply):
    return [str(part) if isinstance(part, str) else "picture" for part in reply.parts]


def data_uri(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def without_names(response):
    """A response but for what differs between two of them."""
    text = json.dumps(response).replace(response["id"].removeprefix("resp_"), "ID")
    return json.loads(text) | {"created_at": 0, "completed_at": 0}

"""Chat completions: what the official client sends and reads, against chats in Python."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import httpx
import numpy as np
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from PIL import Image

from helpers import picture, png_bytes, psnr
from limner.inference.kept_conversations import KeptConversations
from served import served, writing

USER = [{"role": "user", "content": "hello"}]


def opened(image):
    """One of a message's ``images``."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2]))))


def ask(client, messages=USER, **options):
    """A completion, checked by OpenAI's type, as a mapping; ``seed`` 3 where no other is given."""
    known = ("n", "stop", "max_tokens", "modalities", "user", "extra_headers")
    named = {name: options.pop(name) for name in known if name in options}
    made = client.chat.completions.create(
        model="tiny", messages=messages, extra_body={"seed": 3} | options, **named
    ).model_dump()
    ChatCompletion.model_validate(made)
    return made


def said(completion, index=0):
    return completion["choices"][index]["message"]


def chunks(client, messages=USER, **options):
    """The chunks of a stream, each checked by OpenAI's type, as mappings."""
    named = {name: options.pop(name) for name in ("n", "stream_options", "extra_headers") if name in options}
    stream = client.chat.completions.create(
        model="tiny", messages=messages, stream=True, extra_body={"seed": 3} | options, **named
    )
    made = [chunk.model_dump() for chunk in stream]
    for chunk in made:
        ChatCompletionChunk.model_validate(chunk)
    return made


def deltas(made, row=0):
    return [c["delta"] for chunk in made for c in chunk["choices"] if c["index"] == row]


@pytest.mark.parametrize(
    ("script", "content", "kinds"),
    [("Hi", "Hi", "t"), ("@", "", "i"), ("A:@b@", "A:b", "titi"), ("@@", "", "ii"), ("", "", "")],
)
def test_content_is_a_string_and_parts_tell_the_order(tiny, client, script, content, kinds):
    with writing(script):
        message = said(ask(client))
        reply = tiny.generate("hello", seed=3)
    assert message["content"] == content and message["refusal"] is None
    assert "".join(part["type"][0] for part in message["parts"]) == kinds
    images = message.get("images") or []
    assert [part["index"] for part in message["parts"] if part["type"] == "image"] == list(range(len(images)))
    assert [image["index"] for image in images] == list(range(len(images)))
    assert all(np.array_equal(opened(a), np.asarray(b)) for a, b in zip(images, reply.images, strict=True))


def with_parts(message):
    return {name: message[name] for name in ("role", "content", "images", "parts")}


def without_parts(message):
    return {name: message[name] for name in ("role", "content", "images")}


def as_content(message):
    """The words and the pictures as parts of the content, the pictures last."""
    text = [{"type": "text", "text": message["content"]}] if message["content"] else []
    images = [{"type": "image_url", "image_url": image["image_url"]} for image in message["images"]]
    return {"role": "assistant", "content": [*text, *images]}


def as_content_pictures_first(message):
    parts = as_content(message)["content"]
    return {"role": "assistant", "content": sorted(parts, key=lambda part: part["type"] == "text")}


@pytest.mark.parametrize("form", [with_parts, without_parts, as_content, as_content_pictures_first])
def test_a_conversation_goes_on_as_a_chat_does(tiny, server, client, form):
    """Words that are no UTF-8, and the order in which they came, do not get through a client: the server remembers them."""
    options = {"images": "force", "max_images": 1, "max_new_tokens": 8}

    def forget():
        server.engine.kept = KeptConversations(server.engine.limits.kept_tokens)

    forget()
    chat = tiny.chat(seed=3, **options)
    first, second = chat.say("hello"), chat.say("blue", images=picture(4))
    forget()
    asked = {"modalities": ["image"], "max_images": 1, "max_tokens": 8}
    one = said(ask(client, **asked))
    assert first.text and one["content"] == "".join(part for part in first.parts if isinstance(part, str))
    shown = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(png_bytes(4)).decode()},
    }
    turn = {"role": "user", "content": [shown, {"type": "text", "text": "blue"}]}
    two = said(ask(client, [*USER, form(one), turn], **asked))
    assert two["content"] == "".join(part for part in second.parts if isinstance(part, str))
    for message, reply in ((one, first), (two, second)):
        assert np.array_equal(opened(message["images"][0]), np.asarray(reply.images[0]))


def test_parts_that_are_not_the_messages_are_refused(client):
    with writing("A:@"):
        message = with_parts(said(ask(client)))
    message["parts"][0]["text"] = "B:"
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, [*USER, message, *USER])
    assert raised.value.param == "messages.1"


def test_a_stream_is_the_completion_in_pieces(client):
    with writing("A:@b"):
        made, whole = chunks(client, stream_options={"include_usage": True}), ask(client)
    own = deltas(made)
    assert own[0]["role"] == "assistant" and all(isinstance(d["content"], str | None) for d in own)
    assert "".join(d["content"] or "" for d in own) == said(whole)["content"] == "A:b"
    assert [image for d in own for image in d.get("images") or []] == said(whole)["images"]
    assert made[-1]["choices"] == [] and made[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in made[:-1])
    assert [c["finish_reason"] for chunk in made for c in chunk["choices"]][-1] == "stop"


def test_several_replies_stream_side_by_side(client):
    made, whole = chunks(client, n=2, modalities=["image"]), ask(client, n=2, modalities=["image"])
    for row in (0, 1):
        own = deltas(made, row)
        assert "".join(d["content"] or "" for d in own) == said(whole, row)["content"]
        (image,) = [image for d in own for image in d.get("images") or []][:1]
        assert psnr(opened(image), opened(said(whole, row)["images"][0])) >= 45
        assert own[0]["seed"] == whole["choices"][row]["seed"] == 3 + row


@pytest.mark.parametrize(("size", "kind"), [(73_000, "data:"), (74_000, "http:"), (1_000_000, "http:")])
def test_no_line_of_a_stream_is_too_long(server, size, kind):
    file = b"\x89PNG" + bytes(size - 4)
    body = {"model": "tiny", "messages": USER, "stream": True}
    with writing("@"), patch("limner.app.server.chat.routes.png_bytes", return_value=file):
        text = server.http.post(f"{server.url}/chat/completions", json=body).text
    lines = text.splitlines()
    assert max(map(len, lines)) < 128 * 1024 and lines[-2] == "data: [DONE]"
    url = text.partition('"image_url":{"url":"')[2].partition('"')[0]
    assert url.startswith(kind)
    if kind == "http:":
        assert server.http.get(url).content == file
        told = {"role": "assistant", "content": "", "images": [{"type": "image_url", "image_url": {"url": url}}]}
        answer = server.http.post(f"{server.url}/chat/completions", json=body | {"messages": [*USER, told, *USER]})
        assert answer.json()["error"]["code"] == "invalid_image"  # it was found, and is no picture


def test_stop_strings_end_a_reply(client):
    with writing("one two"):
        assert said(ask(client, stop=["two", "three"]))["content"] == "one "
        assert said(ask(client, stop="ne"))["content"] == "o"


def test_modalities_say_whether_it_draws(client):
    with writing("A@"):
        assert not said(ask(client, modalities=["text"])).get("images")
        assert [p["type"] for p in said(ask(client, modalities=["text", "image"]))["parts"]] == ["text", "image"]
    forced = said(ask(client, modalities=["image"], max_images=1))
    assert forced["parts"][0]["type"] == "image" and len(forced["images"]) == 1


def test_the_reason_is_the_limit(client):
    made = ask(client, max_tokens=2, modalities=["text"])
    assert made["choices"][0]["finish_reason"] == "length" and made["usage"]["completion_tokens"] == 2


def test_what_has_no_effect_is_named(client):
    answer = client.chat.completions.with_raw_response.create(
        model="tiny",
        messages=USER,
        user="me",
        store=False,
        metadata={},
        tools=[],
        reasoning_effort="low",
        logprobs=False,
    )
    assert answer.headers["X-Limner-Ignored"] == "metadata, reasoning_effort, store, tools, user"


WRONG = {
    "unknown field": ({"steps": 3}, "steps", "unknown_parameter"),
    "a tool that must be called": ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    "log probabilities": ({"logprobs": True}, "logprobs", "invalid_value"),
    "too many replies": ({"n": 11}, "n", None),
    "no messages": ({"messages": []}, "messages", "invalid_value"),
    "a path": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
        "messages.0.content.0",
        "invalid_image_url",
    ),
    "too long": ({"messages": [{"role": "user", "content": "a" * 2000}]}, "messages", "context_length_exceeded"),
    "two limits": ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", None),
    "size": ({"size": "33x33"}, "size", "invalid_value"),
    "adapters": ({"adapters": {"cactus": 1.0}}, "adapters", "invalid_value"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_honoured_is_refused_by_its_name(server, case):
    fields, param, code = WRONG[case]
    answer = server.http.post(f"{server.url}/chat/completions", json={"model": "tiny", "messages": USER, **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400 and (error["param"], error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error" and server.service.accepted == 0


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-6", messages=USER)
    assert raised.value.code == "model_not_found" and raised.value.param == "model"


def test_a_full_server_says_when_to_come_again():
    with served(max_batch=1, max_queue=0) as server, server.client() as client, ThreadPoolExecutor() as pool:
        body = {"messages": USER, "model": server.model.name}
        with server.slow(0.05):
            first = pool.submit(client.chat.completions.create, **body)
            server.wait(lambda: server.service.accepted)
            with pytest.raises(openai.RateLimitError) as raised:
                client.chat.completions.create(**body)
        assert int(raised.value.response.headers["Retry-After"]) >= 1
        assert raised.value.code == "rate_limit_exceeded"
        assert first.result().choices and client.chat.completions.create(**body).choices


def test_who_leaves_frees_the_slot(server):
    body = {"model": "tiny", "messages": USER, "modalities": ["image"], "num_inference_steps": 1000}
    before = server.units
    with server.slow():
        with pytest.raises(httpx.ReadTimeout):
            server.http.post(f"{server.url}/chat/completions", json=body, timeout=0.3)
        server.wait_until_free()
    assert server.units - before < 500


def test_who_leaves_a_stream_frees_the_slot(client, server):
    with server.slow():
        options = {"modalities": ["image"], "num_inference_steps": 1000}
        with client.chat.completions.create(model="tiny", messages=USER, stream=True, extra_body=options) as stream:
            next(stream)
        done = server.units
        server.wait_until_free()
        assert server.units <= done + 3


def test_what_fails_on_the_way_is_the_last_event(tiny, client):
    stream = client.chat.completions.create(model="tiny", messages=USER, stream=True, modalities=["image"])
    with patch.object(type(tiny.detokenizer), "advance", side_effect=RuntimeError("secret")):
        assert next(stream).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError) as raised:
            list(stream)
    assert raised.value.code == "internal_error" and "secret" not in str(raised.value)


def test_what_fails_is_answered_500(tiny, client):
    with (
        patch.object(type(tiny.detokenizer), "advance", side_effect=RuntimeError("secret")),
        pytest.raises(openai.InternalServerError) as raised,
    ):
        ask(client, modalities=["image"])
    assert "secret" not in str(raised.value)
    assert raised.value.response.headers["Connection"] == "close"  # and it is: no other request may go by it


def test_pictures_as_links_come_back_from_the_words_alone(tiny, server, client):
    """For clients that show and send back nothing but words, which some of them strip."""
    with writing("A:@b"):
        plain, linked = said(ask(client)), said(ask(client, picture_format="markdown"))
        streamed = chunks(client, extra_headers={"X-Limner-Picture-Format": "markdown"})
    before, _, rest = linked["content"].partition("\n\n![picture](")
    url, _, after = rest.partition(")\n\n")
    assert (
        (before, after) == ("A:", "b") and linked.get("images") is None and url.startswith(f"{server.root}/pictures/")
    )
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(httpx.get(url).content))), opened(plain["images"][0]))
    assert "".join(d["content"] or "" for d in deltas(streamed)).startswith("A:\n\n![picture](http")

    history = [*USER, {"role": "assistant", "content": linked["content"].strip()}, *USER]
    assert said(ask(client, history)) == said(ask(client, [*USER, with_parts(plain), *USER]))
    gone = history[1]["content"].replace(url, f"{server.root}/pictures/{'x' * 32}.png")
    answer = server.http.post(
        f"{server.url}/chat/completions",
        json={"model": "tiny", "messages": [*USER, {**history[1], "content": gone}, *USER]},
    )
    assert answer.status_code == 200 and answer.headers["X-Limner-Missing-Pictures"] == "1"
    with pytest.raises(openai.BadRequestError, match="can be images or markdown"):
        ask(client, extra_headers={"X-Limner-Picture-Format": "html"})


def test_behind_a_proxy_urls_are_those_that_clients_reach():
    with served(public_url="https://example.test/limner/") as running:
        host = {"Host": "example.test"}
        body = running.body("hello", 4) | {"modalities": ["image"], "picture_format": "markdown"}
        with writing("@"):
            answer = running.http.post(f"{running.url}/chat/completions", json=body, headers=host).json()
        content = answer["choices"][0]["message"]["content"]
        assert "(https://example.test/limner/pictures/" in content
        shown = {"role": "assistant", "content": content}
        again = running.http.post(
            f"{running.url}/chat/completions", json=body | {"messages": [*body["messages"], shown, *body["messages"]]}
        )
        assert again.status_code == 200 and "X-Limner-Missing-Pictures" not in again.headers

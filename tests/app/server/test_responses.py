"""`/v1/responses` by the official client; every object and event is checked by its own types."""

import asyncio
from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw
from responses import (
    FAST,
    TOOL,
    data_uri,
    decoded,
    events_of,
    forget,
    parts,
    pictures,
    refused,
    same,
    texts,
    without_names,
)

from limner.app.server.history import History
from limner.app.server.options import ServerOptions
from limner.app.server.responses.input import read_item
from limner.app.server.responses.schemas import ImageGenerationTool, MessageItem
from limner.app.server.responses.stored import StoredItems, StoredResponses, item_id, new_id
from limner.app.server.responses.streaming import ResponseEvents
from limner.app.server.store import Store
from limner.mllm.events import Finished, PictureBegun, PictureDone, TextPiece
from limner.mllm.messages import EmittedText


def test_a_response_has_words_and_pictures_in_their_order(create, nano):
    response = create("tell me a story of a cat and a dog with pictures")
    reply = nano.generate("tell me a story of a cat and a dog with pictures", **FAST)
    kinds = {"message": "text", "image_generation_call": "picture"}
    assert len(reply.images) > 1
    assert [kinds[item["type"]] for item in response["output"]] == [
        "picture" if part == "picture" else "text" for part in parts(reply)
    ]
    assert texts(response) == [part for part in parts(reply) if part != "picture"]
    assert same(pictures(response), reply.images)
    assert response["status"] == "completed" and response["seed"] == 5
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] > usage["output_tokens_details"]["image_tokens"] > 0


def test_a_picture_says_its_plan_and_its_size(create):
    (message, call) = create("draw a red cat")["output"]
    assert call["revised_prompt"] == message["content"][0]["text"].strip() != ""
    width, height = decoded(call["result"]).size
    assert call["size"] == f"{width}x{height}" and call["output_format"] == "png" and call["action"] == "generate"
    assert call["id"].startswith("ig_") and message["id"].startswith("msg_")


def test_a_plan_is_of_the_picture_that_follows_it():
    image = Image.new("RGB", (32, 16))

    async def events():
        yield TextPiece(0, "A cat:")
        for index in range(2):
            yield PictureBegun(0, index, (16, 32))
            yield PictureDone(0, index, image)
        yield Finished(0, "stop")

    async def in_thread(function):
        return function()

    async def read():
        answer = SimpleNamespace(events=events, service=SimpleNamespace(in_thread=in_thread))
        made = ResponseEvents(
            answer, {"id": "resp_0"}, ImageGenerationTool(type="image_generation"), has_pictures=False
        )
        async for _ in made.items():
            pass
        return made.output

    _, first, second = asyncio.run(read())
    assert (first["revised_prompt"], second["revised_prompt"]) == ("A cat:", None)
    assert (first["action"], second["action"]) == ("generate", "edit") and first["size"] == "32x16"


def test_streamed_is_as_not_streamed(create, http, nano_server):
    response = create("draw a red cat", num_inference_steps=4)
    forget(nano_server)
    events = events_of(http, input="draw a red cat", tools=[TOOL | {"partial_images": 2}], num_inference_steps=4)
    last = events[-1]["response"]
    streamed, whole = without_names(last), without_names(response)
    assert streamed.pop("tools") == [TOOL | {"partial_images": 2}] and whole.pop("tools") == []
    assert streamed == whole
    begin = ["response.created", "response.in_progress"]
    words = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
    picture = ["in_progress", "generating", "partial_image", "partial_image", "completed"]
    kinds = [event["type"] for event in events]
    once = [kind for i, kind in enumerate(kinds) if kind != kinds[i - 1] or "delta" not in kind]
    assert once == [
        *begin,
        *(f"response.{kind}" for kind in words),
        "response.output_item.done",
        "response.output_item.added",
        *(f"response.image_generation_call.{kind}" for kind in picture),
        "response.output_item.done",
        "response.completed",
    ]
    assert kinds.count("response.output_text.delta") > 3
    assert "".join(event["delta"] for event in events if "delta" in event) == texts(response)[0]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["output"]
    partial = [event for event in events if "partial_image_b64" in event]
    assert [event["partial_image_index"] for event in partial] == [0, 1]
    assert decoded(partial[0]["partial_image_b64"]).size == pictures(last)[0].size
    assert {event["output_index"] for event in events if "output_index" in event} == {0, 1}
    assert all(event["item_id"] == done[event["output_index"]]["id"] for event in events if "item_id" in event)


def test_the_official_client_puts_a_stream_together(nano_server):
    with (
        nano_server.client() as client,
        client.responses.stream(model="nano", input="draw a red cat", extra_body=FAST) as stream,
    ):
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == said and final.output[1].result


@pytest.mark.slow
def test_a_conversation_goes_on_as_a_chat(create, nano):
    chat = nano.chat(**FAST)
    response = create("draw a red cat")
    assert same(pictures(response), chat.say("draw a red cat").images)
    for words in ("make it blue", "put a green ball next to it", "thank you", "make it yellow"):
        response = create(words, previous_response_id=response["id"])
        reply = chat.say(words)
        assert texts(response) == [part for part in parts(reply) if part != "picture"]
        if reply.images:
            assert same(pictures(response), reply.images)
            assert response["output"][1]["action"] == "edit"


@pytest.mark.parametrize("way", ["items", "references", "ids", "results", "not stored"])
def test_items_that_come_back_are_the_conversation(create, nano, way):
    first = create("draw a large red cat", store=way != "not stored")
    chat = nano.chat(**FAST)
    chat.say("draw a large red cat")
    words, picture = first["output"]
    history = {
        "items": [words, picture],
        "references": [{"type": "item_reference", "id": words["id"]}, {"id": picture["id"]}],
        "ids": [words, {"type": "image_generation_call", "id": picture["id"]}],
        # as if they came from elsewhere
        "results": [
            {"role": "assistant", "content": words["content"][0]["text"]},
            {"type": "image_generation_call", "result": picture["result"]},
        ],
        "not stored": [words, picture],
    }[way]
    question = {"role": "user", "content": [{"type": "input_text", "text": "draw a large red cat"}]}
    second = create([question, *history, {"role": "user", "content": "make it blue"}])
    assert same(pictures(second), chat.say("make it blue").images)


def test_a_picture_that_is_shown_is_seen(create, nano):
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 98, 98), fill="red")
    shown = {"type": "input_image", "image_url": data_uri(image), "detail": "auto"}
    response = create([{"role": "user", "content": [shown, {"type": "input_text", "text": "make it blue"}]}])
    assert same(pictures(response), nano.chat(**FAST).say("make it blue", image).images)
    assert response["output"][-1]["action"] == "edit"


def test_instructions_are_of_their_response_alone(create, nano):
    first = create("hello", instructions="You are kind.")
    rules = {"role": "system", "content": "You are kind."}
    question = {"role": "user", "content": "hello"}
    assert texts(first) == [nano.generate([rules, question], **FAST).text]
    assert first["instructions"] == "You are kind."
    second = create("draw a red cat", previous_response_id=first["id"])
    plain = create("draw a red cat", previous_response_id=create("hello")["id"])
    assert second["instructions"] is None
    assert second["usage"]["input_tokens"] == plain["usage"]["input_tokens"]


@pytest.mark.parametrize("choice", ["required", TOOL], ids=["required", "the tool"])
def test_a_picture_can_be_had_whatever_is_said(create, nano, choice):
    planned = create("draw a red cat", tool_choice=choice, tools=[TOOL])
    assert same(pictures(planned), nano.draw("draw a red cat", **FAST).images)
    assert planned["output"][1]["revised_prompt"]
    response = create("hello", tool_choice=choice, tools=[TOOL])
    reply = nano.draw("hello", **FAST)
    assert same(pictures(response), reply.images) and texts(response) == [reply.parts[0]]
    assert response["output"][-1]["revised_prompt"] is None
    assert response["tool_choice"] == choice and response["status"] == "completed"


def test_nothing_but_the_picture_comes_of_forcing_it(client, tiny):
    options = {"seed": 5, "num_inference_steps": 2}
    fields = {"extra_body": options, "max_output_tokens": 8, "tool_choice": "required"}
    response = client.responses.create(model=tiny.name, input="hello", **fields).to_dict()
    reply = tiny.draw("hello", max_new_tokens=8, **options)
    forced = tiny.generate("hello", images="force", max_images=1, max_new_tokens=1, **options)
    assert len(forced.parts) == 2  # this model goes on in words
    assert texts(response) == [part for part in parts(reply) if part != "picture"]
    assert same(pictures(response), reply.images)


def test_pictures_can_be_declined(create):
    response = create("draw a red cat", tool_choice="none")
    assert not pictures(response) and texts(response)


def test_size_and_number_of_pictures(create):
    response = create("draw a red cat", tools=[TOOL | {"size": "96x160"}])
    assert pictures(response)[0].size == (96, 160)
    assert len(pictures(create("tell me a story of a cat and a dog with pictures", max_tool_calls=1))) == 1


@pytest.mark.parametrize(("output_format", "way"), [("jpeg", "id"), ("webp", "items")])
def test_other_formats_keep_the_pixels_for_what_comes(create, nano, output_format, way):
    tool = TOOL | {"output_format": output_format, "output_compression": 40}
    first = create("draw a red cat", tools=[tool])
    call = first["output"][1]
    assert decoded(call["result"]).format == output_format.upper() and call["output_format"] == output_format
    chat = nano.chat(**FAST)
    chat.say("draw a red cat")
    if way == "id":
        second = create("make it blue", previous_response_id=first["id"])
    else:
        question, order = ({"role": "user", "content": words} for words in ("draw a red cat", "make it blue"))
        second = create([question, *first["output"], order])
    assert same(pictures(second), chat.say("make it blue").images)


def test_words_that_are_stored_keep_their_tokens(nano, tmp_path):
    ids = [nano.tokenizer(letter, add_special_tokens=False).input_ids[-1] for letter in "cat"]
    assert nano.encoder.spells(ids, "cat") and len(ids) == 3
    stored = StoredResponses(Store(60, tmp_path), nano.encoder.spells)
    turn = [
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": EmittedText("cat", ids)}]},
    ]
    response_id = new_id()
    output = [{"id": item_id(response_id, "msg", 0)}]
    stored.put({"id": response_id, "previous_response_id": None, "output": output}, [], turn)
    question, answer = stored.conversation(response_id)
    assert question == turn[0]
    assert answer["content"][0]["text"].ids == StoredItems(stored).get(output[0]["id"])[1].ids == tuple(ids)
    history = History(stored.store, ServerOptions())
    item = MessageItem(role="assistant", content="cat", id=output[0]["id"])
    for words, is_known in (("cat", True), ("cats", False)):
        own = item.model_copy(update={"content": words})
        _, (part,), _ = read_item(own, history, StoredItems(stored), "input.0")
        assert part == words and hasattr(part, "ids") == is_known


@pytest.mark.slow
@pytest.mark.parametrize("is_shown", [True, False], ids=["shown", "drawn before"])
def test_a_mask_says_what_is_edited(create, nano, is_shown):
    first = create("draw a red cat")
    picture = pictures(first)[0]
    box = (0, 0, 64, 128)
    mask = Image.new("RGBA", picture.size, "white")
    mask.paste((0, 0, 0, 0), box)
    tool = TOOL | {"input_image_mask": {"image_url": data_uri(mask)}}
    chat = nano.chat(**FAST)
    if is_shown:
        shown = {"type": "input_image", "image_url": data_uri(picture)}
        response = create(
            [{"role": "user", "content": [shown, {"type": "input_text", "text": "make it blue"}]}], tools=[tool]
        )
        reply = chat.say("make it blue", picture, mask=box)
    else:
        response = create("make it blue", previous_response_id=first["id"], tools=[tool])
        chat.say("draw a red cat")
        reply = chat.say("make it blue", mask=box)
    assert same(pictures(response), reply.images)
    right = (64, 0, 128, 128)
    assert same([pictures(response)[0].crop(right)], [picture.crop(right)])
    assert not same(pictures(response), [picture])
    again = create("make it green", previous_response_id=response["id"])
    assert same(pictures(again), chat.say("make it green").images)


def test_the_limit_of_tokens_leaves_a_response_incomplete(create, http):
    response = create("draw a red cat", max_output_tokens=3)
    assert response["status"] == "incomplete" and response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    events = events_of(http, input="draw a red cat", max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"
    assert without_names(events[-1]["response"]) == without_names(response)


@pytest.mark.slow
def test_a_conversation_that_is_too_long_is_cut_where_that_is_allowed(create, http):
    turn = [{"role": "user", "content": "hello " * 300}, {"role": "assistant", "content": "Hello!"}]
    last, short = [{"role": "user", "content": "draw a red cat"}], {"history": 0, "max_output_tokens": 5}
    error = refused(http, input=turn * 5 + last, **short)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    cut = create(turn * 5 + last, truncation="auto", **short)
    whole = create(turn * 4 + last, **short)
    assert texts(cut) == texts(whole) and cut["usage"] == whole["usage"] and cut["truncation"] == "auto"
    error = refused(http, input="hello " * 2000, truncation="auto")
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")

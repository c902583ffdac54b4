"""openai-python with /v1/responses."""

import openai
import pytest

from pictures import FIRST, QUESTION, SECOND, SEED, URL, data_uri, same, text

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
TOOL = {"type": "image_generation"}


def say(said, tool=TOOL, **options):
    return client.responses.create(model="nano", input=said, tools=[tool], extra_body=SEED, **options)


def pictures(response):
    return [item for item in response.output if item.type == "image_generation_call"]


def looks_like(response, name):
    assert response.status == "completed"
    assert [item.type for item in response.output] == ["message", "image_generation_call"]
    assert response.output_text.strip() == text(name)
    (picture,) = pictures(response)
    assert picture.status == "completed"
    assert same(picture.result, name)


def test_a_response_is_continued_by_its_id():
    first = say(FIRST)
    looks_like(first, "first")
    second = say(SECOND, previous_response_id=first.id)
    looks_like(second, "second")
    assert second.previous_response_id == first.id


def test_items_are_handed_back():
    first = say(FIRST)
    asked = [{"role": "user", "content": FIRST}, *first.output, {"role": "user", "content": SECOND}]
    looks_like(say(asked), "second")


def test_a_picture_is_handed_back_by_its_id():
    first = say(FIRST)
    by_id = [{"type": "image_generation_call", "id": pictures(first)[0].id}]
    said = {"role": "assistant", "content": first.output_text}
    looks_like(say([{"role": "user", "content": FIRST}, said, *by_id, {"role": "user", "content": SECOND}]), "second")


def test_a_response_can_be_fetched_and_deleted():
    first = say(FIRST)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_the_events_of_a_stream():
    events = list(say(FIRST, {**TOOL, "partial_images": 2}, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta").strip() == text("first")
    drawing = [kind.rsplit(".", 1)[-1] for kind in kinds if ".image_generation_call." in kind]
    assert drawing == ["in_progress", "generating", "partial_image", "partial_image", "completed"]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 2
    looks_like(events[-1].response, "first")


def test_the_stream_that_the_library_puts_together():
    with client.responses.stream(model="nano", input=FIRST, tools=[TOOL], extra_body=SEED) as stream:
        for _ in stream:
            pass
        looks_like(stream.get_final_response(), "first")


def test_a_picture_of_the_users_is_described_and_edited():
    def asked(said):
        content = [{"type": "input_image", "image_url": data_uri("first")}, {"type": "input_text", "text": said}]
        return say([{"role": "user", "content": content}])

    assert asked(QUESTION).output_text == text("described")
    looks_like(asked(SECOND), "edited")


def test_the_tool_settles_the_size():
    (picture,) = pictures(say(FIRST, {**TOOL, "size": "160x96"}))
    assert picture.size == "160x96"


def test_without_the_tool_it_only_writes():
    response = client.responses.create(model="nano", input="hello")
    assert response.output_text and not pictures(response)


def test_an_unknown_response_is_not_found():
    with pytest.raises(openai.APIStatusError, match="resp_nothing") as raised:
        say(SECOND, previous_response_id="resp_nothing")
    assert raised.value.status_code in (400, 404)

"""openai-python with /v1/chat/completions."""

import asyncio

import openai
import pytest

from pictures import FIRST, QUESTION, SECOND, SEED, URL, data_uri, same, text

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def say(messages, **options):
    return client.chat.completions.create(model="nano", messages=messages, **SEED | options)


def user(*content):
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def picture(name):
    return {"type": "image_url", "image_url": {"url": data_uri(name)}}


def words(said):
    return {"type": "text", "text": said}


def streamed(messages, **options):
    """A streamed reply put together as an assistant's message, and the chunks."""
    chunks = list(say(messages, stream=True, **options))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    content = "".join(delta.content or "" for delta in deltas)
    images = [image for delta in deltas for image in getattr(delta, "images", None) or []]
    return {"role": "assistant", "content": content, "images": images}, chunks


def test_the_model_is_listed():
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").id == "nano"


def test_the_second_picture_is_made_from_the_first():
    messages = [user(FIRST)]
    for said, name in ((SECOND, "first"), (None, "second")):
        reply = say(messages)
        message = reply.choices[0].message
        assert message.content.strip() == text(name)
        assert reply.choices[0].finish_reason == "stop"
        assert same(message.images[0]["image_url"]["url"], name)
        messages += [message.model_dump(), user(said)]


def test_the_second_picture_is_made_from_the_first_in_a_stream():
    messages = [user(FIRST)]
    for said, name in ((SECOND, "first"), (None, "second")):
        message, chunks = streamed(messages, stream_options={"include_usage": True})
        assert message["content"].strip() == text(name)
        assert [image["index"] for image in message["images"]] == [0]
        assert same(message["images"][0]["image_url"]["url"], name)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].usage.total_tokens > chunks[-1].usage.completion_tokens > 0
        messages += [message, user(said)]


def test_words_arrive_before_the_picture():
    _, chunks = streamed([user(FIRST)])
    kinds = ["image" if getattr(chunk.choices[0].delta, "images", None) else "text" for chunk in chunks]
    assert kinds.index("image") > 2


def test_a_picture_handed_back_as_a_part_of_the_assistants_content():
    history = [user(FIRST), {"role": "assistant", "content": [words(text("first")), picture("first")]}]
    reply = say([*history, user(SECOND)])
    assert same(reply.choices[0].message.images[0]["image_url"]["url"], "second")


def test_without_the_first_picture_the_second_is_another():
    reply = say([user(SECOND)])
    assert same(reply.choices[0].message.images[0]["image_url"]["url"], "without")


def test_a_picture_of_the_users_is_described_and_edited():
    assert say([user(picture("first"), words(QUESTION))]).choices[0].message.content == text("described")
    edited = say([user(picture("first"), words(SECOND))]).choices[0].message
    assert same(edited.images[0]["image_url"]["url"], "edited")


def test_whether_it_draws_can_be_settled():
    never = say([user(FIRST)], modalities=["text"]).choices[0].message
    assert never.content and not getattr(never, "images", None)
    force = say([user("hello")], modalities=["image"]).choices[0].message
    assert len(force.images) == 1


def test_the_order_of_words_and_pictures_is_told():
    parts = say([user(FIRST)]).choices[0].message.parts
    assert [part["type"] for part in parts] == ["text", "image"]


def test_what_other_servers_take_is_taken():
    reply = say([user("hello")], user="someone", store=False, tools=[TOOL], metadata={"a": "b"}, n=1, logprobs=False)
    assert reply.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"extra_body": {"num_inference_steps": 0}}, "num_inference_steps"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"messages": [user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}})]}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(options, named):
    with pytest.raises(openai.BadRequestError) as raised:
        say(**{"messages": [user("hello")]} | options)
    assert named in (raised.value.param or "") + raised.value.message
    assert raised.value.type == "invalid_request_error"


def test_another_model_is_not_found():
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        client.chat.completions.create(model="gpt-5", messages=[user("hello")])


def test_requests_at_once():
    alone = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none")

    async def all_at_once():
        asked = [alone.chat.completions.create(model="nano", messages=[user(FIRST)], seed=seed) for seed in range(4)]
        return await asyncio.gather(*asked)

    replies = asyncio.run(all_at_once())
    assert len({reply.choices[0].message.images[0]["image_url"]["url"] for reply in replies}) == 4

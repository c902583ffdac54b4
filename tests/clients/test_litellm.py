"""litellm: chat, responses and images."""

import litellm

from pictures import FIRST, SECOND, SEED, URL, file, same, text

SERVER = {"model": "openai/nano", "api_base": f"{URL}/v1", "api_key": "none"}


def user(said):
    return {"role": "user", "content": said}


def test_the_second_picture_is_made_from_the_first():
    messages = [user(FIRST)]
    for said, name in ((SECOND, "first"), (None, "second")):
        message = litellm.completion(messages=messages, **SERVER, **SEED).choices[0].message
        assert message.content.strip() == text(name)
        assert same(message.images[0]["image_url"]["url"], name)
        messages += [message, user(said)]


def test_the_second_picture_is_made_from_the_first_in_a_stream():
    messages = [user(FIRST)]
    for said, name in ((SECOND, "first"), (None, "second")):
        chunks = list(litellm.completion(messages=messages, stream=True, **SERVER, **SEED))
        message = litellm.stream_chunk_builder(chunks).choices[0].message
        assert message.content.strip() == text(name)
        assert same(message.images[0]["image_url"]["url"], name)
        messages += [message, user(said)]


def test_responses():
    tools = [{"type": "image_generation"}]
    first = litellm.responses(input=FIRST, tools=tools, **SERVER, extra_body=SEED)
    second = litellm.responses(input=SECOND, previous_response_id=first.id, tools=tools, **SERVER, extra_body=SEED)
    for response, name in ((first, "first"), (second, "second")):
        message, picture = response.output
        assert message.content[0].text.strip() == text(name)
        assert same(picture.result, name)


def test_images():
    drawn = litellm.image_generation(prompt=FIRST, **SERVER, extra_body=SEED)
    assert same(drawn.data[0].b64_json, "first")
    with file("first").open("rb") as picture:
        edited = litellm.image_edit(image=picture, prompt=SECOND, **SERVER, extra_body=SEED)
    assert same(edited.data[0].b64_json, "edited")

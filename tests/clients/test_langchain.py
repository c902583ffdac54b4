"""langchain-openai: by the Responses interface, whose pictures it knows, and by chat, where it keeps words alone: there a picture
comes as a link in them."""

from functools import reduce
from operator import add

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from pictures import FIRST, QUESTION, SECOND, SEED, URL, data_uri, same, text, words_and_link

SERVER = {"model": "nano", "base_url": f"{URL}/v1", "api_key": "none", "extra_body": SEED}
draws = ChatOpenAI(**SERVER, use_responses_api=True, output_version="responses/v1")
draws = draws.bind_tools([{"type": "image_generation"}])


def looks_like(message, name):
    assert message.text.strip() == text(name)
    (picture,) = [block for block in message.content if block["type"] == "image_generation_call"]
    assert same(picture["result"], name)


def test_the_second_picture_is_made_from_the_first():
    messages = [HumanMessage(FIRST)]
    messages += [draws.invoke(messages), HumanMessage(SECOND)]
    looks_like(messages[1], "first")
    looks_like(draws.invoke(messages), "second")


def test_the_second_picture_is_made_from_the_first_in_a_stream():
    messages = [HumanMessage(FIRST)]
    for said, name in ((SECOND, "first"), (None, "second")):
        whole = reduce(add, draws.stream(messages))
        looks_like(whole, name)
        messages += [whole, HumanMessage(said or "thanks")]


def test_the_last_response_alone_is_handed_back():
    chained = ChatOpenAI(
        **SERVER, use_responses_api=True, output_version="responses/v1", use_previous_response_id=True
    ).bind_tools([{"type": "image_generation"}])
    messages = [HumanMessage(FIRST)]
    messages += [chained.invoke(messages), HumanMessage(SECOND)]
    looks_like(chained.invoke(messages), "second")


def test_a_chat_in_words_about_a_picture():
    picture = {"type": "image_url", "image_url": {"url": data_uri("first")}}
    asked = [HumanMessage([picture, {"type": "text", "text": QUESTION}])]
    chat = ChatOpenAI(**SERVER)
    assert chat.invoke(asked).content == text("described")
    assert "".join(chunk.content for chunk in chat.stream(asked)) == text("described")


def test_a_chat_whose_pictures_are_links():
    chat = ChatOpenAI(**SERVER, default_headers={"X-Limner-Picture-Format": "markdown"})
    messages = [HumanMessage(FIRST)]
    for name in ("first", "second"):
        message = chat.invoke(messages)
        words, picture = words_and_link(message.content)
        assert words == text(name)
        assert same(picture, name)
        messages += [message, HumanMessage(SECOND)]

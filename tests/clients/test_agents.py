"""openai-agents: an agent with the image generation tool, over two runs, with and without a session."""

import asyncio

import agents
import openai

from pictures import FIRST, SECOND, SEED, URL, same, text, words_and_link

agents.set_tracing_disabled(True)  # it would send traces to OpenAI


def client():
    return openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none")


def artist():
    return agents.Agent(
        name="artist",
        model=agents.OpenAIResponsesModel("nano", client()),
        model_settings=agents.ModelSettings(extra_body=SEED),
        tools=[agents.ImageGenerationTool(tool_config={"type": "image_generation"})],
    )


def looks_like(result, name):
    assert result.final_output.strip() == text(name)
    items = [item for response in result.raw_responses for item in response.output]
    (picture,) = [item for item in items if item.type == "image_generation_call"]
    assert same(picture.result, name)


def test_the_second_picture_is_made_from_the_first():
    async def talk():
        agent = artist()
        first = await agents.Runner.run(agent, FIRST)
        looks_like(first, "first")
        second = await agents.Runner.run(agent, [*first.to_input_list(), {"role": "user", "content": SECOND}])
        looks_like(second, "second")

    asyncio.run(talk())


def test_a_session_remembers_the_picture():
    async def talk():
        agent, session = artist(), agents.SQLiteSession("talk")
        looks_like(await agents.Runner.run(agent, FIRST, session=session), "first")
        looks_like(await agents.Runner.run(agent, SECOND, session=session), "second")

    asyncio.run(talk())


def test_a_stream():
    async def talk():
        result = agents.Runner.run_streamed(artist(), FIRST)
        deltas = []
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                deltas.append(event.data.delta)
        assert "".join(deltas).strip() == text("first")
        looks_like(result, "first")

    asyncio.run(talk())


def test_an_agent_by_chat_whose_pictures_are_links():
    async def talk():
        linking = openai.AsyncOpenAI(
            base_url=f"{URL}/v1", api_key="none", default_headers={"X-Limner-Picture-Format": "markdown"}
        )
        agent = agents.Agent(
            name="artist",
            model=agents.OpenAIChatCompletionsModel("nano", linking),
            model_settings=agents.ModelSettings(extra_body=SEED),
        )
        session = agents.SQLiteSession("links")
        for said, name in ((FIRST, "first"), (SECOND, "second")):
            words, picture = words_and_link((await agents.Runner.run(agent, said, session=session)).final_output)
            assert words == text(name)
            assert same(picture, name)

    asyncio.run(talk())

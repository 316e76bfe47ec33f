"""openai-agents: its Runner with a function tool, streaming, and OpenAIConversationsSession."""

from __future__ import annotations

import asyncio

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from agents.memory import OpenAIConversationsSession
from openai import AsyncOpenAI
from session import SLOW, URL, step, under_a_kill

set_tracing_disabled(True)


@function_tool(strict_mode=False)
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="x")

    def agent(name: str, kind: type = OpenAIResponsesModel, **more: object) -> Agent:
        return Agent(name="a", model=kind(model=name, openai_client=client), **more)

    with step("server tools"):
        made = await Runner.run(agent("support"), "look up order A1")
        assert made.final_output.startswith("Done, get_order says:")
    with step("streaming"):
        streamed = Runner.run_streamed(agent("support"), "count to 20")
        events = [event async for event in streamed.stream_events()]
        assert len(events) > 20
        assert streamed.final_output.split() == [str(n) for n in range(1, 21)]
    with step("conversation"):
        session = OpenAIConversationsSession(openai_client=client)
        await Runner.run(agent("support"), "my name is Ada", session=session)
        asked = await Runner.run(agent("support"), "what is my name", session=session)
        assert asked.final_output == "Your name is Ada."
        assert len(await session.get_items()) == 4
        await session.clear_session()
    with step("client tools"):
        made = await Runner.run(agent("caller", tools=[weather]), "Rome")
        assert made.final_output == "They said: sunny in Rome"
    with step("chat"):
        made = await Runner.run(agent("support", OpenAIChatCompletionsModel), "look up order A1")
        assert made.final_output.startswith("Done, get_order says:")
    with step("chat, streaming"):
        streamed = Runner.run_streamed(agent("support", OpenAIChatCompletionsModel), "count to 20")
        _ = [event async for event in streamed.stream_events()]
        assert streamed.final_output.split() == [str(n) for n in range(1, 21)]
    with step("chat, client tools"):
        made = await Runner.run(agent("caller", OpenAIChatCompletionsModel, tools=[weather]), "Rome")
        assert made.final_output == "They said: sunny in Rome"

    async def ask(number: int) -> str:
        return str((await Runner.run(agent("slow"), f"{SLOW}{number}")).final_output)

    with step("a pod is killed, answers come"):
        await under_a_kill(ask)


asyncio.run(main())

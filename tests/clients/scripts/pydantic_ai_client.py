"""pydantic-ai: its OpenAI models over Responses and over Chat Completions."""

from __future__ import annotations

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from session import SLOW, URL, step, under_a_kill

PROVIDER = OpenAIProvider(base_url=f"{URL}/v1", api_key="x")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def surface(over: str, kind: type) -> None:
    with step(over + "server tools"):
        made = await Agent(kind("support", provider=PROVIDER)).run("look up order A1")
        assert made.output.startswith("Done, get_order says:"), made
    with step(over + "streaming"):
        async with Agent(kind("support", provider=PROVIDER)).run_stream("count to 20") as streamed:
            pieces = [piece async for piece in streamed.stream_text(delta=True, debounce_by=None)]
        assert "".join(pieces).split() == [str(n) for n in range(1, 21)]
        assert len(pieces) > 10
    with step(over + "client tools"):
        made = await Agent(kind("caller", provider=PROVIDER), tools=[weather]).run("Rome")
        assert made.output == "They said: sunny in Rome", made


async def main() -> None:
    await surface("", OpenAIResponsesModel)
    await surface("chat, ", OpenAIChatModel)
    with step("conversation"):
        agent = Agent(OpenAIResponsesModel("support", provider=PROVIDER))
        first = await agent.run("my name is Ada")
        second = await agent.run("what is my name", message_history=first.all_messages())
        assert second.output == "Your name is Ada.", second

    async def ask(number: int) -> str:
        made = await Agent(OpenAIResponsesModel("slow", provider=PROVIDER)).run(f"{SLOW}{number}")
        return str(made.output)

    with step("a pod is killed, answers come"):
        await under_a_kill(ask)


asyncio.run(main())

"""langchain-openai: ChatOpenAI over Responses and over Chat Completions."""

from __future__ import annotations

import asyncio

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from session import SLOW, URL, step, under_a_kill


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def model(name: str, **more: object) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=f"{URL}/v1", api_key="x", **more)


async def surface(over: str, **more: object) -> None:
    with step(over + "server tools"):
        made = await model("support", **more).ainvoke("look up order A1")
        assert made.text.startswith("Done, get_order says:"), made
    with step(over + "streaming"):
        chunks = [chunk async for chunk in model("support", **more).astream("count to 20")]
        assert "".join(chunk.text for chunk in chunks).split() == [str(n) for n in range(1, 21)]
        assert len(chunks) > 20
    with step(over + "client tools"):
        bound = model("caller", **more).bind_tools([weather])
        messages = [HumanMessage("Rome")]
        first = await bound.ainvoke(messages)
        call = first.tool_calls[0]
        messages += [first, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
        second = await bound.ainvoke(messages)
        assert second.text == "They said: sunny in Rome", second


async def main() -> None:
    await surface("", use_responses_api=True)
    await surface("chat, ", use_responses_api=False)
    with step("conversation"):
        chained = model("support", use_responses_api=True, use_previous_response_id=True)
        first = await chained.ainvoke([HumanMessage("my name is Ada")])
        second = await chained.ainvoke([HumanMessage("my name is Ada"), first, HumanMessage("what is my name")])
        assert second.text == "Your name is Ada.", second

    async def ask(number: int) -> str:
        return (await model("slow", use_responses_api=True).ainvoke(f"{SLOW}{number}")).text

    with step("a pod is killed, answers come"):
        await under_a_kill(ask)


asyncio.run(main())

"""litellm: `acompletion` and `aresponses` with an OpenAI-compatible base."""

from __future__ import annotations

import asyncio

import litellm
from session import SLOW, URL, step, under_a_kill

BASE = {"api_base": f"{URL}/v1", "api_key": "x"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def said(text: str) -> list:
    return [{"role": "user", "content": text}]


async def main() -> None:
    with step("chat, server tools"):
        made = await litellm.acompletion(model="openai/support", messages=said("look up order A1"), **BASE)
        assert made.choices[0].message.content.startswith("Done, get_order says:")
    with step("chat, streaming"):
        chunks = await litellm.acompletion(model="openai/support", messages=said("count to 20"), stream=True, **BASE)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert text.split() == [str(n) for n in range(1, 21)]
    with step("chat, client tools"):
        messages = said("Rome")
        first = await litellm.acompletion(model="openai/caller", messages=messages, tools=[TOOL], **BASE)
        call = first.choices[0].message.tool_calls[0]
        messages += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        second = await litellm.acompletion(model="openai/caller", messages=messages, tools=[TOOL], **BASE)
        assert second.choices[0].message.content == "They said: sunny"
    with step("server tools"):
        made = await litellm.aresponses(model="openai/support", input="look up order A1", **BASE)
        assert [item.type for item in made.output] == ["mcp_call", "message"]
    with step("streaming"):
        stream = await litellm.aresponses(model="openai/support", input="count to 20", stream=True, **BASE)
        events = [event async for event in stream]
        assert str(events[-1].type).endswith("completed") or "COMPLETED" in str(events[-1].type)
    with step("conversation"):
        first = await litellm.aresponses(model="openai/support", input="my name is Ada", **BASE)
        second = await litellm.aresponses(
            model="openai/support", input="what is my name", previous_response_id=first.id, **BASE
        )
        assert second.output[-1].content[0].text == "Your name is Ada."

    async def ask(number: int) -> str:
        made = await litellm.acompletion(
            model="openai/slow", messages=said(f"{SLOW}{number}"), num_retries=3, max_retries=3, **BASE
        )
        return str(made.choices[0].message.content)

    with step("a pod is killed, answers come"):
        await under_a_kill(ask)


asyncio.run(main())

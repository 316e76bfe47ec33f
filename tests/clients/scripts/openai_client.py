"""The official openai client, strict: every answer and event validates."""

from __future__ import annotations

import asyncio
import json

from openai import AsyncOpenAI
from session import SLOW, URL, both_serve, kill_a_pod, step, under_a_kill

TOOL = {"type": "function", "name": "weather", "strict": False, "parameters": {"type": "object", "properties": {}}}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


async def responses(client: AsyncOpenAI) -> None:
    with step("server tools"):
        made = await client.responses.create(model="support", input="look up order A1")
        assert [item.type for item in made.output] == ["mcp_call", "message"]
        assert made.output_text.startswith("Done, get_order says:")
    with step("streaming"):
        async with client.responses.stream(model="support", input="count to 20") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert len(events) > 20
        assert final.output_text.split() == [str(n) for n in range(1, 21)]
    with step("conversation"):
        conversation = await client.conversations.create()
        await client.responses.create(model="support", input="my name is Ada", conversation=conversation.id)
        asked = await client.responses.create(model="support", input="what is my name", conversation=conversation.id)
        assert asked.output_text == "Your name is Ada."
        chained = await client.responses.create(model="support", input="what is my name", previous_response_id=asked.id)
        assert chained.output_text == "Your name is Ada."
    with step("client tools"):
        first = await client.responses.create(model="caller", input="Rome", tools=[TOOL])
        call = first.output[-1]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        second = await client.responses.create(
            model="caller", input=[output], tools=[TOOL], previous_response_id=first.id
        )
        assert second.output_text == "They said: sunny"
    with step("cancel"):
        live = await client.responses.create(model="slow", input=SLOW * 20, background=True)
        await client.responses.cancel(live.id)
        stream = await client.responses.retrieve(live.id, stream=True)
        events = [event async for event in stream]
        assert events[-1].response.status == "cancelled"


async def chat(client: AsyncOpenAI) -> None:
    with step("chat"):
        made = await client.chat.completions.create(
            model="support", messages=[{"role": "user", "content": "look up order A1"}]
        )
        assert made.choices[0].message.content.startswith("Done, get_order says:")
    with step("chat, streaming"):
        chunks = await client.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": "count to 20"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        seen = [chunk async for chunk in chunks]
        text = "".join(choice.delta.content or "" for chunk in seen for choice in chunk.choices)
        assert text.split() == [str(n) for n in range(1, 21)]
        assert seen[-1].usage.total_tokens > 0
    with step("chat, client tools"):
        messages = [{"role": "user", "content": "Rome"}]
        first = await client.chat.completions.create(model="caller", messages=messages, tools=[CHAT_TOOL])
        call = first.choices[0].message.tool_calls[0]
        assert json.loads(call.function.arguments) == {"city": "Rome"}
        messages += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        second = await client.chat.completions.create(model="caller", messages=messages, tools=[CHAT_TOOL])
        assert second.choices[0].message.content == "They said: sunny"


async def killed(client: AsyncOpenAI) -> None:
    async def ask(number: int) -> str:
        made = await client.responses.create(model="slow", input=f"{SLOW}{number}")
        return made.output_text

    with step("a pod is killed, answers come"):
        await under_a_kill(ask)


async def resumed(client: AsyncOpenAI) -> None:
    with step("a pod is killed, streams are resumed"):
        both_serve()
        streams, cut = [], 0
        for _ in range(8):
            stream = await client.responses.create(model="slow", input=SLOW * 3, stream=True)
            first = await anext(stream)
            streams.append((stream, first.response.id, [first]))
        kill_a_pod(streams[-1][0].response.headers["x-agentrt-pod"])
        for stream, identifier, seen in streams:
            try:
                async for event in stream:
                    seen.append(event)
            except Exception as error:  # noqa: BLE001 - its connection went with the pod
                print(f"cut: {type(error).__name__}", flush=True)
            while seen[-1].type != "response.completed":
                cut += 1
                again = await client.responses.retrieve(
                    identifier, stream=True, starting_after=seen[-1].sequence_number
                )
                async for event in again:
                    seen.append(event)
            numbers = [event.sequence_number for event in seen]
            assert numbers == sorted(set(numbers))
            assert seen[-1].response.output_text.strip() == f"echo: {SLOW * 3}".strip()
        assert cut, "no stream was cut"


async def main() -> None:
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="x", _strict_response_validation=True) as client:
        await responses(client)
        await chat(client)
        await killed(client)
        await resumed(client)


asyncio.run(main())

"""Real adapters under a runtime: one conversation at two providers, and prompts that their caches recognise."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentrt.agent import Agent, Effect
from agentrt.runtime.turn import TurnEnd
from agentrt.tools.function import tool
from tests.models import fake_anthropic, fake_openai
from tests.models.fake_chat import Script as Chat
from tests.models.fake_chat import fake_chat
from tests.models.fake_server import FakeServer, Reply, serve
from tests.models.rules import check_anthropic, check_openai
from tests.runtime.conftest import Runtime, running

Claude, Gpt = fake_anthropic.Script, fake_openai.Script
Body = Callable[[TurnEnd], dict[str, Any]]
BOTH = ["anthropic:claude-haiku-4-5", "openai:gpt-5"]
REASONING = {"reasoning": {"effort": "low"}}


@tool(effect=Effect.READ_ONLY)
async def look(at: str) -> str:
    """Look at something."""
    return f"seen {at}"


@tool(effect=Effect.READ_ONLY)
async def listen(to: str) -> str:
    """Listen to something."""
    return f"heard {to}"


@asynccontextmanager
async def providers(
    redis_url: str, models: list[str], **fields: Any
) -> AsyncIterator[tuple[Runtime, FakeServer, FakeServer]]:
    """A runtime with an agent `a` on fakes of Anthropic and OpenAI."""
    agent = Agent("a", model=models, instructions="Be brief.", tools=[look, listen], **fields)
    async with (
        serve(fake_anthropic.fake_anthropic) as anthropic,
        serve(fake_openai.fake_openai) as openai,
        running(
            redis_url,
            [agent],
            anthropic_api_key="k",
            anthropic_base_url=anthropic.url,
            openai_api_key="k",
            openai_base_url=f"{openai.url}/v1",
        ) as runtime,
    ):
        yield runtime, anthropic, openai


def overloaded() -> Reply:
    return fake_anthropic.failure(529, "overloaded_error", "busy", retry_after="60")


def growing(prompts: list[list[Any]]) -> bool:
    """Whether each prompt begins with the bytes of the one before."""
    texts = [[json.dumps(part) for part in prompt] for prompt in prompts]
    return all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(texts))


async def test_a_conversation_moves_between_providers_mid_way(redis_url: str, body: Body) -> None:
    """Step by step: Anthropic thinks and calls two tools, is overloaded; OpenAI reasons and calls, then its stream is
    cut; Anthropic ends the turn. Each request is valid where it went, thoughts go to their makers only, and the client
    gets one answer. The next turn begins at Anthropic, with all of it."""
    async with providers(redis_url, BOTH) as (runtime, anthropic, openai):
        calls = Claude().thinking("hm", "sig-1").call("toolu_1", "look", '{"at": "x"}')
        anthropic.script += [calls.call("toolu_2", "listen", '{"to": "y"}').stopped("tool_use"), overloaded()]
        openai.script += [
            Gpt().reasoning("so", "secret-1").text("Let me see.").call("call_1", "look", '{"at":"z"}').completed(),
            Reply(Gpt().text("Half an ans").frames, cut=True),
        ]
        anthropic.script.append(Claude().thinking("ah", "sig-2").text("All seen.").stopped("end_turn"))
        want, end = await runtime.turn("a", "look around", options=REASONING)
        output = body(end)["output"]
        kinds = ["reasoning", "mcp_call", "mcp_call", "reasoning", "message", "mcp_call", "reasoning", "message"]
        assert [item["type"] for item in output] == kinds
        assert [item["output"] for item in output if item["type"] == "mcp_call"] == ["seen x", "heard y", "seen z"]
        assert output[-1]["content"][0]["text"] == "All seen."

        anthropic.script.append(Claude().text("Bye.").stopped("end_turn"))
        _, end = await runtime.turn("a", "bye", session=want.session, options=REASONING)
        assert end.status == "completed"

    for seen in anthropic.seen:
        check_anthropic(seen.body, {"sig-1", "sig-2"})
    for seen in openai.seen:
        check_openai(seen.body, {"secret-1"})
    assert (len(anthropic.seen), len(openai.seen)) == (4, 2)
    last = json.dumps(anthropic.seen[-1].body)
    assert all(text in last for text in ("sig-1", "sig-2", "seen z", "Let me see.", "All seen."))
    assert "secret-1" not in last and "Half an ans" not in last
    assert "secret-1" in json.dumps(openai.seen[-1].body) and "sig-1" not in json.dumps(openai.seen[-1].body)
    assert ["thinking" in seen.body for seen in anthropic.seen] == [True, True, False, True]


async def test_prompts_grow_at_their_end_only(redis_url: str) -> None:
    """Byte for byte: tools and instructions never change, and what was sent once is the beginning of what is sent
    next, over steps, turns and two pods, so that a provider's cache finds it. Both are told where to look."""
    async with providers(redis_url, BOTH[:1]) as (runtime, anthropic, _):
        for number in range(2):
            anthropic.script.append(
                Claude().thinking("hm", "s").call(f"t{number}", "look", '{"at": "x"}').stopped("tool_use")
            )
            anthropic.script.append(Claude().text("Done.").stopped("end_turn"))
        want, _ = await runtime.turn("a", "one", options=REASONING)
        await runtime.turn("a", "two", session=want.session, options=REASONING)
    bodies = [seen.body for seen in anthropic.seen]
    assert len(bodies) == 4 and growing([one["messages"] for one in bodies])
    assert len({json.dumps([one["tools"], one["system"]]) for one in bodies}) == 1
    assert all(one["cache_control"] == {"type": "ephemeral"} for one in bodies)
    assert bodies[0]["tools"][-1]["cache_control"] == bodies[0]["system"][-1]["cache_control"] == {"type": "ephemeral"}

    session = None
    openai_bodies = []
    for number in range(2):
        async with providers(redis_url, BOTH[1:]) as (runtime, _, openai):
            openai.script.append(Gpt().reasoning("so", "e").call(f"c{number}", "look", '{"at": "x"}').completed())
            openai.script.append(Gpt().text("Done.").completed())
            changes = {"session": session} if session else {}
            want, _ = await runtime.turn("a", "one", **changes)
            session = want.session
        openai_bodies += [seen.body for seen in openai.seen]
    assert len(openai_bodies) == 4 and growing([one["input"] for one in openai_bodies])
    assert len({json.dumps([one["tools"], one["instructions"]]) for one in openai_bodies}) == 1
    assert session is not None
    assert {one["prompt_cache_key"] for one in openai_bodies} == {session.id}


def test_the_comparison_sees_a_change() -> None:
    """The control of the test above: another order of keys is another prompt."""
    assert growing([[{"a": 1, "b": 2}], [{"a": 1, "b": 2}, {}]])
    assert not growing([[{"a": 1, "b": 2}], [{"b": 2, "a": 1}, {}]])


async def test_an_image_that_one_provider_cannot_take_goes_to_the_other(redis_url: str, body: Body) -> None:
    """With a fallback that can, the turn succeeds; without, the user is told what is wrong."""
    image = [{"type": "message", "role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]
    for models, status in ((BOTH, "completed"), (BOTH[:1], "failed")):
        async with providers(redis_url, models) as (runtime, anthropic, openai):
            openai.script.append(Gpt().text("A cat.").completed())
            _, end = await runtime.turn("a", "?", input=json.dumps(image).encode())
            assert end.status == status and not end.retryable and not anthropic.seen
            if status == "failed":
                error = body(end)["error"]
                assert error["code"] == "invalid_prompt"
                assert "anthropic cannot take content of type input_image" in error["message"]


async def test_a_compatible_server(redis_url: str, body: Body) -> None:
    """`openai-chat:` at a base URL, with tools, through a whole turn; no key of OpenAI's goes there."""
    async with serve(fake_chat) as chat:
        agent = Agent("a", model="openai-chat:llama", tools=[look])
        chat.script += [
            Chat().call("c", "look", '{"at": "x"}').finished("tool_calls"),
            Chat().text("Seen.").finished("stop"),
        ]
        async with running(
            redis_url, [agent], openai_api_key="sk-openai", openai_chat_base_url=f"{chat.url}/v1"
        ) as runtime:
            _, end = await runtime.turn("a", "look")
            assert [item["type"] for item in body(end)["output"]] == ["mcp_call", "message"]
            assert body(end)["usage"]["total_tokens"] == 240
    roles = [message["role"] for message in chat.seen[1].body["messages"]]
    assert roles == ["user", "assistant", "tool"]
    assert all("sk-openai" not in seen.headers["authorization"] for seen in chat.seen)


@pytest.mark.parametrize(
    "trouble",
    [
        fake_anthropic.failure(429, "rate_limit_error", "slow down", retry_after="0.01"),
        Claude().error("overloaded_error", "busy"),
        Reply(Claude().text("Half").frames, cut=True),
        Claude().malformed("{not json"),
        Reply(hold_first=True),
    ],
    ids=["429", "529 in the stream", "cut", "malformed", "slow first byte"],
)
async def test_troubles_of_a_provider_are_got_over(redis_url: str, body: Body, trouble: Reply) -> None:
    """One bad try of each kind: the client gets the whole answer once."""
    async with serve(fake_anthropic.fake_anthropic) as anthropic:
        anthropic.script += [trouble, Claude().text("Whole.").stopped("end_turn")]
        agent = Agent("a", model=BOTH[0])
        async with running(
            redis_url, [agent], anthropic_api_key="k", anthropic_base_url=anthropic.url, model_gap_s=1
        ) as runtime:
            _, end = await runtime.turn("a", "hi")
            assert [item["content"][0]["text"] for item in body(end)["output"]] == ["Whole."]
    assert len(anthropic.seen) == 2

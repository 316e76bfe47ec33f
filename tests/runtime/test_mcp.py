"""Tools of a real MCP server, in a process of its own, under a whole runtime."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest

from agentrt.agent import Agent, Effect
from agentrt.errors import DeclarationError, ToolError
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.turn import TurnEnd
from agentrt.tools.function import tool
from agentrt.tools.mcp import McpServer, McpTool, _name
from agentrt.tools.mcp_link import HttpLink
from tests.harness.mcp_server import McpProcess
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import free_port
from tests.runtime.conftest import Answer, running

Body = Callable[[TurnEnd], dict[str, Any]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpProcess]:
    """One server for all tests that leave it alive."""
    with McpProcess(tmp_path_factory.mktemp("mcp") / "world") as process:
        yield process


@pytest.fixture
def world(shared: McpProcess) -> McpProcess:
    shared.world.unlink(missing_ok=True)
    return shared


def calling(*calls: tuple[str, str]) -> Answer:
    """A model that asks for `calls` (name, arguments) in each turn, all at once, and then tells what came of them."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        if request.items[-1].type == "mcp_call":
            yield TextDelta("done")
            return
        for number, (name, arguments) in enumerate(calls):
            yield ToolCall(f"c{number}", name, arguments)

    return answer


def outcomes(final: dict[str, Any]) -> list[str]:
    return [item["output"] for item in final["output"] if item["type"] == "mcp_call"]


async def test_tools_of_a_server(redis_url: str, world: McpProcess, body: Body) -> None:
    """Listed with their schemas beside the agent's own; called in parallel; each call bears its own key and the fence;
    bad arguments never leave."""

    @tool(effect=Effect.READ_ONLY)
    async def own() -> str:
        """Of the agent."""
        return "own"

    calls = calling(
        ("own", "{}"),
        ("w_add", '{"what": "a"}'),
        ("w_add", '{"what": "b"}'),
        ("w_find", '{"what": 4711, "limit": "x"}'),
        ("w_find", "{}"),
        ("w_fail", "{}"),
    )
    seen: list[ModelRequest] = []

    def answer(request: ModelRequest) -> Iterable[ModelEvent | float]:
        seen.append(request)
        return calls(request)

    agent = Agent("a", model="test:m", tools=[own], servers=[McpServer("w", url=world.url)])
    async with running(redis_url, [agent], {"m": answer}) as runtime:
        _, end = await runtime.turn("a", "go")
        told = outcomes(body(end))
    assert told[:3] == ["own", "added a", "added b"]
    assert told[3].startswith("Invalid arguments for w_find: ") and "4711" not in told[3]
    assert "what: must satisfy type" in told[3] and "limit: must satisfy type" in told[3]
    assert told[4] == "Invalid arguments for w_find: arguments: missing what"
    assert told[5] == "Error executing tool fail"
    assert sorted(row["argument"] for row in world.rows()) == ["a", "b"]
    keys = {row["key"] for row in world.rows()}
    assert len(keys) == 2 and all(len(key) == 64 for key in keys)
    assert all(isinstance(row["fence"], int) and row["fence"] > 0 for row in world.rows())
    names = [spec.name for spec in seen[0].tools]
    assert names == ["own", *(f"w_{name}" for name in ("add", "dawdle", "die", "fail", "find", "put"))]
    find = next(spec for spec in seen[0].tools if spec.name == "w_find")
    assert find.description == "Find something." and find.parameters["required"] == ["what"]


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({}, {"find": "at_most_once", "put": "at_most_once", "add": "at_most_once"}),
        ({"trust_hints": True}, {"find": "read_only", "put": "idempotent", "add": "at_most_once"}),
        (
            {"trust_hints": True, "effects": {"find": Effect.AT_MOST_ONCE, "add": Effect.IDEMPOTENT}},
            {"find": "at_most_once", "put": "idempotent", "add": "idempotent"},
        ),
    ],
)
async def test_classes_are_the_operators_choice(world: McpProcess, options: Any, classes: dict[str, str]) -> None:
    """A server's hints count only where the operator says that they do."""
    server = McpServer("w", url=world.url, only=list(classes), approval=["add"], prefix="", **options)
    await server.start()
    try:
        assert {one.name: one.effect.value for one in server.tools} == classes
        assert [one.name for one in server.tools if one.approval] == ["add"]
    finally:
        await server.aclose()


async def test_a_server_that_dies_in_a_call(redis_url: str, tmp_path: Path, body: Body) -> None:
    """What was sent and not answered is in doubt, and not sent again. While the server is gone its tools stay known,
    and are tool errors with nothing in doubt; when it is back, they work again."""
    with McpProcess(tmp_path / "world") as process:
        servers = [McpServer("w", url=process.url)]
        agents = [Agent("a", model="test:add", servers=servers), Agent("d", model="test:die", servers=servers)]
        answers = {"add": calling(("w_add", '{"what": "a"}')), "die": calling(("w_die", '{"what": "x"}'))}
        async with running(redis_url, agents, answers) as runtime:
            want, end = await runtime.turn("d", "go")
            assert "is unknown" in outcomes(body(end))[0]
            _, end = await runtime.turn("d", "again", session=want.session)
            assert "is unknown" in outcomes(body(end))[0], "while in doubt, the tool is refused in this session"
            _, end = await runtime.turn("a", "go")
            assert outcomes(body(end)) == ["The server w cannot be reached; the call was not made."]
            process.start()
            _, end = await runtime.turn("a", "go")
            assert outcomes(body(end)) == ["added a"]
        assert [row["tool"] for row in process.rows()] == ["die", "add"]


async def test_a_reply_that_is_lost(redis_url: str, world: McpProcess, body: Body) -> None:
    """The call happened, once, and its connection broke before the reply: in doubt. The call beside it, on a
    connection of its own, is not drawn into it."""
    async with ByteProxy(world.port) as proxy:

        def lose(data: bytes) -> bytes | None:
            return None if b"added" in data else data

        proxy.on_reply = lose
        agent = Agent("a", model="test:m", servers=[McpServer("w", url=f"http://127.0.0.1:{proxy.port}/mcp")])
        calls = calling(("w_add", '{"what": "a"}'), ("w_find", '{"what": "b"}'))
        async with running(redis_url, [agent], {"m": calls}) as runtime:
            _, end = await runtime.turn("a", "go")
            lost, found = outcomes(body(end))
    assert "is unknown" in lost and found == "found b"
    assert sorted(row["tool"] for row in world.rows()) == ["add", "find"]


class Gateway(httpx2.AsyncHTTPTransport):
    """A way to the server with a gateway before it, which answers tool calls with a status of its own."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if b'"tools/call"' in await request.aread():
            return httpx2.Response(self.status, text="no")
        return await super().handle_async_request(request)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_call_that_is_refused_by_status(redis_url: str, world: McpProcess, body: Body, status: int) -> None:
    """A call that the server did not take was not made: the model reads so, and nobody is asked what became of it.
    An error that may come from behind the call leaves it in doubt."""
    agent = Agent("a", model="test:m", servers=[McpServer("w", url=world.url, transport=Gateway(status))])
    async with running(redis_url, [agent], {"m": calling(("w_add", '{"what": "a"}'))}) as runtime:
        want, end = await runtime.turn("a", "go")
        (told,) = outcomes(body(end))
        doubted = [one for one in await runtime.services.doubts.listed() if one.place.run == want.run]
    assert world.rows() == []
    if status >= 500:
        assert "is unknown" in told and len(doubted) == 1
    else:
        assert told.startswith("The server w refused the call: ") and doubted == []


async def test_a_call_that_takes_too_long_is_in_doubt(redis_url: str, world: McpProcess, body: Body) -> None:
    """It was sent: nobody knows what became of it."""
    agent = Agent("a", model="test:m", servers=[McpServer("w", url=world.url, timeout=1.5)])
    async with running(redis_url, [agent], {"m": calling(("w_dawdle", "{}"))}) as runtime:
        _, end = await runtime.turn("a", "go")
        assert "did not answer within 1.5 s" in outcomes(body(end))[0]
        assert "is unknown" in outcomes(body(end))[0]


async def test_a_pod_starts_without_its_server(redis_url: str, world: McpProcess, body: Body, monkeypatch: Any) -> None:
    """The agent works without the tools; they come when the server does."""
    monkeypatch.setattr("agentrt.tools.mcp._FIRST_LIST_S", 0.2)
    port = free_port()
    server = McpServer("w", url=f"http://127.0.0.1:{port}/mcp", refresh_s=0.2)
    agent = Agent("a", model="test:m", servers=[server])
    async with running(redis_url, [agent], {"m": calling(("w_add", '{"what": "a"}'))}) as runtime:
        _, end = await runtime.turn("a", "go")
        assert end.status == "completed" and outcomes(body(end)) == ["There is no tool named 'w_add'."]
        async with ByteProxy(world.port, port):
            async with asyncio.timeout(60):
                while not server.tools:
                    await asyncio.sleep(0.05)
            _, end = await runtime.turn("a", "go")
            assert outcomes(body(end)) == ["added a"]


async def test_over_stdio(redis_url: str, tmp_path: Path, body: Body, monkeypatch: Any) -> None:
    """For development: a child process, started anew after it died in a call."""
    monkeypatch.setattr("agentrt.tools.mcp._FIRST_LIST_S", 60)
    world = McpProcess(tmp_path / "world")
    command = [sys.executable, "-m", "tests.harness.mcp_server", str(world.world)]
    servers = [McpServer("w", command=command, env={"PYTHONPATH": str(Path(__file__).parents[2])})]
    agents = [Agent("a", model="test:add", servers=servers), Agent("d", model="test:die", servers=servers)]
    answers = {"add": calling(("w_add", '{"what": "a"}')), "die": calling(("w_die", '{"what": "x"}'))}
    async with running(redis_url, agents, answers) as runtime:
        for agent, outcome in (("a", "added a"), ("d", "is unknown"), ("a", "added a")):
            _, end = await runtime.turn(agent, "go")
            assert outcome in outcomes(body(end))[0]
    assert [row["tool"] for row in world.rows()] == ["add", "die", "add"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"$ref": "{url}"}}},
        {"$ref": "{url}#/x"},
        {"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}},
    ],
)
async def test_a_hostile_schema(schema: dict[str, Any]) -> None:
    """A reference to elsewhere is not fetched, one to itself ends: a tool error, not a request, not a dead run."""
    connected = asyncio.Event()
    async with await asyncio.start_server(lambda *_: connected.set(), "127.0.0.1", 0) as elsewhere:
        port = elsewhere.sockets[0].getsockname()[1]
        text = json.dumps(schema).replace("{url}", f"http://127.0.0.1:{port}/schema")
        told = types.Tool(name="t", input_schema=json.loads(text))
        link = HttpLink("http://127.0.0.1:1", {}, None)
        one = McpTool(link, told, "w_t", McpServer("w", url="http://127.0.0.1:1"))
        with pytest.raises(ToolError, match="cannot be followed"):
            await asyncio.to_thread(one.parse, '{"x": 1}')
        await link.aclose()
        assert not connected.is_set()


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"x": {"maximum": 2**64}}},
        {"$schema": ["x"]},
        {"properties": {"x": {"type": "banana"}}},
        {"properties": {"x": {"pattern": "("}}},
        {"properties": {"x": {"enum": ["y" * 70_000]}}},
        _deep(300),
    ],
    ids=["number", "dialect", "type", "pattern", "long", "deep"],
)
async def test_an_odd_tool_is_left_out_alone(schema: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong with one tool of a server, the others are offered, and the log names the one that is not."""
    told = [types.Tool(name="odd", input_schema=schema), types.Tool(name="good", input_schema={"type": "object"})]
    link = HttpLink("http://127.0.0.1:1", {}, None)
    offered = McpServer("w", url="http://127.0.0.1:1")._offered(link, told)
    await link.aclose()
    assert [one.name for one in offered] == ["w_good"]
    assert re.search("odd'? left out", caplog.text)


class Squeezing(httpx2.AsyncHTTPTransport):
    """A way to a server that packs what it answers to a tool call, whoever did not ask for it."""

    asked: set[str | None]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked = {*getattr(self, "asked", ()), request.headers.get("accept-encoding")}
        response = await super().handle_async_request(request)
        if b'"tools/call"' in await request.aread():
            packed = gzip.compress(await response.aread())
            await response.aclose()
            headers = {"content-type": response.headers["content-type"], "content-encoding": "gzip"}
            return httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(packed))
        return response


async def test_a_compressed_answer_is_refused(redis_url: str, world: McpProcess, body: Body) -> None:
    """A megabyte on the wire may be a gigabyte behind it. None is asked for; one that comes is not unpacked, and as
    its call was made, it is in doubt."""
    transport = Squeezing()
    agent = Agent("a", model="test:m", servers=[McpServer("w", url=world.url, transport=transport)])
    async with running(redis_url, [agent], {"m": calling(("w_add", '{"what": "a"}'))}) as runtime:
        _, end = await runtime.turn("a", "go")
        (told,) = outcomes(body(end))
    assert "is unknown" in told and transport.asked == {"identity"}
    assert [row["tool"] for row in world.rows()] == ["add"]


def test_names_that_providers_take() -> None:
    """Odd and long names are changed, and stay apart."""
    names = [_name("w", one) for one in ("a.b", "a/b", "a_b", "x" * 70, "x" * 71)]
    assert len(set(names)) == 5 and names[2] == "w_a_b"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)


def test_declarations() -> None:
    for wrong in ({}, {"url": "http://x", "command": ["y"]}):
        with pytest.raises(DeclarationError):
            McpServer("w", **wrong)
    with pytest.raises(DeclarationError):
        McpServer("not a name", url="http://x")

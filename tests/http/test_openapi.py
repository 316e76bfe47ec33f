"""`/openapi.json`: it names the routes that there are, and what they really answer is valid by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import orjson
import pytest
from jsonschema import Draft202012Validator

from agentrt.app import ROUTES
from agentrt.http.openapi import document
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import NO_TLS
from tests.http.wire import UNKNOWN, conversation_of, events_of

UNKNOWN_IDS = {
    "response_id": f"resp_{UNKNOWN}{UNKNOWN}",
    "conversation_id": f"conv_{UNKNOWN}",
    "item_id": f"msg_{UNKNOWN}0",
    "model": "nobody",
    "tenant": "dev",
    "effect": f"dev/{UNKNOWN}/{UNKNOWN}/{'0' * 64}",
}


class Checked:
    """A client that holds every answer against the document."""

    def __init__(self, client: httpx2.AsyncClient, told: dict[str, Any]) -> None:
        self._client = client
        self._told = told
        self.seen: set[tuple[str, int]] = set()

    def check(self, schema: dict[str, Any], value: Any) -> None:
        whole = {**schema, "components": self._told["components"]}
        Draft202012Validator(whole).validate(value)

    async def __call__(self, operation: str, status: int = 200, ids: Any = None, **request: Any) -> Any:
        method, path = operation.split(" ")
        given = {**UNKNOWN_IDS, **(ids or {})}
        answered = await self._client.request(method, path.format(**given), **request)
        assert answered.status_code == status, (operation, answered.text)
        content = self._told["paths"][path][method.lower()]["responses"][str(status)]["content"]
        kind = answered.headers["content-type"].partition(";")[0]
        assert kind in content, (operation, kind)
        self.seen.add((operation, status))
        if kind == "text/event-stream":
            return self._events(content[kind]["x-event"], answered.text)
        value = answered.text if kind == "text/plain" else orjson.loads(answered.content)
        self.check(content[kind]["schema"], value)
        return value

    def _events(self, schema: dict[str, Any], text: str) -> list[Any]:
        if "event: " in text:
            events = [event.data for event in events_of(text)]
        else:
            frames = text.removesuffix("data: [DONE]\n\n").strip().split("\n\n")
            events = [orjson.loads(frame.removeprefix("data: ")) for frame in frames]
        for event in events:
            self.check(schema, event)
        return events


@pytest.fixture(scope="module")
def pod(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    env = {"AGENTRT_DEMO_DB": str(tmp_path_factory.mktemp("openapi") / "demo.db"), "AGENTRT_BODY_BYTES_MAX": "65536"}
    with Pod(redis_server.url, name="openapi", target="tests.harness.agents:agents", env=env) as pod:
        yield pod


@pytest.fixture
async def ask(pod: Pod) -> AsyncIterator[Checked]:
    async with httpx2.AsyncClient(base_url=pod.url, timeout=30, verify=NO_TLS) as client:
        yield Checked(client, (await client.get("/openapi.json")).json())


def test_the_document_has_exactly_the_routes() -> None:
    told = document(ROUTES)
    operations = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    routes = {
        (method, route.path.replace(":path", "")) for route in ROUTES for method in (route.methods or set()) - {"HEAD"}
    }
    assert operations == routes
    names = [one["operationId"] for methods in told["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    assert all(one["summary"] for methods in told["paths"].values() for one in methods.values())


def test_a_route_without_a_description_is_refused() -> None:
    from starlette.routing import Route

    with pytest.raises(KeyError):
        document([*ROUTES, Route("/new", ROUTES[0].endpoint, methods=["POST"])])


def test_its_schemas_are_schemas_and_all_are_there() -> None:
    told = document(ROUTES)
    for schema in told["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    named = set(orjson.dumps(told).decode().split('"$ref":"#/components/schemas/')[1:])
    used = {text.partition('"')[0] for text in named}
    assert used == set(told["components"]["schemas"])


async def test_real_answers_are_valid_by_it(ask: Checked) -> None:
    """Every operation, its success and what it refuses."""
    conv, resp = "/v1/conversations/{conversation_id}", "/v1/responses/{response_id}"
    made = await ask(
        "POST /v1/conversations", json={"metadata": {"a": "b"}, "items": [{"role": "user", "content": "x"}]}
    )
    await ask("POST /v1/conversations", 400, json={"items": 1})
    ids = {"conversation_id": made["id"]}
    body = {"model": "worker", "input": "note read", "conversation": made["id"]}
    answered = await ask("POST /v1/responses", json=body)
    await ask("POST /v1/responses", json={**body, "stream": True})
    await ask("POST /v1/responses", json={"model": "echo", "input": "x", "background": True})
    await ask("POST /v1/responses", 404, json={**body, "conversation": UNKNOWN_IDS["conversation_id"]})
    await ask("POST /v1/responses", 400, json={"model": "echo"})
    await ask("POST /v1/responses", 413, content=b"{" + b" " * 70_000)
    key = {"Idempotency-Key": "openapi"}
    await ask("POST /v1/responses", json={"model": "echo", "input": "x"}, headers=key)
    await ask("POST /v1/responses", 422, json={"model": "echo", "input": "y"}, headers=key)
    short = await ask("POST /v1/responses/compact", json={"model": "echo", "previous_response_id": answered["id"]})
    await ask(
        "POST /v1/responses", json={"model": "echo", "input": [*short["output"], {"role": "user", "content": "x"}]}
    )
    await ask("POST /v1/responses/compact", 400, json={"model": "echo"})
    await ask(
        "POST /v1/responses/compact", 404, json={"model": "echo", "previous_response_id": UNKNOWN_IDS["response_id"]}
    )
    named = {"response_id": answered["id"]}
    await ask(f"GET {resp}", ids=named)
    await ask(f"GET {resp}", ids=named, params={"stream": "true", "starting_after": 2})
    await ask(f"GET {resp}", 400, ids=named, params={"stream": "true", "starting_after": "x"})
    await ask(f"GET {resp}/input_items", ids=named, params={"limit": 1, "order": "asc"})
    await ask(f"POST {resp}/cancel", 400, ids=named)
    await ask(f"GET {resp}", 400, ids=named, params={"stream": "yes"})
    live = await ask("POST /v1/responses", json={"model": "slow", "input": "w " * 300, "background": True})
    await ask(f"POST {resp}/cancel", ids={"response_id": live["id"]})
    await ask(f"DELETE {resp}", ids=named)
    await ask(f"GET {conv}", ids=ids)
    await ask(f"POST {conv}", ids=ids, json={"metadata": {}})
    await ask(f"POST {conv}/items", 400, ids=ids, json={"items": "a text"})
    listed = await ask(f"GET {conv}/items", ids=ids, params={"limit": 2})
    await ask(f"POST {conv}/items", ids=ids, json={"items": [{"role": "user", "content": "x"}]})
    item = {**ids, "item_id": listed["data"][0]["id"]}
    await ask(f"GET {conv}/items/{{item_id}}", ids=item)
    await ask(f"DELETE {conv}/items/{{item_id}}", ids=item)
    await ask(f"DELETE {conv}", ids=ids)
    chat = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    await ask("POST /v1/chat/completions", json=chat)
    wanted = {**chat, "stream": True, "stream_options": {"include_usage": True}}
    await ask("POST /v1/chat/completions", json=wanted)
    await ask("POST /v1/chat/completions", 400, json={"model": "echo"})
    await ask("GET /v1/models")
    await ask("GET /v1/models/{model}", ids={"model": "echo"})
    await _in_doubt(ask)
    await _looking(ask)
    await _remembered(ask)
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        await ask(f"GET {path}")
    await _not_there(ask)
    assert {operation for operation, status in ask.seen if status == 200} == set(_all(ask))


async def _in_doubt(ask: Checked) -> None:
    await ask("POST /v1/responses", json={"model": "worker", "input": "charge"})
    effects = await ask("GET /operator/effects", params={"limit": 10})
    await ask("GET /operator/effects", 400, params={"limit": 0})
    found = {"effect": effects["effects"][-1]["id"]}
    await ask("GET /operator/effects/{effect}", ids=found)
    await ask("POST /operator/effects/{effect}/resolve", 400, ids=found, json={})
    await ask("POST /operator/effects/{effect}/resolve", ids=found, json={"happened": False})


async def _looking(ask: Checked) -> None:
    made = await ask("POST /v1/responses", json={"model": "worker", "input": "note read"})
    ids = {"tenant": "dev", "response_id": made["id"], "conversation_id": conversation_of(made["id"])}
    while not (await ask("GET /operator/pods"))["pods"]:
        await asyncio.sleep(0.05)
    assert (await ask("GET /operator/queue"))["depth"] == 0
    seen = await ask("GET /operator/sessions/{tenant}/{conversation_id}", ids=ids)
    assert (seen["newest_response"], seen["live_response"]) == (made["id"], None)
    listed = await ask("GET /operator/sessions/{tenant}/{conversation_id}/runs", ids=ids)
    assert [(one["response"], one["status"]) for one in listed["runs"]] == [(made["id"], "completed")]
    run = await ask("GET /operator/runs/{tenant}/{response_id}", ids=ids)
    assert [effect["tool"] for effect in run["effects"]] == ["note", "read"]
    assert all(effect["outcome"]["state"] == "recorded" for effect in run["effects"])
    for path in ("sessions/{tenant}/{conversation_id}", "sessions/{tenant}/{conversation_id}/runs"):
        await ask(f"GET /operator/{path}", 400, ids={**ids, "tenant": "a:b"})
        await ask(f"GET /operator/{path}", 404, ids={**ids, "tenant": "other"})
    await ask("GET /operator/runs/{tenant}/{response_id}", 404, ids={**ids, "tenant": "other"})


async def _remembered(ask: Checked) -> None:
    user, ids = "/operator/users/{user}", {"user": "openapi"}
    await ask(f"POST {user}/turns", ids=ids, json={"items": [{"id": "msg_1", "text": "I live in Lisbon."}]})
    await ask(f"POST {user}/turns", 400, ids=ids, json={"items": []})
    made = await ask(f"POST {user}/facts", ids=ids, json={"attribute": "city", "value": "Lisbon"})
    for wrong in ({"value": None}, {"polarity": "no"}, {"card": ["one"]}, {"at": "soon"}, {"pinned": "yes"}):
        await ask(f"POST {user}/facts", 400, ids=ids, json={"attribute": "city", "value": "Lisbon", **wrong})
    for name, value in {"tenant": "", "state": "held", "at": "soon"}.items():
        await ask(f"GET {user}/facts", 400, ids=ids, params={name: value})
    fact = {**ids, "fact": made["id"]}
    for path in ("", "/facts", "/turns", "/export"):
        await ask(f"GET {user}{path}", ids=ids)
    await ask(f"GET {user}/facts/{{fact}}", ids=fact)
    await ask(f"GET {user}/search", ids=ids, params={"q": "where?", "k": 3})
    await ask(f"GET {user}/search", 400, ids=ids)
    await ask(f"GET {user}/search", 400, ids=ids, params={"q": "where?", "kinds": "fact"})
    await ask(f"POST {user}/context", ids=ids, json={"query": "where?"})
    await ask(f"POST {user}/compact", ids=ids, json={})
    await ask(f"DELETE {user}/turns/{{item}}", ids={**ids, "item": "msg_1"})
    await ask(f"DELETE {user}/facts/{{fact}}", ids=fact)
    await ask(f"GET {user}/facts/{{fact}}", 404, ids={**ids, "fact": "unknown"})
    await ask(f"DELETE {user}", ids=ids, json={"scan": False})
    await ask("GET /operator/jobs")
    await ask("POST /operator/jobs/revive", json={})


async def _not_there(ask: Checked) -> None:
    for operation in _all(ask):
        method, path = operation.split(" ")
        statuses = ask._told["paths"][path][method.lower()]["responses"]
        if "404" in statuses and "{" in path and "{user}" not in path:
            await ask(operation, 404, json={"happened": True, "items": [{"role": "user", "content": "x"}]})


def _all(ask: Checked) -> list[str]:
    return [f"{method.upper()} {path}" for path, methods in ask._told["paths"].items() for method in methods]

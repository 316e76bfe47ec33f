"""What orchestrators and Prometheus see."""

from __future__ import annotations

import re

import httpx2
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from agentrt.store.keys import pod_channel
from tests.harness.pod import Pod
from tests.harness.redis_server import free_port
from tests.http.conftest import NO_TLS
from tests.http.wire import UNKNOWN, eventually, new_conversation, say

Client = httpx2.AsyncClient
ID = re.compile(r"[0-9A-Za-z]{22}")


async def test_livez_and_readyz_say_who_they_are_and_what_they_checked(pods: list[Pod], a: Client, b: Client) -> None:
    for pod, client in zip(pods, (a, b), strict=True):
        for path, check in (("/livez", "event_loop"), ("/readyz", "redis")):
            answered = await client.get(path)
            assert answered.status_code == 200
            body = answered.json()
            assert (body["status"], body["pod"], body["pid"]) == ("ok", pod.name, pod.pid)
            state = body["checks"][check]
            assert (state["state"], state["reason"]) == ("ok", None)
            assert state["age_seconds"] >= 0
    assert (await a.get("/readyz")).json()["checks"]["redis"]["asked_seconds_ago"] < 5


async def test_readyz_says_what_redis_keeps_and_refuses_nothing_for_it(a: Client) -> None:
    async def known() -> bool:
        return bool((await a.get("/readyz")).json()["checks"]["durability"]["state"] == "off")

    await eventually(known)
    answered = await a.get("/readyz")
    assert answered.status_code == 200
    assert "appendonly is off" in answered.json()["checks"]["durability"]["reason"]


async def test_every_pod_hears_notices(pods: list[Pod], store: redis.Redis) -> None:
    """Grants and cancels reach a pod at once, and others can see that it lives."""
    assert store.pubsub_numsub(*(pod_channel(pod.name) for pod in pods)) == [
        (pod_channel(pod.name).encode(), 1) for pod in pods
    ]


async def test_the_age_of_a_check_grows(a: Client) -> None:
    first = (await a.get("/livez")).json()["checks"]["event_loop"]["age_seconds"]

    async def older() -> bool:
        return (await a.get("/livez")).json()["checks"]["event_loop"]["age_seconds"] > first

    await eventually(older)


async def test_a_pod_without_redis_lives_and_is_not_ready() -> None:
    pod = Pod(f"redis://127.0.0.1:{free_port()}/0", name="alone").start(wait=False)
    try:
        async with Client(base_url=pod.url, verify=NO_TLS) as client:

            async def answers() -> bool:
                try:
                    return (await client.get("/livez")).status_code == 200
                except httpx2.TransportError:
                    return False

            async def down() -> bool:
                return bool((await client.get("/readyz")).json()["checks"]["redis"]["state"] == "down")

            await eventually(answers)
            await eventually(down)
            answered = await client.get("/readyz")
            assert (answered.status_code, answered.headers["retry-after"]) == (503, "1")
            assert answered.json()["status"] == "unavailable"
            assert answered.json()["checks"]["redis"]["reason"]
            assert (await client.get("/livez")).status_code == 200
            refused = await say(client, "hello")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await _value(client, "agentrt_ready")) == 0
    finally:
        pod.stop()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/models", 200),
        ("POST", "/v1/conversations", 200),
        ("POST", "/v1/responses", 400),
        ("GET", f"/v1/conversations/conv_{UNKNOWN}", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/responses", 405),
    ],
)
async def test_every_answer_names_its_pod(a: Client, b: Client, method: str, path: str, status: int) -> None:
    for client, name in ((a, "pod-a"), (b, "pod-b")):
        answered = await client.request(method, path)
        assert answered.status_code == status
        assert answered.headers.get_list("x-agentrt-pod") == [name]


async def test_refusals_and_streams_name_their_pod_too(a: Client) -> None:
    large = await a.post("/v1/responses", content=b" " * (1024 * 1024 + 1))
    streamed = await say(a, "hello", stream=True)
    reused = [await say(a, text, headers={"Idempotency-Key": "pod header"}) for text in ("one", "two")][1]
    assert [answered.status_code for answered in (large, streamed, reused)] == [413, 200, 422]
    assert {answered.headers["x-agentrt-pod"] for answered in (large, streamed, reused)} == {"pod-a"}


async def _samples(client: Client) -> list[Sample]:
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    return [sample for family in families for sample in family.samples]


async def _value(client: Client, name: str, **labels: str) -> float:
    found = [s.value for s in await _samples(client) if s.name == name and labels.items() <= s.labels.items()]
    return sum(found)


async def test_metrics_parse_and_each_has_a_help_text(a: Client) -> None:
    await say(a, "look up order A1")
    answered = await a.get("/metrics")
    assert answered.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answered.text))
    assert len(families) > 12
    for family in families:
        assert family.documentation, family.name
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert family.name.startswith("agentrt_"), family.name


async def test_a_turn_is_counted_where_it_happened(a: Client, b: Client) -> None:
    async def counts(client: Client) -> list[float]:
        return [
            await _value(client, "agentrt_turns_total", agent="support", status="completed"),
            await _value(client, "agentrt_effects_total", tool="get_order", outcome="recorded"),
            await _value(client, "agentrt_turn_seconds_count", agent="support"),
            await _value(client, "agentrt_begins_total", outcome="owned"),
            await _value(client, "agentrt_http_requests_total", route="responses.create", code="200"),
        ]

    before = [await counts(client) for client in (a, b)]
    await say(a, "look up order A1")
    after = [await counts(client) for client in (a, b)]
    assert [new - old for new, old in zip(after[0], before[0], strict=True)] == [1] * 5
    assert after[1] == before[1]
    assert await _value(a, "agentrt_runs_in_flight") == 0
    assert await _value(a, "agentrt_ready") == 1


async def test_labels_never_contain_an_id(a: Client) -> None:
    conversation = await new_conversation(a)
    made = (await say(a, "open a ticket: labels", conversation=conversation)).json()
    paths = [f"/v1/responses/{made['id']}", f"/v1/conversations/{conversation}", f"/nowhere/{UNKNOWN}"]
    for path in [*paths, f"/v1/conversations/conv_{UNKNOWN}", f"/v1/models/{UNKNOWN}"]:
        await a.get(path)
    await a.request("PURGE", f"/v1/responses/{UNKNOWN}")
    await say(a, "hello", model=UNKNOWN)
    values = {value for sample in await _samples(a) for value in sample.labels.values()}
    assert "responses.retrieve" in values
    assert not [value for value in values if ID.search(value)]
    assert "PURGE" not in values
    assert len(values) < 100

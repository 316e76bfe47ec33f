"""Pods of two releases, and of two versions of the schema, in one fleet, before and after `agentrt schema bump`.

With AGENTRT_OLD_SRC (the `src` folder of another revision) the older pods run that code: `make mixed REVISION=...`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import redis

from agentrt.store.keys import schema_key
from tests.harness.load import Load
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import keys_of, record, status, wait_until
from tests.harness.warm import agentrt

TARGET = "tests.harness.agents:agents"
QUICK = {"AGENTRT_LEASE_MS": "1000"}
OLD_SRC = os.environ.get("AGENTRT_OLD_SRC", "")


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    """Each test begins with an empty Redis and is checked for leaked keys."""


def old(server: RedisServer, name: str, kind: str = "first", **env: str) -> Pod:
    """A pod of the release before."""
    if OLD_SRC and kind == "first":
        return Pod(server.url, target=TARGET, name=name, env={"PYTHONPATH": OLD_SRC, **env})
    entry = ("-m", "tests.harness.pod_of_schema", kind)
    return Pod(server.url, target=TARGET, name=name, env=env, entry=entry)


def new(server: RedisServer, name: str, **env: str) -> Pod:
    return Pod(server.url, target=TARGET, name=name, env=env)


def schema(server: RedisServer, *args: str) -> tuple[int, str]:
    """`agentrt schema ...`: its status and what it prints."""
    done = agentrt("schema", *args, env={"AGENTRT_REDIS_URL": server.url})
    return done.returncode, done.stdout + done.stderr


def written(client: redis.Redis) -> bytes | None:
    return client.hget(schema_key(), "writes")


@contextmanager
def fleet(server: RedisServer, **env: str) -> Iterator[tuple[Pod, Pod, redis.Redis]]:
    """A new pod that came to an old one: (new, old, Redis from outside)."""
    with old(server, "v-old", **env) as before, server.client() as client:
        wait_until(lambda: bool(client.hlen("agentrt:{pods}:live")), 10, "a sign of the old pod")
        with new(server, "v-new", **env) as after:
            wait_until(lambda: client.hlen("agentrt:{pods}:live") == 2, 10, "a sign of the new pod")
            yield after, before, client


def version_of(client: redis.Redis, conversation: str) -> bytes | None:
    return client.hget(f"agentrt:{{dev/{conversation.removeprefix('conv_')}}}", "v")


def say(pod: Pod, text: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{pod.url}/v1/responses", json={"model": "echo", "input": text, **body}, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def input_of(pod: Pod, response: str) -> httpx2.Response:
    return httpx2.get(f"{pod.url}/v1/responses/{response}/input_items", timeout=30)


@pytest.mark.timeout(300)
def test_a_fleet_of_two_versions(redis_server: RedisServer) -> None:
    """Side by side nothing is refused. Raising the version is, while a pod would not know it; forced, that pod answers
    503 for what is newer, conversations cross over under load, and nothing is lost."""
    with fleet(redis_server) as (after, before, client), Load([after, before], 3, pause_s=0.1) as load:
        load.wait_answered(time.monotonic(), 30, 60)
        assert not load.refused
        assert written(client) == b"1"
        assert {version_of(client, one.conversation) for one in load.talkers} == {b"1"}
        status, text = schema(redis_server, "bump")
        assert status == 1 and "v-old" in text and "v-new" not in text
        assert written(client) == b"1"
        shown = schema(redis_server, "show")
        assert shown[0] == 0 and "written: 1" in shown[1] and "pod v-old: up to 1" in shown[1]
        first = say(before, "said before")

        assert schema(redis_server, "bump", "--force")[0] == 0
        assert written(client) == b"2"
        since = time.monotonic()
        wait_until(
            lambda: {version_of(client, one.conversation) for one in load.talkers} == {b"2"}, 20, "the crossing over"
        )
        load.wait_answered(since, 30, 60)
        wait_until(lambda: bool(load.refused), 20, "a refusal")
        load.stop()
        assert load.lost() == []
        assert load.refused and all("schema_newer" in one for one in load.refused), load.refused[:3]
        assert input_of(before, first["id"]).status_code == 200  # its session is idle, and what it was
        print(f"{len(load.answered)} turns, {len(load.refused)} refused by the old pod, sent again, none lost")


@pytest.mark.timeout(300)
def test_an_update_without_a_refusal(redis_server: RedisServer) -> None:
    """As it is meant: all pods are new before the version is raised; then nobody notices."""
    with fleet(redis_server) as (after, before, client), new(redis_server, "v-newer") as newer:
        with Load([after, newer], 3, pause_s=0.1) as load:
            said = say(before, "hello")
            load.wait_answered(time.monotonic(), 10, 60)
            before.stop()
            assert schema(redis_server, "bump")[0] == 0  # it said goodbye
            since = time.monotonic()
            wait_until(
                lambda: {version_of(client, one.conversation) for one in load.talkers} == {b"2"}, 20, "crossing over"
            )
            load.wait_answered(since, 10, 60)
            load.stop()
            assert load.lost() == [] and not load.refused
        assert input_of(newer, said["id"]).json()["data"][0]["content"][0]["text"] == "hello"


ROUTES = [
    ("GET", "/v1/conversations/{conversation}", None),
    ("POST", "/v1/conversations/{conversation}", {"metadata": {}}),
    ("DELETE", "/v1/conversations/{conversation}", None),
    ("GET", "/v1/conversations/{conversation}/items", None),
    ("POST", "/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
    ("GET", "/v1/conversations/{conversation}/items/{item}", None),
    ("DELETE", "/v1/conversations/{conversation}/items/{item}", None),
    ("GET", "/v1/responses/{response}", None),
    ("GET", "/v1/responses/{response}?stream=true", None),
    ("GET", "/v1/responses/{response}/input_items", None),
    ("POST", "/v1/responses/{response}/cancel", None),
    ("DELETE", "/v1/responses/{response}", None),
    ("POST", "/v1/responses", {"model": "echo", "input": "x", "conversation": "{conversation}"}),
    ("POST", "/v1/responses", {"model": "echo", "input": "x", "previous_response_id": "{response}"}),
    ("POST", "/v1/responses", {"model": "echo", "input": "x", "conversation": "{conversation}", "stream": True}),
    ("GET", "/operator/sessions/dev/{conversation}", None),
    ("GET", "/operator/sessions/dev/{conversation}/runs", None),
    ("GET", "/operator/runs/dev/{response}", None),
]
"""Everything that a client or an operator may ask of a session."""


def test_an_old_pod_refuses_what_is_newer(redis_server: RedisServer) -> None:
    """Whatever it is asked: 503, and when to come again; nothing is changed. Without its look at the version it tells
    that the client had said nothing."""
    with new(redis_server, "v-a") as after, redis_server.client() as client:
        conversation = httpx2.post(f"{after.url}/v1/conversations", json={}, timeout=10).json()["id"]
        wait_until(lambda: written(client) == b"2", 10, "the first sign of life")
        said = say(after, "my words", conversation=conversation)
        wait_until(lambda: version_of(client, conversation) == b"2", 5, "version 2")
        names = {"conversation": conversation, "response": said["id"], "item": said["output"][0]["id"]}
        keys, _ = keys_of(said["id"])
        before = {key: client.dump(key) for key in client.scan_iter(match=f"{keys.hash.decode()}*")}
        with old(redis_server, "v-b") as b:
            for method, path, body in ROUTES:
                asked = {k: v.format(**names) if isinstance(v, str) else v for k, v in (body or {}).items()} or body
                answer = httpx2.request(method, b.url + path.format(**names), json=asked, timeout=30)
                assert answer.status_code == 503, (method, path, answer.status_code, answer.text)
                told = answer.json()
                native = path.startswith("/operator/")
                assert (told["code"] if native else told["error"]["code"]) == "schema_newer"
                assert int(answer.headers["retry-after"]) >= 1
            assert b.ready()
        assert before == {key: client.dump(key) for key in client.scan_iter(match=f"{keys.hash.decode()}*")}
        right = input_of(after, said["id"]).json()["data"]
        assert right[0]["content"][0]["text"] == "my words"
        with old(redis_server, "v-c", "blind") as c:
            wrong = input_of(c, said["id"])
            assert (wrong.status_code, wrong.json()["data"]) == (200, []), "the control proves nothing"


def counted(pod: Pod, outcome: str) -> float:
    text = httpx2.get(f"{pod.url}/metrics", timeout=10).text
    found = re.search(rf'^agentrt_claims_total{{outcome="{outcome}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.timeout(300)
def test_a_run_that_an_old_pod_cannot_read_is_left_to_a_new_one(redis_server: RedisServer) -> None:
    """Put back as often as need be, which is no attempt; the next new pod ends it."""
    with old(redis_server, "v-d", **QUICK) as d, redis_server.client() as client:
        client.hset(schema_key(), "writes", "2")
        with new(redis_server, "v-e", **QUICK) as e:
            wait_until(lambda: client.hlen("agentrt:{pods}:live") == 2, 10, "a sign of the new pod")
            run = say(e, " ".join(["word"] * 40), model="slow", background=True)["id"]
            wait_until(lambda: status(client, run) == "running", 10)
            session, _ = keys_of(run)
            assert client.hget(session.hash, "v") == b"2"
            e.kill()
        wait_until(lambda: counted(d, "put_back") >= 2, 20, "two looks of the old pod")
        assert (status(client, run), record(client, run)["attempt"]) == ("running", "1")
        with new(redis_server, "v-f", **QUICK):
            wait_until(lambda: status(client, run) == "completed", 20)
        assert (record(client, run)["attempt"], record(client, run).get("spared", "0")) == ("2", "0")
        assert "input" not in record(client, run)

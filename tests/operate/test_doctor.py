"""`agentrt doctor` and the look at a pod's start: right verdicts on Redis as they come, and never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from agentrt.cli import main
from agentrt.runtime.findings import Verdict, judge_configuration, judge_failover, judge_vitals
from tests.harness.pod import Pod
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer, free_port

GOOD = ("--appendonly", "yes", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction")


def ask(url: str, *args: str, **env: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON it printed, and what it said on stderr."""
    told = CliRunner().invoke(main, ["doctor", "--json", *args], env={"AGENTRT_REDIS_URL": url, **env})
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.exit_code, json.loads(told.stdout) if told.stdout else {}, told.stderr


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    """Check → verdict."""
    return {finding["check"]: finding["verdict"] for finding in report["findings"]}


@pytest.fixture(scope="module")
def good() -> Iterator[RedisServer]:
    with RedisServer(*GOOD) as server:
        yield server


def test_a_good_redis(good: RedisServer) -> None:
    """One server without a replica: nothing fails, and that there is no replica is said."""
    status, report, _ = ask(good.url)
    assert (status, report["verdict"]) == (0, "warn")
    assert {check for check, verdict in verdicts(report).items() if verdict != "pass"} == {"replicas"}
    assert {finding["step"] for finding in report["findings"]} == {1, 2, 3, 4, 5, 6}
    assert [todo["check"] for todo in report["plan"]] == ["replicas"]


def test_a_good_redis_with_a_replica_and_a_master_that_minds_it() -> None:
    minding = ("--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0")
    with (
        RedisServer(*GOOD, *minding) as master,
        RedisServer("--replicaof", "127.0.0.1", str(master.port)),
        master.client() as client,
    ):
        deadline = time.monotonic() + 30
        while client.info("replication").get("min_slaves_good_slaves", 0) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        status, report, _ = ask(master.url)
        assert (status, report["verdict"], report["plan"]) == (0, "pass", [])


@pytest.mark.parametrize(
    ("setting", "value", "check", "verdict"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy", "fail"),
        ("maxmemory", "0", "maxmemory", "warn"),
        ("appendonly", "no", "persistence", "fail"),
        ("appendfsync", "no", "persistence", "warn"),
        ("maxmemory", "1", "write and read back", "fail"),
    ],
)
def test_a_redis_that_is_set_up_badly(good: RedisServer, setting: str, value: str, check: str, verdict: str) -> None:
    with good.client() as client:
        before = client.config_get(setting)[setting]
        client.config_set(setting, value)
        try:
            status, report, _ = ask(good.url)
        finally:
            client.config_set(setting, before)
    assert verdicts(report)[check] == verdict
    assert status == (1 if verdict == "fail" else 0)
    (todo,) = [todo for todo in report["plan"] if todo["check"] == check]
    assert todo["do"] and todo["risk"]
    assert report["plan"][0]["verdict"] == report["verdict"], "failures first"


def test_a_replica(good: RedisServer) -> None:
    with RedisServer("--replicaof", "127.0.0.1", str(good.port)) as replica:
        status, report, _ = ask(replica.url)
    assert status == 1
    seen = verdicts(report)
    assert seen["write and read back"] == seen["role"] == "fail"
    assert seen["acquire and release"] == "fail"


def test_no_redis() -> None:
    status, report, _ = ask(f"redis://127.0.0.1:{free_port()}/0")
    assert status == 1
    assert verdicts(report)["write and read back"] == "fail"
    assert {finding["verdict"] for finding in report["findings"]} == {"fail", "skip"}
    assert [todo["check"] for todo in report["plan"]] == ["write and read back"]


async def test_a_server_that_is_too_old(good: RedisServer) -> None:
    """A real one behind a proxy that puts another version into its INFO, of the same length."""
    with good.client() as client:
        version = client.info("server")["redis_version"]
    told = f"redis_version:{version}".encode()
    old = f"redis_version:{'6.0.9'.ljust(len(version), '0')}".encode()
    async with ByteProxy(good.port) as proxy:
        proxy.on_reply = lambda data: data.replace(told, old)
        status, report, _ = await asyncio.to_thread(ask, proxy.url)
    assert (status, verdicts(report)["version"]) == (1, "fail")
    (todo,) = [todo for todo in report["plan"] if todo["verdict"] == "fail"]
    assert todo["check"] == "version" and "6.2" in todo["do"]


def test_a_wrong_password_and_a_wrong_url(good: RedisServer) -> None:
    status, report, _ = ask(good.url.replace("//", "//nobody:wrong@"))
    assert (status, verdicts(report)["write and read back"]) == (1, "fail")
    status, report, told = ask("http://example.invalid")
    assert (status, report) == (1, {}) and "AGENTRT_REDIS_URL" in told


def test_keys_that_nobody_will_remove_and_strangers(good: RedisServer) -> None:
    with good.client() as client:
        client.hset("agentrt:{acme/0000000000000000000000}", "v", "9")
        client.set("somebody:else", "1", ex=60)
        try:
            status, report, _ = ask(good.url)
        finally:
            client.flushall()
    seen = verdicts(report)
    assert (status, seen["schema"], seen["keys without a TTL"], seen["strangers"]) == (1, "fail", "warn", "warn")


def test_lock_masters_of_which_one_is_away(good: RedisServer) -> None:
    with RedisServer() as other:
        urls = [good.url, other.url, f"redis://127.0.0.1:{free_port()}/0"]
        status, report, _ = ask(good.url, AGENTRT_LOCK_REDIS_URLS=",".join(urls))
        assert status == 0
        assert verdicts(report)["acquire and release"] == "pass"
        assert verdicts(report)["lock master 3"] == "warn"
        urls[1] = f"redis://127.0.0.1:{free_port()}/0"
        status, report, _ = ask(good.url, AGENTRT_LOCK_REDIS_URLS=",".join(urls))
        assert (status, verdicts(report)["acquire and release"]) == (1, "fail")


def test_the_pod_too(good: RedisServer) -> None:
    with Pod(good.url, name="patient") as pod:
        status, report, _ = ask(good.url, "--url", pod.url)
        assert (status, verdicts(report)["the pod"], verdicts(report)["the metric"]) == (0, "pass", "pass")
    status, report, _ = ask(good.url, "--url", pod.url)
    assert (status, verdicts(report)["the pod"]) == (1, "fail")


def test_the_table_shows_all_seven_steps(good: RedisServer) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "agentrt.cli", "doctor"],
        env={**os.environ, "AGENTRT_REDIS_URL": good.url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line[0] for line in told.stdout.splitlines() if line[0].isdigit()] == list("1234567")
    assert told.stdout.isascii(), "no colours and no art where nobody looks"


def test_it_leaves_nothing_behind_that_does_not_expire(good: RedisServer) -> None:
    with good.client() as client:
        client.flushall()
        ask(good.url)
        assert all(client.ttl(key) > 0 for key in client.scan_iter())


def test_preflight_refuses_a_redis_that_evicts_and_waits_for_one_that_is_away() -> None:
    with RedisServer("--maxmemory-policy", "allkeys-lru") as server:
        strict = Pod(server.url, name="strict", env={"AGENTRT_PREFLIGHT": "fail"})
        with pytest.raises(RuntimeError, match="maxmemory-policy: allkeys-lru"):
            strict.start()
        assert "Traceback" not in strict.log.read_text()
        strict.stop()
        with Pod(server.url, name="warned", env={"AGENTRT_PREFLIGHT": "warn"}) as pod:
            assert "maxmemory-policy noeviction" in pod.log.read_text()
        server.stop()
        waiting = Pod(server.url, name="waiting", env={"AGENTRT_PREFLIGHT": "fail"}).start(wait=False)
        with RedisServer(*GOOD, port=server.port):
            waiting.wait_ready()
        waiting.stop()


def test_what_cannot_be_had_here() -> None:
    """A server that is too old, failing saves, replicas that lag, a Cluster that is not ok."""
    old = {"redis_version": "6.0.16", "maxmemory": "1", "maxmemory_policy": "noeviction", "aof_enabled": "1"}
    assert {one.check for one in judge_configuration(old, {}) if one.verdict is Verdict.FAIL} == {"version"}
    for version in ("6.2.14", "7.0.15", "8.0.0"):
        told = judge_configuration(old | {"redis_version": version}, {})
        assert not [one for one in told if one.verdict is Verdict.FAIL]
    sick = {"aof_last_write_status": "err", "evicted_keys": "3", "used_memory": "95", "maxmemory": "100"}
    sick |= {"slave0": "ip=1.2.3.4,lag=30", "connected_clients": "99", "maxclients": "100"}
    failing = {one.check for one in judge_vitals(sick) if one.verdict is Verdict.FAIL}
    assert failing == {"last save", "evicted keys", "memory", "replication lag", "connections"}
    broken = {"role": "master", "cluster_enabled": "1", "cluster_state": "fail"}
    assert judge_failover(broken, {})[-1].verdict is Verdict.FAIL
    assert judge_configuration(old, {"save": "3600 1"})[-1].verdict is Verdict.PASS
    snapshots = judge_configuration(old | {"aof_enabled": "0"}, {"save": "3600 1"})
    assert snapshots[-1].verdict is Verdict.WARN

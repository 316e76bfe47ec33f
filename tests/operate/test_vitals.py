"""The vital signs: read from a real Redis by a real pod, exported under the declared names, gone with Redis."""

from __future__ import annotations

import subprocess

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.vitals import Vitals, parse_info, readings
from agentrt.telemetry import RedisVitals
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisCluster, RedisServer

DECLARED = {*RedisVitals.GAUGES, *RedisVitals.COUNTERS}


def text(pod: Pod) -> str:
    return httpx2.get(f"{pod.url}/metrics", timeout=10).text


def exported(pod: Pod) -> dict[str, float]:
    """Samples without labels, by name."""
    samples = [sample for family in text_string_to_metric_families(text(pod)) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if not sample.labels}


@pytest.mark.needs("promtool")
def test_a_pod_exports_what_its_redis_says(redis_url: str, redis_server: RedisServer) -> None:
    with redis_server.client() as client, Pod(redis_url) as pod:
        client.config_set("maxmemory", "64mb")
        try:
            seen = exported(pod)
            assert seen["agentrt_redis_up"] == seen["agentrt_redis_master"] == seen["agentrt_redis_noeviction"] == 1
            assert seen["agentrt_redis_memory_max_bytes"] == 64 * 1024 * 1024
            assert seen["agentrt_redis_evicted_keys_total"] == seen["agentrt_effects_in_doubt"] == 0
            assert seen["agentrt_redis_clients"] >= 3
            assert seen["agentrt_notices_age_seconds"] < 60
            assert seen["agentrt_redis_probe_seconds_count"] >= 1
            told = subprocess.run(
                ["promtool", "check", "metrics"], input=text(pod), capture_output=True, text=True, check=False
            )
            assert told.returncode == 0, told.stderr
            client.config_set("maxmemory-policy", "allkeys-lru")
            assert exported(pod)["agentrt_redis_noeviction"] == 0
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")


def test_an_acl_without_info_blinds_no_autoscaler(redis_url: str, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "small", "on", ">secret", "~*", "&*", "+@all", "-info")
        try:
            with Pod(redis_url.replace("//", "//small:secret@")) as pod:
                seen = exported(pod)
                assert seen["agentrt_queue_depth"] == 0
                assert seen["agentrt_redis_up"] == 1
                assert "agentrt_redis_memory_used_bytes" not in seen
        finally:
            client.execute_command("ACL", "DELUSER", "small")


def test_without_redis_it_is_down_and_the_rest_is_not_told() -> None:
    with RedisServer() as server, Pod(server.url, name="vitals") as pod:
        assert exported(pod)["agentrt_redis_up"] == 1
        server.stop()
        seen = exported(pod)
        assert seen["agentrt_redis_up"] == 0
        assert seen["agentrt_queue_depth"] != seen["agentrt_queue_depth"], "NaN: a zero would scale down"
        assert not [name for name in seen if name.startswith("agentrt_redis_memory")]


def test_every_reading_is_declared(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        raw = client.connection_pool.get_connection()
        raw.send_command("INFO")
        info = parse_info(raw.read_response(disable_decoding=True))
        client.connection_pool.release(raw)
    assert info["role"] == "master"
    lagging = {"slave0": "ip=1.2.3.4,port=1,state=online,offset=1,lag=3", "slave1": "lag=7", "time": "2000000000"}
    clustered = {"cluster_state": "fail", "cluster_slots_fail": "1", "cluster_slots_pfail": "2"}
    newer = {"aof_delayed_fsync": "1", "acl_access_denied_auth": "2", "acl_access_denied_key": "3"}
    told = readings(info | lagging | clustered | newer)
    assert told.keys() == DECLARED
    assert (told["replica_lag_seconds"], told["cluster_ok"], told["cluster_slots_bad"]) == (7, 0, 3)
    assert told["acl_denied"] == 5


async def test_cluster_info_is_read_on_a_cluster() -> None:
    with RedisCluster() as cluster:
        node = Redis(RedisOptions(cluster.nodes[0].url))
        await node.start()
        told = readings(await Vitals(node).info())
        await node.aclose()
    assert (told["cluster_ok"], told["cluster_slots_bad"]) == (1, 0)

"""What goes wrong with Redis."""

from __future__ import annotations

import itertools
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import redis

from agentrt.store.keys import QueueKeys
from tests.harness.redis_server import RedisCluster, RedisServer, valkey
from tests.operate.causes.stage import Stage, cause

MB = 1 << 20


def fill(client: redis.Redis, upto: int) -> None:
    """Write 64 KiB pieces until Redis refuses, or so many are written."""
    with suppress(redis.ResponseError):
        for number in range(upto):
            client.set(f"filler:{number}", b"x" * 65_536, ex=600)


def used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


@cause("AgentrtRedisDown", "AgentrtNotReady", "AgentrtPodNotReady")
def redis_stopped(stage: Stage) -> Iterator[None]:
    """The Redis of two pods is killed."""
    server = stage.redis()
    stage.pod(server.url)
    stage.pod(server.url)
    yield
    server.stop()
    yield
    with RedisServer("--maxmemory", "256mb", port=server.port):
        yield


@cause("AgentrtRedisMemoryHigh", "AgentrtRedisMemoryCritical")
def memory_reached(stage: Stage) -> Iterator[None]:
    """Redis is filled until it refuses: `maxmemory` is reached."""
    server = stage.redis()
    stage.pod(server.url)
    client = stage.client(server)
    yield
    client.config_set("maxmemory", used(client) + 4 * MB)
    fill(client, 1000)
    yield
    client.config_set("maxmemory", 256 * MB)
    yield


@cause("AgentrtRedisMemoryUnbounded")
def memory_unbounded(stage: Stage) -> Iterator[None]:
    """`maxmemory` is set to 0."""
    server = stage.redis()
    stage.pod(server.url)
    yield
    stage.client(server).config_set("maxmemory", 0)
    yield


@cause("AgentrtRedisEvictionPolicy", "AgentrtRedisEvictions")
def eviction(stage: Stage) -> Iterator[None]:
    """`maxmemory-policy` is set to `allkeys-lru`, and more is written than fits."""
    server = stage.redis()
    stage.pod(server.url)
    client = stage.client(server)
    yield
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", used(client) + 4 * MB)
    numbers = itertools.count()
    stage.meanwhile(lambda: client.set(f"filler:{next(numbers)}", b"x" * 65_536, ex=600), 0.02)
    yield


@cause("AgentrtRedisNoMaster")
def no_master(stage: Stage) -> Iterator[None]:
    """The server that the pods speak to becomes a replica of another."""
    server, other = stage.redis(), stage.redis()
    stage.pod(server.url)
    yield
    stage.client(server).replicaof("127.0.0.1", other.port)
    yield


@cause("AgentrtRedisTwoMasters")
def two_masters(stage: Stage) -> Iterator[None]:
    """A second pod speaks to another master than the first, as on two sides of a partition."""
    stage.pod(stage.redis().url)
    yield
    stage.pod(stage.redis().url)
    yield


@cause("AgentrtRedisConnectionsHigh", "AgentrtRedisConnectionsRejected", "AgentrtRedisConnectionsRejectedOften")
def connections(stage: Stage) -> Iterator[None]:
    """Strangers take every connection that Redis has, and go on asking for more."""
    server = stage.redis()
    stage.pod(server.url)
    client = stage.client(server)
    yield
    client.config_set("maxclients", int(client.info("clients")["connected_clients"]) + 1)
    strangers: list[redis.Redis] = []

    def come() -> None:
        stranger = server.client()
        strangers.append(stranger)  # or it would be collected, and its connection closed
        stranger.ping()

    stage.meanwhile(come, 0.1)
    yield
    client.config_set("maxclients", 10_000)
    yield


@cause("AgentrtRedisBlockedClients")
def blocked(stage: Stage) -> Iterator[None]:
    """Somebody waits in a blocking command."""
    server = stage.redis()
    stage.pod(server.url)
    yield
    other = redis.Redis(port=server.port)
    waiting = threading.Thread(target=lambda: other.blpop(["nothing"], 0), daemon=True)
    waiting.start()
    yield
    stage.client(server).rpush("nothing", "1")
    waiting.join(10)
    yield


@cause("AgentrtRedisReplicasDropped")
def replica_gone(stage: Stage) -> Iterator[None]:
    """The only replica is killed."""
    server = stage.redis("--repl-diskless-sync-delay", "0")
    replica = follower(stage, server)
    stage.pod(server.url)
    yield
    replica.stop()
    yield


@cause("AgentrtRedisReplicasFlapping")
def replica_flapping(stage: Stage) -> Iterator[None]:
    """A replica leaves and comes back once a second."""
    server = stage.redis("--repl-diskless-sync-delay", "0")
    replica = follower(stage, server)
    stage.pod(server.url)
    client = stage.client(replica)
    yield
    following = itertools.cycle([False, True])

    def toggle() -> None:
        if next(following):
            client.replicaof("127.0.0.1", server.port)
        else:
            client.replicaof("NO", "ONE")

    stage.meanwhile(toggle, 1.0)
    yield


@cause("AgentrtRedisReplicaLag", "AgentrtRedisReplicaLagHigh")
def replica_frozen(stage: Stage) -> Iterator[None]:
    """The only replica is stopped (SIGSTOP)."""
    server = stage.redis("--repl-diskless-sync-delay", "0")
    replica = follower(stage, server)
    stage.pod(server.url)
    yield
    replica.signal(signal.SIGSTOP)
    yield
    replica.signal(signal.SIGCONT)
    yield


def follower(stage: Stage, master: RedisServer) -> RedisServer:
    """A replica in step."""
    replica = stage.redis("--replicaof", "127.0.0.1", str(master.port))
    client = stage.client(master)
    while client.execute_command("WAIT", 1, 1000) < 1:
        pass
    return replica


@cause("AgentrtRedisClusterDown", "AgentrtRedisClusterSlots")
def cluster_broken(stage: Stage) -> Iterator[None]:
    """A master of a Cluster without replicas is killed."""
    cluster = stage.enter(RedisCluster())
    for node in cluster.nodes:
        stage.client(node).config_set("maxmemory", 256 * MB)
    stage.pod(cluster.url)
    slot = int(stage.client(cluster.nodes[0]).execute_command("CLUSTER", "KEYSLOT", QueueKeys().leases))
    of_the_queue = min(slot // (16384 // 3), 2)
    yield
    cluster.nodes[(of_the_queue + 1) % 3].stop()
    yield


@cause("AgentrtRedisPersistenceFailing")
def persistence(stage: Stage) -> Iterator[None]:
    """The folder that Redis saves to is gone."""
    server = stage.redis()
    stage.pod(server.url)
    yield
    shutil.rmtree(server.dir)
    stage.client(server).bgsave()
    yield


@cause("AgentrtRedisSlow")
def slow(stage: Stage) -> Iterator[None]:
    """Redis stands still for a quarter of a second, again and again."""
    server = stage.redis()
    stage.pod(server.url)
    client = stage.client(server)
    yield
    stage.meanwhile(lambda: client.execute_command("DEBUG", "SLEEP", "0.25"), 0.1)
    yield


@cause("AgentrtRedisCpuHigh")
def busy(stage: Stage) -> Iterator[None]:
    """Scripts of somebody else's keep Redis' one core busy."""
    server = stage.redis()
    stage.pod(server.url)
    yield
    script = "local sum = 0 for i = 1, 2000000 do sum = sum + i end return sum"
    clients = iter([stage.client(server) for _ in range(3)])
    own = threading.local()

    def burn() -> None:
        if not hasattr(own, "client"):
            own.client = next(clients)
        own.client.eval(script, 0)

    stage.meanwhile(burn, 0.0, threads=3)
    yield


@cause("AgentrtRedisUnitsWaiting")
def pool_exhausted(stage: Stage) -> Iterator[None]:
    """Redis stands still under a load, and a pod's room for units in wait of it (20 of them) fills up."""
    server = stage.redis()
    room = {"ROOM": "20", "AGENTRT_REDIS_TIMEOUT_MS": "60000"}
    pod = stage.pod(server.url, entry=("-m", "tests.harness.narrow_pod"), **room)
    yield
    server.signal(signal.SIGSTOP)

    def ask() -> None:
        httpx2.post(f"{pod.url}/v1/responses", json={"model": "echo", "input": "hi"}, timeout=1)

    stage.meanwhile(ask, 0.0, threads=24)
    yield
    server.signal(signal.SIGCONT)
    yield


@cause("AgentrtRedisAclDenied")
def acl_denied(stage: Stage) -> Iterator[None]:
    """Somebody tries passwords. Redis tells of refusals from 7.2 on only."""
    server = stage.redis(program=valkey())
    stage.pod(server.url)
    yield
    stage.meanwhile(lambda: redis.Redis(port=server.port, username="nobody", password="guess").ping(), 0.2)
    yield

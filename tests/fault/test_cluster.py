"""Whole turns on a Cluster: a master is lost under load, and slots move under it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from agentrt.store.keys import QueueKeys, SessionKeys
from tests.harness.load import Load
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisCluster
from tests.harness.runs import TENANT, wait_until

OURS_S = 5.0
"""From the promotion of a replica to the first turn that needs it; half a second on an idle machine."""
QUEUE = key_slot(QueueKeys().slot)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(3, replicas=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pod(cluster: RedisCluster) -> Iterator[Pod]:
    """One that tells the end of a turn when a replica has it."""
    with Pod(cluster.url, name="c-a", env={"AGENTRT_WAIT_REPLICAS": "1", "AGENTRT_WAIT_TURNS": "on"}) as pod:
        yield pod


def slot_of(conversation: str) -> int:
    """Where a conversation lives."""
    return key_slot(SessionKeys(TENANT, conversation.removeprefix("conv_")).tag)


def test_a_frozen_master_is_replaced_under_load(cluster: RedisCluster, pod: Pod) -> None:
    """The worst one, which has the queue: its replica takes over, and what was acknowledged is there. Turns of its own
    sessions are told again when it is back as a replica; the others do not wait for that."""
    old = cluster.owner_of(QUEUE)
    with Load([pod], 8) as load:
        load.wait_answered(time.monotonic(), 40, 30)
        old.signal(signal.SIGSTOP)
        lost_at = time.monotonic()
        elsewhere = [node for node in [*cluster.nodes, *cluster.replicas] if node is not old]
        wait_until(lambda: cluster.owner_among(QUEUE, elsewhere) is not None, 30, "a promotion")
        promoted_at = time.monotonic()
        ours_s = load.wait_answered(promoted_at, 1, 30)
        print(f"gap {promoted_at - lost_at + ours_s:.2f} s, of which the Cluster {promoted_at - lost_at:.2f} s")
        assert ours_s < OURS_S
        wait_until(pod.ready, 10, "readiness")
        old.signal(signal.SIGCONT)
        said = [len(talker.acknowledged) for talker in load.talkers]
        wait_until(
            lambda: all(len(talker.acknowledged) > n + 1 for talker, n in zip(load.talkers, said, strict=True)),
            40,
            "turns of every conversation",
        )
        load.stop()
        assert load.lost() == []
    assert all(one.startswith("503") for one in load.refused), load.refused


def test_slots_move_under_load(cluster: RedisCluster, pod: Pod) -> None:
    """The slots of a conversation and of the queue move from master to master: nothing is lost, nothing done twice."""
    with Load([pod], 4) as load:
        load.wait_answered(time.monotonic(), 20, 30)
        for _ in range(3):
            for slot in (slot_of(load.talkers[0].conversation), QUEUE):
                here = cluster.owner_of(slot)
                to = next(node for node in cluster.masters() if node is not here)
                before = len(load.answered)
                with cluster.moving(slot, to):
                    time.sleep(0.1)  # what is being tested: a slot that is half here, half there, for a while
                wait_until(lambda: len(load.answered) > before + 8, 30, "turns")  # noqa: B023 - called here and now
        load.stop()
        assert load.lost() == []
        with cluster.owner_of(slot_of(load.talkers[0].conversation)).client() as client:
            assert client.dbsize() > 0
    assert all(one.startswith("503") for one in load.refused), load.refused

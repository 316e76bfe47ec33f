"""From service times to pods, shards and money; and the real runs that the simulation is held against."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loadtest.capacity import NEEDED, Cost, Use, cost, need, reckoned
from loadtest.driver import ROOT
from loadtest.figures import kept
from loadtest.simulation.check import compare, times_of
from loadtest.simulation.study import capacity
from loadtest.simulation.system import Times

USE = Use(think_s=55, reply_tokens=300, tokens_s=60, pod_busy=0.5, shard_busy=0.5, shard_gib=10, slots=100)
COST = Cost(pod_us=10_000, shard_us=1_000, queue_us=50, session_bytes=2**20)


def test_what_the_scarcest_part_asks_for_is_what_is_needed() -> None:
    """60,000 sessions of a turn a minute: 1,000 turns/s; 10 s of CPU, 1 s of Redis, 5,000 at once, 59 GiB."""
    found = need(60_000, USE, COST)
    assert found.turns_s == pytest.approx(1_000)
    assert found.running == pytest.approx(5_000)
    assert (found.pods, found.pods_for) == (72, "slots")
    assert (found.shards, found.shards_for) == (6, "memory")
    assert found.queue_busy == pytest.approx(0.05)
    assert need(60_000, replace(USE, slots=1_000), COST).pods == 20
    assert need(60_000, USE, replace(COST, session_bytes=1_000)).shards == 2


def test_never_less_than_two_pods_and_a_shard() -> None:
    found = need(10, USE, COST)
    assert (found.pods, found.shards) == (2, 1)


def test_a_turn_is_made_of_what_was_measured() -> None:
    found = {
        "turns": {"cpu_us_16_100": 1_000.0, "redis_cpu_us_16_100": 300.0},
        "providers": {"anthropic_adapter_cpu_us": 500.0},
        "streams": {"token_cpu_us": 10.0, "token_redis_cpu_us": 1.0},
        "tools": {"step_cpu_us_1": 500.0, "step_redis_cpu_us_1": 100.0},
        "shards": {"lease_redis_us": 50.0, "session_bytes": 500.0, "item_bytes": 320.0, "run_bytes": 2_000.0},
    }
    use = replace(USE, reply_tokens=200, tokens_event=2, tool_steps=2, item_kb=1, kept_items=10, kept_runs=1)
    of = cost(use, found)
    assert of.pod_us == pytest.approx(1_000 + 100 * (10 + 500 / 50) + 1_000)
    assert of.shard_us == pytest.approx(250 + 100 + 200)
    assert of.queue_us == 50
    assert of.session_bytes == pytest.approx(500 + 10 * (20 + 1024) + 2_000 + 1024)


def test_the_page_is_of_the_results_that_are_kept() -> None:
    """To renew it: `make capacity`."""
    page = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    sections = {name: section for name in NEEDED if (section := kept(name)) is not None}
    for table in reckoned(Use(), sections):
        assert table in page


def test_no_part_of_a_deployment_is_exceeded() -> None:
    times = Times(pod_cpu=0.01, redis_cpu=0.001, hop=0.0, model=1.0, lease_redis=0.0001)
    assert capacity(times, pods=10, shards=100, slots=1_000) == pytest.approx(1_000), "cores"
    assert capacity(times, pods=100, shards=100, slots=10) == pytest.approx(1_000 / 1.011), "slots"
    assert capacity(times, pods=1_000, shards=1, slots=1_000) == pytest.approx(1 / 0.0011), "the shard, with leases"
    assert capacity(times, 10**6, 10**6, 1_000) == pytest.approx(1 / 0.0001, rel=0.01), "the queue's shard"


def test_real_runs_are_predicted_from_one_of_them() -> None:
    """Made-up runs of an ideal machine: 4 slots a pod, models of 50 ms, a core that is never short."""
    runs = {(1, 2): 2, (1, 32): 4, (2, 8): 8, (4, 32): 16}
    scaling = {"slots": 4.0, "model_ms": 50.0, "busy_1_cpu_us": 1_000.0, "busy_1_turns_s": 1_000.0}
    for (pods, connections), at_once in runs.items():
        name = f"slots_{pods}_{connections}"
        turn_s = 0.0535
        scaling |= {f"{name}_turns_s": at_once / turn_s, f"{name}_cpu_us": 1_000.0, f"{name}_redis_cpu_us": 200.0}
        scaling |= {f"{name}_p50_us": turn_s * 1e6 * connections / at_once, f"{name}_p95_us": 0.0}
    shards = {"queue_redis_us": 0.0, "lease_redis_us": 20.0}
    _, share = times_of(scaling, shards)
    assert share == 1.0
    for one in compare(scaling, shards):
        assert one.predicted[0] == pytest.approx(one.real[0], rel=0.05)
        assert one.predicted[1] == pytest.approx(one.real[1], rel=0.1)

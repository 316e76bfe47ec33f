"""The simulation against what queueing theory knows exactly, and the rules of its autoscaler."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest
from loadtest.simulation.autoscaler import Autoscaler, Rules, wished
from loadtest.simulation.engine import Simulator, Station, spread
from loadtest.simulation.system import Layout, System, Times
from loadtest.simulation.theory import erlang_c, mean_wait_mg1, mean_wait_mmc


def waits(arrivals_s: float, servers: int, service: Callable[[Simulator], float], count: int = 25_000) -> list[float]:
    """Seconds in the line of each who came, at one station with Poisson arrivals."""
    simulator = Simulator(seed=7)
    station = Station(simulator, servers)
    found: list[float] = []

    def arrive(left: int) -> None:
        came, takes = simulator.now, service(simulator)
        station.serve(takes, lambda: found.append(simulator.now - came - takes))
        if left:
            simulator.after(simulator.chance.expovariate(arrivals_s), lambda: arrive(left - 1))

    arrive(count)
    simulator.run(float("inf"))
    return found


def test_erlang_c_as_in_the_tables() -> None:
    """Known values: one server waits with its utilisation; 2 at 1 erlang: 1/3; 10 at 7: 0.2217."""
    assert erlang_c(1, 0.8) == pytest.approx(0.8)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 7.0) == pytest.approx(0.2217, abs=5e-4)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (4, 0.7), (16, 0.8)])
def test_waits_as_in_mmc(servers: int, load: float) -> None:
    rate = servers * load
    found = waits(rate, servers, lambda simulator: simulator.chance.expovariate(1.0))
    assert fmean(found) == pytest.approx(mean_wait_mmc(rate, 1.0, servers), rel=0.15)
    assert fmean(wait > 1e-9 for wait in found) == pytest.approx(erlang_c(servers, rate), abs=0.03)


@pytest.mark.parametrize("variation", [0.0, 1.5])
def test_waits_as_in_mg1(variation: float) -> None:
    found = waits(0.7, 1, lambda simulator: spread(simulator.chance, 1.0, variation))
    assert fmean(found) == pytest.approx(mean_wait_mg1(0.7, 1.0, variation), rel=0.15)


def test_the_spread_is_what_it_says() -> None:
    chance = Simulator(seed=3).chance
    taken = [spread(chance, 2.0, 0.5) for _ in range(20_000)]
    mean = fmean(taken)
    assert mean == pytest.approx(2.0, rel=0.02)
    assert fmean((one - mean) ** 2 for one in taken) ** 0.5 / mean == pytest.approx(0.5, rel=0.05)
    assert spread(chance, 2.0, 0.0) == 2.0


def closed(layout: Layout, times: Times, connections: int, seconds: float = 20.0) -> System:
    simulator = Simulator()
    system = System(simulator, layout, times)
    system.closed_loop(connections, seconds)
    simulator.run(seconds)
    return system


QUICK = Times(pod_cpu=0.001, redis_cpu=0.0002, hop=0.0, model=0.05, variation=0.0)


def test_slots_bound_the_throughput() -> None:
    """4 slots and 50 ms: 80 turns/s less what the turns take beside the model; twice the pods, twice the turns."""
    one, two = (len(closed(Layout(pods, 4, pods_per_core=pods), QUICK, 32).seen.latencies_s) / 20 for pods in (1, 2))
    assert 75 < one < 80
    assert two / one == pytest.approx(2, rel=0.03)


def test_a_core_and_a_shard_bound_it_too() -> None:
    """Models that take no time: a core of 1 ms a turn gives 1,000 turns/s, pods on one core no more; then the shard."""
    idle = Times(pod_cpu=0.001, redis_cpu=0.0002, hop=0.0, model=0.0, variation=0.0)
    for pods in (1, 2):
        system = closed(Layout(pods, 100, pods_per_core=pods), idle, 32, seconds=3)
        assert len(system.seen.latencies_s) / 3 == pytest.approx(1_000, rel=0.02)
    system = closed(Layout(20, 100), idle, 200, seconds=2)
    assert len(system.seen.latencies_s) / 2 == pytest.approx(5_000, rel=0.02)
    assert system.busy[0] == pytest.approx(1.0, rel=0.01)


def test_every_turn_ends_and_gives_its_slot_back() -> None:
    simulator = Simulator(seed=5)
    times = Times(0.001, 0.0002, 0.0005, 0.05, queue_cpu=0.001, queue_redis=0.0001, lease_redis=0.0001)
    system = System(simulator, Layout(3, 2, shards=2, balance="random"), times)
    came = 0

    def rate(now: float) -> float:
        nonlocal came
        came += 1
        return 200.0 if now < 2 else 20.0

    system.open_loop(rate, 10)
    simulator.run(float("inf"))
    assert len(system.seen.latencies_s) == came
    assert max(system.seen.waits_s) > 0.1, "nothing waited: the test tests nothing"
    assert all(pod.free == 2 and pod.turns == 0 for pod in system.pods)
    assert not system.queue


@pytest.mark.parametrize(
    ("signals", "pods"),
    [((0, 0.0, 0), 2), ((0, 0.0, 28), 4), ((50, 1.0, 28), 10), ((1, 80.0, 28), 8), ((10_000, 99.0, 28), 200)],
)
def test_the_wish_is_that_of_the_signal_that_wants_most(signals: tuple[int, float, int], pods: int) -> None:
    """4 pods of 10 slots, 70 % of which are to be used: idle, right as it is, by depth, by age, bounded."""
    assert wished(Rules(), 4, 10, *signals) == pods


def test_pods_follow_a_spike_up_and_down() -> None:
    simulator = Simulator(seed=2)
    times = Times(0.001, 0.0002, 0.0, 1.0, queue_cpu=0.001, queue_redis=0.0001)
    system = System(simulator, Layout(2, 10, balance="least"), times)
    rules = Rules(down_after_s=60)
    scaler = Autoscaler(simulator, system, rules, slots=10, until_s=700)
    scaler.run()
    system.open_loop(lambda now: 100.0 if 60 < now < 300 else 8.0, 700)
    simulator.run(700)
    at = {int(when): pods for when, pods, _ in scaler.history}
    assert at[45] == 2
    assert at[240] >= 14, "100 turns/s of a second each at 7 runs a pod"
    assert at[690] < at[240]
    assert not system.queue

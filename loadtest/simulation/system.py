"""Pods, Redis shards, slots and the queue, as turns see them.

A turn takes CPU of its pod, waits for `begin` at its session's shard, holds a slot while the model speaks, takes CPU
again, and waits for `commit`. One that finds no slot on its pod is begun and queued, and goes on on whichever pod has a
slot first; its client is answered through the event log. What is left out: lost pods, slow networks, Redis' own
persistence, and everything a turn does beside these steps; their cost is in the service times that were measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtest.simulation.engine import Simulator, Station, spread

__all__ = ["Layout", "Seen", "System", "Times"]


@dataclass(frozen=True, slots=True)
class Times:
    """Of one turn, in seconds. CPU and Redis' time are split in halves: before the model and behind it."""

    pod_cpu: float
    redis_cpu: float
    hop: float
    """Between pod and Redis and back, beside the service there; also what a pod's event loop adds to a wait."""
    model: float
    queue_cpu: float = 0.0
    """More CPU of the pods for a turn that went through the queue."""
    queue_redis: float = 0.0
    """More of the queue's shard for such a turn."""
    lease_redis: float = 0.0
    """Of the queue's shard, for every turn: its lease."""
    variation: float = 0.5
    """Coefficient of variation of the CPU times."""
    model_variation: float = 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is. `pods_per_core`: more than one where pods share a core. `balance`: `round`, `random` or `least`
    (connections), how the load balancer chooses. The queue has a shard of its own if there is more than one."""

    pods: int
    slots: int
    shards: int = 1
    pods_per_core: int = 1
    balance: str = "round"


@dataclass(slots=True)
class Seen:
    """What was seen of turns that ended from `since` on."""

    since: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    """In the queue; of all turns, 0 for those that found a slot."""

    def percentile(self, part: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


class Pod:
    """One pod: its core, its slots, how many turns it has."""

    __slots__ = ("cpu", "free", "leaving", "turns")

    def __init__(self, cpu: Station, slots: int) -> None:
        self.cpu = cpu
        self.free = slots
        self.turns = 0
        self.leaving = False


class _Turn:
    """One turn on its way."""

    __slots__ = ("arrived", "by", "done", "pod", "queued_at", "shard", "waited")

    def __init__(self, pod: Pod, shard: Station, arrived: float, done: Callable[[], None]) -> None:
        self.by = pod
        """Where its client is connected."""
        self.pod = pod
        """Where it is worked on."""
        self.shard = shard
        self.arrived = arrived
        self.queued_at = 0.0
        self.waited = 0.0
        self.done = done


class System:
    """All of it. `turn` lets a message arrive; `seen` is what came of them."""

    def __init__(self, simulator: Simulator, layout: Layout, times: Times) -> None:
        self._simulator = simulator
        self._layout = layout
        self.times = times
        self.seen = Seen()
        cores = [Station(simulator) for _ in range(-(-layout.pods // layout.pods_per_core))]
        self.pods = [Pod(cores[n // layout.pods_per_core], layout.slots) for n in range(layout.pods)]
        self.shards = [Station(simulator) for _ in range(layout.shards)]
        self.queue: deque[_Turn] = deque()
        self._open = dict.fromkeys(self.pods)
        """Pods with a free slot."""
        self._next = 0

    # --- what an autoscaler does ------------------------------------------------------------------------------------

    def add_pod(self) -> None:
        """A pod is ready; it looks into the queue at once."""
        pod = Pod(Station(self._simulator), self._layout.slots)
        self.pods.append(pod)
        self._open[pod] = None
        while pod.free and self.queue:
            self._take(pod)

    def remove_pod(self) -> None:
        """One drains: it gets nothing new, and ends what it has."""
        pod = min(self.pods, key=lambda one: one.turns)
        pod.leaving = True
        self.pods.remove(pod)
        self._open.pop(pod, None)

    # --- a turn -------------------------------------------------------------------------------------------------------

    def turn(self, done: Callable[[], None] = lambda: None, pod: Pod | None = None) -> None:
        """A message arrives now, at that pod or at one that the balancer chooses; `done`: it is answered."""
        simulator, times = self._simulator, self.times
        pod = pod or self._choose()
        pod.turns += 1
        shard = simulator.chance.choice(self.shards)
        turn = _Turn(pod, shard, simulator.now, done)
        pod.cpu.serve(self._some(times.pod_cpu / 2), lambda: self._begin(turn))

    def _begin(self, turn: _Turn) -> None:
        times, then = self.times, lambda: self._begun(turn)
        if times.lease_redis:  # beside the session's own script, in the same write
            self.shards[0].serve(self._some(times.lease_redis), lambda: None)
        self._simulator.after(times.hop, lambda: turn.shard.serve(self._some(times.redis_cpu / 2), then))

    def _begun(self, turn: _Turn) -> None:
        pod = turn.pod
        if pod.free:
            self._seat(pod)
            self._ask(turn)
            return
        turn.queued_at = self._simulator.now
        self.queue.append(turn)
        self.shards[0].serve(self._some(self.times.queue_redis / 2), lambda: None)
        pod.cpu.serve(self._some(self.times.queue_cpu / 2), self._offer)

    def _offer(self) -> None:
        """Who begins to wait is announced: any pod with a free slot takes it."""
        if self.queue and self._open:
            self._take(next(iter(self._open)))

    def _take(self, pod: Pod) -> None:
        turn, times = self.queue.popleft(), self.times
        self._seat(pod)
        turn.pod = pod

        def taken() -> None:
            turn.waited = self._simulator.now - turn.queued_at
            pod.cpu.serve(self._some(times.queue_cpu / 2), lambda: self._ask(turn))

        self._simulator.after(times.hop, lambda: self.shards[0].serve(self._some(times.queue_redis / 2), taken))

    def _seat(self, pod: Pod) -> None:
        pod.free -= 1
        if not pod.free:
            self._open.pop(pod, None)

    def _ask(self, turn: _Turn) -> None:
        times = self.times
        said_s = spread(self._simulator.chance, times.model, times.model_variation)
        self._simulator.after(
            said_s, lambda: turn.pod.cpu.serve(self._some(times.pod_cpu / 2), lambda: self._commit(turn))
        )

    def _commit(self, turn: _Turn) -> None:
        times = self.times

        def sent() -> None:
            turn.shard.serve(self._some(times.redis_cpu / 2), lambda: self._end(turn))

        self._simulator.after(times.hop, sent)

    def _end(self, turn: _Turn) -> None:
        pod, simulator = turn.pod, self._simulator
        turn.by.turns -= 1
        pod.free += 1
        if not pod.leaving:
            self._open[pod] = None
            if self.queue:
                self._take(pod)
        if simulator.now >= self.seen.since:
            self.seen.latencies_s.append(simulator.now - turn.arrived)
            self.seen.waits_s.append(turn.waited)
        turn.done()

    def _choose(self) -> Pod:
        pods, chance = self.pods, self._simulator.chance
        if self._layout.balance == "round":
            self._next = (self._next + 1) % len(pods)
            return pods[self._next]
        if self._layout.balance == "random":
            return chance.choice(pods)
        one, other = chance.choice(pods), chance.choice(pods)  # the better of two, as proxies do
        return one if one.turns <= other.turns else other

    def _some(self, mean: float) -> float:
        return spread(self._simulator.chance, mean, self.times.variation)

    # --- what is said to it -------------------------------------------------------------------------------------------

    def open_loop(self, rate: Callable[[float], float], until_s: float) -> None:
        """Messages come by themselves, at `rate(now)` a second (Poisson)."""

        def arrive() -> None:
            if self._simulator.now < until_s:
                self.turn()
                self._simulator.after(self._simulator.chance.expovariate(rate(self._simulator.now)), arrive)

        arrive()

    def closed_loop(self, connections: int, until_s: float) -> None:
        """Each connection sends its next message when it is answered, always to the same pod, as the driver does."""
        for number in range(connections):
            self._talk(self.pods[number % len(self.pods)], until_s)

    def _talk(self, pod: Pod, until_s: float) -> None:
        def again() -> None:
            if self._simulator.now < until_s:
                self.turn(again, pod)

        again()

    @property
    def busy(self) -> Sequence[float]:
        """Share of the time that each shard was busy so far."""
        return [shard.busy_s / max(self._simulator.now, 1e-9) for shard in self.shards]

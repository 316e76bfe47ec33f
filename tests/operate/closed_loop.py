"""The closed loop: a rendered autoscaler that reads a real Prometheus over real pods behind a real HAProxy.

The autoscaler is the simulation of the controller, in a time that runs `speed` times as fast; so are the scrapes. Pods
start, drain and work in real time, which makes a start of 2 s one of 20 s at ten times: harder than in production. CPU
is not looked at, since it cannot be made to run faster. `python -m tests.operate.closed_loop` (`make autoscale`) runs
every variant and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import yaml
from ops import chart

from tests.harness.haproxy import HAProxy
from tests.harness.pod import Pod
from tests.harness.prometheus import Prometheus
from tests.harness.redis_server import RedisServer
from tests.operate.autoscaler import SYNC_S, Autoscaler
from tests.operate.crowd import Crowd, Heard
from tests.operate.manifests import Manifest, of_kind, parse
from tests.operate.replicas import Replicas

__all__ = ["VARIANTS", "Report", "Source", "render", "run"]

SLOTS, WORDS = 8, 40
CALM, SPIKE = 6, 26
"""Clients that talk before and after, and in between: turns of 2 s, so as many runs at once."""
PODS_MIN, PODS_MAX = 2, 4
NAMESPACE = "agents"
_LIMIT_S = 240.0
"""Real time after which a phase has failed."""

VALUES: dict[str, Any] = {
    "auth": {"enabled": False},
    "redis": {"host": "redis.example.com"},
    "config": {"AGENTRT_MAX_RUNS": str(SLOTS)},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "hpa": {"hpa": {"enabled": True, "cpu": None}},
    "keda-prometheus": {"keda": {"enabled": True}},
    "keda-metrics-api": {"keda": {"enabled": True, "trigger": "metrics-api"}},
}


@dataclass
class Source:
    """A rendered autoscaler: what the controller works by, and where each metric is read."""

    spec: dict[str, Any]
    queries: dict[str, str] = field(default_factory=dict)
    """Metric → PromQL."""
    fields: dict[str, str] = field(default_factory=dict)
    """Metric → field of /operator/queue."""

    async def read(self, client: httpx2.AsyncClient, prometheus: str, balancer: str) -> dict[str, float | None]:
        """Every metric now; None for one that cannot be read or that is not exactly one element."""
        values: dict[str, float | None] = {}
        for name, query in self.queries.items():
            answer = await client.get(f"{prometheus}/api/v1/query", params={"query": query})
            found = answer.json()["data"]["result"] if answer.status_code == 200 else []
            values[name] = float(found[0]["value"][1]) if len(found) == 1 else None
        if self.fields:
            answer = await client.get(f"{balancer}/operator/queue")
            told = answer.json() if answer.status_code == 200 else {}
            values |= {name: told.get(place) for name, place in self.fields.items()}
        return values


def render(variant: str, speed: float) -> Source:
    """The variant as the chart renders it. A target that is a time is made as much shorter as time runs faster."""
    signals = {"queueDepth": {"target": "2"}, "queueAge": {"target": f"{10 / speed:g}"}}
    scaling = {"minReplicas": PODS_MIN, "maxReplicas": PODS_MAX, "signals": signals, **VARIANTS[variant]}
    texts = chart.render({**VALUES, "autoscaling": scaling}, namespace=NAMESPACE).values()
    documents = [document for text in texts for document in parse(text)]
    return _of_hpa(documents) if "hpa" in VARIANTS[variant] else _of_keda(documents)


def _of_hpa(documents: list[Manifest]) -> Source:
    """The HPA, and the rules that tell prometheus-adapter what each of its metrics is."""
    (scaler,) = of_kind(documents, "HorizontalPodAutoscaler")
    (config,) = [one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"].endswith("adapter-rules")]
    rules = yaml.safe_load(config["data"]["rules.yaml"])["externalRules"]
    matchers = f'namespace="{NAMESPACE}"'
    queries = {rule["name"]["as"]: rule["metricsQuery"].replace("<<.LabelMatchers>>", matchers) for rule in rules}
    return Source(scaler["spec"], queries)


def _of_keda(documents: list[Manifest]) -> Source:
    """The HPA that KEDA makes of a ScaledObject: an external metric a trigger, which KEDA answers."""
    (scaled,) = of_kind(documents, "ScaledObject")
    told = scaled["spec"]
    metrics = []
    source = Source({})
    for trigger in told["triggers"]:
        metadata, kind = trigger["metadata"], trigger["metricType"]
        target = metadata.get("threshold", metadata.get("targetValue"))
        goal = {"type": kind, "averageValue" if kind == "AverageValue" else "value": target}
        metrics.append({"type": "External", "external": {"metric": {"name": trigger["name"]}, "target": goal}})
        if trigger["type"] == "prometheus":
            source.queries[trigger["name"]] = metadata["query"]
        else:
            source.fields[trigger["name"]] = metadata["valueLocation"]
    source.spec = {
        "minReplicas": told["minReplicaCount"],
        "maxReplicas": told["maxReplicaCount"],
        "metrics": metrics,
        "behavior": told["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
    }
    return source


@dataclass
class Report:
    """Times in seconds of the time that runs faster, from the moment at which the load changed."""

    variant: str
    speed: float
    peak: int = 0
    wanted_s: float = math.nan
    """Until the autoscaler wanted what the spike needs."""
    ready_s: float = math.nan
    """Until so many pods were ready."""
    back_s: float = math.nan
    """From the end of the spike until the fewest pods were left and nobody was leaving."""
    steps: list[int] = field(default_factory=list)
    """The replicas, whenever they changed."""
    taken_away: list[tuple[int, list[int]]] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    def row(self) -> str:
        """A row of the table in docs/operations.md."""
        steps = " → ".join(map(str, self.steps))
        times = f"{self.wanted_s:.0f} s | {self.ready_s:.0f} s | {self.back_s:.0f} s"
        heard = f"{self.heard.turns} + {self.heard.streams} | {len(self.heard.failed)} | {len(self.heard.cut)}"
        return f"| {self.variant} | {steps} | {times} | {heard} |"


class Loop:
    """One deployment and its autoscaler."""

    def __init__(self, source: Source, speed: float, replicas: Replicas, prometheus: Prometheus, url: str) -> None:
        self._source = source
        self._speed = speed
        self._replicas = replicas
        self._prometheus = prometheus
        self._url = url
        self._scaler = Autoscaler(source.spec, PODS_MIN)
        self._begun = time.monotonic()
        self._client = httpx2.AsyncClient(timeout=5)
        self._task: asyncio.Task[None] | None = None
        self.steps = [PODS_MIN]

    @property
    def now_s(self) -> float:
        return (time.monotonic() - self._begun) * self._speed

    def start(self) -> None:
        """Begin to sync."""
        self._task = asyncio.create_task(self._work())

    async def aclose(self) -> None:
        """Sync no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _work(self) -> None:
        """Sync for ever, as the controller does."""
        watched: list[str] = []
        while True:
            begun = time.monotonic()
            values = await self._source.read(self._client, self._prometheus.url, self._url)
            wanted = self._scaler.sync(self.now_s, values)
            if wanted != self.steps[-1]:
                self.steps.append(wanted)
            self._replicas.scale(wanted)
            present = self._replicas.present
            if (names := [pod.name for pod in present]) != watched:
                watched = names
                self._prometheus.watch({"agentrt": present}, NAMESPACE)
            await asyncio.sleep(max(0.0, begun + SYNC_S / self._speed - time.monotonic()))

    async def settled(self) -> None:
        """Wait until the balancer has looked at all places, which it takes for good until then."""
        good = 0
        while good < 2 * len(self._replicas.places):  # it goes round all of them, twice
            try:
                good = good + 1 if (await self._client.get(f"{self._url}/readyz")).status_code == 200 else 0
            except httpx2.HTTPError:
                good = 0

    async def until_wanted(self, count: int) -> float:
        """Wait until the autoscaler wants so many or more; returns when that was, in the time of the loop."""
        await self._until(lambda: self._scaler.replicas >= count)
        return self.now_s

    async def until_ready(self, count: int) -> float:
        """Wait until so many or more are ready."""
        deadline = time.monotonic() + _LIMIT_S
        while await self._replicas.ready(self._client) < count:
            assert time.monotonic() < deadline, "the pods did not get ready"
            await asyncio.sleep(0.05)
        return self.now_s

    async def until_back(self) -> float:
        """Wait until only the fewest are left, and nobody is on its way out."""
        await self._until(lambda: self._scaler.replicas == PODS_MIN and len(self._replicas.present) == PODS_MIN)
        return self.now_s

    async def _until(self, condition: Any) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while not condition():
            assert self._task is not None
            if self._task.done():
                self._task.result()
            assert time.monotonic() < deadline, f"it stays at {self._scaler.replicas} replicas: {self.steps}"
            await asyncio.sleep(0.02)


async def _spike(report: Report, loop: Loop, crowd: Crowd, needed: int, hold_s: float) -> None:
    """Calm, a spike that lasts until its pods are ready and `hold_s` (real) longer, and calm again."""
    await loop.until_ready(PODS_MIN)
    await loop.settled()
    await crowd.hold(CALM)
    loop.start()
    try:
        await asyncio.sleep(3 * SYNC_S / report.speed)
        assert loop.steps == [PODS_MIN], f"the calm needs no more than there are: {loop.steps}"
        await crowd.hold(SPIKE)
        since = loop.now_s
        report.wanted_s = await loop.until_wanted(needed) - since
        report.ready_s = await loop.until_ready(needed) - since
        await asyncio.sleep(hold_s)
        await crowd.hold(CALM)
        since = loop.now_s
        report.back_s = await loop.until_back() - since
    finally:
        await loop.aclose()


def run(variant: str, speed: float, hold_s: float, env: Mapping[str, str] | None = None) -> Report:
    """One variant through one spike."""
    source = render(variant, speed)
    needed = PODS_MAX if source.queries else PODS_MIN + 1
    """By occupancy 26 runs on 5 a pod need all; a queue of 10 alone asks for more than there are, no more."""
    report = Report(variant, speed)
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        settings = {
            "AGENTRT_MAX_RUNS": str(SLOTS),
            "AGENTRT_DRAIN_S": "3",  # three looks of the balancer
            "AGENTRT_DRAIN_RUNS_S": "15",
            **(env or {}),
        }
        target = "tests.harness.agents:agents"
        places = [
            Pod(server.url, target=target, name=f"p{number}", env=dict(settings)) for number in range(PODS_MAX + 2)
        ]
        replicas = Replicas(places)
        stack.callback(replicas.stop)
        replicas.scale(PODS_MIN)
        for pod in replicas.running:
            pod.wait_ready(120)
        prometheus = stack.enter_context(Prometheus(period_s=SYNC_S / speed))
        prometheus.watch({"agentrt": replicas.present}, NAMESPACE)
        prometheus.until(f"sum(agentrt_ready) == {PODS_MIN}")
        balancer = stack.enter_context(HAProxy(places))
        asyncio.run(_drive(report, source, replicas, prometheus, balancer, needed, hold_s))
    return report


async def _drive(
    report: Report,
    source: Source,
    replicas: Replicas,
    prometheus: Prometheus,
    balancer: HAProxy,
    needed: int,
    hold_s: float,
) -> None:
    loop = Loop(source, report.speed, replicas, prometheus, balancer.url)
    async with Crowd(balancer.url, WORDS) as crowd:
        await _spike(report, loop, crowd, needed, hold_s)
    report.heard, report.steps, report.peak = crowd.heard, loop.steps, max(loop.steps)
    report.taken_away = replicas.taken_away


HEAD = """\
| variant | replicas | wanted after | ready after | back after | turns + streams | failed | cut |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Run the variants that are named, or all; exit status 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", help=", ".join(VARIANTS))
    parser.add_argument("--speed", type=float, default=10.0)
    asked = parser.parse_args()
    print(HEAD)
    good = True
    for variant in asked.variants or VARIANTS:
        report = run(variant, asked.speed, hold_s=5.0)
        print(report.row(), flush=True)
        for told in [*report.heard.failed[:5], *report.heard.cut[:5]]:
            print(f"  {told}", file=sys.stderr)
        good &= not report.heard.failed and not report.heard.cut and report.wanted_s <= 45
    sys.exit(not good)


if __name__ == "__main__":
    main()

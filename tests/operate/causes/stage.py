"""Where causes happen: a Redis and pods for each, watched by one Prometheus and one Alertmanager for all."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import redis
import yaml

from tests.harness.pod import Pod
from tests.harness.prometheus import Alertmanager, Prometheus
from tests.harness.redis_server import RedisServer

__all__ = ["CAUSES", "Act", "Cause", "Stage", "Watch", "cause", "hurried", "staged", "until"]

ROOT = Path(__file__).parents[3]
RULES = ROOT / "helm" / "agentrt" / "files" / "alerts.yaml"
GOOD = ("--appendonly", "yes", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction")
TARGET = "tests.harness.sick_agents:agents"
SHORT = {"AGENTRT_LEASE_MS": "1000", "AGENTRT_LOCK_TTL_MS": "1000"}
_UNITS_S = {"s": 1, "m": 60, "h": 3600}
_FOR_S_MIN = 1.0
_T = TypeVar("_T")

Act = Callable[["Stage"], Iterator[None]]
"""What happens: up to the first `yield` all is in order, behind it the cause is there; behind a second, it is cured."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause, and the alerts that must fire on it. `told` says what was done."""

    alerts: tuple[str, ...]
    told: str
    act: Act

    @property
    def name(self) -> str:
        return self.act.__name__.replace("_", "-")


CAUSES: dict[str, Cause] = {}


def cause(*alerts: str) -> Callable[[Act], Act]:
    """List an act as the cause of these alerts; its docstring says what it does."""

    def listed(act: Act) -> Act:
        made = Cause(alerts, (act.__doc__ or "").strip().rstrip("."), act)
        CAUSES[made.name] = made
        return act

    return listed


def hurried(by: float) -> str:
    """The rules, with every `for` and every window that much shorter; thresholds stay as they are."""

    def shorter(text: str) -> str:
        seconds = int(text[:-1]) * _UNITS_S[text[-1]]
        return f"{int(max(_FOR_S_MIN, seconds / by) * 1000)}ms"

    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[(\d+[smh])\]", lambda found: f"[{shorter(found[1])}]", rule["expr"])
            if "for" in rule:
                rule["for"] = shorter(rule["for"])
    return yaml.safe_dump(rules)


class Watch:
    """One Prometheus with hurried rules, and one Alertmanager on the example of a configuration."""

    def __init__(self, by: float) -> None:
        self._rules = Path(tempfile.mkstemp(prefix="agentrt-rules-", suffix=".yaml")[1])
        self._rules.write_text(hurried(by), encoding="utf-8")
        self._alertmanager = Alertmanager(ROOT / "deploy" / "alertmanager.yml")
        self.prometheus = Prometheus(rules=self._rules, alertmanager=self._alertmanager)
        self._services: dict[str, list[Pod]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Watch:
        self._alertmanager.__enter__()
        self.prometheus.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.prometheus.__exit__()
        self._alertmanager.__exit__()
        self._rules.unlink()

    def see(self, service: str, pods: list[Pod]) -> None:
        """Scrape these pods from now on; none: forget the service."""
        with self._lock:
            self._services.pop(service, None)
            if pods:
                self._services[service] = pods
            self.prometheus.watch(self._services)

    def pending(self, service: str) -> set[str]:
        """The alerts of a service that fire, or will if it goes on like this."""
        found = self.prometheus.ask(f'ALERTS{{service="{service}"}}')
        return {element["metric"]["alertname"] for element in found}

    def firing(self, service: str) -> set[str]:
        """The alerts of a service that Alertmanager knows of."""
        return {labels["alertname"] for labels in self._alertmanager.firing() if labels.get("service") == service}


class Stage:
    """What one cause has for itself; all of it is gone with the block."""

    def __init__(self, name: str, watch: Watch, stack: ExitStack) -> None:
        self.name = name
        self._watch = watch
        self._stack = stack
        self.pods: list[Pod] = []
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentrt-stage-")))

    def enter(self, context: AbstractContextManager[_T]) -> _T:
        """Have something until the end."""
        return self._stack.enter_context(context)

    def redis(self, *args: str, program: Path | None = None) -> RedisServer:
        """A server in good order."""
        return self.enter(RedisServer(*GOOD, *args, program=program))

    def client(self, server: RedisServer) -> redis.Redis:
        """A client of it, from outside."""
        return self.enter(server.client())

    def pod(self, url: str, *, entry: tuple[str, ...] = ("-m", "agentrt.cli"), **env: str) -> Pod:
        """One more pod, ready and scraped."""
        given = {"AGENTRT_DEMO_DB": str(self.folder / "demo.db"), "AGENTRT_PREFLIGHT": "off", **env}
        pod = Pod(url, target=TARGET, name=f"{self.name}-{len(self.pods)}", env=given, entry=entry)
        self._stack.callback(pod.stop)
        self.pods.append(pod.start(wait=False))
        pod.wait_ready(120)
        self._watch.see(self.name, self.pods)
        return pod

    def seen(self) -> None:
        """Wait until every pod was scraped, and the rules were looked at, three times."""
        count = f'count(count_over_time(agentrt_ready{{service="{self.name}"}}[10m]) >= 3)'
        self._watch.prometheus.until(f"{count} == {len(self.pods)}")

    def meanwhile(self, do: Callable[[], Any], every_s: float, threads: int = 1) -> None:
        """Do something again and again until the end, whatever it raises for a server that is not well."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(every_s):
                with suppress(redis.RedisError, httpx2.HTTPError, OSError):
                    do()

        workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]

        def end() -> None:
            over.set()
            for worker in workers:
                worker.join(30)

        self._stack.callback(end)
        for worker in workers:
            worker.start()

    def ask(self, pod: Pod, agent: str, text: str, timeout_s: float = 20.0, **body: Any) -> dict[str, Any]:
        """One message."""
        sent = {"model": agent, "input": text, **body}
        answer = httpx2.post(f"{pod.url}/v1/responses", json=sent, timeout=timeout_s)
        told: dict[str, Any] = answer.raise_for_status().json()
        return told


@contextmanager
def staged(cause: Cause, watch: Watch) -> Iterator[Stage]:
    """A stage for a cause."""
    with ExitStack() as stack:
        stack.callback(watch.see, cause.name, [])
        yield Stage(cause.name, watch, stack)


def until(condition: Callable[[], bool], bound_s: float, what: str) -> float:
    """Seconds until `condition` holds, which may fail to be asked; fails past the bound."""
    begun = time.monotonic()
    while time.monotonic() - begun < bound_s:
        with suppress(redis.RedisError, httpx2.HTTPError):
            if condition():
                return time.monotonic() - begun
        time.sleep(0.2)  # there is nothing to wait on: Prometheus looks once a second
    raise AssertionError(f"{what} did not happen within {bound_s} s")

"""Every metric, in one place. Names and units by Prometheus convention; labels are bounded, never an id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["RedisVitals", "Telemetry"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class _Read(Collector):
    """A counter that is kept elsewhere and read when somebody asks."""

    def __init__(self, name: str, description: str) -> None:
        self._name = name
        self._description = description
        self.read: Callable[[], int] = lambda: 0

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._description)]

    def collect(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._description, self.read())]


class RedisVitals(Collector):
    """The vital signs of Redis, as `store.vitals` read them last; what was not read is not exported."""

    GAUGES: Mapping[str, str] = {
        "up": "1 when Redis answered for this scrape, else 0.",
        "master": "1 when the Redis that this pod speaks to is a master.",
        "run_number": "A number that names the process of Redis: two of them at once are two masters.",
        "memory_used_bytes": "Memory that Redis uses.",
        "memory_max_bytes": "Redis' maxmemory; 0 for none.",
        "noeviction": "1 when its maxmemory-policy is noeviction.",
        "clients": "Connections to Redis.",
        "clients_max": "Connections that it takes at most.",
        "blocked_clients": "Connections that wait in a blocking command; agentrt has none.",
        "replicas": "Replicas that are connected.",
        "replica_lag_seconds": "Since the replica that is furthest behind was last heard of.",
        "aof_enabled": "1 when the append-only file is on.",
        "aof_write_ok": "1 when the last write of the append-only file went well.",
        "aof_rewrite_ok": "1 when its last rewrite went well.",
        "rdb_save_ok": "1 when the last snapshot went well.",
        "rdb_age_seconds": "Age of the last snapshot.",
        "cluster_ok": "1 when the Cluster's state is ok.",
        "cluster_slots_bad": "Slots of the Cluster that fail, or may.",
    }
    COUNTERS: Mapping[str, str] = {
        "evicted_keys": "Keys that Redis threw away for lack of memory: state that is lost.",
        "rejected_connections": "Connections that Redis refused, since it had too many.",
        "aof_delayed_fsync": "Times that an fsync was late.",
        "cpu_seconds": "CPU time of Redis' main thread.",
        "acl_denied": "Commands, keys and logins that the ACL refused (Redis 7.2 and newer).",
    }

    def __init__(self) -> None:
        self.values: Mapping[str, float] = {"up": 0.0}

    def describe(self) -> Iterable[Metric]:
        return [self._family(name) for name in (*self.GAUGES, *self.COUNTERS)]

    def collect(self) -> Iterable[Metric]:
        for name, value in self.values.items():
            family = self._family(name)
            family.add_metric([], value)
            yield family

    def _family(self, name: str) -> GaugeMetricFamily | CounterMetricFamily:
        if name in self.COUNTERS:
            return CounterMetricFamily(f"agentrt_redis_{name}", self.COUNTERS[name], labels=[])
        return GaugeMetricFamily(f"agentrt_redis_{name}", self.GAUGES[name], labels=[])


_M = TypeVar("_M", Counter, Histogram)


class _Labelled(Generic[_M]):
    """A metric by its label values, found by one look into a dict; the library's `labels` takes a lock."""

    def __init__(self, metric: _M) -> None:
        self._metric: _M = metric
        self._children: dict[tuple[str | int, ...], _M] = {}

    def labels(self, *values: str | int) -> _M:
        """The child of these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Telemetry:
    """The metrics of one pod, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.turns = _Labelled(
            Counter(
                "agentrt_turns",
                "Runs that ended on this pod, by agent and status; `lost`, `handed_over`, `postponed` go on elsewhere.",
                ["agent", "status"],
                registry=registry,
            )
        )
        self.turn_seconds = _Labelled(
            Histogram(
                "agentrt_turn_seconds",
                "Time from the request to the committed turn, by agent.",
                ["agent"],
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self.begins = _Labelled(
            Counter(
                "agentrt_begins",
                "What became of requests for a turn: owned, queued, joined, waiting, busy, ended, claimed.",
                ["outcome"],
                registry=registry,
            )
        )
        self.first_token_seconds = _Labelled(
            Histogram(
                "agentrt_first_token_seconds",
                "Time from the start of a run on this pod to the first piece of its output, by agent.",
                ["agent"],
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self.claims = _Labelled(
            Counter(
                "agentrt_claims",
                "Runs found without a living owner: claimed, parked, waiting, gone, put_back, given_up.",
                ["outcome"],
                registry=registry,
            )
        )
        self.queue_depth = Gauge(
            "agentrt_queue_depth", "Runs that wait for a pod, in the whole deployment.", registry=registry
        )
        self.queue_oldest_seconds = Gauge(
            "agentrt_queue_oldest_seconds", "How long the longest of them has waited; 0 for none.", registry=registry
        )
        self.dead_letters = Gauge(
            "agentrt_dead_letters", "Runs that were given up and that nobody has looked after yet.", registry=registry
        )
        self.effects = _Labelled(
            Counter(
                "agentrt_effects",
                "Tool calls by tool and outcome: recorded, failed, replayed, in_doubt.",
                ["tool", "outcome"],
                registry=registry,
            )
        )
        self.ownership_lost = Counter(
            "agentrt_ownership_lost",
            "Runs that this pod had to stop working on because another pod owned the session.",
            registry=registry,
        )
        self.lock_wait_seconds = _Labelled(
            Histogram(
                "agentrt_lock_wait_seconds",
                "Time that calls waited for a named lock, by outcome: held, timeout, cancelled, failed.",
                ["outcome"],
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self.locks_lost = _Labelled(
            Counter(
                "agentrt_locks_lost",
                "Named locks that this pod lost while it held them, by reason: deadline (not renewed in time), taken "
                "(Redis says that it is not ours).",
                ["reason"],
                registry=registry,
            )
        )
        self.model_calls = _Labelled(
            Counter(
                "agentrt_model_calls",
                "Calls of models, by model and outcome: ok, rate_limited, unavailable (may pass), refused (will not).",
                ["model", "outcome"],
                registry=registry,
            )
        )
        self.model_retries = _Labelled(
            Counter(
                "agentrt_model_retries",
                "Calls of models that repeat a failed one of the same step, by model.",
                ["model"],
                registry=registry,
            )
        )
        self.model_fallbacks = _Labelled(
            Counter(
                "agentrt_model_fallbacks",
                "Replies that came from another model than the agent's first, by agent and model.",
                ["agent", "model"],
                registry=registry,
            )
        )
        self.model_tokens = _Labelled(
            Counter(
                "agentrt_model_tokens",
                "Tokens that providers reported, by model and kind: input (all of it), cached and written (parts of "
                "it), output (all of it), reasoning (a part of it).",
                ["model", "kind"],
                registry=registry,
            )
        )
        self.model_cost = _Labelled(
            Counter(
                "agentrt_model_cost",
                "What replies cost by AGENTRT_PRICES_FILE, in its currency, by agent and model; without lost replies.",
                ["agent", "model"],
                registry=registry,
            )
        )
        self._circuit = Gauge(
            "agentrt_model_circuit",
            "Whether this pod asks the model: 0 closed (yes), 1 half open (one call decides), 2 open (no).",
            ["model"],
            registry=registry,
        )
        self._circuit_opened = Counter(
            "agentrt_model_circuit_opened",
            "Times that this pod stopped asking a model for a while.",
            ["model"],
            registry=registry,
        )
        self.tokens = _Labelled(
            Counter(
                "agentrt_tokens",
                "Tokens that the providers reported, by agent and direction: input, cached, output.",
                ["agent", "direction"],
                registry=registry,
            )
        )
        self.memory_jobs = _Labelled(
            Counter(
                "agentrt_memory_jobs",
                "Jobs of the memory, by kind (ingest, user, summary, compact, erase) and outcome: done, again, "
                "retried, buried, handed_over, put_back, lost.",
                ["kind", "outcome"],
                registry=registry,
            )
        )
        self.memory_job_seconds = _Labelled(
            Histogram(
                "agentrt_memory_job_seconds",
                "Time that a job of the memory took, by kind.",
                ["kind"],
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self.memory_lag_seconds = _Labelled(
            Histogram(
                "agentrt_memory_lag_seconds",
                "Time from a run until its turns are remembered (`turns`), from then until its facts are in (`facts`).",
                ["what"],
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self.memory_facts = _Labelled(
            Counter(
                "agentrt_memory_facts",
                "What was drawn from messages, by what became of it: written, merged, or why it was refused (empty, "
                "too_long, secret, supposed, not_said), or failed.",
                ["outcome"],
                registry=registry,
            )
        )
        self.memory_recall_seconds = _Labelled(
            Histogram(
                "agentrt_memory_recall_seconds",
                "Time that a turn spent on what it is given of the past, by agent.",
                ["agent"],
                buckets=(0.00025, 0.0005, *_SECONDS),
                registry=registry,
            )
        )
        self.memory_compacted = _Labelled(
            Counter(
                "agentrt_memory_compacted",
                "What compaction took away, by kind: facts, turns, sessions (entries of a user's index).",
                ["kind"],
                registry=registry,
            )
        )
        self.memory_jobs_late = Gauge(
            "agentrt_memory_jobs_late", "Jobs of the memory that are due, in the whole deployment.", registry=registry
        )
        self.memory_jobs_buried = Gauge(
            "agentrt_memory_jobs_buried", "Jobs of the memory that were given up.", registry=registry
        )
        self.runs_in_flight = Gauge(
            "agentrt_runs_in_flight", "Runs that this pod is working on now.", registry=registry
        )
        self.runs_capacity = Gauge(
            "agentrt_runs_capacity", "Runs that this pod may work on at once.", registry=registry
        )
        self.http = _Labelled(
            Counter(
                "agentrt_http_requests", "HTTP requests by route and status code.", ["route", "code"], registry=registry
            )
        )
        self.ready = Gauge("agentrt_ready", "1 while this pod is ready to serve, else 0.", registry=registry)
        self.probe_failures = _Labelled(
            Counter(
                "agentrt_redis_probe_failures",
                "Failed readiness probes of Redis, by reason (a closed set of words).",
                ["reason"],
                registry=registry,
            )
        )
        self.effects_in_doubt = Gauge(
            "agentrt_effects_in_doubt",
            "Effects whose outcome is not known, in the whole deployment.",
            registry=registry,
        )
        self.effects_in_doubt_oldest_seconds = Gauge(
            "agentrt_effects_in_doubt_oldest_seconds", "How long the oldest has been so; 0 for none.", registry=registry
        )
        self.identity_mismatches = Counter(
            "agentrt_identity_mismatches",
            "Times that stored state was not the one asked for: a defect, and nothing was answered from it.",
            registry=registry,
        )
        self.notices_age_seconds = Gauge(
            "agentrt_notices_age_seconds", "Since this pod's subscription was last heard of.", registry=registry
        )
        self.probe_seconds = Histogram(
            "agentrt_redis_probe_seconds",
            "Time that the readiness probe's write and read took, failures included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.redis_vitals = RedisVitals()
        registry.register(self.redis_vitals)
        self.redis_waiting_max = Gauge(
            "agentrt_redis_waiting_units_max", "Units that may wait; more are refused.", registry=registry
        )
        self.redis_waiting = Gauge(
            "agentrt_redis_waiting_units", "Units of Redis commands that wait for a reply now.", registry=registry
        )
        self.redis_breaks = _Read("agentrt_redis_connection_breaks", "Times that the state connection broke.")
        self.redis_units = _Read("agentrt_redis_units", "Units of Redis commands that this pod sent.")
        self.redis_writes = _Read("agentrt_redis_writes", "Writes to the state connection, each of one or more units.")
        for reading in (self.redis_breaks, self.redis_units, self.redis_writes):
            registry.register(reading)

    def circuit_changed(self, model: str, state: str) -> None:
        """A model's circuit has a new state."""
        self._circuit.labels(model).set(("closed", "half_open", "open").index(state))
        if state == "open":
            self._circuit_opened.labels(model).inc()

    def render(self) -> bytes:
        """The text exposition of all metrics."""
        return generate_latest(self.registry)

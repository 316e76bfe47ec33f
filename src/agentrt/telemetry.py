"""Every metric, in one place. Names and units by Prometheus convention; labels are bounded, never an id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
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


class _Maker:
    """Makes metrics on a registry; those in the plural have labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self._registry)

    def counters(self, name: str, text: str, *labels: str) -> _Labelled[Counter]:
        return _Labelled(Counter(name, text, labels, registry=self._registry))

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self._registry)

    def gauges(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=_SECONDS, registry=self._registry)

    def histograms(
        self, name: str, text: str, *labels: str, buckets: Sequence[float] = _SECONDS
    ) -> _Labelled[Histogram]:
        return _Labelled(Histogram(name, text, labels, buckets=buckets, registry=self._registry))


class Telemetry:
    """The metrics of one pod, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        new = _Maker(self.registry)
        self._of_runs(new)
        self._of_queue(new)
        self._of_effects(new)
        self._of_models(new)
        self._of_memory(new)
        self._of_pod(new)
        self._of_redis(new)

    def _of_runs(self, new: _Maker) -> None:
        self.turns = new.counters(
            "agentrt_turns",
            "Runs that ended on this pod, by agent and status; `lost`, `handed_over`, `postponed` go on elsewhere.",
            "agent",
            "status",
        )
        self.turn_seconds = new.histograms(
            "agentrt_turn_seconds", "Time from the request to the committed turn, by agent.", "agent"
        )
        self.first_token_seconds = new.histograms(
            "agentrt_first_token_seconds",
            "Time from the start of a run on this pod to the first piece of its output, by agent.",
            "agent",
        )
        self.begins = new.counters(
            "agentrt_begins",
            "What became of requests for a turn: owned, queued, joined, waiting, busy, ended, claimed.",
            "outcome",
        )
        self.claims = new.counters(
            "agentrt_claims",
            "Runs found without a living owner: claimed, parked, waiting, gone, put_back, given_up.",
            "outcome",
        )
        self.ownership_lost = new.counter(
            "agentrt_ownership_lost", "Runs that this pod had to stop working on because another pod owned the session."
        )
        self.tokens = new.counters(
            "agentrt_tokens",
            "Tokens that the providers reported, by agent and direction: input, cached, output.",
            "agent",
            "direction",
        )
        self.runs_in_flight = new.gauge("agentrt_runs_in_flight", "Runs that this pod is working on now.")
        self.runs_capacity = new.gauge("agentrt_runs_capacity", "Runs that this pod may work on at once.")

    def _of_queue(self, new: _Maker) -> None:
        self.queue_depth = new.gauge("agentrt_queue_depth", "Runs that wait for a pod, in the whole deployment.")
        self.queue_oldest_seconds = new.gauge(
            "agentrt_queue_oldest_seconds", "How long the longest of them has waited; 0 for none."
        )
        self.dead_letters = new.gauge(
            "agentrt_dead_letters", "Runs that were given up and that nobody has looked after yet."
        )

    def _of_effects(self, new: _Maker) -> None:
        self.effects = new.counters(
            "agentrt_effects",
            "Tool calls by tool and outcome: recorded, failed, replayed, in_doubt.",
            "tool",
            "outcome",
        )
        self.effects_in_doubt = new.gauge(
            "agentrt_effects_in_doubt", "Effects whose outcome is not known, in the whole deployment."
        )
        self.effects_in_doubt_oldest_seconds = new.gauge(
            "agentrt_effects_in_doubt_oldest_seconds", "How long the oldest has been so; 0 for none."
        )
        self.lock_wait_seconds = new.histograms(
            "agentrt_lock_wait_seconds",
            "Time that calls waited for a named lock, by outcome: held, timeout, cancelled, failed.",
            "outcome",
        )
        self.locks_lost = new.counters(
            "agentrt_locks_lost",
            "Named locks that this pod lost while it held them, by reason: deadline (not renewed in time), taken "
            "(Redis says that it is not ours).",
            "reason",
        )

    def _of_models(self, new: _Maker) -> None:
        self.model_calls = new.counters(
            "agentrt_model_calls",
            "Calls of models, by model and outcome: ok, rate_limited, unavailable (may pass), refused (will not).",
            "model",
            "outcome",
        )
        self.model_retries = new.counters(
            "agentrt_model_retries", "Calls of models that repeat a failed one of the same step, by model.", "model"
        )
        self.model_fallbacks = new.counters(
            "agentrt_model_fallbacks",
            "Replies that came from another model than the agent's first, by agent and model.",
            "agent",
            "model",
        )
        self.model_tokens = new.counters(
            "agentrt_model_tokens",
            "Tokens that providers reported, by model and kind: input (all of it), cached and written (parts of "
            "it), output (all of it), reasoning (a part of it).",
            "model",
            "kind",
        )
        self.model_cost = new.counters(
            "agentrt_model_cost",
            "What replies cost by AGENTRT_PRICES_FILE, in its currency, by agent and model; without lost replies.",
            "agent",
            "model",
        )
        self._circuit = new.gauges(
            "agentrt_model_circuit",
            "Whether this pod asks the model: 0 closed (yes), 1 half open (one call decides), 2 open (no).",
            "model",
        )
        self._circuit_opened = new.counters(
            "agentrt_model_circuit_opened", "Times that this pod stopped asking a model for a while.", "model"
        )

    def _of_memory(self, new: _Maker) -> None:
        self.memory_jobs = new.counters(
            "agentrt_memory_jobs",
            "Jobs of the memory, by kind (ingest, user, summary, compact, erase) and outcome: done, again, "
            "retried, buried, handed_over, put_back, lost.",
            "kind",
            "outcome",
        )
        self.memory_job_seconds = new.histograms(
            "agentrt_memory_job_seconds", "Time that a job of the memory took, by kind.", "kind"
        )
        self.memory_lag_seconds = new.histograms(
            "agentrt_memory_lag_seconds",
            "Time from a run until its turns are remembered (`turns`), from then until its facts are in (`facts`).",
            "what",
        )
        self.memory_facts = new.counters(
            "agentrt_memory_facts",
            "What was drawn from messages, by what became of it: written, merged, or why it was refused (empty, "
            "too_long, secret, supposed, not_said), or failed.",
            "outcome",
        )
        self.memory_recall_seconds = new.histograms(
            "agentrt_memory_recall_seconds",
            "Time that a turn spent on what it is given of the past, by agent.",
            "agent",
            buckets=(0.00025, 0.0005, *_SECONDS),
        )
        self.memory_compacted = new.counters(
            "agentrt_memory_compacted",
            "What compaction took away, by kind: facts, turns, sessions (entries of a user's index).",
            "kind",
        )
        self.memory_jobs_late = new.gauge(
            "agentrt_memory_jobs_late", "Jobs of the memory that are due, in the whole deployment."
        )
        self.memory_jobs_buried = new.gauge("agentrt_memory_jobs_buried", "Jobs of the memory that were given up.")

    def _of_pod(self, new: _Maker) -> None:
        self.http = new.counters("agentrt_http_requests", "HTTP requests by route and status code.", "route", "code")
        self.ready = new.gauge("agentrt_ready", "1 while this pod is ready to serve, else 0.")
        self.identity_mismatches = new.counter(
            "agentrt_identity_mismatches",
            "Times that stored state was not the one asked for: a defect, and nothing was answered from it.",
        )
        self.notices_age_seconds = new.gauge(
            "agentrt_notices_age_seconds", "Since this pod's subscription was last heard of."
        )

    def _of_redis(self, new: _Maker) -> None:
        self.probe_failures = new.counters(
            "agentrt_redis_probe_failures",
            "Failed readiness probes of Redis, by reason (a closed set of words).",
            "reason",
        )
        self.probe_seconds = new.histogram(
            "agentrt_redis_probe_seconds", "Time that the readiness probe's write and read took, failures included."
        )
        self.redis_waiting_max = new.gauge("agentrt_redis_waiting_units_max", "Units that may wait; more are refused.")
        self.redis_waiting = new.gauge(
            "agentrt_redis_waiting_units", "Units of Redis commands that wait for a reply now."
        )
        self.redis_breaks = _Read("agentrt_redis_connection_breaks", "Times that the state connection broke.")
        self.redis_units = _Read("agentrt_redis_units", "Units of Redis commands that this pod sent.")
        self.redis_writes = _Read("agentrt_redis_writes", "Writes to the state connection, each of one or more units.")
        self.redis_vitals = RedisVitals()
        for reading in (self.redis_breaks, self.redis_units, self.redis_writes, self.redis_vitals):
            self.registry.register(reading)

    def circuit_changed(self, model: str, state: str) -> None:
        """A model's circuit has a new state."""
        self._circuit.labels(model).set(("closed", "half_open", "open").index(state))
        if state == "open":
            self._circuit_opened.labels(model).inc()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition of all metrics and its content type: OpenMetrics, which alone has exemplars, if `accept` (the
        header of that name) asks for it, else Prometheus' text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

"""The assembly of a pod: every object is built once, from the bottom up, and stopped in reverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from agentrt.agent import Agent
from agentrt.http.auth import Keys
from agentrt.http.body import Bounds
from agentrt.http.surface import Surface
from agentrt.memory.tokens import vocabulary
from agentrt.models.base import Model
from agentrt.models.prices import Prices
from agentrt.models.registry import Credentials, Models
from agentrt.runtime.admission import Admission
from agentrt.runtime.allowance import Allowance
from agentrt.runtime.claims import Claims
from agentrt.runtime.compaction import Compaction
from agentrt.runtime.deletion_cost import DeletionCost, ServiceAccount
from agentrt.runtime.erasure import Erasure
from agentrt.runtime.following import Following
from agentrt.runtime.heartbeat import Heartbeat
from agentrt.runtime.ingestion import Ingestion, check_policy
from agentrt.runtime.jobs import JobWorker
from agentrt.runtime.people import People
from agentrt.runtime.presence import Presence
from agentrt.runtime.readiness import Readiness
from agentrt.runtime.recollections import Recollections
from agentrt.runtime.retention import Retention, Retentions
from agentrt.runtime.runs import Runs
from agentrt.runtime.services import Services
from agentrt.runtime.signals import Signals
from agentrt.runtime.summaries import Summaries
from agentrt.runtime.sweeper import Sweeper
from agentrt.runtime.worker import Worker
from agentrt.settings import Settings
from agentrt.store.access import Access, Quota, Quotas
from agentrt.store.connection import Redis, RedisOptions, check_url
from agentrt.store.conversations import Conversations
from agentrt.store.doubts import Doubts
from agentrt.store.durability import read_durability
from agentrt.store.events import Events
from agentrt.store.inspection import Inspection
from agentrt.store.jobs import Jobs
from agentrt.store.journal import Journal
from agentrt.store.leases import Leases
from agentrt.store.locks import LockConfig, open_locks
from agentrt.store.notices import Notices
from agentrt.store.ownership import StoreConfig
from agentrt.store.probe import Probe
from agentrt.store.queue import Queue
from agentrt.store.scan import Scan
from agentrt.store.schema import Schema
from agentrt.store.sessions import Sessions
from agentrt.store.tenants import TenantUsers
from agentrt.store.users import Users
from agentrt.store.vitals import Vitals
from agentrt.telemetry import Telemetry
from agentrt.tracing import open_tracing

__all__ = ["Blueprint", "Deps", "build", "default_quota", "store_config", "tenant_users"]

Deps = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes, and in the end closes, what a pod's tools share: clients, pools."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a pod is built from; `models` are objects of the user's, by the full name that agents use."""

    settings: Settings
    agents: Mapping[str, Agent]
    keys: Keys
    telemetry: Telemetry
    models: Mapping[str, Model]
    deps: Deps | None = None


async def build(stack: AsyncExitStack, given: Blueprint) -> Surface:
    """Build and start every part; the stack stops them in reverse.

    Raises `DeclarationError` or `SettingsError` for what cannot be had, `StoreError` where Redis refuses.
    """
    settings, telemetry = given.settings, given.telemetry
    redis = await _redis(stack, given)
    services = await _services(stack, given, redis)
    work = _work(stack, given, services)
    memory = _memory(stack, given, services, Scan(redis))
    work.runs.on_jobs = memory.worker.wake
    probe = Probe(redis.options, settings.pod)
    readiness = _started(
        stack, Readiness(probe, telemetry, lambda: read_durability(redis, redis.options.wait_replicas))
    )
    writes, report = services.config.writes, lambda: work.runs.report() | {"ready": readiness.ready}
    _started(stack, Presence(Schema(redis), writes, settings.pod, report))
    if settings.deletion_cost_s:
        in_flight, period_s = lambda: work.runs.in_flight, settings.deletion_cost_s
        _started(stack, DeletionCost(ServiceAccount.mounted(), settings.pod, in_flight, period_s))
    admission = Admission(services, work.runs, work.claims, settings.queue_limit)
    return Surface(
        agents=given.agents,
        keys=given.keys,
        bounds=Bounds(settings.body_bytes_max, settings.item_bytes_max, settings.items_max),
        admission=admission,
        following=Following(services, work.runs, work.claims, admission),
        runs=work.runs,
        worker=work.worker,
        services=services,
        inspection=Inspection(redis),
        readiness=readiness,
        signals=Signals(services.queue, services.jobs, services.doubts, Vitals(redis), telemetry),
        telemetry=telemetry,
        pod=settings.pod,
        people=memory.people,
        compaction=memory.compaction,
        erasure=memory.erasure,
    )


def tenant_users(settings: Settings) -> TenantUsers:
    """The tenants' own users, if they have any."""
    return TenantUsers(settings.redis_tenant_user, settings.redis_tenant_secret, settings.redis_tenants_max)


def default_quota(settings: Settings) -> Quota:
    """What a tenant without a quota of its own may use."""
    return Quota(settings.tenant_runs, settings.tenant_turns_per_minute, settings.tenant_tokens_per_day)


def store_config(settings: Settings) -> StoreConfig:
    """What the store is told of the settings."""
    return StoreConfig(
        pod=settings.pod,
        session_ttl_s=settings.session_ttl_s,
        run_ttl_s=settings.session_ttl_s,
        events_ttl_s=settings.events_ttl_s,
        alone_ttl_s=settings.alone_ttl_s,
        lease_ms=settings.lease_ms,
        lock_ms=settings.lock_ttl_ms,
        wait_ms=settings.wait_ms,
        waiters_max=settings.waiters_max,
        window_items=settings.window_items,
        acknowledge=settings.wait_replicas > 0,
        acknowledge_turns=settings.wait_replicas > 0 and settings.wait_turns == "on",
    )


class _Part(Protocol):
    """What works in the background from its start until it is closed."""

    def start(self) -> None: ...

    async def aclose(self) -> None: ...


_P = TypeVar("_P", bound=_Part)


def _started(stack: AsyncExitStack, part: _P) -> _P:
    """Start a part that the stack closes."""
    stack.push_async_callback(part.aclose)
    part.start()
    return part


async def _redis(stack: AsyncExitStack, given: Blueprint) -> Redis:
    """The state connection, and what is counted of it."""
    settings, telemetry = given.settings, given.telemetry
    check_url(settings.redis_url, "AGENTRT_REDIS_URL")
    options = RedisOptions(
        settings.redis_url,
        client_name=f"agentrt-{settings.pod}",
        connect_timeout_s=settings.redis_timeout_ms / 1000,
        reply_timeout_s=settings.redis_timeout_ms / 1000,
        wait_replicas=settings.wait_replicas,
        wait_timeout_ms=settings.wait_timeout_ms,
    )
    redis = Redis(options, tenant_users(settings))
    stack.push_async_callback(redis.aclose)
    await redis.start()
    telemetry.redis_waiting.set_function(lambda: redis.waiting)
    telemetry.redis_waiting_max.set(redis.waiting_max)
    telemetry.redis_breaks.read = lambda: redis.stats.breaks
    telemetry.redis_units.read = lambda: redis.stats.units
    telemetry.redis_writes.read = lambda: redis.stats.writes
    return redis


async def _models(stack: AsyncExitStack, given: Blueprint) -> Models:
    """The models; one that cannot be had is told at the start, not to a customer."""
    settings = given.settings
    credentials = Credentials(
        settings.openai_api_key,
        settings.openai_base_url,
        settings.anthropic_api_key,
        settings.anthropic_base_url,
        settings.openai_chat_api_key,
        settings.openai_chat_base_url,
        gap_s=settings.model_gap_s,
    )
    models = Models(credentials, given.models, given.telemetry.circuit_changed)
    stack.push_async_callback(models.aclose)
    for agent in given.agents.values():
        for name in agent.models:
            models(name)
    return models


async def _services(stack: AsyncExitStack, given: Blueprint, redis: Redis) -> Services:
    """The store's parts, the models, the tool servers and what tools share."""
    settings, telemetry = given.settings, given.telemetry
    config = store_config(settings)
    tracing = open_tracing(settings.pod)
    stack.push_async_callback(tracing.aclose)
    models = await _models(stack, given)
    for server in dict.fromkeys(server for agent in given.agents.values() for server in agent.servers):
        stack.push_async_callback(server.aclose)
        await server.start()
    deps = await stack.enter_async_context(given.deps()) if given.deps is not None else None
    notices = _started(stack, Notices(redis, redis.options, settings.pod))
    telemetry.notices_age_seconds.set_function(lambda: notices.age_s)
    lock_config = LockConfig(settings.pod, settings.lock_ttl_ms)
    locks = await open_locks(settings.lock_urls, redis, notices, lock_config, telemetry)
    stack.push_async_callback(locks.aclose)
    quota = default_quota(settings)
    allowance = Allowance(Access(redis), Quotas(redis), quota)
    stack.push_async_callback(allowance.aclose)
    await allowance.start()
    given.keys.granted = allowance.key
    users = Users(redis, config, settings.memory_ttl_s)
    recollections = Recollections(users)
    notices.on_erased = recollections.drop
    return Services(
        config=config,
        sessions=Sessions(redis, config),
        conversations=Conversations(redis, config),
        journal=Journal(redis, config),
        doubts=Doubts(redis, config),
        events=Events(redis, config),
        leases=Leases(redis, config),
        locks=locks,
        queue=Queue(redis, config),
        notices=notices,
        models=models,
        telemetry=telemetry,
        allowance=allowance,
        users=users,
        jobs=Jobs(redis),
        recollections=recollections,
        deps=deps,
        prices=Prices.read(settings.prices_file),
        tracing=tracing,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What works on runs."""

    runs: Runs
    claims: Claims
    worker: Worker


def _work(stack: AsyncExitStack, given: Blueprint, services: Services) -> _Work:
    """Slots, and those who find what belongs into them."""
    settings = given.settings
    heartbeat = _started(stack, Heartbeat(services.leases, settings.lease_ms))
    runs = Runs(services, given.agents, heartbeat, settings.max_runs, settings.attempts_max)
    stack.push_async_callback(runs.aclose)
    claims = Claims(services, runs)
    worker = _started(stack, Worker(services.queue, claims, runs))
    runs.on_free, services.notices.on_queued = worker.slot_free, worker.wake
    _started(stack, Sweeper(services.queue, worker.wake))
    return _Work(runs, claims, worker)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What works behind the turns on what is remembered."""

    people: People
    compaction: Compaction
    erasure: Erasure
    worker: JobWorker


def _memory(stack: AsyncExitStack, given: Blueprint, services: Services, scan: Scan) -> _Memory:
    """Raises `DeclarationError` where an agent's policy cannot be had."""
    settings, agents = given.settings, given.agents
    vocabulary()
    for agent in agents.values():
        check_policy(services, agent)
    default = Retention(turns_s=settings.memory_turns_ttl_s, turns_max=settings.memory_turns_max)
    retentions = Retentions.read(settings.memory_retention_file, default)
    ingestion = Ingestion(services, agents, retentions)
    compaction = Compaction(services, ingestion, retentions)
    erasure = Erasure(services, scan, settings.receipt_secret or settings.api_keys_secret)
    handlers = {
        "ingest": ingestion.ingest,
        "user": ingestion.user,
        "summary": Summaries(services, ingestion).summarize,
        "compact": compaction.compact,
        "erase": erasure.go_on,
    }
    worker = _started(stack, JobWorker(services.jobs, handlers, services.telemetry, settings.memory_jobs))
    return _Memory(People(services, agents, retentions), compaction, erasure, worker)

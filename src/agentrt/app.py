"""The application: builds every object once, lists the routes, maps errors to status codes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from agentrt.agent import Agent
from agentrt.errors import AgentrtError, DeclarationError, ForeignState
from agentrt.http import chat, conversations, health, openapi, operator, overview, responses
from agentrt.http.auth import Keys, read_keys
from agentrt.http.body import Bounds
from agentrt.http.errors import ApiError, Problem, to_api_error
from agentrt.http.surface import Surface
from agentrt.http.users import USER_ROUTES
from agentrt.memory.tokens import vocabulary
from agentrt.models.base import Model
from agentrt.models.prices import Prices
from agentrt.models.registry import Credentials, Models
from agentrt.runtime.admission import Admission
from agentrt.runtime.allowance import Allowance
from agentrt.runtime.claims import Claims
from agentrt.runtime.compaction import Compaction
from agentrt.runtime.erasure import Erasure
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
from agentrt.store.sessions import Sessions
from agentrt.store.users import Users
from agentrt.store.vitals import Vitals
from agentrt.telemetry import Telemetry
from agentrt.tracing import open_tracing

__all__ = ["Deps", "PodApp", "build", "create_app", "store_config"]

log = logging.getLogger("agentrt.app")

Deps = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes, and in the end closes, what a pod's tools share: clients, pools."""

ROUTES = [
    Route("/v1/responses", responses.create, methods=["POST"]),
    Route("/v1/responses/{response_id}", responses.retrieve, methods=["GET"]),
    Route("/v1/responses/{response_id}", responses.delete, methods=["DELETE"]),
    Route("/v1/responses/{response_id}/cancel", responses.cancel, methods=["POST"]),
    Route("/v1/responses/{response_id}/input_items", responses.input_items, methods=["GET"]),
    Route("/v1/conversations", conversations.create, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", conversations.retrieve, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}", conversations.update, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", conversations.delete, methods=["DELETE"]),
    Route("/v1/conversations/{conversation_id}/items", conversations.items, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items", conversations.append, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}/items/{item_id}", conversations.retrieve_item, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items/{item_id}", conversations.delete_item, methods=["DELETE"]),
    Route("/v1/chat/completions", chat.create, methods=["POST"]),
    Route("/v1/models", health.models, methods=["GET"]),
    Route("/v1/models/{model}", health.model, methods=["GET"]),
    Route("/operator/effects", operator.effects, methods=["GET"]),
    Route("/operator/effects/{effect:path}/resolve", operator.resolve_effect, methods=["POST"]),
    Route("/operator/effects/{effect:path}", operator.effect, methods=["GET"]),
    Route("/operator/pods", overview.pods, methods=["GET"]),
    Route("/operator/queue", overview.queue, methods=["GET"]),
    Route("/operator/sessions/{tenant}/{conversation_id}", overview.session, methods=["GET"]),
    Route("/operator/sessions/{tenant}/{conversation_id}/runs", overview.runs, methods=["GET"]),
    Route("/operator/runs/{tenant}/{response_id}", overview.run, methods=["GET"]),
    *USER_ROUTES,
    Route("/livez", health.livez, methods=["GET"]),
    Route("/readyz", health.readyz, methods=["GET"]),
    Route("/metrics", health.metrics, methods=["GET"]),
    Route("/openapi.json", openapi.openapi, methods=["GET"]),
]


def create_app(
    agents: Agent | Sequence[Agent],
    *,
    settings: Settings | None = None,
    models: Mapping[str, Model] | None = None,
    deps: Deps | None = None,
) -> PodApp:
    """The ASGI application of one pod: `uvicorn pkg:app`. Settings come from the environment unless given.

    `models` are model objects of your own, by the full name that agents use. `deps` makes what tools find in
    `ctx.deps`: it is entered when the pod starts and left when it stops. Raises `DeclarationError`, `SettingsError`.
    """
    settings = settings or Settings.from_env()
    declared = [agents] if isinstance(agents, Agent) else list(agents)
    by_name = {agent.name: agent for agent in declared}
    if not declared or len(by_name) != len(declared):
        raise DeclarationError("an app needs at least one agent, and no two of the same name")
    on = settings.auth == "on"
    secret = settings.api_keys_secret if on else ""
    keys = Keys(read_keys(settings.api_keys_file) if settings.api_keys_file and on else None, secret, allowed=not on)
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.surface = await build(stack, settings, by_name, keys, telemetry, models or {}, deps)
            yield

    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _error_response,
            Problem: _error_response,
            AgentrtError: _error_response,
            HTTPException: _http_exception,
            Exception: _error_response,
        },
    )
    app.state.openapi = openapi.document(ROUTES)
    return PodApp(app, settings.pod, telemetry, settings.drain_runs_s)


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


async def build(
    stack: AsyncExitStack,
    settings: Settings,
    agents: Mapping[str, Agent],
    keys: Keys,
    telemetry: Telemetry,
    given: Mapping[str, Model],
    deps: Deps | None = None,
) -> Surface:
    """Build and start every part; the stack stops them in reverse."""
    options = RedisOptions(
        settings.redis_url,
        client_name=f"agentrt-{settings.pod}",
        connect_timeout_s=settings.redis_timeout_ms / 1000,
        reply_timeout_s=settings.redis_timeout_ms / 1000,
        wait_replicas=settings.wait_replicas,
        wait_timeout_ms=settings.wait_timeout_ms,
    )
    check_url(settings.redis_url, "AGENTRT_REDIS_URL")
    config = store_config(settings)
    tracing = open_tracing(settings.pod)
    stack.push_async_callback(tracing.aclose)
    redis = Redis(options)
    stack.push_async_callback(redis.aclose)
    await redis.start()
    telemetry.redis_waiting.set_function(lambda: redis.waiting)
    telemetry.redis_waiting_max.set(redis.waiting_max)
    telemetry.redis_breaks.read = lambda: redis.stats.breaks
    telemetry.redis_units.read = lambda: redis.stats.units
    telemetry.redis_writes.read = lambda: redis.stats.writes

    catalog = Models(
        Credentials(
            settings.openai_api_key,
            settings.openai_base_url,
            settings.anthropic_api_key,
            settings.anthropic_base_url,
            settings.openai_chat_api_key,
            settings.openai_chat_base_url,
            gap_s=settings.model_gap_s,
        ),
        given,
        telemetry.circuit_changed,
    )
    stack.push_async_callback(catalog.aclose)
    for agent in agents.values():
        for name in agent.models:
            catalog(name)  # a model that cannot be had is told at the start, not to a customer

    for server in dict.fromkeys(server for agent in agents.values() for server in agent.servers):
        stack.push_async_callback(server.aclose)
        await server.start()
    made = await stack.enter_async_context(deps()) if deps is not None else None
    notices = Notices(redis, options, settings.pod)
    stack.push_async_callback(notices.aclose)
    notices.start()
    telemetry.notices_age_seconds.set_function(lambda: notices.age_s)
    lock_config = LockConfig(settings.pod, settings.lock_ttl_ms)
    locks = await open_locks(settings.lock_urls, redis, notices, lock_config, telemetry)
    stack.push_async_callback(locks.aclose)
    default = Quota(settings.tenant_runs, settings.tenant_turns_per_minute, settings.tenant_tokens_per_day)
    allowance = Allowance(Access(redis), Quotas(redis), default)
    stack.push_async_callback(allowance.aclose)
    await allowance.start()
    keys.granted = allowance.key
    services = Services(
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
        models=catalog,
        telemetry=telemetry,
        allowance=allowance,
        users=(users := Users(redis, config, settings.memory_ttl_s)),
        jobs=Jobs(redis),
        recollections=Recollections(users),
        deps=made,
        prices=Prices.read(settings.prices_file),
        tracing=tracing,
    )
    notices.on_erased = services.recollections.drop
    heartbeat = Heartbeat(services.leases, settings.lease_ms)
    stack.push_async_callback(heartbeat.aclose)
    heartbeat.start()
    runs = Runs(services, agents, heartbeat, settings.max_runs, settings.attempts_max)
    stack.push_async_callback(runs.aclose)
    claims = Claims(services, runs)
    worker = Worker(services.queue, claims, runs)
    stack.push_async_callback(worker.aclose)
    worker.start()
    runs.on_free, notices.on_queued = worker.slot_free, worker.wake
    sweeper = Sweeper(services.queue, worker.wake)
    stack.push_async_callback(sweeper.aclose)
    sweeper.start()
    memory = MemoryParts.of(services, agents, settings, Scan(redis))
    stack.push_async_callback(memory.worker.aclose)
    memory.worker.start()
    runs.on_jobs = memory.worker.wake
    admission = Admission(services, runs, claims, settings.queue_limit)
    readiness = Readiness(
        Probe(options, settings.pod), telemetry, lambda: read_durability(redis, settings.wait_replicas)
    )
    stack.push_async_callback(readiness.aclose)
    readiness.start()
    inspection = Inspection(redis)
    presence = Presence(inspection, settings.pod, lambda: runs.report() | {"ready": readiness.ready})
    stack.push_async_callback(presence.aclose)
    presence.start()
    bounds = Bounds(settings.body_bytes_max, settings.item_bytes_max, settings.items_max)
    return Surface(
        agents=agents,
        keys=keys,
        bounds=bounds,
        admission=admission,
        runs=runs,
        worker=worker,
        services=services,
        inspection=inspection,
        readiness=readiness,
        signals=Signals(services.queue, services.jobs, services.doubts, Vitals(redis), telemetry),
        telemetry=telemetry,
        pod=settings.pod,
        people=memory.people,
        compaction=memory.compaction,
        erasure=memory.erasure,
    )


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """What works behind the turns on what is remembered."""

    people: People
    compaction: Compaction
    erasure: Erasure
    worker: JobWorker

    @classmethod
    def of(cls, services: Services, agents: Mapping[str, Agent], settings: Settings, scan: Scan) -> MemoryParts:
        """Build them. Raises `DeclarationError` where an agent's policy cannot be had."""
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
        worker = JobWorker(services.jobs, handlers, services.telemetry, settings.memory_jobs)
        return cls(People(services, agents), compaction, erasure, worker)


async def _error_response(request: Request, error: Exception) -> Response:
    """Every error in the shape of its part of the surface."""
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, ForeignState):
        request.app.state.surface.telemetry.identity_mismatches.inc()
    answer = to_api_error(error)
    if answer.status >= 500:
        log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return answer.response()


async def _http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 in the API's shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(status, "http_error")
    answer = ApiError(status, code, str(getattr(error, "detail", "")) or "error").response()
    if status == 405:  # Starlette names the methods of one route only
        matching = [route for route in ROUTES if route.matches(request.scope)[0] != Match.NONE]
        answer.headers["allow"] = ", ".join(sorted({method for route in matching for method in route.methods or ()}))
    return answer


class PodApp:
    """A pod as a server runs it: says on every response which pod gave it, counts it, and knows how to leave."""

    def __init__(self, app: Starlette, pod: str, telemetry: Telemetry, drain_runs_s: float) -> None:
        self.app = app
        self._drain_runs_s = drain_runs_s
        self._header = (b"x-agentrt-pod", pod.encode())
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
                endpoint = scope.get("endpoint")
                route = f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}" if endpoint else "none"
                self._telemetry.http.labels(route, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, send_with_header)

    def begin_drain(self) -> None:
        """Say that this pod goes away: unready, and nothing is taken from the queue; requests are served as before."""
        to: Surface = self.app.state.surface
        to.readiness.draining = True
        to.worker.stop()

    async def drain(self) -> None:
        """Let the runs of this pod end, and hand over those that take longer than the settings allow."""
        to: Surface = self.app.state.surface
        await to.runs.leave(self._drain_runs_s)

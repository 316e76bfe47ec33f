"""The application: lists the routes, maps errors to status codes, and has a pod built for its lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from agentrt.agent import Agent
from agentrt.assembly import Blueprint, Deps, build
from agentrt.errors import AgentrtError, DeclarationError, ForeignState
from agentrt.http import chat, compact, conversations, health, openapi, operator, overview, responses
from agentrt.http.auth import Keys, read_keys
from agentrt.http.errors import ApiError, Problem, to_api_error
from agentrt.http.surface import Surface
from agentrt.http.users import USER_ROUTES
from agentrt.models.base import Model
from agentrt.settings import Settings
from agentrt.telemetry import Telemetry

__all__ = ["PodApp", "create_app"]

log = logging.getLogger("agentrt.app")

ROUTES = [
    Route("/v1/responses", responses.create, methods=["POST"]),
    Route("/v1/responses/compact", compact.compact, methods=["POST"]),
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
    blueprint = Blueprint(settings, by_name, keys, telemetry, models or {}, deps)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                app.state.surface = await build(stack, blueprint)
            except AgentrtError as error:
                app.state.refused = error
                raise
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


async def _error_response(request: Request, error: Exception) -> Response:
    """Every error in the shape of its part of the surface."""
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, ForeignState):
        request.app.state.surface.telemetry.identity_mismatches.inc()
    answer = to_api_error(error)
    if answer.status >= 500:
        log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return answer.native().response() if _native(request) else answer.response()


def _native(request: Request) -> bool:
    return request.url.path.startswith("/operator/")


async def _http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 in the shape of their part of the surface."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(getattr(error, "detail", "")) or "error"
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(status, "http_error")
    answer = (
        Problem(status, detail, detail).response() if _native(request) else ApiError(status, code, detail).response()
    )
    if status == 405:  # Starlette names the methods of one route only
        matching = [route for route in ROUTES if route.matches(request.scope)[0] != Match.NONE]
        answer.headers["allow"] = ", ".join(sorted({method for route in matching for method in route.methods or ()}))
    return answer


class _Incoming:
    """A request as it is received, and whether all of it was: a connection that is closed with a part unread is reset,
    and the answer with it.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.whole = not any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )

    async def __call__(self) -> Message:
        message = await self._receive()
        self.whole = message["type"] == "http.request" and not message.get("more_body", False)
        return message


class PodApp:
    """A pod as a server runs it: says on every response which pod gave it, counts it, and knows how to leave."""

    def __init__(self, app: Starlette, pod: str, telemetry: Telemetry, drain_runs_s: float) -> None:
        self.app = app
        self._drain_runs_s = drain_runs_s
        self._header = (b"x-agentrt-pod", pod.encode())
        self._leaving = False
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, self._plainly(send))
            return

        answered, last = False, _Incoming(scope, receive) if self._leaving else None

        async def send_with_header(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
                if last is not None and last.whole:
                    message["headers"].append((b"connection", b"close"))
                endpoint = scope.get("endpoint")
                route = f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}" if endpoint else "none"
                self._telemetry.http.labels(route, message["status"]).inc()
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self.app(scope, last or receive, send_with_header)
        except Exception:
            if not answered:
                raise
            # Starlette raises what it has answered with a 500, and the server would close the connection for that: of
            # a load balancer, with a neighbour's request on it.
            log.exception("%s %s", scope["method"], scope["path"])

    def _plainly(self, send: Send) -> Send:
        """What is wrong with the settings is told in a line; a trace leads nowhere there."""

        async def told(message: Message) -> None:
            refused = getattr(self.app.state, "refused", None)
            if message["type"] == "lifespan.startup.failed" and refused is not None:
                message = {**message, "message": f"this pod cannot start: {refused}"}
            await send(message)

        return told

    def begin_drain(self) -> None:
        """Say that this pod goes away: unready, and nothing is taken from the queue; requests are served as before, but
        each is the last one of its connection.
        """
        to: Surface = self.app.state.surface
        self._leaving = True
        to.readiness.draining = True
        to.worker.stop()

    async def drain(self) -> None:
        """Let the runs of this pod end, and hand over those that take longer than the settings allow."""
        to: Surface = self.app.state.surface
        await to.runs.leave(self._drain_runs_s)

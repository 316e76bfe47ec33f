"""`/livez`, `/readyz`, `/metrics`, and the agents as `/v1/models`."""

from __future__ import annotations

import os
import time

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from agentrt.http.errors import ApiError, json_response
from agentrt.http.surface import surface

__all__ = ["livez", "metrics", "model", "models", "readyz"]

_STARTED = time.monotonic()


async def livez(request: HttpRequest) -> Response:
    """200 for as long as the event loop turns; Redis has no say in it, a restart would not cure Redis."""
    age = round(time.monotonic() - _STARTED, 3)
    checks = {"event_loop": {"state": "ok", "reason": None, "age_seconds": age}}
    return json_response({"status": "ok", "pod": surface(request).pod, "pid": os.getpid(), "checks": checks})


async def readyz(request: HttpRequest) -> Response:
    """200 when traffic is welcome, else 503; each check with its state, reason and age."""
    to = surface(request)
    ready = to.readiness.ready
    body = {
        "status": "draining" if to.readiness.draining else "ok" if ready else "unavailable",
        "pod": to.pod,
        "pid": os.getpid(),
        "checks": {"redis": to.readiness.redis.report(), "durability": to.readiness.durability.report()},
    }
    return json_response(body, 200 if ready else 503, {} if ready else {"retry-after": "1"})


async def metrics(request: HttpRequest) -> Response:
    """Prometheus' text exposition, or OpenMetrics if asked for."""
    to = surface(request)
    await to.signals.refresh()
    text, content_type = to.telemetry.render(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "agentrt"}


async def models(request: HttpRequest) -> Response:
    """The agents of this deployment."""
    to = surface(request)
    to.keys.check(request)
    return json_response({"object": "list", "data": [_model(name) for name in to.agents]})


async def model(request: HttpRequest) -> Response:
    """One agent."""
    to = surface(request)
    to.keys.check(request)
    name = request.path_params["model"]
    if name not in to.agents:
        raise ApiError(404, "model_not_found", f"The model '{name[:64]}' does not exist.", param="model")
    return json_response(_model(name))

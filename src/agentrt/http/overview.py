"""The native routes that look: live pods, the queue, sessions and their runs. For operators, of every tenant."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from agentrt.http.body import is_number
from agentrt.http.errors import Problem, json_response
from agentrt.http.operator import operator_of
from agentrt.http.requests import conversation_keys, response_keys
from agentrt.http.surface import Surface
from agentrt.records import Request
from agentrt.runtime.response import response_id
from agentrt.store.keys import SessionKeys, is_name

__all__ = ["pods", "queue", "run", "runs", "session"]


async def pods(request: HttpRequest) -> Response:
    """The pods that gave a sign of life within the last 10 s."""
    to, _ = operator_of(request)
    found = await to.inspection.pods()
    shown = [{"pod": pod.name, "seen_seconds_ago": pod.seen_ms_ago / 1000, **pod.told} for pod in found]
    return json_response({"pods": shown})


async def queue(request: HttpRequest) -> Response:
    """What waits for a pod, in all and by class; `depth` is what an autoscaler asks for."""
    to, _ = operator_of(request)
    state = await to.inspection.queue()
    return json_response(
        {
            "depth": state.depth,
            "oldest_seconds": round(state.oldest_s, 3),
            "classes": state.classes,
            "leased": state.leased,
            "dead_letters": state.dead,
        }
    )


def _tenant(request: HttpRequest) -> str:
    tenant: str = request.path_params["tenant"]
    if not is_name(tenant):
        raise Problem(400, "Bad Request", "A tenant matches [A-Za-z0-9_-]{1,64}.")
    return tenant


async def _session(request: HttpRequest) -> tuple[Surface, SessionKeys, dict[str, str]]:
    to, _ = operator_of(request)
    keys = conversation_keys(_tenant(request), request.path_params["conversation_id"])
    fields = await to.inspection.session(keys) if keys is not None else None
    if keys is None or fields is None:
        raise Problem(404, "Not Found", "This tenant has no such conversation.")
    return to, keys, fields


async def session(request: HttpRequest) -> Response:
    """A conversation as its header has it; nothing of what was said."""
    _, keys, fields = await _session(request)
    waiters = orjson.loads(fields.get("waiters") or "[]")
    live = fields.get("run", "")
    shown = {
        "tenant": keys.tenant,
        "conversation": f"conv_{keys.id}",
        "user": fields.get("user", ""),
        "agent": fields.get("agent", ""),
        "created_at": int(fields["created"]),
        "updated_at": int(fields["updated"]),
        "items": int(fields["seq"]),
        "revision": int(fields["rev"]),
        "pod": fields.get("pod") or None,
        "live_response": response_id(keys.id, live) if live else None,
        "newest_response": response_id(keys.id, fields["head"]) if fields.get("head") else None,
        "waiting": [response_id(keys.id, one[0]) for one in waiters],
        "effects_in_doubt": len(orjson.loads(fields.get("doubts") or "[]")),
        "schema_version": int(fields["v"]),
    }
    return json_response(shown)


async def runs(request: HttpRequest) -> Response:
    """The newest runs of a conversation, newest first; `limit` from 1 to 1000, default 100."""
    to, keys, _ = await _session(request)
    limit = request.query_params.get("limit", "100")
    if not is_number(limit) or not 1 <= int(limit) <= 1000:
        raise Problem(400, "Bad Request", "'limit' must be a whole number from 1 to 1000.")
    rows = await to.inspection.runs(keys, int(limit))
    return json_response({"runs": [_run(keys, row) for row in rows if row["status"] != "steered"]})


def _run(keys: SessionKeys, row: dict[str, str | None]) -> dict[str, Any]:
    return {
        "response": response_id(keys.id, str(row["id"])),
        "status": row["status"],
        "attempt": int(row["attempt"] or 0),
        "pod": row["pod"] or None,
        "created_at": int(row["created"] or 0),
        "ended_at": int(row["ended"]) if row["ended"] else None,
        "cancel_asked": bool(row["cancel"]),
    }


async def run(request: HttpRequest) -> Response:
    """A run with its journal: every effect as planned, and what became of it."""
    to, _ = operator_of(request)
    named = response_keys(_tenant(request), request.path_params["response_id"])
    stored = await to.services.conversations.run(*named) if named else None
    if named is None or stored is None:
        raise Problem(404, "Not Found", "This tenant has no such response.")
    keys, identifier = named
    final = orjson.loads(stored.result) if stored.result else {}
    shown = {
        "tenant": keys.tenant,
        "conversation": f"conv_{keys.id}",
        "response": response_id(keys.id, identifier),
        "agent": Request.decode(stored.request).agent,
        "status": stored.status,
        "created_at": stored.created_ms,
        "usage": final.get("usage"),
        "error": final.get("error"),
        "effects": await to.inspection.journal(keys, identifier),
    }
    return json_response(shown)

"""`/openapi.json`: every route with what it takes and gives. Built from the routes, so that none can be missing.

The shapes are those of `schemas`; the summaries are the first lines of the routes' own docstrings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from agentrt.http.errors import json_response
from agentrt.http.schemas import SCHEMAS
from agentrt.http.shapes import NAME, Schema, ref
from agentrt.memory.facts import STATES

__all__ = ["document", "openapi"]

_PARAMETER = re.compile(r"\{(\w+)(:\w+)?\}")


@dataclass(frozen=True, slots=True)
class _Operation:
    """What one method of a route takes and gives, by names of schemas; `errors` are statuses beside the usual."""

    gives: str
    takes: str = ""
    query: Sequence[str] = ()
    stream: str = ""
    """The schema of an event, where the answer may be a stream of them."""
    errors: Sequence[int] = ()
    needs_key: bool = True
    kind: str = "application/json"
    also: int = 0
    """A status that bears the same body."""


_ITEMS = "/v1/conversations/{conversation_id}/items"
_KEYED = {"/v1/responses", "/v1/responses/compact", "/v1/conversations", _ITEMS, "/v1/chat/completions"}
_PAGE = ("limit", "order", "after")
_TURN = (404, 409, 413, 422, 429)
_OPERATIONS = {
    "POST /v1/responses": _Operation("Response", "ResponseRequest", stream="ResponseEvent", errors=_TURN),
    "POST /v1/responses/compact": _Operation("Compaction", "CompactRequest", errors=_TURN),
    "GET /v1/responses/{response_id}": _Operation(
        "Response", query=("stream", "starting_after"), stream="ResponseEvent", errors=(404,)
    ),
    "DELETE /v1/responses/{response_id}": _Operation("Deleted", errors=(404, 409)),
    "POST /v1/responses/{response_id}/cancel": _Operation("Response", errors=(404,)),
    "GET /v1/responses/{response_id}/input_items": _Operation("ItemList", query=_PAGE, errors=(404,)),
    "POST /v1/conversations": _Operation("Conversation", "ConversationRequest", errors=(413, 422)),
    "GET /v1/conversations/{conversation_id}": _Operation("Conversation", errors=(404,)),
    "POST /v1/conversations/{conversation_id}": _Operation("Conversation", "MetadataRequest", errors=(404, 413)),
    "DELETE /v1/conversations/{conversation_id}": _Operation("Deleted", errors=(404,)),
    "GET /v1/conversations/{conversation_id}/items": _Operation("ItemList", query=_PAGE, errors=(404,)),
    "POST /v1/conversations/{conversation_id}/items": _Operation(
        "ItemList", "ItemsRequest", errors=(404, 409, 413, 422)
    ),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": _Operation("Item", errors=(404,)),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": _Operation("Conversation", errors=(404, 409)),
    "POST /v1/chat/completions": _Operation("ChatCompletion", "ChatRequest", stream="ChatChunk", errors=_TURN),
    "GET /v1/models": _Operation("ModelList"),
    "GET /v1/models/{model}": _Operation("Model", errors=(404,)),
    "GET /operator/effects": _Operation("EffectList", query=("effects_limit",)),
    "POST /operator/effects/{effect}/resolve": _Operation("Effect", "Resolution", also=202, errors=(404, 409, 413)),
    "GET /operator/effects/{effect}": _Operation("Effect", errors=(404,)),
    "GET /operator/pods": _Operation("PodList"),
    "GET /operator/queue": _Operation("Queue"),
    "GET /operator/sessions/{tenant}/{conversation_id}": _Operation("Session", errors=(404,)),
    "GET /operator/sessions/{tenant}/{conversation_id}/runs": _Operation(
        "RunList", query=("effects_limit",), errors=(404,)
    ),
    "GET /operator/runs/{tenant}/{response_id}": _Operation("Run", errors=(404,)),
    "GET /livez": _Operation("Health", needs_key=False),
    "GET /readyz": _Operation("Health", needs_key=False, also=503),
    "GET /metrics": _Operation("Text", needs_key=False, kind="text/plain"),
    "GET /openapi.json": _Operation("Any", needs_key=False),
}

_USER = "/operator/users/{user}"
_KEPT = (404, 413, 422)
_OPERATIONS |= {
    f"GET {_USER}": _Operation("User"),
    f"DELETE {_USER}": _Operation("Receipt", "ErasureRequest", errors=(413,)),
    f"GET {_USER}/facts": _Operation("FactList", query=("at", "state", "attribute")),
    f"POST {_USER}/facts": _Operation("Fact", "FactRequest", errors=_KEPT),
    f"GET {_USER}/facts/{{fact}}": _Operation("Fact", query=("at",), errors=(404,)),
    f"DELETE {_USER}/facts/{{fact}}": _Operation("ForgottenFact", errors=(404,)),
    f"GET {_USER}/turns": _Operation("TurnList", query=("effects_limit", "after_number")),
    f"POST {_USER}/turns": _Operation("Remembered", "TurnsRequest", errors=_KEPT),
    f"DELETE {_USER}/turns/{{item}}": _Operation("ForgottenTurn", errors=(404, 409)),
    f"GET {_USER}/search": _Operation("Found", query=("q", "k", "at", "kinds"), errors=(404,)),
    f"POST {_USER}/context": _Operation("Context", "ContextRequest", errors=(404, 413)),
    f"GET {_USER}/export": _Operation("Export"),
    f"POST {_USER}/compact": _Operation("Tidied", "TidyRequest", errors=(404, 413)),
    "GET /operator/jobs": _Operation("Jobs"),
    "POST /operator/jobs/revive": _Operation("Revived", "ReviveRequest", errors=(413,)),
}

_QUERY: dict[str, Schema] = {
    "tenant": NAME,
    "q": {"type": "string", "minLength": 1, "maxLength": 65_536},
    "k": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
    "at": {"type": "string", "format": "date-time"},
    "state": {"type": "string", "enum": ["all", *STATES], "default": "all"},
    "attribute": {"type": "string"},
    "kinds": {"type": "string", "enum": ["all", "facts"], "default": "all"},
    "after_number": {"type": "integer", "minimum": 0, "default": 0},
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    "effects_limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "order": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string"},
    "stream": {"type": "string", "enum": ["true", "false"]},
    "starting_after": {"type": "integer", "minimum": 0},
}

_MUST = {"q"}
"""Parameters that must be there."""

_SHOWN = {"effects_limit": "limit", "after_number": "after"}
"""Parameters that mean different things on different routes."""

_ERRORS = {
    202: "Kept; what follows from it has not begun yet.",
    400: "The request cannot be understood.",
    401: "No key, or a wrong one.",
    403: "The key may not do this.",
    404: "Not there, or not yours.",
    409: "Busy, or in a state that excludes it.",
    413: "The body is too long.",
    422: "The Idempotency-Key was used with another body, the model gave no summary, or the write gate refuses this.",
    429: "Too much at once; see Retry-After.",
    500: "A defect of the server.",
    503: "The server cannot serve now; see Retry-After.",
}


def _path(route: Route) -> str:
    return _PARAMETER.sub(r"{\1}", route.path)


def _methods(route: Route) -> list[str]:
    return sorted((route.methods or set()) - {"HEAD"})


def document(routes: Sequence[Route]) -> Schema:
    """The OpenAPI 3.1 document of these routes. Raises `KeyError` for a route that is not described."""
    paths: dict[str, Schema] = {}
    for route in routes:
        path = _path(route)
        for method in _methods(route):
            operation = _operation(route, path, method, _OPERATIONS[f"{method} {path}"])
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agentrt",
            "version": version("agentrt"),
            "description": "The OpenAI Responses, Conversations and Chat Completions API, and native routes.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, path: str, method: str, told: _Operation) -> Schema:
    endpoint = route.endpoint
    native = path.startswith("/operator")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name, _ in _PARAMETER.findall(path)
    ]
    for name in (*told.query, "tenant") if path.startswith(_USER) else told.query:
        shown = _SHOWN.get(name, name)
        parameters.append({"name": shown, "in": "query", "required": name in _MUST, "schema": _QUERY[name]})
    if method == "POST" and path in _KEYED:
        text = {"type": "string", "maxLength": 255}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": text})
    operation: Schema = {
        "operationId": f"{endpoint.__module__.rpartition('.')[2]}_{endpoint.__name__}",
        "summary": (inspect.getdoc(endpoint) or "").partition("\n")[0],
        "parameters": parameters,
        "responses": _responses(told, native),
    }
    if told.takes:
        required = bool(SCHEMAS[told.takes].get("required"))
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": ref(told.takes)}}}
    if told.needs_key:
        operation["security"] = [{"key": []}]
    return operation


def _responses(told: _Operation, native: bool) -> Schema:
    content: Schema = {told.kind: {"schema": ref(told.gives)}}
    if told.stream:
        content["text/event-stream"] = {"schema": {"type": "string"}, "x-event": ref(told.stream)}
    responses: Schema = {"200": {"description": "What was asked for.", "content": content}}
    if told.also:
        responses[str(told.also)] = {"description": _ERRORS[told.also], "content": content}
    statuses = {400, 401, 403, 500, 503, *told.errors} if told.needs_key else set()
    kind, name = ("application/problem+json", "Problem") if native else ("application/json", "Error")
    for status in sorted(statuses):
        responses[str(status)] = {"description": _ERRORS[status], "content": {kind: {"schema": ref(name)}}}
    return responses


async def openapi(request: HttpRequest) -> Response:
    """This document."""
    return json_response(request.app.state.openapi)

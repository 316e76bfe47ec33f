"""The native routes under `/operator`: what is in doubt, and saying what became of it. Errors are RFC 9457."""

from __future__ import annotations

import asyncio

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from agentrt.http.auth import Principal
from agentrt.http.body import is_number, read_json
from agentrt.http.errors import ApiError, Problem, json_response
from agentrt.http.surface import Surface, surface
from agentrt.runtime.resolution import continuation, report, resolve
from agentrt.runtime.response import response_id
from agentrt.store.doubts import Doubted, Place

__all__ = ["effect", "effects", "operator_of", "resolve_effect"]

_LIMIT_MAX = 1000
_BEGUN_S = 2.0
"""An answer waits this long for the run that goes on to begin."""


def operator_of(request: HttpRequest) -> tuple[Surface, Principal]:
    """Who asks, an operator. Raises a `Problem`."""
    to = surface(request)
    try:
        return to, to.keys.check(request, "operate")
    except ApiError as error:
        raise Problem(error.status, "Forbidden" if error.status == 403 else "Unauthorized", str(error)) from error


async def effects(request: HttpRequest) -> Response:
    """The effects in doubt, the oldest first; `limit` from 1 to 1000, default 100."""
    to, _ = operator_of(request)
    limit = request.query_params.get("limit", "100")
    if not is_number(limit) or not 1 <= int(limit) <= _LIMIT_MAX:
        raise Problem(400, "Bad Request", f"'limit' must be a whole number from 1 to {_LIMIT_MAX}.")
    found = await to.services.doubts.listed(int(limit))
    return json_response({"effects": [report(doubted) for doubted in found]})


async def effect(request: HttpRequest) -> Response:
    """One effect that is or was in doubt."""
    to, _ = operator_of(request)
    return json_response(report(await _found(to, request)))


async def resolve_effect(request: HttpRequest) -> Response:
    """`{"happened": true, "output": any}` or `{"happened": false}`. The first resolution stands and is answered.

    200 when the run that goes on, if any, has begun, so that no pod's death loses it; 202 while it has not, where
    another message came first: whoever wants to be sure says it again, which does no harm.
    """
    to, principal = operator_of(request)
    try:
        body = await read_json(request, to.bounds)
    except ApiError as error:
        raise Problem(error.status, "Bad Request", str(error)) from error
    happened = body.get("happened")
    if not isinstance(happened, bool):
        raise Problem(400, "Bad Request", "'happened' must be true or false.")
    if not happened and body.get("output") is not None:
        raise Problem(400, "Bad Request", "What did not happen has no 'output'.")
    doubted = await _found(to, request)
    known = await resolve(to.services.doubts, doubted, happened, body.get("output"), f"key/{principal.credential}")
    if known is None:
        raise Problem(409, "Conflict", "The effect is not in doubt.")
    going_on, status, continued_by = continuation(doubted), 200, None
    if going_on is not None:
        bringing = to.admission.bring(going_on)
        begun, _ = await asyncio.wait({bringing}, timeout=_BEGUN_S)
        if not begun or bringing.result():
            status, continued_by = (200 if begun else 202), response_id(going_on.session.id, going_on.run)
    return json_response({**report(await _found(to, request)), "continued_by": continued_by}, status)


async def _found(to: Surface, request: HttpRequest) -> Doubted:
    text = request.path_params["effect"]
    place = Place.parse(text)
    doubted = await to.services.doubts.read(place) if place is not None else None
    if doubted is None:
        raise Problem(404, "Not Found", "No effect in doubt has this id.")
    return doubted

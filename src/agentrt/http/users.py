"""The native routes under `/operator/users/{user}` and `/operator/jobs`. Errors are RFC 9457.

The tenant is that of the operator's key, or `?tenant=`: an operator's key is for all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from agentrt.http.auth import Principal
from agentrt.http.body import is_number, read_json
from agentrt.http.errors import ApiError, Problem, json_response
from agentrt.http.operator import operator_of
from agentrt.http.surface import Surface
from agentrt.memory.dates import moment
from agentrt.memory.facts import STATES
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.forgetting import Busy, NoSuchMemory
from agentrt.runtime.jobs import Again
from agentrt.runtime.people import Refused, Said
from agentrt.store.keys import UserKeys, is_name

__all__ = ["USER_ROUTES"]

_K_MAX = 100
_TEXT_MAX = 65_536
_ITEMS_MAX = 1_000
_ROLES = ("user", "assistant", "tool", "system")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request about a user, by somebody who may ask."""

    request: HttpRequest
    to: Surface
    user: UserKeys
    principal: Principal


_Handler = Callable[[_Asked], Awaitable[Any]]


def _route(handler: _Handler) -> Callable[[HttpRequest], Awaitable[Response]]:
    """Check who asks and about whom; map what is refused."""

    @wraps(handler)
    async def checked(request: HttpRequest) -> Response:
        to, principal = operator_of(request)
        tenant = request.query_params.get("tenant", principal.tenant)
        user = request.path_params["user"]
        if not is_name(tenant) or not is_name(user):
            raise Problem(400, "Bad Request", "Tenants and users match [A-Za-z0-9_-]{1,64}.")
        try:
            found = await handler(_Asked(request, to, UserKeys(tenant, user), principal))
        except NoSuchMemory as error:
            raise Problem(404, "Not Found", str(error)) from error
        except Busy as error:
            raise Problem(409, "Conflict", f"Nothing was forgotten: {error}.") from error
        except Refused as error:
            raise Problem(422, "Unprocessable Content", f"The write gate refuses this: {error}.") from error
        except ApiError as error:
            raise Problem(error.status, "Bad Request", str(error)) from error
        return json_response(found)

    return checked


def _number(request: HttpRequest, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if not is_number(text) or not low <= int(text) <= high:
        raise Problem(400, "Bad Request", f"'{name}' must be a whole number from {low} to {high}.")
    return int(text)


def _moment(value: Any, name: str, default: int) -> int:
    if value is None:
        return default
    try:
        return moment(value)
    except (ValueError, TypeError) as error:
        raise Problem(400, "Bad Request", f"'{name}' must be a moment in ISO 8601.") from error


def _text(body: dict[str, Any], name: str, default: str | None = None, most: int = _TEXT_MAX) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) > most:
        raise Problem(400, "Bad Request", f"'{name}' must be a string of at most {most} characters.")
    return value


def _choice(given: Mapping[str, Any], name: str, default: str, *others: str) -> str:
    value = given.get(name, default)
    if value not in (default, *others):
        raise Problem(400, "Bad Request", f"'{name}' must be one of {', '.join((default, *others))}.")
    return str(value)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Problem(400, "Bad Request", f"'{name}' must be true or false.")
    return value


async def overview(asked: _Asked) -> Any:
    """How much is kept, and what is still to be drawn from it."""
    return await asked.to.people.overview(asked.user)


async def facts(asked: _Asked) -> Any:
    """All facts with their states, at `at` (default now); `state=active` and `attribute=` choose."""
    query = asked.request.query_params
    found = await asked.to.people.facts(asked.user, _moment(query.get("at"), "at", wall_ms()))
    state, attribute = _choice(query, "state", "all", *STATES), query.get("attribute")
    chosen = [one for one in found if state in {"all", one["state"]} and attribute in {None, one["attribute"]}]
    return {"facts": chosen}


async def set_fact(asked: _Asked) -> Any:
    """A preference or a correction.

    `{attribute, value, subject?, polarity?, card?, valid_until?, at?, replaces?, pinned?}`.
    """
    body = await read_json(asked.request, asked.to.bounds)
    until = None if body.get("valid_until") is None else _moment(body["valid_until"], "valid_until", 0)
    identifier = await asked.to.people.set(
        asked.user,
        attribute=_text(body, "attribute"),
        value=_text(body, "value"),
        subject=_text(body, "subject", "user"),
        negative=_choice(body, "polarity", "+", "-") == "-",
        one=_choice(body, "card", "one", "many") == "one",
        until=until,
        at=_moment(body.get("at"), "at", wall_ms()),
        replaces=_text(body, "replaces", ""),
        pinned=_flag(body, "pinned") if "pinned" in body else None,
        by=f"key/{asked.principal.credential}",
    )
    return await asked.to.people.why(asked.user, identifier, wall_ms())


async def fact(asked: _Asked) -> Any:
    """One fact, and why: what was said, when, in which item."""
    at = _moment(asked.request.query_params.get("at"), "at", wall_ms())
    return await asked.to.people.why(asked.user, asked.request.path_params["fact"], at)


async def forget_fact(asked: _Asked) -> Any:
    """Forget one fact."""
    identifier = asked.request.path_params["fact"]
    await asked.to.people.forgetting.fact(asked.user, identifier)
    return {"id": identifier, "forgotten": True}


async def turns(asked: _Asked) -> Any:
    """Raw turns as remembered, from number `after` on; `limit` 1 to 1000."""
    limit = _number(asked.request, "limit", 100, 1, 1000)
    return {"turns": await asked.to.people.turns(asked.user, _number(asked.request, "after", 0, 0, 10**9), limit)}


async def remember(asked: _Asked) -> Any:
    """Take turns in from elsewhere: `{items: [{id, text, role?, at?, conversation?, speaker?}], agent?}`."""
    body = await read_json(asked.request, asked.to.bounds)
    items = body.get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= _ITEMS_MAX:
        raise Problem(400, "Bad Request", f"'items' must be a list of 1 to {_ITEMS_MAX}.")
    said = []
    for item in items:
        if not isinstance(item, dict):
            raise Problem(400, "Bad Request", "Each of 'items' must be an object.")
        identifier, role = _text(item, "id", most=128), _choice(item, "role", *_ROLES)
        if not identifier:
            raise Problem(400, "Bad Request", "Each of 'items' needs an 'id'.")
        at = _moment(item.get("at"), "at", wall_ms())
        session, speaker = _text(item, "conversation", "", 128), _text(item, "speaker", "", 128)
        said.append(Said(identifier, role, _text(item, "text"), at, session, speaker))
    return {"added": await asked.to.people.remember(asked.user, said, _text(body, "agent", ""))}


async def forget_turn(asked: _Asked) -> Any:
    """Forget what was said in one item, here and in its conversation."""
    item = asked.request.path_params["item"]
    await asked.to.people.forgetting.item(asked.user, item)
    return {"item": item, "forgotten": True}


async def search(asked: _Asked) -> Any:
    """Facts and turns for the question `q`; `k` from 1 to 100; `kinds=facts` leaves the turns out."""
    query = asked.request.query_params
    question = query.get("q", "")
    if not question or len(question) > _TEXT_MAX:
        raise Problem(400, "Bad Request", "'q' must be a question.")
    at = _moment(query.get("at"), "at", wall_ms())
    k = _number(asked.request, "k", 10, 1, _K_MAX)
    facts_only = _choice(query, "kinds", "all", "facts") == "facts"
    return await asked.to.people.search(asked.user, question, k, at, facts_only=facts_only)


async def context(asked: _Asked) -> Any:
    """What a turn with the message `query` would be given: `{query, budget?, at?, agent?}`."""
    body = await read_json(asked.request, asked.to.bounds)
    budget = body.get("budget")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or not 0 <= budget <= 10**6):
        raise Problem(400, "Bad Request", "'budget' must be a number of tokens.")
    at = _moment(body.get("at"), "at", wall_ms())
    agent = _text(body, "agent", "")
    block = await asked.to.people.context(asked.user, _text(body, "query"), at, agent=agent, budget=budget)
    return block.report()


async def export(asked: _Asked) -> Any:
    """Everything that is kept of the user."""
    return await asked.to.people.export(asked.user)


async def compact(asked: _Asked) -> Any:
    """Tidy up now: `{at?, agent?}`."""
    body = await read_json(asked.request, asked.to.bounds)
    agent, _ = asked.to.people.policy(_text(body, "agent", ""))
    try:
        return await asked.to.compaction.tidy(asked.user, agent, _moment(body.get("at"), "at", wall_ms()))
    except Again as why:
        raise ApiError(503, "embedder_unavailable", f"All is done but the embeddings: {why}", retry_after_s=5) from None


async def erase(asked: _Asked) -> Any:
    """Erase the user: `{scan?, needles?}`; the answer is the receipt."""
    body = await read_json(asked.request, asked.to.bounds)
    needles = body.get("needles", [])
    if not isinstance(needles, list) or not all(isinstance(one, str) and one for one in needles) or len(needles) > 100:
        raise Problem(400, "Bad Request", "'needles' must be a list of at most 100 texts.")
    scan = _flag(body, "scan") if "scan" in body else True
    return await asked.to.erasure.erase(asked.user, scan=scan, needles=needles)


async def buried(request: HttpRequest) -> Response:
    """Jobs of the memory that were given up, and how many wait."""
    to, _ = operator_of(request)
    backlog = await to.services.jobs.backlog()
    letters = await to.services.jobs.buried()
    return json_response(
        {
            "jobs": backlog.jobs,
            "late": backlog.late,
            "buried": [{"job": one.name, "reason": one.reason, "tries": one.tries, "at": one.at} for one in letters],
        }
    )


async def revive(request: HttpRequest) -> Response:
    """Have jobs that were given up done again: `{job}`, or all."""
    to, _ = operator_of(request)
    body = await read_json(request, to.bounds)
    named = _text(body, "job", "")
    revived = [one.name for one in await to.services.jobs.buried() if named in ("", one.name)]
    for name in revived:
        await to.people.revive(name)
    return json_response({"revived": revived})


_USER = "/operator/users/{user}"
USER_ROUTES = [
    Route(_USER, _route(overview), methods=["GET"]),
    Route(_USER, _route(erase), methods=["DELETE"]),
    Route(f"{_USER}/facts", _route(facts), methods=["GET"]),
    Route(f"{_USER}/facts", _route(set_fact), methods=["POST"]),
    Route(f"{_USER}/facts/{{fact}}", _route(fact), methods=["GET"]),
    Route(f"{_USER}/facts/{{fact}}", _route(forget_fact), methods=["DELETE"]),
    Route(f"{_USER}/turns", _route(turns), methods=["GET"]),
    Route(f"{_USER}/turns", _route(remember), methods=["POST"]),
    Route(f"{_USER}/turns/{{item:path}}", _route(forget_turn), methods=["DELETE"]),
    Route(f"{_USER}/search", _route(search), methods=["GET"]),
    Route(f"{_USER}/context", _route(context), methods=["POST"]),
    Route(f"{_USER}/export", _route(export), methods=["GET"]),
    Route(f"{_USER}/compact", _route(compact), methods=["POST"]),
    Route("/operator/jobs", buried, methods=["GET"]),
    Route("/operator/jobs/revive", revive, methods=["POST"]),
]

"""From an HTTP request to a message for the runtime: who asks, in which session, under which run id."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request as HttpRequest

from agentrt.agent import Agent
from agentrt.http.auth import Principal
from agentrt.http.body import Bounds, check_options, check_user
from agentrt.http.errors import ApiError, invalid
from agentrt.http.items import check_items
from agentrt.memory.dates import moment
from agentrt.records import Request
from agentrt.runtime.errands import SAID_AT
from agentrt.store.begin import Begin
from agentrt.store.keys import SessionKeys, derive_id, is_id, new_id
from agentrt.tracing import OFF, Tracing

__all__ = [
    "Message",
    "conversation_keys",
    "find_agent",
    "first_session",
    "idempotency_key",
    "new_begin",
    "parse_message",
    "response_keys",
]

_POLICIES = frozenset({"wait", "reject", "interrupt", "rollback", "steer"})


@dataclass(slots=True)
class Message:
    """A message as asked for: what begin wants, and what the run needs."""

    begin: Begin
    request: Request
    inputs: list[dict[str, Any]]
    stream: bool


def conversation_keys(tenant: str, identifier: str) -> SessionKeys | None:
    """The session that `conv_...` names; None for anything else."""
    session = identifier.removeprefix("conv_")
    if session == identifier or not is_id(session):
        return None
    return SessionKeys(tenant, session)


def response_keys(tenant: str, identifier: str) -> tuple[SessionKeys, str] | None:
    """The session and the run that `resp_...` names; None for anything else."""
    both = identifier.removeprefix("resp_")
    if both == identifier or len(both) != 44 or not (is_id(both[:22]) and is_id(both[22:])):
        return None
    return SessionKeys(tenant, both[:22]), both[22:]


def first_session(tenant: str, run: str) -> SessionKeys:
    """The session that a run begins, if it continues none: its items can be found by its id."""
    return SessionKeys(tenant, derive_id(tenant, run, "session"))


def parse_message(
    http: HttpRequest,
    body: dict[str, Any],
    principal: Principal,
    agents: Mapping[str, Agent],
    bounds: Bounds,
    tracing: Tracing = OFF,
) -> Message:
    """Check everything that can be checked without the store. Raises `ApiError` that names the parameter."""
    agent = find_agent(body.get("model"), agents)
    options = check_options(body)
    user = check_user(body)
    inputs = check_items(body.get("input"), bounds, references=True)
    conversation = _conversation_id(body.get("conversation"))
    previous = body.get("previous_response_id")
    if previous is None:
        previous = ""
    elif not isinstance(previous, str) or not previous:
        raise invalid("'previous_response_id' must be an id", "previous_response_id", "invalid_type")
    if conversation and previous:
        raise invalid("'previous_response_id' and 'conversation' exclude each other", "previous_response_id")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid("'stream' must be true or false", "stream", "invalid_type")
    check_moment(options)
    trace = tracing.arrival(agent.name, http.headers)
    request = Request(agent.name, int(time.time()), options, conversation, previous, user, trace=trace)
    begin = new_begin(http, body, principal, request, agent, inputs)
    return Message(begin, request, inputs, bool(stream))


def check_moment(options: Mapping[str, Any]) -> None:
    """Raises a 400 where the metadata say when the message was said, in words that are no moment."""
    said = options.get("metadata", {}).get(SAID_AT)
    if said is None:
        return
    try:
        moment(said)
    except ValueError:
        raise invalid(f"'{SAID_AT}' must be a moment in ISO 8601", f"metadata.{SAID_AT}") from None


def idempotency_key(http: HttpRequest) -> str:
    """The Idempotency-Key of a request, or an empty string."""
    key: str = http.headers.get("idempotency-key", "")
    if len(key) > 255:
        raise invalid("'Idempotency-Key' is longer than 255 characters", "Idempotency-Key")
    return key


def find_agent(name: Any, agents: Mapping[str, Agent]) -> Agent:
    """The agent that `model` names. Raises a 400 or a 404."""
    if not isinstance(name, str):
        raise invalid("'model' must be the name of an agent", "model", "missing_required_parameter")
    agent = agents.get(name)
    if agent is None:
        raise ApiError(404, "model_not_found", f"The model '{name[:64]}' does not exist.", param="model", final=True)
    return agent


def _conversation_id(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        value = value.get("id")
    if not isinstance(value, str) or not value:
        raise invalid("'conversation' must be an id or an object with an id", "conversation", "invalid_type")
    return value


def new_begin(
    http: HttpRequest,
    body: dict[str, Any],
    principal: Principal,
    request: Request,
    agent: Agent,
    inputs: list[dict[str, Any]],
) -> Begin:
    """What begin wants of a message. Raises a 404 for ids that cannot be anybody's."""
    tenant = principal.tenant
    who = f"{principal.credential}/{request.user}"
    key = idempotency_key(http)
    run = derive_id(tenant, who, "", key) if key else new_id()
    parent = ""
    if request.conversation:
        session = conversation_keys(tenant, request.conversation)
        if session is None:
            message = f"Conversation with id '{request.conversation[:64]}' not found."
            raise ApiError(404, "not_found", message, param="conversation")
    elif request.previous:
        named = response_keys(tenant, request.previous) if isinstance(request.previous, str) else None
        if named is None:
            message = f"Previous response with id '{str(request.previous)[:64]}' not found."
            raise ApiError(404, "previous_response_not_found", message, param="previous_response_id")
        session, parent = named
    else:
        session = first_session(tenant, run)
    begun = not request.conversation and not request.previous
    return Begin(
        session=session,
        run=run if begun or not key else derive_id(tenant, who, session.id, key),
        token=new_id(),
        fingerprint=_fingerprint(who, body) if key or not begun else "",
        agent=agent.name,
        request=request.encode(),
        input=orjson.dumps(inputs),
        user=request.user,
        by_key=bool(key),
        create=begun,
        fresh=begun and not key,
        policy=_policy(http, request, agent),
        retried=http.headers.get("x-stainless-retry-count", "0") not in {"", "0"},
        parent=parent,
        background=bool(request.options.get("background")),
        alone=request.alone,
    )


def _policy(http: HttpRequest, request: Request, agent: Agent) -> str:
    asked: str = http.headers.get("x-agentrt-on-busy", "") or request.options.get("metadata", {}).get(
        "agentrt_on_busy", agent.on_busy
    )
    if asked not in _POLICIES:
        raise invalid(f"'agentrt_on_busy' must be one of {sorted(_POLICIES)}", "metadata.agentrt_on_busy")
    return asked


def _fingerprint(who: str, body: dict[str, Any]) -> str:
    """Equal for the same principal and message; how the answer is to be sent does not count."""
    said = {name: value for name, value in body.items() if name not in {"stream", "stream_options"}}
    digest = hashlib.sha256(who.encode() + b"\0" + orjson.dumps(said, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()[:32]

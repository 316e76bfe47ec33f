"""What every route needs: the runtime's parts, and the few things that all of them do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from agentrt.agent import Agent
from agentrt.http.auth import Keys, Principal
from agentrt.http.body import Bounds, is_number, read_json
from agentrt.http.errors import invalid
from agentrt.runtime.admission import Admission
from agentrt.runtime.compaction import Compaction
from agentrt.runtime.erasure import Erasure
from agentrt.runtime.following import Following
from agentrt.runtime.people import People
from agentrt.runtime.readiness import Readiness
from agentrt.runtime.runs import Runs
from agentrt.runtime.services import Services
from agentrt.runtime.signals import Signals
from agentrt.runtime.worker import Worker
from agentrt.store.inspection import Inspection
from agentrt.telemetry import Telemetry

__all__ = ["Page", "Surface", "page_of", "spliced_list"]


@dataclass(frozen=True, slots=True)
class Surface:
    """The parts that routes talk to; `request.app.state.surface`."""

    agents: Mapping[str, Agent]
    keys: Keys
    bounds: Bounds
    admission: Admission
    following: Following
    runs: Runs
    worker: Worker
    services: Services
    inspection: Inspection
    readiness: Readiness
    signals: Signals
    telemetry: Telemetry
    pod: str
    people: People
    compaction: Compaction
    erasure: Erasure

    async def json(self, request: Request) -> tuple[Principal, dict[str, Any]]:
        """The principal and the JSON body of a request."""
        principal = self.keys.check(request)
        return principal, await read_json(request, self.bounds)


def surface(request: Request) -> Surface:
    """The surface of the app that a request came to."""
    found: Surface = request.app.state.surface
    return found


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: newest first unless `ascending`."""

    limit: int
    ascending: bool
    after: str


def page_of(request: Request) -> Page:
    """`limit` (1 to 100, default 20), `order` (default desc), `after`. Raises a 400."""
    query = request.query_params
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not is_number(limit) or not 1 <= int(limit) <= 100:
        raise invalid("'limit' must be a whole number from 1 to 100", "limit")
    if order not in {"asc", "desc"}:
        raise invalid("'order' must be `asc` or `desc`", "order")
    return Page(int(limit), order == "asc", query.get("after", ""))


def spliced_list(items: Sequence[bytes], ids: Sequence[str], has_more: bool) -> bytes:
    """A list object around items that are JSON already."""
    head: dict[str, Any] = {
        "object": "list",
        "data": [orjson.Fragment(item) for item in items],
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": has_more,
    }
    return orjson.dumps(head)

"""A Redis user for each tenant: what is written and read for one cannot touch another's keys, and Redis sees to that,
whatever key was built. Off unless the settings name the users.

Each tenant that is at work has a connection of its own beside the runtime's, which keeps the queue, the API keys and
the pods; the one that was used least recently makes room.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agentrt.errors import SettingsError, StoreUnavailable
from agentrt.store.keys import is_name
from agentrt.store.nodes import Nodes
from agentrt.tasks import Errands

__all__ = ["TenantNodes", "TenantUsers"]

_MAY = "-@all +@read +@write +@connection +publish -@dangerous -scan -randomkey -dbsize +evalsha +script|load +time"
"""What scripts, reads and connecting take; nothing that would name other tenants' keys."""


@dataclass(frozen=True, slots=True)
class TenantUsers:
    """How the tenants' users are called, and their passwords: HMAC-SHA256 of the tenant under one secret."""

    template: str
    """With `{tenant}` in it, once; empty: the tenants have no users."""
    secret: str
    connections_max: int = 64

    def credentials(self, tenant: str) -> tuple[str, str]:
        """(user, password) of a tenant."""
        password = hmac.new(self.secret.encode(), f"redis user of {tenant}".encode(), hashlib.sha256).hexdigest()
        return self.template.replace("{tenant}", tenant), password

    def rule(self, tenant: str) -> str:
        """The command with which an operator makes the tenant's user. Raises `SettingsError` for what is no tenant."""
        if not is_name(tenant):
            raise SettingsError(f"{tenant!r} is not a tenant name")
        user, password = self.credentials(tenant)
        digest = hashlib.sha256(password.encode()).hexdigest()
        keys = f"resetkeys ~agentrt:{{{tenant}/* resetchannels &agentrt:*"
        return f"ACL SETUSER {user} on resetpass #{digest} {keys} {_MAY} +wait +client|setname +cluster|slots"


class TenantNodes:
    """The tenants' connections to the servers, at most `most` tenants' at once."""

    def __init__(self, open_nodes: Callable[[str], Nodes], most: int, connect_timeout_s: float) -> None:
        self._open = open_nodes
        self._most = most
        self._timeout_s = connect_timeout_s
        self._nodes: dict[str, Nodes] = {}
        """By tenant, the one least recently used first."""
        self._errands = Errands()

    def __iter__(self) -> Iterator[Nodes]:
        return iter(self._nodes.values())

    def of(self, tenant: str) -> Nodes:
        """A tenant's own. Raises `StoreUnavailable` where all of the others are in use."""
        nodes = self._nodes.pop(tenant, None)
        if nodes is None:
            self._make_room()
            nodes = self._open(tenant)
            self._errands.start(nodes.start(self._timeout_s))
        self._nodes[tenant] = nodes
        return nodes

    def _make_room(self) -> None:
        if len(self._nodes) < self._most:
            return
        idle = next((tenant for tenant, nodes in self._nodes.items() if not nodes.waiting), None)
        if idle is None:
            raise StoreUnavailable("too many tenants are at work at once", "overloaded")
        self._errands.start(self._nodes.pop(idle).aclose())

    async def aclose(self) -> None:
        """Close them all."""
        for nodes in self._nodes.values():
            await nodes.aclose()
        self._nodes.clear()
        await self._errands.aclose(self._timeout_s)

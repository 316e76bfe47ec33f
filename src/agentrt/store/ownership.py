"""Who works on a session: what begin and claim hand out, and what every guarded write presents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentrt.errors import ForeignState, OwnershipLost, SchemaNewer, ScriptError, StoreUnavailable
from agentrt.records import Items
from agentrt.store.keys import RunKeys, SessionKeys, lease_member
from agentrt.store.schema import Writes

if TYPE_CHECKING:
    from agentrt.store.users import Head

__all__ = ["Approval", "Doubt", "Owned", "Owner", "StoreConfig", "check_guarded", "decode_window", "unexpected"]


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What the scripts are told about times and bounds. Seconds and milliseconds as the names say."""

    pod: str
    session_ttl_s: int = 30 * 86_400
    run_ttl_s: int = 30 * 86_400
    events_ttl_s: int = 86_400
    alone_ttl_s: int = 86_400
    lease_ms: int = 10_000
    lock_ms: int = 30_000
    wait_ms: int = 20_000
    waiters_max: int = 64
    window_items: int = 50
    acknowledge: bool = False
    """Whether replicas are waited for: before effects that must not happen twice, and for background runs."""
    acknowledge_turns: bool = False
    """Whether they are waited for at the end of every turn, too."""
    writes: Writes = field(default_factory=Writes)
    """Which version of the schema new sessions get."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who works on a session's active run, as others see it."""

    run: str
    token: str
    pod: str


class Doubt(NamedTuple):
    """An effect in doubt, as the session's header has it. `mode`: `tell` or `block`."""

    key: str
    run: str
    tool: str
    mode: str


class Approval(NamedTuple):
    """A call that waits for an approval: the id of the request's item, the run that planned it, its key."""

    request: str
    run: str
    key: str


@dataclass(slots=True)
class Owned:
    """A session that this pod owns for one run.

    `first` is the number of the run's first item; `window` the newest items before it, oldest first; `fence` the
    number that every later write presents together with `token`.
    """

    session: SessionKeys
    run: RunKeys
    token: str
    fence: int
    attempt: int
    first: int
    user: str = ""
    doubts: Sequence[Doubt] = ()
    """Effects of the session whose outcome is not known."""
    approvals: Sequence[Approval] = ()
    """What the run before asked approval for; this run's input answers it, one way or the other."""
    metadata: dict[str, str] = field(default_factory=dict)
    window: Items = field(default_factory=lambda: Items(()))
    summary: bytes = b""
    """What was said before the window, as stored; see memory/summary.py."""
    head: Head | None = None
    """The user's memory as it was when the run began, where the user was known by then."""
    record: dict[str, Any] | None = None
    """The run hash (and under `effects` its journal) as found by a claim or a resumed run; None for a fresh run."""

    @property
    def lease(self) -> bytes:
        """The owner's entry in the queue's timer."""
        return lease_member(self.session, self.run.id, self.token)

    @property
    def tries(self) -> int:
        """Attempts so far, this one included, without those that ended in a hand-over."""
        return self.attempt - int((self.record or {}).get("spared", 0))

    @property
    def guard(self) -> dict[str, Any]:
        """The operands that guarded scripts ask for."""
        return {"token": self.token, "fence": self.fence}


def check_guarded(status: bytes, owned: Owned) -> None:
    """Turn the refusal of a guarded script into the error that stops this pod's work on the run."""
    if status == b"ok":
        return
    if status in {b"fenced", b"missing", b"lost"}:
        raise OwnershipLost(f"run {owned.run.id}: {status.decode()}")
    raise ScriptError(f"run {owned.run.id}: unexpected {status!r}")


def decode_window(lines: list[bytes]) -> Items:
    """The items of an LRANGE, without the numbers that stayed empty."""
    return Items([line for line in lines if line] if b"" in lines else lines)


def unexpected(reply: list[Any], where: str) -> Exception:
    """The error for a reply that is not one of the caller's own cases."""
    status = reply[0]
    if status == b"newer":
        return SchemaNewer(int(reply[1]))
    if status == b"older":
        return StoreUnavailable(f"{where}: an older pod works on it", "older")
    if status == b"foreign":
        return ForeignState(f"{where}: the key holds another tenant's state")
    return ScriptError(f"{where}: unexpected reply {status!r}")


def decode_metadata(raw: bytes) -> dict[str, str]:
    """The session's metadata."""
    value: dict[str, str] = orjson.loads(raw) if raw != b"{}" else {}
    return value

"""A message that wants to become a run, and what `begin.lua` may answer."""

from __future__ import annotations

from dataclasses import dataclass

from agentrt.store.keys import SessionKeys
from agentrt.store.ownership import Owned, Owner

__all__ = [
    "Begin",
    "Begun",
    "Blocked",
    "Busy",
    "Conflict",
    "Ended",
    "Fork",
    "Joined",
    "Missing",
    "Steered",
    "Waiting",
]


@dataclass(frozen=True, slots=True)
class Begin:
    """One input that wants to become a run.

    `fingerprint` covers principal and body; `by_key`: the run id was derived from an Idempotency-Key, so it alone
    says whether this is the same message; `parent` is the run that a chained request continues, or empty.
    """

    session: SessionKeys
    run: str
    token: str
    fingerprint: str
    agent: str
    request: bytes
    input: bytes
    user: str = ""
    by_key: bool = False
    create: bool = False
    fresh: bool = False
    """The session id was minted for this very request: there is no history to read."""
    policy: str = "wait"
    """What to do where another message is worked on: `wait`, `reject`, or `interrupt`: wait, and have it ended."""
    retried: bool = False
    parent: str = ""
    background: bool = False
    """No client waits for it: its class, should it have to queue."""
    alone: bool = False
    """The session is for this run only, and is kept no longer than such ones are."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The message is a run already: `owner` is the one that works on it or waits with it."""

    run: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class Waiting:
    """A place in the line, behind the live run."""

    run: str
    live: Owner


@dataclass(frozen=True, slots=True)
class Busy:
    """Refused: another message is being worked on."""

    live: Owner


@dataclass(frozen=True, slots=True)
class Blocked:
    """Refused: the outcome of an effect is not known, and its tool holds up the session until it is."""

    run: str
    key: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The message was worked on and has a result."""

    run: str


@dataclass(frozen=True, slots=True)
class Steered:
    """The message was given to a run that was live when it came."""

    run: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The idempotency key belongs to another body."""


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such session."""


@dataclass(frozen=True, slots=True)
class Fork:
    """The parent is not the tail of the session."""


Begun = Owned | Joined | Waiting | Busy | Blocked | Ended | Steered | Conflict | Missing | Fork

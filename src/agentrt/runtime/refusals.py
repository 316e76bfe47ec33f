"""Why a message becomes no run here."""

from __future__ import annotations

from agentrt.errors import AgentrtError
from agentrt.store.keys import SessionKeys

__all__ = ["InDoubt", "Leaving", "Locked", "NoSuchSession", "NotTheTail", "OtherBody", "Overloaded"]


class Locked(AgentrtError):
    """Another message is being worked on. `run` is the live one."""

    retry_after_s = 5

    def __init__(self, run: str) -> None:
        super().__init__("another message of this conversation is being worked on")
        self.run = run


class InDoubt(AgentrtError):
    """An effect of the session is in doubt, and its tool holds up the session until somebody resolves it."""

    def __init__(self, session: SessionKeys, run: str, key: str) -> None:
        super().__init__("the outcome of an action of this conversation is not known; it must be resolved first")
        self.effect = f"{session.tenant}/{session.id}/{run}/{key}"


class OtherBody(AgentrtError):
    """The idempotency key was used with another body."""


class NoSuchSession(AgentrtError):
    """There is no such conversation."""


class NotTheTail(AgentrtError):
    """The response that this message continues is not the newest one: it forks."""


class Overloaded(AgentrtError):
    """All slots of this pod are taken, and the queue is full."""

    retry_after_s = 1


class Leaving(AgentrtError):
    """This pod goes away; the message's run goes on elsewhere, and so should its client."""

    retry_after_s = 1

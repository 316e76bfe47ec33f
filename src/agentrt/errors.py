"""The error tree. Every error the runtime raises on purpose is one of these.

AgentrtError
├── SettingsError            a setting is missing or malformed; the process does not start
├── DeclarationError         an agent or a tool is declared wrongly; raised at import time
├── StoreError               the state store
│   ├── StoreUnavailable     not reachable, or refuses writes: 503 + Retry-After
│   │   ├── OutcomeUnknown   the command was sent and its reply is lost: it may have happened
│   │   └── NotAcknowledged  it happened, and too few replicas said in time that they have it too
│   ├── ScriptError          a script answered what its contract excludes (a defect of ours)
│   └── ForeignState         the stored tenant or session is not the one asked for (a defect of ours; page)
├── OwnershipLost            the session's fence moved on: this pod must stop working on the run
├── LockTimeout              a named lock was not to be had within the wait, or its line is full
├── LockLost                 a named lock ran out or is somebody else's: stop what it was needed for
├── SchemaNewer              the record was written by a newer agentrt: 503 + Retry-After, never misread
├── ModelError               the provider failed; says whether a retry may help
│   └── Unsupported          the provider was not even asked: it has no place for this input
└── ToolError                raised by a tool on purpose: its text is the answer to the model
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AgentrtError",
    "DeclarationError",
    "ForeignState",
    "LockLost",
    "LockTimeout",
    "ModelError",
    "NotAcknowledged",
    "OutcomeUnknown",
    "OwnershipLost",
    "SchemaNewer",
    "ScriptError",
    "SettingsError",
    "StoreError",
    "StoreUnavailable",
    "ToolError",
    "Unsupported",
]


class AgentrtError(Exception):
    """Base of all errors raised on purpose."""


class SettingsError(AgentrtError):
    """A setting is missing or malformed."""


class DeclarationError(AgentrtError):
    """An agent or a tool is declared in a way that cannot work."""


class StoreError(AgentrtError):
    """The state store failed."""


class StoreUnavailable(StoreError):
    """Redis is not reachable or refuses writes. `reason` is a short stable word such as `oom`, `readonly`."""

    def __init__(self, message: str, reason: str = "unreachable") -> None:
        super().__init__(message)
        self.reason = reason


class OutcomeUnknown(StoreUnavailable):
    """The command left this pod and no reply came back: it may or may not have been executed."""


class NotAcknowledged(StoreUnavailable):
    """The script was executed, and a fail-over may forget it: too few replicas acknowledged it in time. `replies` are
    what the script and the reads behind it answered."""

    def __init__(self, replies: list[Any]) -> None:
        super().__init__("too few replicas acknowledged a write in time", "unacknowledged")
        self.replies = replies


class ScriptError(StoreError):
    """A script answered something that its contract excludes."""


class ForeignState(StoreError):
    """A key holds state of another tenant or session than its name says."""


class OwnershipLost(AgentrtError):
    """Another pod owns the session now (or it is gone); whatever this pod still computes is refused."""


class LockTimeout(AgentrtError):
    """A named lock was not to be had within the wait, or too many wait for it already. Nothing is held."""


class LockLost(AgentrtError):
    """A named lock is no longer held: its time ran out, or Redis says that it is not ours. `reason` is one of
    `deadline`, `taken`, `released`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SchemaNewer(AgentrtError):
    """The session was written by a newer agentrt than this one."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the session has schema version {version}, which this pod does not know")
        self.version = version


class ModelError(AgentrtError):
    """A model provider failed.

    `code` is one of the closed set of the Responses API's `response.error.code`
    (`server_error`, `rate_limit_exceeded`, `invalid_prompt`); `retry_after_s` is what the provider asked for.
    `refused`: the provider began no reply, so nothing was paid for.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "server_error",
        retryable: bool,
        retry_after_s: float | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.refused = refused


class Unsupported(ModelError):
    """An adapter cannot express the new input in its provider's format. Nothing was sent."""


class ToolError(AgentrtError):
    """Raise it in a tool: the text goes back to the model as the call's error, nothing else is shown."""

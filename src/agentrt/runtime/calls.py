"""A tool call of a step, and what the journal's word about it means. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from agentrt.agent import Effect, Tool
from agentrt.store.journal import Intent, Outcome, Planned
from agentrt.store.locks import Held

__all__ = ["IN_DOUBT_TEXT", "Call", "may_have_left", "next_move"]

IN_DOUBT_TEXT = (
    "The outcome of this call is unknown: it may or may not have taken effect. It is under examination. "
    "Do not repeat the call, and do not assume either result."
)


@dataclass(slots=True, eq=False)
class Call:
    """One tool call of a step. `outcome` is there once it is known; `intent` is what a dead owner left open."""

    planned: Planned
    tool: Tool | None
    arguments: dict[str, Any] | None = None
    outcome: Outcome | None = None
    intent: Intent | None = None
    intended: bool = False
    """This owner's intent is in the journal."""
    lock: str | None = None
    """Name of the lock that it needs."""
    held: Held | None = None
    """That lock, while this pod holds it."""

    def forgotten(self, now_ms: int) -> bool:
        """Whether the downstream no longer knows the call's key, if it ever saw it."""
        ttl_s = self.tool.key_ttl_s if self.tool is not None else None
        return ttl_s is not None and now_ms - self.planned.at > ttl_s * 1000

    @property
    def doubt(self) -> Literal["", "tell", "block"]:
        """What its outcome means for the session: nothing, that the tool is refused, or that all is."""
        if self.outcome is None or self.outcome.state != "in_doubt":
            return ""
        return self.tool.in_doubt if self.tool is not None else "tell"


def next_move(call: Call, holder: str, now_ms: int) -> Literal["settled", "run", "run_after_lock", "judge_after_lock"]:
    """What is to be done with a call, by what the journal says of it. Pure; docs/architecture.md, "Effects".

    `holder` is the token of the present owner: an intent of its own is no riddle. An idempotent call whose key the
    downstream may have forgotten by `now_ms` is judged like one that must not happen twice.
    """
    if call.outcome is not None:
        return "settled"
    if call.intent is None or call.intent.holder == holder:
        return "run"
    match call.planned.effect:
        case Effect.READ_ONLY:
            return "run"
        case Effect.IDEMPOTENT if not call.forgotten(now_ms):
            return "run_after_lock"
    return "judge_after_lock"


def may_have_left(error: BaseException | None) -> bool:
    """Whether an exception comes from the way to the downstream: then what left may have arrived."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError):  # time-outs and broken connections are
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False

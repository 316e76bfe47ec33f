"""What a run leaves to do in the background, and the names of such jobs. Pure.

A name says where to look: `ingest/tenant/session/run`, `summary/tenant/session/agent`, `user/tenant/user/agent` (draw
facts, embed), `compact/tenant/user/agent`, `erase/tenant/user`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrt.agent import Agent
from agentrt.memory import summary
from agentrt.memory.dates import moment
from agentrt.memory.summary import Summary
from agentrt.records import Request
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.ownership import Owned

__all__ = ["SAID_AT", "compact_job", "erase_job", "ingest_job", "jobs_after", "said_at_ms", "summary_job", "user_job"]

SAID_AT = "agentrt_at"
"""Key of a request's metadata: when the message was said, ISO 8601, where that is not now."""


def said_at_ms(request: Request) -> int:
    """When a message was said, ms since the epoch."""
    said = request.options.get("metadata", {}).get(SAID_AT)
    if isinstance(said, str):
        try:
            return moment(said)
        except ValueError:  # refused at the door; a run of an older pod may bear anything
            return request.created_s * 1000
    return request.created_s * 1000


def ingest_job(session: SessionKeys, run: str) -> str:
    """Remember what was said in a run."""
    return f"ingest/{session.tenant}/{session.id}/{run}"


def summary_job(session: SessionKeys, agent: str) -> str:
    """Summarise what a session's window does not show."""
    return f"summary/{session.tenant}/{session.id}/{agent}"


def user_job(user: UserKeys, agent: str) -> str:
    """Draw facts from what was remembered, and embed it."""
    return f"user/{user.tenant}/{user.user}/{agent}"


def compact_job(user: UserKeys, agent: str) -> str:
    """Tidy what is kept of a user."""
    return f"compact/{user.tenant}/{user.user}/{agent}"


def erase_job(user: UserKeys) -> str:
    """Go on with an erasure."""
    return f"erase/{user.tenant}/{user.user}"


def jobs_after(agent: Agent, owned: Owned, added: Sequence[bytes], budget: int) -> list[str]:
    """The jobs that a committed run leaves, which has `added` these items; `budget`: the tokens of its context."""
    memory = agent.memory
    if memory is None or not added:
        return []
    jobs = []
    if owned.user and (memory.facts or memory.recall):
        jobs.append(ingest_job(owned.session, owned.run.id))
    if memory.summary and _to_be_summarised(owned, added, budget):
        jobs.append(summary_job(owned.session, agent.name))
    return jobs


def _to_be_summarised(owned: Owned, added: Sequence[bytes], budget: int) -> bool:
    upto, size = Summary.decode(owned.summary).upto, sum(map(len, added))
    if summary.due(owned.first + len(added), upto) is not None:
        return True
    if not summary.crowded(owned.window.size + size, budget):
        return False  # not even with what was summed up before: most conversations are like that
    new = owned.window[max(0, len(owned.window) - (owned.first - upto)) :]
    return summary.crowded(new.size + size, budget)

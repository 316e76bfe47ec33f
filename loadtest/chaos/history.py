"""What clients saw of a conversation, held against what is stored. Pure.

Every turn's answer names the message before it. So a conversation is an object with one operation, append, that returns
the last message; a history is right when it is linearizable: there is one order of all turns, in agreement with real
time, in which each returned what the one before it had appended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["FIRST", "Operation", "Turn", "linearizable", "lost", "violations"]

FIRST = "nothing"
"""What the first message of a conversation comes after."""


@dataclass(slots=True)
class Operation:
    """One message of one client. Times are of one monotonic clock, in seconds."""

    text: str
    """Different for every operation."""
    invoked: float
    returned: float = math.inf
    outcome: str = "unknown"
    """`ok`: acknowledged; `failed`: refused for good, so it must not have happened; `unknown`: either."""
    saw: str = ""
    """The message before it, as its answer said. Only for `ok`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as stored: the message, and the message before it as its answer says; None where it has no answer."""

    text: str
    after: str | None


def lost(
    operations: Sequence[Operation], stored: Sequence[Turn], spans: Sequence[tuple[float, float]]
) -> list[Operation]:
    """Acknowledged turns that are not there, and may be gone: they were acknowledged within one of `spans`, in which a
    master was lost, on its word alone."""
    there = {turn.text for turn in stored}
    return [
        operation
        for operation in operations
        if operation.outcome == "ok"
        and operation.text not in there
        and any(first <= operation.returned <= last for first, last in spans)
    ]


def violations(operations: Sequence[Operation], stored: Sequence[Turn]) -> list[str]:
    """What is wrong with a conversation, after all clients have stopped; empty for nothing."""
    return [
        *_wrong_number(operations, stored),
        *_wrong_answers(operations, stored),
        *_wrong_chain(operations, stored),
        *_wrong_order(operations, stored),
        *([] if linearizable(operations, stored[-1].text if stored else FIRST) else ["not linearizable"]),
    ]


def _wrong_number(operations: Sequence[Operation], stored: Sequence[Turn]) -> Iterator[str]:
    """Acknowledged turns exactly once, refused ones never, others at most once, and nobody else's."""
    times = Counter(turn.text for turn in stored)
    may_be = {"ok": (1,), "failed": (0,), "unknown": (0, 1)}
    for operation in operations:
        if times[operation.text] not in may_be[operation.outcome]:
            yield f"{operation.text!r} is {operation.outcome}, and stored {times[operation.text]} times"
    known = {operation.text for operation in operations}
    yield from (f"{text!r} was never said here" for text in times if text not in known)


def _wrong_answers(operations: Sequence[Operation], stored: Sequence[Turn]) -> Iterator[str]:
    """What is stored as the answer is what the client was told."""
    told = {operation.text: operation.saw for operation in operations if operation.outcome == "ok"}
    for turn in stored:
        if turn.after is not None and told.get(turn.text, turn.after) != turn.after:
            yield f"{turn.text!r} was told {told[turn.text]!r}, and its answer is stored as {turn.after!r}"


def _wrong_chain(operations: Sequence[Operation], stored: Sequence[Turn]) -> Iterator[str]:
    """Each answer was given with the turn before it in view. What failed after its tools were called may stay without
    an answer; its client was not told of any."""
    acknowledged = {operation.text for operation in operations if operation.outcome == "ok"}
    before = FIRST
    for turn in stored:
        if turn.after is None and turn.text in acknowledged:
            yield f"{turn.text!r} was answered, and is stored without its answer"
        elif turn.after not in {None, before}:
            yield f"{turn.text!r} is stored after {before!r}, and its answer saw {turn.after!r}"
        before = turn.text


def _wrong_order(operations: Sequence[Operation], stored: Sequence[Turn]) -> Iterator[str]:
    """What had returned before another was invoked stands before it."""
    known = {operation.text: operation for operation in operations}
    first_return, which = math.inf, ""
    for turn in reversed(stored):
        operation = known.get(turn.text)
        if operation is None:
            continue
        if first_return < operation.invoked:
            yield f"{which!r} had returned before {turn.text!r} was said, and stands behind it"
        if operation.outcome == "ok" and operation.returned < first_return:
            first_return, which = operation.returned, turn.text


def linearizable(operations: Sequence[Operation], last: str) -> bool:
    """Whether one order explains what everybody saw, ending with a read of `last`. After Wing and Gong.

    What nobody saw need not have happened, so an operation of unknown outcome is placed only just before one that saw
    it. As texts are unique, the search hardly ever branches.
    """
    known = sorted((one for one in operations if one.outcome == "ok"), key=lambda one: one.invoked)
    known.append(Operation("", math.inf, math.inf, "ok", last))
    maybe = {one.text: one for one in operations if one.outcome == "unknown"}
    seen: set[tuple[int, str]] = set()
    open_states = [(0, FIRST, frozenset[str]())]
    while open_states:
        done, state, used = open_states.pop()
        if done == (1 << len(known)) - 1:
            return True
        if (done, state) not in seen:
            seen.add((done, state))
            open_states += _steps(known, maybe, done, state, used)
    return False


def _steps(
    known: Sequence[Operation], maybe: dict[str, Operation], done: int, state: str, used: frozenset[str]
) -> Iterator[tuple[int, str, frozenset[str]]]:
    """What can come next: of those that nobody else's return precedes, who saw the state as it is or can be made."""
    waiting = [(number, one) for number, one in enumerate(known) if not done >> number & 1]
    bound = min(one.returned for _, one in waiting)
    for number, one in waiting:
        if one.invoked > bound:
            return
        if one.saw == state:
            yield done | 1 << number, one.text, used
        elif one.saw in maybe and one.saw not in used and maybe[one.saw].invoked <= bound:
            yield done | 1 << number, one.text, used | {one.saw}

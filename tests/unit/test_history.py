"""The checker of conversations finds what it must: each wrong history here is one that a broken runtime could make."""

from __future__ import annotations

import math
import random

import pytest
from loadtest.chaos.history import FIRST, Operation, Turn, linearizable, violations
from loadtest.chaos.schedule import KINDS, schedule
from loadtest.chaos.stream import Watched


def ok(text: str, invoked: float, returned: float, saw: str) -> Operation:
    return Operation(text, invoked, returned, "ok", saw)


def chain(*texts: str) -> list[Turn]:
    """Stored turns, each answered with the one before it in view."""
    return [Turn(text, before) for text, before in zip(texts, (FIRST, *texts), strict=False)]


TWO = [ok("a", 0, 3, FIRST), ok("b", 1, 2, "a")]


def test_nothing_is_right() -> None:
    assert violations([], []) == []


def test_concurrent_turns_may_stand_in_any_order() -> None:
    assert violations(TWO, chain("a", "b")) == []
    assert violations([ok("a", 0, 3, "b"), ok("b", 1, 2, FIRST)], chain("b", "a")) == []


def test_unknown_outcomes_may_be_there_or_not() -> None:
    lost = Operation("u", 0.5)
    assert violations([*TWO, lost], chain("a", "b")) == []
    assert violations([*TWO, lost], chain("a", "b", "u")) == []
    between = [ok("a", 0, 3, FIRST), ok("b", 1, 2, "u"), lost]
    assert violations(between, chain("a", "u", "b")) == []


def test_a_turn_that_failed_may_stay_without_an_answer() -> None:
    """What was called for it happened, so the next one sees it; its client was told of a failure."""
    assert violations([Operation("u", 0), ok("a", 1, 2, "u")], [Turn("u", None), Turn("a", "u")]) == []


@pytest.mark.parametrize(
    ("operations", "stored", "said"),
    [
        (TWO, chain("a"), "'b' is ok, and stored 0 times"),
        (TWO, chain("a", "b", "b"), "'b' is ok, and stored 2 times"),
        (TWO, chain("a", "b", "x"), "'x' was never said here"),
        ([*TWO, Operation("f", 0, 1, "failed")], chain("a", "b", "f"), "'f' is failed, and stored 1 times"),
        ([*TWO, Operation("u", 0)], chain("a", "u", "b", "u"), "'u' is unknown, and stored 2 times"),
        (TWO, [Turn("a", FIRST), Turn("b", FIRST)], "'b' is stored after 'a', and its answer saw 'nothing'"),
        ([ok("a", 0, 1, "u"), Operation("u", 0)], [Turn("a", FIRST)], "'a' was told 'u'"),
        (TWO, [Turn("a", None), Turn("b", "a")], "'a' was answered, and is stored without its answer"),
        ([ok("a", 0, 1, FIRST), ok("b", 2, 3, FIRST)], chain("b", "a"), "'a' had returned before 'b' was said"),
        ([ok("a", 0, 1, FIRST), ok("b", 0, 1, FIRST)], chain("a", "b"), "not linearizable"),
    ],
)
def test_wrong_histories_are_found(operations: list[Operation], stored: list[Turn], said: str) -> None:
    """Lost, doubled, foreign, refused, unseen, out of order, and two who saw the same."""
    assert any(said in one for one in violations(operations, stored)), violations(operations, stored)


@pytest.mark.parametrize(
    ("operations", "last"),
    [
        ([ok("a", 0, 1, FIRST), ok("b", 2, 3, FIRST)], "b"),  # a lost update
        ([ok("a", 0, 1, "b"), ok("b", 2, 3, FIRST)], "a"),  # a read from the future
        ([ok("a", 0, 1, FIRST), ok("b", 0, 1, "a")], "a"),  # b was seen by nobody, and is not the last
        ([ok("a", 0, 1, "u"), Operation("u", 2)], "a"),  # seen before it was said
        ([ok("a", 0, 9, "u"), ok("b", 0, 9, "u"), Operation("u", 0)], "b"),  # it happened twice
        ([ok("a", 0, 1, "x")], "a"),  # nobody said x
    ],
)
def test_what_nobody_could_have_seen_is_not_linearizable(operations: list[Operation], last: str) -> None:
    assert not linearizable(operations, last)


def test_a_long_history_with_a_swap_is_found_quickly() -> None:
    """1,000 turns of three writers are explained; with two of them exchanged they are not."""
    chance = random.Random(3)
    texts = [f"t{number}" for number in range(1000)]
    operations = [
        ok(text, number - chance.random() * 2, number + 1 + chance.random() * 2, before)
        for number, (text, before) in enumerate(zip(texts, (FIRST, *texts), strict=False))
    ]
    assert violations(operations, chain(*texts)) == []
    operations[500].saw, operations[501].saw = operations[501].saw, operations[500].saw
    assert not linearizable(operations, texts[-1])
    assert linearizable([], FIRST) and not linearizable([], "t0")
    assert math.isinf(Operation("u", 0).returned)


def event(number: int, kind: str, **fields: object) -> dict[str, object]:
    return {"sequence_number": number, "type": f"response.{kind}", **fields}


ADDED = {"item": {"id": "i"}}
EMPTY: dict[str, object] = {"output": []}


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([event(0, "created"), event(0, "in_progress")], "event 0 behind 0"),
        ([event(0, "output_item.added", **ADDED), event(1, "completed", response=EMPTY)], "item i was never closed"),
        ([event(0, "output_item.done", **ADDED)], "item i was closed, and was never opened"),
        ([event(0, "completed", response={"output": [{"id": "i"}]})], "item i was never shown"),
        (
            [
                event(0, "output_text.delta", item_id="i", delta="a"),
                event(1, "output_text.done", item_id="i", text="ab"),
            ],
            "item i has a text that is not its pieces",
        ),
        ([event(0, "completed", response=EMPTY), event(1, "created")], "response.created behind the end"),
    ],
)
def test_wrong_streams_are_found(events: list[dict[str, object]], wrong: str) -> None:
    watched = Watched()
    for one in events:
        watched.event(one)
    assert watched.wrong == [wrong]


def test_a_whole_stream_is_right() -> None:
    watched = Watched()
    whole = [event(0, "created"), event(3, "output_item.added", **ADDED), event(4, "output_item.done", **ADDED)]
    for one in [*whole, event(9, "completed", response={"output": [{"id": "i"}]})]:
        watched.event(one)
    assert (watched.wrong, watched.ended, watched.final) == ([], True, {"output": [{"id": "i"}]})


@pytest.mark.parametrize("topology", sorted(KINDS))
def test_a_seed_is_a_schedule(topology: str) -> None:
    """The same again for the same seed, another for another; every kind is in it; all of it in time."""
    first = schedule(1, 60, 3, KINDS[topology])
    assert first == schedule(1, 60, 3, KINDS[topology]) != schedule(2, 60, 3, KINDS[topology])
    assert {fault.kind for fault in first} == set(KINDS[topology])
    assert all(0 < fault.at_s < 60 and 0 <= fault.target < 3 for fault in first)
    assert [fault.at_s for fault in first] == sorted(fault.at_s for fault in first)
    assert len(schedule(1, 60, 3, KINDS[topology], 3.0)) < len(first) / 2
    assert schedule(1, 60, 3, {}) == []

"""The window under its token budget, and the estimate of tokens behind it. Pure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrt.memory import window
from agentrt.memory.tokens import FILL, estimate
from agentrt.memory.window import CUT
from agentrt.records import Item, Items


def said(text: str, number: int = 0) -> Item:
    """A user message."""
    content = [{"type": "input_text", "text": text}]
    return Item.of({"id": f"msg_{number}", "type": "message", "role": "user", "content": content}, {"step": number})


def called(output: str, arguments: str = "{}") -> Item:
    """A finished call of a tool."""
    return Item.of({"id": "mcp_1", "type": "mcp_call", "name": "f", "arguments": arguments, "output": output})


def newest(items: list[Item], budget_tokens: int) -> list[Item]:
    """The window of those items."""
    return list(window.newest(Items(items), budget_tokens))


def cost(items: list[Item]) -> int:
    """What the items cost by the same estimate."""
    return sum(estimate(item.raw.decode()) for item in items)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("   ", 1),
        ("a", 1),
        ("word", 1),
        ("words", 2),
        ("one two", 2),
        ("123", 1),
        ("1234", 2),
        ("a1", 2),
        ("?!", 2),
        ("漢字", 2),
        ("é", 1),
        ("naïve", 3),
    ],
)
def test_the_estimate(text: str, tokens: int) -> None:
    assert estimate(text) == tokens


@given(st.text(st.characters(max_codepoint=127)))
def test_letters_count_in_fours_digits_in_threes_and_marks_one_by_one(text: str) -> None:
    parts = re.findall(r"[A-Za-z]{1,4}|[0-9]{1,3}|[^\sA-Za-z0-9]", text)
    assert estimate(text) == (len(parts) or int(bool(text)))


@given(st.text())
def test_a_text_costs_at_least_one_token_and_at_most_one_a_character(text: str) -> None:
    assert (1 if text else 0) <= estimate(text) <= len(text)


@given(st.text(), st.text())
def test_the_estimate_of_the_whole_is_not_above_that_of_its_parts(one: str, other: str) -> None:
    assert estimate(one + " " + other) <= max(estimate(one) + estimate(other), 1)


def test_all_that_fits_is_there_oldest_first() -> None:
    items = [said(f"number {n}", n) for n in range(5)]
    assert newest(items, 10_000) == items
    assert newest([], 10_000) == []


@pytest.mark.parametrize("budget", [0, -5, 1])
def test_no_budget_no_window(budget: int) -> None:
    assert newest([said("hi")], budget) == []


@given(st.lists(st.integers(1, 400), max_size=20), st.integers(100, 3_000))
def test_the_window_is_the_longest_end_of_the_history_that_fits(sizes: list[int], budget: int) -> None:
    items = [said("word " * size, number) for number, size in enumerate(sizes)]
    kept = newest(items, budget)
    room = int(budget * FILL)
    if not items:
        assert kept == []
    elif cost(items[-1:]) > room:
        assert len(kept) == 1
        assert CUT in kept[0].data["content"][0]["text"]
    else:
        assert kept == items[-len(kept) :]
        assert cost(kept) <= room
        more = items[-len(kept) - 1 :]
        assert len(kept) == len(items) or cost(more) > room


def test_an_old_giant_hides_what_lies_behind_it_and_is_not_cut() -> None:
    items = [said("old", 0), said("word " * 5_000, 1), said("new", 2)]
    assert newest(items, 1_000) == items[2:]


def test_the_newest_is_cut_in_the_middle_and_marked() -> None:
    text = "begin " + "word " * 5_000 + " end"
    (cut,) = newest([said("old"), said(text, 7)], 1_000)
    shown = cut.data["content"][0]["text"]
    assert shown.startswith("begin ")
    assert shown.endswith(" end")
    assert shown.count(CUT) == 1
    assert cost([cut]) <= 1_000
    assert (cut.id, cut.private) == ("msg_7", {"step": 7})


def test_a_long_output_is_cut_and_its_call_stays() -> None:
    (cut,) = newest([called("x" * 50_000)], 1_000)
    assert CUT in cut.data["output"]
    assert cut.data["arguments"] == "{}"
    assert cost([cut]) <= 1_000


def test_the_parts_of_a_message_share_the_room() -> None:
    parts = [{"type": "input_text", "text": "漢" * 5_000} for _ in range(4)]
    item = Item.of({"id": "msg_1", "type": "message", "role": "user", "content": [*parts, {"type": "input_image"}]})
    (cut,) = newest([item], 2_000)
    assert len(cut.data["content"]) == 5
    assert cost([cut]) <= 2_000


def test_long_arguments_do_not_break_the_budget() -> None:
    (cut,) = newest([called("ok", '{"text": "' + "word " * 5_000 + '"}')], 1_000)
    assert cost([cut]) <= 1_000

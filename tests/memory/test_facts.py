"""Which fact holds follows from what was said, whatever the order; and what goes wrong by similarity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrt.memory import facts as ledger
from agentrt.memory import gate
from agentrt.memory.block import Known, Shares, compose
from agentrt.memory.dates import Day, named
from agentrt.memory.facts import Fact, Sighting, Statement, drop_item, observe, settle, shown
from agentrt.memory.index import Index
from agentrt.memory.lexicon import terms
from agentrt.memory.summary import FOLD, Summary, foldable
from agentrt.memory.turns import Memory
from agentrt.memory.window import newest
from agentrt.records import Item, Items
from tests.negative.memory_guards import cosine

STATEMENTS = st.builds(
    lambda value, no, item, at, rank, one, attribute: Statement(
        "user", attribute, value, no, Sighting(item, at, rank, 0.9, one, None, "")
    ),
    st.sampled_from(["a", "b", "c"]),
    st.booleans(),
    st.sampled_from([f"m{n}" for n in range(12)]),
    st.integers(0, 3),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.sampled_from(["home_city", "allergy"]),
)


def settled(statements: list[Statement]) -> dict[str, Fact]:
    """The facts after these statements."""
    facts: dict[str, Fact] = {}
    for statement in statements:
        observe(facts, statement)
    settle(facts)
    return facts


def _unique(statements: list[Statement]) -> list[Statement]:
    """One statement an item and key: the same item cannot say the same thing in two ways."""
    return list({(one.sighting.item, one.attribute, one.value, one.negative): one for one in statements}.values())


@given(st.lists(STATEMENTS, max_size=12), st.randoms(use_true_random=False))
def test_order_does_not_matter(statements: list[Statement], random) -> None:  # type: ignore[no-untyped-def]
    statements = _unique(statements)
    mixed = list(statements)
    random.shuffle(mixed)
    one, other = settled(statements), settled(mixed)
    assert {key: fact.state for key, fact in one.items()} == {key: fact.state for key, fact in other.items()}


@given(st.lists(STATEMENTS, max_size=12))
def test_saying_it_again_changes_nothing(statements: list[Statement]) -> None:
    statements = _unique(statements)
    once, twice = settled(statements), settled([*statements, *statements])
    assert {key: fact.encode() for key, fact in once.items()} == {key: fact.encode() for key, fact in twice.items()}


@given(st.lists(STATEMENTS, min_size=1, max_size=12))
def test_at_most_one_holds_where_there_can_be_only_one(statements: list[Statement]) -> None:
    facts = settled([one._replace(sighting=one.sighting._replace(one=True)) for one in _unique(statements)])
    holding = Counter(fact.attribute for fact in facts.values() if fact.state == "active" and not fact.negative)
    assert all(count == 1 for count in holding.values())


@given(st.lists(STATEMENTS, max_size=12), st.sampled_from([f"m{n}" for n in range(12)]))
def test_forgetting_an_item_is_as_if_it_was_never_said(statements: list[Statement], item: str) -> None:
    statements = _unique(statements)
    facts = settled(statements)
    drop_item(facts, item)
    settle(facts)
    rest = settled([one for one in statements if one.sighting.item != item])
    assert {key: fact.encode() for key, fact in facts.items()} == {key: fact.encode() for key, fact in rest.items()}


@given(st.lists(STATEMENTS, max_size=6))
def test_facts_are_read_back_as_they_were_written(statements: list[Statement]) -> None:
    for key, fact in settled(_unique(statements)).items():
        assert Fact.decode(key, fact.encode()) == fact


# --- controls: the same by similarity ---------------------------------------------------------------------------------


def _by_key(one: str, other: str) -> bool:
    return ledger.normal(one) == ledger.normal(other)


def _by_cosine(one: str, other: str) -> bool:
    return cosine(one, other) > 0.75


TWINS = [
    ("I'm allergic to cats", "I'm not allergic to cats"),
    ("the meeting is on the 14th", "the meeting is on the 15th"),
    ("Ann is the manager of Bob", "Bob is the manager of Ann"),
]


@pytest.mark.parametrize(("same", "lost"), [(_by_key, 0), (_by_cosine, 3)])
def test_merging_by_similarity_loses_distinct_facts(same: Callable[[str, str], bool], lost: int) -> None:
    assert sum(same(one, other) for one, other in TWINS) == lost


def _known(value: str, pinned: bool) -> Known:
    return Known(value, "user", "allergy" if pinned else "likes_food", value, False, 0, None, pinned, 2)


@pytest.mark.parametrize("pins", [True, False])
def test_facts_by_similarity_alone_miss_the_one_that_counts(pins: bool) -> None:
    """`I love hot dogs` is nearer to a question about dogs than an allergy that does not name them."""
    profile = [_known(f"hot dogs number {n}", False) for n in range(40)] + [_known("canine dander", pins)]
    block = compose(Shares(200, 0, 0), profile=profile, question="Is a walk with the dogs fine, hot dogs later?")
    assert ("canine dander" in block.text) is pins
    assert block.total <= 200


# --- pieces -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 600), st.lists(st.text(min_size=1, max_size=60), max_size=40))
def test_the_block_stays_within_its_budget(budget: int, values: list[str]) -> None:
    profile = [_known(value, number % 5 == 0) for number, value in enumerate(values)]
    shares = Shares(budget * 2 // 5, budget // 5, budget * 2 // 5)
    assert compose(shares, profile=profile, question="what?").total <= budget


def test_the_profile_is_the_same_bytes_whatever_the_order() -> None:
    statements = [
        Statement("user", "owns", f"thing {n}", False, Sighting(f"m{n}", n, 2, 0.9, False, None, "")) for n in range(9)
    ]
    one, other = settled(statements), settled(statements[::-1])
    assert shown(one.values(), lambda _: False, 5) == shown(other.values(), lambda _: False, 5)


@pytest.mark.parametrize(
    ("question", "day"),
    [
        ("What happened on 7 May 2023?", Day(2023, 5, 7)),
        ("on May 7th, 2023", Day(2023, 5, 7)),
        ("2023-05-07 it was", Day(2023, 5, 7)),
        ("back in May 2023", Day(2023, 5, 0)),
        ("in 2023", Day(2023, 0, 0)),
        ("you may know", None),
        ("12 apples", None),
    ],
)
def test_dates_that_a_question_names(question: str, day: Day | None) -> None:
    assert named(question) == day


def test_forms_of_a_word_are_one_term() -> None:
    assert terms("hiked hiking hikes hike") == ["hik"] * 4
    assert terms("moved move moves moving") == ["mov"] * 4
    assert terms("The allergic cat's allergy, and so on") == ["allergi", "cat", "allergi"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("my key is sk-proj-abcdefghijklmnopqrst, ok", "my key is [secret], ok"),
        ("card 4111-1111-1111-1111.", "card [secret]."),
        ("order 1234567890123", "order 1234567890123"),
        ("PIN 4471", "PIN 4471"),
    ],
)
def test_secrets_are_not_kept(text: str, kept: str) -> None:
    assert gate.without_secrets(text) == kept


def test_a_value_that_was_forgotten_does_not_stay_when_its_last_source_goes() -> None:
    """Said, forgotten, said again, and that forgotten too."""
    facts: dict[str, Fact] = {}

    def say(item: str, at: int) -> str:
        said = Statement("user", "city", "Oslo", False, Sighting(item, at, 2, 0.9, False, None, ""))
        return observe(facts, said)[0]

    identifier = say("a", 1)
    ledger.forget(facts[identifier])
    assert say("b", 2) == identifier
    assert facts[identifier].value == "Oslo"
    drop_item(facts, "b")
    assert facts[identifier].value == "" and facts[identifier].dropped == {"a"}


@given(st.from_regex(gate._SECRET, fullmatch=True) | st.from_regex(gate._CARD, fullmatch=True))
def test_what_the_expressions_find_is_looked_for(text: str) -> None:
    """Most texts are passed over without asking them."""
    assert any(mark in text for mark in gate._MARKS) or not text.isascii() or gate._digits(text) >= gate._CARD_DIGITS


def test_a_question_finds_its_turn_and_its_neighbour() -> None:
    """The answer shares no word with the question; the turn before it does."""
    index = Index("g", 0)
    said = ["The weather is fine.", "What is your dog called?", "Rex.", "I read the paper.", "We had tea.", "And cake."]
    for number, text in enumerate(said, 1):
        index.add(number, Memory.of(f"m{number}", "s", "user", number, text, 0))
    assert [hit.memory.text for hit in index.search("the name of the dog", 2)] == ["What is your dog called?", "Rex."]


def test_with_and_without_numpy_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    index, words = Index("g", 0), ["otter", "boat", "harbour", "storm", "captain", "lantern", "rope", "anchor"]
    for number in range(1, 200):
        text = " ".join(words[(number * step) % 8] for step in range(1, 1 + number % 5 + 1))
        index.add(number, Memory.of(f"m{number}", f"s{number % 7}", "user", number, text, 0))
    for question in ("the otter", "captain of the boat", "storm lantern rope", "nothing of that"):
        fast = {hit.number: hit.score for hit in index.search(question, 300)}
        with monkeypatch.context() as patch:
            patch.setattr("agentrt.memory.index.load", lambda: None)
            plain = {hit.number: hit.score for hit in index.search(question, 300)}
        assert fast == pytest.approx(plain)


def test_segments_fold_into_levels_and_are_made_again_when_an_item_goes() -> None:
    summary = Summary()
    for number in range(FOLD):
        assert foldable(summary.segments) is None
        summary = summary.followed_by(f"part {number}", (number + 1) * 20)
    places = foldable(summary.segments)
    assert places == range(FOLD)
    folded = summary.folded(places, "all").followed_by("next", 140)
    assert [(one.level, one.first, one.last) for one in folded.segments] == [(1, 0, 120), (0, 120, 140)]
    assert Summary.decode(folded.encode()) == folded
    assert folded.without(125).upto == 120
    assert folded.without(3).segments == ()


def test_an_output_goes_with_its_call() -> None:
    """A call that a client ran is two items: the window never begins between them."""

    def item(**data: object) -> Item:
        return Item.of({"id": "x", **data})

    call = item(type="function_call", call_id="c1", name="f", arguments="x " * 400)
    output = item(type="function_call_output", call_id="c1", output="y")
    last = item(type="message", role="user", content=[{"type": "input_text", "text": "z"}])
    assert [one.type for one in newest(Items([call, output, last]), 100)] == ["message"]
    assert len(newest(Items([call, output, last]), 4000)) == 3

"""The circuit breaker and its budget of retries, on a clock that the test turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrt.errors import ModelError, SettingsError
from agentrt.models.circuit import Circuit
from agentrt.models.prices import Price, Prices
from agentrt.records import Usage

DOWN = ModelError("down", retryable=True)


class Stage:
    """A circuit with a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.states: list[str] = []
        self.circuit = Circuit(self.states.append, lambda: self.now)

    def call(self, error: ModelError | None) -> None:
        self.circuit.ended(self.circuit.begin(), error)

    def open(self) -> Stage:
        for _ in range(5):
            self.call(DOWN)
        return self


def test_failures_in_a_row_open_it_and_a_probe_closes_it() -> None:
    stage = Stage().open()
    assert stage.circuit.wait_s() > 1
    stage.now += stage.circuit.wait_s()
    assert stage.circuit.wait_s() == 0
    probe = stage.circuit.begin()
    assert stage.circuit.wait_s() > 0, "one probe at a time"
    stage.circuit.ended(probe, None)
    assert stage.circuit.wait_s() == 0
    assert stage.states == ["open", "half_open", "closed"]


def test_a_probe_that_begins_to_answer_closes_it() -> None:
    """The reply may go on for minutes; nobody waits for its end."""
    stage = Stage().open()
    stage.now += stage.circuit.wait_s()
    probe = stage.circuit.begin()
    assert stage.circuit.wait_s() > 0
    stage.circuit.answered(probe)
    assert stage.circuit.wait_s() == 0
    stage.circuit.answered(probe)  # each event of the reply may say so
    stage.circuit.ended(probe, None)
    assert stage.states == ["open", "half_open", "closed"]


def test_a_probe_that_breaks_after_it_began_is_a_failure_like_any_other() -> None:
    """One of five; and as no reply came whole since, the circuit then opens for longer than before."""
    stage = Stage().open()
    first_s = stage.circuit.wait_s()
    stage.now += first_s
    probe = stage.circuit.begin()
    stage.circuit.answered(probe)
    stage.circuit.ended(probe, DOWN)
    assert stage.circuit.state == "closed"
    for _ in range(4):
        assert stage.circuit.state == "closed"
        stage.call(DOWN)
    assert stage.circuit.state == "open" and stage.circuit.wait_s() > first_s
    assert stage.states == ["open", "half_open", "closed", "open"]


def test_only_the_probe_closes_it() -> None:
    """What began before the circuit opened may go on answering, and shows nothing of now."""
    stage = Stage()
    early = stage.circuit.begin()
    stage.open()
    stage.circuit.answered(early)
    assert stage.circuit.state == "open"
    stage.now += stage.circuit.wait_s()
    probe = stage.circuit.begin()
    stage.circuit.answered(early)
    assert stage.circuit.state == "half_open"
    stage.circuit.answered(probe)
    stage.circuit.abandoned(probe)
    assert stage.circuit.state == "closed", "given up after it answered: that was its answer"


def test_failures_with_replies_between_them_do_not_open_it() -> None:
    stage = Stage()
    for _ in range(20):
        stage.call(DOWN)
        stage.call(None)
    assert stage.states == []


def test_it_stays_open_longer_each_time_and_not_for_ever() -> None:
    stage = Stage().open()
    waits = []
    for _ in range(10):
        waits.append(stage.circuit.wait_s())
        stage.now += waits[-1]
        stage.call(DOWN)
    assert waits[2] > 2 * waits[0] and max(waits) <= 60 * 1.2


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "invalid_prompt"])
def test_what_a_caller_brought_upon_itself_does_not_open_it(code: str) -> None:
    stage = Stage()
    for _ in range(50):
        stage.call(ModelError("no", code=code, retryable=True))
    assert stage.circuit.state == "closed"


def test_calls_from_before_tell_nothing_of_now() -> None:
    stage = Stage()
    early = stage.circuit.begin()
    stage.open()
    stage.circuit.ended(early, None)
    assert stage.circuit.state == "open"
    stage.now += stage.circuit.wait_s()
    stage.circuit.begin()
    stage.circuit.ended(early, DOWN)
    assert stage.circuit.state == "half_open"


def test_a_probe_that_was_given_up_leaves_the_place_to_the_next() -> None:
    stage = Stage().open()
    stage.now += stage.circuit.wait_s()
    stage.circuit.abandoned(stage.circuit.begin())
    assert stage.circuit.wait_s() == 0


def test_retries_are_paid_for_by_replies() -> None:
    circuit = Stage().circuit
    assert [circuit.retry() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(11):
        circuit.ended(circuit.begin(), None)
    assert circuit.retry() and not circuit.retry()


def test_what_a_reply_costs(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(
        '{"openai:m": {"input": 2, "cached": 0.5, "written": 3, "output": 10}, "x:y": {"input": 1, "output": 1}}'
    )
    prices = Prices.read(str(file))
    usage = Usage(1_000_000, 100_000, 500_000, 0, 100_000)
    assert prices.cost("openai:m", usage) == pytest.approx(0.8 + 0.25 + 0.3 + 1.0)
    assert prices.cost("x:y", usage) == pytest.approx(1.1)
    assert prices.cost("other:m", usage) is None


@pytest.mark.parametrize("text", ["{", '{"a:b": {"input": -1, "output": 1}}', '{"a:b": {"output": 1}}', "[]"])
def test_prices_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match="AGENTRT_PRICES_FILE"):
        Prices.read(str(file))
    with pytest.raises(SettingsError, match="cannot be read"):
        Prices.read(str(tmp_path / "none"))
    assert Prices.read("").cost("a:b", Usage(1, 1)) is None
    assert Price(input=1, output=1).cached is None

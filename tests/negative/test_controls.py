"""Negative controls: with a guard taken out, the tests that stand for its promise fail. `make negative` runs these."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.negative.guards import GUARDS

STAND_FOR = {
    "fence": ("tests/store/test_commit.py", "displaced or fence"),
    "intent": ("tests/runtime/test_recovery.py", "open_intent"),
    "op_tokens": ("tests/store/test_idempotence.py", "reply_lost"),
    "renewal": ("tests/runtime/test_effects.py", "longer"),
    "retries": ("tests/store/test_multiplexer.py", "stopped_redis"),
    "pins": ("tests/memory/test_cases.py", "X37"),
    "keys": ("tests/memory/test_cases.py", "C05 or X16 or X17"),
    "generation": ("tests/memory/test_erasure.py", "extraction_brings_it_back"),
    "sweep": ("tests/store/test_queue.py", "becomes_an_entry or taker_that_dies"),
}
"""By guard: the tests that must notice that it is gone."""


def test_every_guard_has_a_control() -> None:
    assert set(STAND_FOR) == set(GUARDS)


@pytest.mark.parametrize("guard", STAND_FOR)
@pytest.mark.timeout(600)
def test_a_missing_guard_is_noticed(guard: str) -> None:
    """Tests fail (exit status 1); any other status would mean that they did not run."""
    path, expression = STAND_FOR[guard]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.negative.plugin", path, "-k", expression]
    env = {**os.environ, "WITHOUT": guard}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-1000:]
    assert " failed" in done.stdout

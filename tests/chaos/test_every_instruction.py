"""A pod is killed at every step of a turn that touches the world, with every class of effect (matrix row 8).

The steps are not listed here: the pod counts them, and the turn is repeated with one step more until it gets through.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from agentrt.runtime.calls import IN_DOUBT_TEXT
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import NO_TLS

AGENTS = "tests.harness.agents:agents"
STEPS_MAX = 100


class Stage:
    """A pod that lives, and pods that die at a given step, each started while the one before is still at work."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._redis_url = redis_url
        self._folder = folder
        self._env = {
            "AGENTRT_DEMO_DB": str(folder / "world.db"),
            "AGENTRT_LEASE_MS": "1000",
            "AGENTRT_LOCK_TTL_MS": "1000",
        }
        self.survivor = Pod(redis_url, name="survivor", target=AGENTS, env=self._env)
        self._next: dict[int, Pod] = {}

    def dying(self, step: int) -> Pod:
        """The pod that dies at `step`; the next one begins to start."""
        pod = self._next.pop(step, None) or self._prepare(step)
        if step + 1 not in self._next:
            self._next[step + 1] = self._prepare(step + 1)
        pod.wait_ready()
        return pod

    def _prepare(self, step: int) -> Pod:
        env = {**self._env, "KILL_AT": str(step), "KILL_LOG": str(self.log(step))}
        entry = ("-m", "tests.harness.pod_that_dies")
        return Pod(self._redis_url, name=f"dying-{step}", target=AGENTS, env=env, entry=entry).start(wait=False)

    def log(self, step: int) -> Path:
        return self._folder / f"steps-{step}"

    def end(self) -> None:
        for pod in self._next.values():
            pod.stop()
        self._next.clear()

    def keys(self) -> list[str]:
        """The idempotency keys of all effects that really happened, one for each time."""
        path = self._folder / "world.db"
        if not path.exists():
            return []
        with sqlite3.connect(path) as world:
            if not world.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone():
                return []
            return [row[0] for row in world.execute("SELECT idempotency_key FROM effects")]


@pytest.fixture
def stage(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(redis_url, tmp_path)
    with stage.survivor:
        try:
            yield stage
        finally:
            stage.end()


def check(tool: str, said: str, happened: list[str]) -> None:
    """What the client was told and what really happened belong together."""
    assert len(happened) == len(set(happened)), "an effect happened twice"
    match tool:
        case "read":
            assert said == "read"
        case "note":
            assert said.startswith("noted-")
            assert len(happened) == 1
        case "book":
            assert said.startswith("booked-")
            assert len(happened) == 1
        case "once":
            assert said == IN_DOUBT_TEXT or (said.startswith("done-") and len(happened) == 1)


@pytest.mark.parametrize("tool", ["read", "note", "book", "once"])
@pytest.mark.timeout(600)
def test_killed_at_every_step(stage: Stage, tool: str) -> None:
    """The same message to the pod that lives: the turn ends there, and nothing has happened twice."""
    steps: list[str] = []
    in_doubt, lost = 0, False
    step = 0
    for number in range(2 * STEPS_MAX):
        step += not lost
        lost = False
        before = len(stage.keys())
        pod = stage.dying(step)
        ask = {"model": "worker", "input": tool}
        headers = {"Idempotency-Key": f"{tool}-{number}"}
        survived = False
        try:
            survived = httpx2.post(
                f"{pod.url}/v1/responses", json=ask, headers=headers, timeout=30, verify=NO_TLS
            ).is_success
        except httpx2.TransportError:
            pass
        finally:
            pod.stop()
        answer = httpx2.post(f"{stage.survivor.url}/v1/responses", json=ask, headers=headers, timeout=30, verify=NO_TLS)
        assert answer.status_code == 200, answer.text
        final = answer.json()
        assert final["status"] == "completed"
        check(tool, final["output"][-1]["content"][0]["text"], stage.keys()[before:])
        in_doubt += final["output"][-1]["content"][0]["text"] == IN_DOUBT_TEXT
        if survived and "answered commit" in stage.log(step).read_text():
            break
        if survived:  # slower than its lease: the other pod took the run before it came to its step
            stage.log(step).unlink()
            lost = True
            continue
        steps = stage.log(step).read_text().splitlines()
        assert len(steps) == step, "it died at the step it was told to"
    else:
        pytest.fail(f"the turn never got through: {steps}")
    assert len(steps) >= 20, steps
    names = " ".join(steps)
    for script in ("begin", "plan", "record", "commit"):
        assert all(f"{when} {script}" in names or script in names for when in ("before", "answered")), steps
    listed = httpx2.get(f"{stage.survivor.url}/operator/effects", timeout=30, verify=NO_TLS).json()["effects"]
    assert len(listed) == in_doubt, "every effect in doubt is accounted for"
    assert (in_doubt > 0) == (tool == "once")

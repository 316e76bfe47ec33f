"""A pod is killed at every step of a turn that touches the world, with every class of effect (matrix row 8).

The steps are not listed here: the pod counts them, and the turn is repeated with one step more until it gets through.
What came between two tries (a write of the log, a job) shifts the count, so the writes are asked for by name where no
count hit them.
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
WRITES = [f"{when} {script}" for script in ("begin", "plan", "record", "commit") for when in ("before", "answered")]


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
        self._next: dict[str, Pod] = {}

    def dying(self, at: str) -> Pod:
        """The pod that dies at this step; behind a numbered one the next begins to start."""
        pod = self._next.pop(at, None) or self._prepare(at)
        if at.isdigit() and (following := str(int(at) + 1)) not in self._next:
            self._next[following] = self._prepare(following)
        pod.wait_ready()
        return pod

    def _prepare(self, at: str) -> Pod:
        env = {**self._env, "KILL_AT": at, "KILL_LOG": str(self._log(at))}
        entry = ("-m", "tests.harness.pod_that_dies")
        return Pod(self._redis_url, name="dying", target=AGENTS, env=env, entry=entry).start(wait=False)

    def _log(self, at: str) -> Path:
        return self._folder / f"steps-{at.replace(' ', '-')}"

    def steps(self, at: str) -> list[str]:
        """What the pod took, and forgets: `number name`."""
        taken = self._log(at).read_text().splitlines()
        self._log(at).unlink()
        return taken

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


class Tries:
    """The same message, again and again, to pods that die of it."""

    def __init__(self, stage: Stage, tool: str) -> None:
        self._stage = stage
        self._tool = tool
        self._count = 0
        self.in_doubt = 0

    def once(self, at: str) -> tuple[bool, list[str]]:
        """Whether the pod that was to die there answered, and what it took. The turn ends at the pod that lives, and
        nothing has happened twice.
        """
        stage, before = self._stage, len(self._stage.keys())
        pod = stage.dying(at)
        ask = {"model": "worker", "input": self._tool}
        headers = {"Idempotency-Key": f"{self._tool}-{self._count}"}
        self._count += 1
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
        said = final["output"][-1]["content"][0]["text"]
        check(self._tool, said, stage.keys()[before:])
        self.in_doubt += said == IN_DOUBT_TEXT
        return survived, stage.steps(at)


@pytest.mark.parametrize("tool", ["read", "note", "book", "once"])
@pytest.mark.timeout(600)
def test_killed_at_every_step(stage: Stage, tool: str) -> None:
    """The same message to the pod that lives: the turn ends there, and nothing has happened twice."""
    tries, died_at = Tries(stage, tool), list[str]()
    for _ in range(2 * STEPS_MAX):
        survived, steps = tries.once(str(len(died_at) + 1))
        if not survived:
            assert len(steps) == len(died_at) + 1, "it died at the step it was told to"
            died_at.append(steps[-1].partition(" ")[2])
        elif "answered commit" in "\n".join(steps):
            break  # else it was slower than its lease: the other pod took the run before it came to its step
    else:
        pytest.fail(f"the turn never got through: {died_at}")
    assert len(died_at) >= 20, died_at
    for missed in [write for write in WRITES if write not in died_at]:
        while died_at[-1] != missed:
            survived, steps = tries.once(missed)
            if not survived:
                died_at.append(steps[-1].partition(" ")[2])
    listed = httpx2.get(f"{stage.survivor.url}/operator/effects", timeout=30, verify=NO_TLS).json()["effects"]
    assert len(listed) == tries.in_doubt, "every effect in doubt is accounted for"
    assert (tries.in_doubt > 0) == (tool == "once")

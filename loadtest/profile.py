"""Where the CPU time of a turn goes: a pod under cProfile, by part `python -m loadtest.profile`.

A profiler makes calls dearer than they are, so the shares hold, not the times: many small calls weigh too much.
"""

from __future__ import annotations

import cProfile
import pstats
import signal
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer

from agentrt.cli import main as serve
from loadtest.driver import Driver, Slice
from loadtest.figures import Section, Table, command_line
from loadtest.servers import LOAD_CORE, SERVER_CORE, TEXT, AgentrtPod, on_core

_TURNS = 4_000
_CONNECTIONS = 16
_PARTS = (
    ("agentrt/http", "requests: parsing, checks, answers"),
    ("agentrt/runtime", "runtime: admission, turn, output, response bodies"),
    ("agentrt/store", "store: units, scripts, the multiplexer, replies"),
    ("agentrt/models", "the scripted model"),
    ("agentrt/memory", "the window"),
    ("agentrt/", "records, telemetry, tracing"),
    ("orjson", "JSON (orjson)"),
    ("hiredis", "Redis' protocol (hiredis)"),
    ("starlette", "Starlette"),
    ("uvicorn", "uvicorn"),
    ("prometheus_client", "metrics"),
    ("asyncio", "asyncio"),
)


class _ProfiledPod(AgentrtPod):
    """The same pod, started by cProfile."""

    def __init__(self, redis_url: str, out: Path) -> None:
        self.name = "agentrt"
        self._pod = Pod(redis_url, name="profile", entry=("-m", "loadtest.profile", str(out)))
        self._pod.start()

    def end(self) -> None:
        """Let it go, so that it writes what it has seen."""
        process = self._pod._process
        assert process is not None
        process.terminate()
        process.wait(30)


def _be_the_pod(out: str) -> None:
    """`agentrt serve` under the profiler, which writes what it has seen when the pod is told to go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn gives the signal back to whoever had it before
    profile = cProfile.Profile()
    try:
        profile.runcall(serve, standalone_mode=False)
    finally:
        profile.dump_stats(out)


def _part(place: tuple[str, int, str]) -> str:
    file, _, name = place
    text = name if file == "~" else file
    for part, title in _PARTS:
        if part in text:
            return title
    return "built-ins of Python, uvloop, sockets" if file == "~" else "the rest of the standard library"


_TEXT = f"""{_TURNS:,} turns without tools, {_CONNECTIONS} at once, on conversations of 100 items and more. What
the event loop itself takes, and waits, is left out. A profiler makes calls dearer: the shares are what counts,
and small calls weigh too much."""


def measured(quick: bool) -> Section:
    """The shares."""
    turns = _TURNS // 4 if quick else _TURNS
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis:
        out = Path(folder) / "profile"
        with on_core(SERVER_CORE):
            pod = _ProfiledPod(redis.url, out)
        with on_core(LOAD_CORE):
            driver = Driver()
        try:
            names = pod.prefill(_CONNECTIONS, 100)
            driver.prepare(Slice([pod.port], [[name] for name in names], turns // _CONNECTIONS, TEXT))
            driver.go()
        finally:
            driver.close()
            pod.end()
        spent: dict[str, float] = defaultdict(float)
        seen = pstats.Stats(str(out)).stats  # type: ignore[attr-defined]
        for place, (_, _, own, *_) in seen.items():
            if not (place[0] == "~" and "run_until_complete" in place[2]):  # uvloop's own, and its waiting
                spent[_part(place)] += own
        total = sum(spent.values())
        rows = [[title, f"{own / total:.1%}"] for title, own in sorted(spent.items(), key=lambda one: -one[1])]
        title = "Where a turn's CPU time goes"
        return Section("profile", title, _TEXT, tables=[Table(("part", "share"), rows)], redis_version=redis.version)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("--"):
        _be_the_pod(sys.argv.pop(1))
    else:
        command_line("profile", "Where a turn's CPU time goes.", measured)

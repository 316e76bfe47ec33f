"""What a benchmark found, in the form in which it is kept: `results/NAME.json`. docs/benchmarks.md is written from all
of them (`page`), and capacity and simulation read their service times there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.driver import ROOT

__all__ = ["RESULTS", "Goal", "Plot", "Section", "Stamp", "Table", "command_line", "kept", "number", "say"]

RESULTS = ROOT / "loadtest" / "results"


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal and what was measured of it, an entry a round; their median decides. `kind`: `most`, `least` or
    `equal`. `why`: what is known of the cause where it is missed."""

    number: int
    what: str
    kind: str
    wanted: float
    measured: Sequence[float]
    why: str = ""

    @property
    def got(self) -> float:
        return median(self.measured)

    @property
    def held(self) -> bool:
        if self.kind == "equal":  # a count; the rest is the noise of timers
            return round(self.got) == self.wanted
        return self.got <= self.wanted if self.kind == "most" else self.got >= self.wanted

    @property
    def asked(self) -> str:
        return f"{ {'most': '≤', 'least': '≥', 'equal': '='}[self.kind] } {self.wanted:g}"

    @property
    def verdict(self) -> str:
        """`held`, or by how much it was missed."""
        if self.held:
            return "held"
        by = abs(self.got / self.wanted - 1) * 100
        return f"**missed by {by:.0f} %**"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are texts; the first column is to the left."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        return "\n".join([line(self.head), f"|{'---|' * len(self.head)}", *(line(row) for row in self.rows)])


@dataclass(frozen=True, slots=True)
class Plot:
    """`series`: name → points (x, y). `kind`: `lines`, or `bars`, where `groups` names each x from 0. `log`: `x`,
    `y` or both are logarithmic."""

    name: str
    title: str
    x: str
    y: str
    series: dict[str, Sequence[tuple[float, float]]]
    kind: str = "lines"
    groups: Sequence[str] = ()
    log: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where figures come from. `load`: processes that wanted a core before and after, the bench's own among them; empty
    where nobody looked."""

    command: str
    date: str
    commit: str
    machine: str
    seconds: float
    load: Sequence[float] = ()

    def line(self) -> str:
        told = f"`{self.command}`; {self.date}, commit {self.commit}, {self.seconds:.0f} s"
        if not self.load:
            return f"{told}."
        return f"{told}; {self.load[0]:.0f} processes wanted a core before it began, {self.load[1]:.0f} at its end."


@dataclass(slots=True)
class Section:
    """One benchmark's part of the page. `figures`: what others compute with, by name, units in the names."""

    name: str
    title: str
    text: str
    goals: Sequence[Goal] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    figures: dict[str, float] = field(default_factory=dict)
    libraries: Sequence[str] = ()
    """Distributions beside the pod's own whose versions matter here."""
    redis_version: str = ""
    stamp: Stamp | None = None

    def keep(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (RESULTS / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """Goals and tables."""
        parts = [goals_table(self.goals)] if self.goals else []
        return "\n\n".join([*parts, *(table.markdown() for table in self.tables)])


def kept(name: str) -> Section | None:
    """The kept figures of a benchmark; None where there are none yet."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    raw["goals"] = [Goal(**goal) for goal in raw["goals"]]
    raw["tables"] = [Table(**table) for table in raw["tables"]]
    raw["plots"] = [Plot(**plot) for plot in raw["plots"]]
    raw["stamp"] = Stamp(**raw["stamp"]) if raw["stamp"] else None
    return Section(**raw)


def goals_table(goals: Sequence[Goal]) -> str:
    rows = [
        (str(goal.number), goal.what, goal.asked, f"{number(goal.got)} {_spread(goal.measured)}".strip(), goal.verdict)
        for goal in goals
    ]
    return Table(("goal", "what", "wanted", "measured (least–most)", ""), rows).markdown()


def _spread(values: Sequence[float]) -> str:
    return f"({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""


def number(value: float) -> str:
    """For a cell."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


# --- the command line -------------------------------------------------------------------------------------------------


def say(what: str) -> None:
    """What is measured now, for whoever looks on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def command_line(name: str, about: str, measure: Callable[[bool], Section]) -> None:
    """`python -m loadtest.NAME [--quick] [--write]`. `measure` is told whether it is to be quick."""
    parser = argparse.ArgumentParser(prog=f"python -m loadtest.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter slices: a look, not a result")
    parser.add_argument("--write", action="store_true", help="keep the result, and write docs/benchmarks.md anew")
    args = parser.parse_args()
    print(measure_and_keep(name, measure, quick=args.quick, write=args.write).markdown())


def measure_and_keep(name: str, measure: Callable[[bool], Section], *, quick: bool, write: bool) -> Section:
    """Measure, and stamp what was found; `write` keeps it and writes the page."""
    before, started = os.getloadavg()[0], time.monotonic()
    at = commit()
    section = measure(quick)
    say("")
    command = f".venv/bin/python -m loadtest.{name}{' --quick' if quick else ''} --write"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    seconds, load = time.monotonic() - started, (before, os.getloadavg()[0])
    section.stamp = Stamp(command, date, at, machine(section.redis_version, section.libraries), seconds, load)
    if write:
        from loadtest.page import write_page

        section.keep()
        write_page()
    return section


def commit() -> str:
    """The commit that is measured, and whether the code differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "src") else ""
    return f"`{git('rev-parse', '--short', 'HEAD') or 'unknown'}`{changed}"


def machine(redis_version: str, libraries: Sequence[str] = ()) -> str:
    cores = os.cpu_count() or 1
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("uvicorn", "uvloop", "starlette", "redis", "hiredis", *libraries)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{cores} cores ({_processor()}), {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}; "
        f"{platform.python_implementation()} {platform.python_version()}, Redis {redis_version}, {versions}."
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((row.partition(": ")[2] for row in rows if row.startswith("model name")), "unknown")

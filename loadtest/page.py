"""docs/benchmarks.md and its plots, from all results that are kept: `python -m loadtest.page`."""

from __future__ import annotations

from loadtest.driver import ROOT
from loadtest.figures import RESULTS, Section, goals_table, kept
from loadtest.plot import svg

__all__ = ["SECTIONS", "write_page"]

SECTIONS = ("turns", "locks", "tools", "streams", "providers", "recall", "scaling", "shards", "peers", "profile")
"""In the order of the page, which is that of the goals; what has no result yet is left out."""
_DOCS = ROOT / "docs"

_HEAD = """# Benchmarks

Written from `loadtest/results/` by `python -m loadtest.page`; do not edit. `make bench` measures everything anew and
`make bench-peers` the other frameworks; each section names its own command and commit.

Everything runs on loopback, on two cores: the server that is measured has one of them; Redis and the load have the
other. What is compared is measured in turns, slice by slice (ABAB…), and a ratio is the median of the ratios of
neighbouring slices: what the machine does beside it falls on both. **Absolute numbers belong to that machine on that
day; the ratios are what counts.** A section that found other processes at work on the machine says so in its last line.

The *floor* is a Starlette endpoint that does two redis-py pipelines a turn and has none of the safety
(`loadtest/floor.py`).

## Goals

{goals}

{missed}
"""


def write_page() -> None:
    """Write the page, and the plots that it shows; plots of results that are gone go too."""
    plots = _DOCS / "plots"
    plots.mkdir(exist_ok=True)
    sections = [section for name in SECTIONS if (section := kept(name)) is not None]
    stray = {path.stem for path in RESULTS.glob("*.json")} - {*SECTIONS, "capacity", "simulation"}
    if stray:
        raise ValueError(f"results without a place on the page: {sorted(stray)}")
    (_DOCS / "benchmarks.md").write_text(render(sections), encoding="utf-8")
    for section in sections:
        for plot in section.plots:
            (plots / f"{plot.name}.svg").write_text(svg(plot), encoding="utf-8")


def render(sections: list[Section]) -> str:
    """The page. Pure."""
    goals = sorted((goal for section in sections for goal in section.goals), key=lambda goal: goal.number)
    causes: dict[str, list[str]] = {}
    for goal in goals:
        if not goal.held and goal.why:
            causes.setdefault(goal.why, []).append(f"{goal.number}, {goal.what}")
    missed = [f"- **{'; '.join(whats)}**: {cause}." for cause, whats in causes.items()]
    why = "Missed, and why:\n\n" + "\n".join(missed) if missed else ""
    parts = [_HEAD.format(goals=goals_table(goals), missed=why).rstrip()]
    parts += [_section(section) for section in sections]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [f"## {section.title}", section.text.strip()]
    parts += [table.markdown() for table in section.tables]
    parts += [f"![{plot.title}](plots/{plot.name}.svg)" for plot in section.plots]
    if section.stamp is not None:
        parts.append(f"{section.stamp.machine}\n{section.stamp.line()}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    write_page()

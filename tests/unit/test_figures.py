"""Goals, and the page and the plots that are written from what was kept."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import pytest
from loadtest import figures
from loadtest.driver import ROOT
from loadtest.figures import Goal, Plot, Section, Stamp, Table, kept
from loadtest.page import SECTIONS, render
from loadtest.plot import svg


@pytest.mark.parametrize(
    ("kind", "wanted", "measured", "verdict"),
    [
        ("most", 0.5, [0.4, 0.5, 9.0], "held"),
        ("most", 0.5, [0.6], "**missed by 20 %**"),
        ("least", 1.8, [1.8], "held"),
        ("least", 2.0, [1.0], "**missed by 50 %**"),
        ("equal", 2, [1.8, 2.3, 2.4], "held"),
        ("equal", 2, [2.6], "**missed by 30 %**"),
    ],
)
def test_verdicts(kind: str, wanted: float, measured: list[float], verdict: str) -> None:
    assert Goal(1, "x", kind, wanted, measured).verdict == verdict


def section() -> Section:
    found = Section(
        "locks",
        "Locks",
        "What locks cost.",
        [Goal(3, "hand-off", "most", 0.5, [0.7], "two passes of Redis"), Goal(3, "pairs", "most", 1, [0.5])],
        [Table(("a", "b"), [("1", "2")])],
        [Plot("locks", "Locks", "waiters", "ms", {"ours": [(1, 0.5), (10, 2.0)]})],
        {"pair_us": 12.0},
    )
    found.stamp = Stamp("make bench", "2026-01-01", "`abc`", "a machine.", 12.0, (0.1, 1.2))
    return found


def test_what_is_kept_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    assert kept("locks") is None
    section().keep()
    again = kept("locks")
    assert again is not None
    assert again.figures == {"pair_us": 12.0}
    assert again.markdown() == section().markdown()
    assert asdict(again)["stamp"]["command"] == "make bench"


def test_the_page_names_what_was_missed_and_why() -> None:
    page = render([section()])
    assert "| 3 | hand-off | ≤ 0.5 | 0.70 | **missed by 40 %** |" in page
    assert "- **3, hand-off**: two passes of Redis." in page
    assert "commit `abc`" in page
    assert "![Locks](plots/locks.svg)" in page


def test_the_page_is_of_the_results_that_are_kept() -> None:
    """To renew it: `python -m loadtest.page`."""
    sections = [section for name in SECTIONS if (section := kept(name)) is not None]
    assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == render(sections)


@pytest.mark.parametrize(
    "plot",
    [
        Plot("p", "a < b & c", "x", "y", {"one": [(0, 0.0), (5, 3.0)], "two": [(0, 1.0), (5, 2.0)]}),
        Plot("p", "log", "x", "y", {"one": [(1, 0.01), (1000, 2e6)]}, log="xy"),
        Plot("p", "bars", "x", "y", {"one": [(0, 3.0), (1, 4.0)], "two": [(0, 1.0)]}, "bars", ("a", "b")),
        Plot("p", "log bars", "x", "y", {"one": [(0, 3.0), (1, 4_000.0)]}, "bars", ("a", "b"), "y"),
        Plot("p", "flat", "x", "y", {"one": [(1, 5.0)]}),
    ],
    ids=lambda plot: plot.title,
)
def test_plots_are_whole_and_inside(plot: Plot) -> None:
    """Valid XML, and nothing is drawn outside of the picture."""
    root = ET.fromstring(svg(plot))
    width, height = (float(n) for n in root.attrib["viewBox"].split()[2:])
    marks = [*root.iter("{http://www.w3.org/2000/svg}circle"), *root.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(marks) > 1
    for mark in marks:
        x, y = float(mark.get("cx") or mark.get("x") or 0), float(mark.get("cy") or mark.get("y") or 0)
        assert 0 <= x <= width and 0 <= y <= height
        assert float(mark.get("height") or 0) >= 0

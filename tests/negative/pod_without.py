"""A pod with one guard taken out: `python -m tests.negative.pod_without GUARD serve ...`. For negative controls only.

A guard is taken out of the script texts as they are loaded; the shipped files stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from agentrt.cli import main
from agentrt.store import scripts

GUARDS: dict[str, Callable[[str, str], str]] = {}
"""What each guard's removal does to a script's (name, text)."""


def cut(text: str, old: str, new: str = "") -> str:
    """Replace what must be there: a guard that moved would make the control prove nothing."""
    if old not in text:
        raise SystemExit(f"the guard is not where the control expects it: {old!r}")
    return text.replace(old, new)


def without_fence(name: str, text: str) -> str:
    """Every guarded write is let through, whoever owns the session; commit also loses its look at the list."""
    if name == "ownership.lua":
        guard = "if held[1] ~= token or tonumber(fence) < tonumber(held[2]) then return 'fenced' end"
        return cut(text, guard)
    if name == "commit.lua":
        return cut(text, "if length ~= tonumber(r[2]) + tonumber(skip) then return {'corrupt', length} end")
    return text


GUARDS["fence"] = without_fence


def without_sweep(name: str, text: str) -> str:
    """Nobody looks for leases that have run out."""
    return cut(text, "'LIMIT', 0, limit)", "'LIMIT', 0, 0)") + "\n-- limit" if name == "sweep.lua" else text


GUARDS["sweep"] = without_sweep


def take_out(guard: str) -> None:
    """Load scripts without `guard` from now on."""
    read = scripts._read
    scripts._read = lambda name: GUARDS[guard](name, read(name))


if __name__ == "__main__":
    take_out(sys.argv.pop(1))
    main()

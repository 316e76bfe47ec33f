"""A pod of the chaos: `python -m loadtest.chaos.pod CLOCK GUARD serve ...`.

Its wall clock is ahead by the seconds that stand in the file CLOCK, a double, and jumps when that is written. GUARD is
taken out of it (tests/negative/guards.py); `-` for none.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

from tests.negative.guards import take_out

from agentrt.cli import main

__all__ = ["CLOCK"]

CLOCK = struct.Struct("d")
"""What the file of a clock holds."""


def _shift(path: Path) -> None:
    """However this process asks for the time of the day in Python, it gets the shifted one."""
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), CLOCK.size, prot=mmap.PROT_READ)
    real, real_ns, real_get = time.time, time.time_ns, time.clock_gettime

    def ahead_s() -> float:
        return float(CLOCK.unpack_from(offset)[0])

    def clock_gettime(clock: int) -> float:
        return real_get(clock) + (ahead_s() if clock == time.CLOCK_REALTIME else 0)

    time.time = lambda: real() + ahead_s()
    time.time_ns = lambda: real_ns() + int(ahead_s() * 1e9)
    time.clock_gettime = clock_gettime


if __name__ == "__main__":
    clock, guard = sys.argv.pop(1), sys.argv.pop(1)
    _shift(Path(clock))
    if guard != "-":
        take_out(guard)
    main()

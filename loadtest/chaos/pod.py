"""A pod of the chaos: `python -m loadtest.chaos.pod CLOCK RELEASE GUARD serve ...`.

Its wall clock is ahead by the seconds that stand in the file CLOCK, a double, and jumps when that is written. It is of
the release that the file RELEASE names when it starts: `NEW`, or `OLD`, which knows one version of the schema less.
GUARD is taken out of it (tests/negative/guards.py); `-` for none.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

from tests.harness.pod_of_schema import be_of_the_release_before
from tests.negative.guards import take_out

from agentrt.cli import main

__all__ = ["CLOCK", "NEW", "OLD"]

CLOCK = struct.Struct("d")
"""What the file of a clock holds."""
NEW, OLD = "new", "old"


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
    clock, release, guard = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
    _shift(Path(clock))
    if Path(release).read_text() == OLD:
        be_of_the_release_before()
    if guard != "-":
        take_out(guard)
    main()

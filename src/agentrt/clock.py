"""A pod's own clocks. They decide only its own timeouts; who owns what until when is decided by Redis' TIME."""

from __future__ import annotations

import time

__all__ = ["boottime_ms", "wall_ms"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_ms() -> float:
    """Milliseconds that count on while the machine sleeps: a paused pod finds its deadline passed."""
    return time.clock_gettime(_BOOTTIME) * 1000


def wall_ms() -> int:
    """Milliseconds since the epoch, for records that people read."""
    return time.time_ns() // 1_000_000

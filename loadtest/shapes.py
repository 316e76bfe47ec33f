"""How many users there are, when. Pure."""

from __future__ import annotations

__all__ = ["SHAPES", "ramp", "soak", "spike"]


def ramp(at_s: float, seconds: float, users: int) -> int:
    """From one to all of them in the first four fifths of the time, then all of them."""
    return max(1, min(users, round(users * at_s / (0.8 * seconds))))


def spike(at_s: float, seconds: float, users: int) -> int:
    """A tenth of them, all of them in the middle third, a tenth again."""
    return users if seconds / 3 <= at_s < seconds * 2 / 3 else max(1, users // 10)


def soak(at_s: float, seconds: float, users: int) -> int:
    """All of them, from beginning to end, but for a minute, or a tenth of the time, in which they come."""
    return max(1, min(users, round(users * at_s / min(60.0, seconds / 10))))


SHAPES = {"ramp": ramp, "soak": soak, "spike": spike}

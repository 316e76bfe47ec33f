"""How the time of a row goes on over a load test, and whether it is back to normal after a spike. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["Times", "recovered"]

_NORMAL = 2.0
_FLOOR_MS = 100.0
"""A p95 of up to twice what it was, and of up to so much anyway, is normal."""
_BACK_S = 30.0
_EACH_S = 10.0


class Times:
    """Histograms of a row, taken now and then: each holds all response times, in ms, from the beginning on."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, Counter[int]]] = [(0.0, Counter())]

    def add(self, at_s: float, counts: Mapping[int, int]) -> None:
        """One more; `at_s` grows."""
        self._taken.append((at_s, Counter(counts)))

    def p95_ms(self, first_s: float, end_s: float) -> float | None:
        """Of what ended in that time; None where nothing did."""
        before = self._until(first_s)
        counts = self._until(end_s) - before
        left = counts.total() * 0.05
        for time_ms, count in sorted(counts.items(), reverse=True):
            left -= count
            if left < 0:
                return float(time_ms)
        return None

    def ended(self, first_s: float, end_s: float) -> int:
        """How many ended in that time."""
        return (self._until(end_s) - self._until(first_s)).total()

    def _until(self, at_s: float) -> Counter[int]:
        return next((counts for taken_s, counts in reversed(self._taken) if taken_s <= at_s), Counter())

    def lines(self) -> list[str]:
        """Every ten seconds: how many ended, and their p95."""
        last_s = self._taken[-1][0]
        windows = [(_EACH_S * number, _EACH_S * (number + 1)) for number in range(int(last_s / _EACH_S))]
        told = []
        for first_s, end_s in windows:
            p95_ms = self.p95_ms(first_s, end_s)
            shown = "-" if p95_ms is None else f"{p95_ms:.0f} ms"
            told.append(f"{first_s:4.0f} to {end_s:.0f} s: {self.ended(first_s, end_s)} ended, p95 {shown}")
        return told


def recovered(times: Times, first_s: float, end_s: float) -> list[str]:
    """What is wrong after a spike that lasted from `first_s` to `end_s`: empty when 30 s later all is as before."""
    before = times.p95_ms(0.0, first_s)
    after = times.p95_ms(end_s + _BACK_S, float("inf"))
    if before is None or after is None:
        return ["nothing ended before the spike, or from 30 s after it on"]
    limit_ms = max(_NORMAL * before, _FLOOR_MS)
    if after > limit_ms:
        return [f"from {_BACK_S:.0f} s after the spike on p95 is {after:.0f} ms; it was {before:.0f} ms before"]
    return []

"""Dates that a question names. Pure; English month names and ISO dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

__all__ = ["LAST_MS", "Day", "clamped", "date", "day_of", "iso", "moment", "named"]

_DAY_S = 86_400
_FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The first and the last moment that ISO 8601 has four digits for, UTC."""

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = "|".join(f"{name}|{name[:3]}" if len(name) > 3 else name for name in _MONTHS)
_PATTERNS = (
    re.compile(r"\b(?P<y>\d{4})-(?P<m>\d{1,2})(?:-(?P<d>\d{1,2}))?\b"),
    re.compile(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<name>{_MONTH})\b,?(?: (?P<y>\d{{4}}))?", re.I),
    re.compile(rf"\b(?P<name>{_MONTH}) (?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b(?!\d),?(?: (?P<y>\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"\b(?P<name>{_MONTH}),? (?P<y>\d{{4}})\b", re.IGNORECASE),
    re.compile(r"\b(?:in|during|since|of) (?P<y>(?:19|20)\d{2})\b", re.IGNORECASE),
    re.compile(rf"\b(?:in|during|since|last|of) (?P<name>{_MONTH})\b", re.IGNORECASE),
)


class Day(NamedTuple):
    """A date, or a part of one; 0 for what is not said."""

    year: int
    month: int
    day: int

    def covers(self, other: Day) -> bool:
        """Whether `other`, a whole date, is on it."""
        return all(mine in (0, theirs) for mine, theirs in zip(self, other, strict=True))


_SIGNS = (*"0123456789", *(name[:3] for name in _MONTHS))


def named(text: str) -> Day | None:
    """The first date that a text names, the most exact kind first; None for none."""
    folded = text.casefold()
    if not any(sign in folded for sign in _SIGNS):  # as most: the patterns cost more than all else of a search
        return None
    for pattern in _PATTERNS:
        if match := pattern.search(text):
            parts = match.groupdict()
            name = (parts.get("name") or "").casefold()
            month = next((i for i, full in enumerate(_MONTHS, 1) if name and full.startswith(name[:3])), 0)
            return Day(int(parts.get("y") or 0), month or int(parts.get("m") or 0), int(parts.get("d") or 0))
    return None


def clamped(at_ms: int) -> int:
    """The nearest moment that can be shown; what is stored may be of a pod that did not look."""
    return min(max(at_ms, _FIRST_MS), LAST_MS)


def day_of(at_ms: int) -> Day:
    """The day of a moment, UTC."""
    at = datetime.fromtimestamp(clamped(at_ms) // 1000, UTC)
    return Day(at.year, at.month, at.day)


@lru_cache(maxsize=4_096)
def date(day: int) -> str:
    """A day, counted from the epoch, as ISO 8601."""
    return datetime.fromtimestamp(clamped(day * _DAY_S * 1000) // 1000, UTC).date().isoformat()


def iso(at_ms: int) -> str:
    """A moment as ISO 8601, UTC, to the second."""
    day, second = divmod(clamped(at_ms) // 1000, _DAY_S)
    return f"{date(day)}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"


def moment(text: str) -> int:
    """ISO 8601 as ms since the epoch; UTC where no zone is named. Raises `ValueError`, also beyond the year 9999."""
    try:
        at = datetime.fromisoformat(text)
        return clamped(int((at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).timestamp() * 1000))
    except OverflowError as error:
        raise ValueError(f"not a moment: {text!r}") from error

"""What is left of a tenant's quota, as header fields.

`RateLimit` and `RateLimit-Policy` of the IETF draft tell all limits; the three fields of its earlier versions, which
most clients read, the one that is nearest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentrt.store.access import Left

__all__ = ["quota_headers"]

_WINDOWS_S = {"turns": 60, "tokens": 86_400}
"""Runs in flight have no window: a place is free when one ends."""


def quota_headers(left: Sequence[Left]) -> dict[str, str]:
    """The fields for what is left; none where nothing is limited."""
    if not left:
        return {}
    nearest = min(left, key=lambda one: one.left / one.limit)
    return {
        "ratelimit-limit": str(nearest.limit),
        "ratelimit-remaining": str(nearest.left),
        "ratelimit-reset": str(_seconds(nearest)),
        "ratelimit-policy": ", ".join(map(_policy, left)),
        "ratelimit": ", ".join(map(_state, left)),
    }


def _seconds(one: Left) -> int:
    return max(1, math.ceil(one.reset_ms / 1000))


def _policy(one: Left) -> str:
    window = f";w={_WINDOWS_S[one.kind]}" if one.kind in _WINDOWS_S else ""
    return f'"{one.kind}";q={one.limit}{window}'


def _state(one: Left) -> str:
    return f'"{one.kind}";r={one.left};t={_seconds(one)}'

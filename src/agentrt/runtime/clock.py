"""The pod's clocks under the name that the runtime knows them by; the store needs them too, so they are a leaf."""

from __future__ import annotations

from agentrt.clock import boottime_ms, wall_ms

__all__ = ["boottime_ms", "wall_ms"]

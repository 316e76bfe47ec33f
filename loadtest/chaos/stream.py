"""What must hold of any sequence of a run's events, on a client's wire as in the log. Pure."""

from __future__ import annotations

from typing import Any

import orjson

__all__ = ["TERMINAL_EVENTS", "Watched"]

TERMINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})


class Watched:
    """Numbers only grow; nothing comes behind the end; in the end every item that was opened is closed."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.final: dict[str, Any] = {}
        """The response that the last event bears; empty while there is none."""
        self.ended = False
        self._last = -1
        self._open: set[str] = set()

    def take(self, line: str) -> None:
        """One line of an SSE stream; what is no event is passed over."""
        if line.startswith("data: {"):
            self.event(orjson.loads(line[6:]))

    def event(self, event: dict[str, Any]) -> None:
        """One event."""
        number, kind = event.get("sequence_number"), str(event.get("type"))
        if number is None:
            return
        if number <= self._last:
            self.wrong.append(f"event {number} behind {self._last}")
        if self.ended:
            self.wrong.append(f"{kind} behind the end")
        self._last = number
        if kind == "response.output_item.added":
            self._open.add(event["item"]["id"])
        elif kind == "response.output_item.done":
            self._open.discard(event["item"]["id"])
        elif kind in TERMINAL_EVENTS:
            self.ended = True
            self.final = event["response"]
            self.wrong += [f"item {item} was never closed" for item in sorted(self._open)]

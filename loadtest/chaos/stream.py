"""What must hold of any sequence of a run's events, on a client's wire as in the log. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import orjson

__all__ = ["TERMINAL_EVENTS", "Watched"]

TERMINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})


class Watched:
    """Numbers only grow; nothing comes behind the end; in the end every item that was opened is closed, what is in the
    answer was shown, and each text is what its pieces were."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.final: dict[str, Any] = {}
        """The response that the last event bears; empty while there is none."""
        self.ended = False
        self._last = -1
        self._open: set[str] = set()
        self._closed: set[str] = set()
        self._pieces: defaultdict[str, list[str]] = defaultdict(list)

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
            self._close(event["item"]["id"])
        elif kind == "response.output_text.delta":
            self._pieces[event["item_id"]].append(event["delta"])
        elif kind == "response.output_text.done":
            if "".join(self._pieces.pop(event["item_id"], [])) != event["text"]:
                self.wrong.append(f"item {event['item_id']} has a text that is not its pieces")
        elif kind in TERMINAL_EVENTS:
            self._end(event["response"])

    def _close(self, item: str) -> None:
        if item not in self._open:
            self.wrong.append(f"item {item} was closed, and was never opened")
        self._open.discard(item)
        self._closed.add(item)

    def _end(self, response: dict[str, Any]) -> None:
        self.ended = True
        self.final = response
        self.wrong += [f"item {item} was never closed" for item in sorted(self._open)]
        shown = self._open | self._closed
        self.wrong += [f"item {one['id']} was never shown" for one in response["output"] if one["id"] not in shown]

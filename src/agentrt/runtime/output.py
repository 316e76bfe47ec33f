"""The output of a run as it grows: items by output index, their ids, and the events that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentrt.models.base import ReasoningDone, ToolCall
from agentrt.records import Item, item_id, seal
from agentrt.runtime import response
from agentrt.runtime.log import RunLog

__all__ = ["Output", "Slot"]


@dataclass(slots=True)
class Slot:
    """One output item. `private` is what the adapters need to send it back; `open` until its `done` event."""

    index: int
    data: dict[str, Any]
    private: dict[str, Any]
    open: bool = True
    text: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Of a message: what its part is, `output_text` or `refusal`."""
        return str(self.data["content"][0]["type"])

    @property
    def said(self) -> bool:
        """Whether it is no output at all but what a client said while the run was at work."""
        return not self.private


class Output:
    """Items by output index. The number of an item in the conversation is `base + index`, for good.

    A half-written item that is given up is closed as `incomplete`, its index stays empty, and it is not part of the
    final output.
    """

    def __init__(self, log: RunLog, origin: str, base: int, agent: str, *, sealed: bool = False) -> None:
        self._log = log
        self._sealed = sealed
        """Whether reasoning is shown with what its provider needs to get back."""
        self._origin = origin
        self._base = base
        self._agent = agent
        self._slots: dict[int, Slot] = {}
        self._next = 0
        self._left_open: dict[int, dict[str, Any]] = {}
        self._shown: set[int] = set()
        """What earlier attempts closed in the event log."""

    def reserve(self, index: int) -> None:
        """Indexes up to `index` were used by an earlier attempt."""
        self._next = max(self._next, index + 1)

    def items(self) -> list[Item]:
        """The finished items, as the model and the history see them."""
        return [Item.of(slot.data, slot.private) for slot in self._ordered() if not slot.open]

    def public(self) -> list[dict[str, Any]]:
        """The finished items, as the client sees them."""
        return [slot.data for slot in self._ordered() if not slot.open and not slot.said]

    def lines(self) -> list[bytes]:
        """The stored form by number; empty where an index stayed empty."""
        closed = [slot for slot in self._slots.values() if not slot.open]
        lines = [b""] * (max((slot.index for slot in closed), default=-1) + 1)
        for slot in closed:
            lines[slot.index] = Item.of(slot.data, slot.private).encode()
        return lines

    def _ordered(self) -> list[Slot]:
        return [self._slots[index] for index in sorted(self._slots)]

    def _open(self, kind: str, data: Mapping[str, Any], private: Mapping[str, Any]) -> Slot:
        index = self._next
        self._next += 1
        identifier = item_id(kind, self._origin, self._base + index)
        slot = Slot(index, {"id": identifier, "type": kind, **data}, dict(private))
        self._slots[index] = slot
        return slot

    def said(self, data: Mapping[str, Any]) -> int:
        """What a client says while the run is at work takes the next index, and is told to nobody."""
        slot = self._open(str(data.get("type", "message")), data, {})
        slot.data = {**data, "id": slot.data["id"]}
        slot.open = False
        return slot.index

    def remove(self, indexes: Sequence[int]) -> None:
        """Take these back: they were told to nobody."""
        for index in indexes:
            del self._slots[index]

    def drop(self) -> None:
        """Take everything back but what clients said."""
        self._slots = {index: slot for index, slot in self._slots.items() if slot.said}

    def message_delta(self, slot: Slot | None, kind: str, text: str, private: Mapping[str, Any]) -> Slot:
        """More text of a message; opens it where there is none. `kind`: `output_text` or `refusal`."""
        if slot is None:
            slot = self._open("message", {"role": "assistant", "status": "in_progress", "content": []}, private)
            self._log.add(*response.opening(slot.index, slot.data))
            self._log.add(*response.part_opening(slot.index, slot.data["id"], kind))
            slot.data["content"] = [{"type": kind}]
        slot.text.append(text)
        self._log.add(*response.delta(slot.index, slot.data["id"], kind, text))
        return slot

    def message_done(self, slot: Slot, status: str = "completed") -> None:
        """Close a message with all its text."""
        kind, text = slot.kind, "".join(slot.text)
        part: dict[str, Any] = (
            {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            if kind == "output_text"
            else {"type": "refusal", "refusal": text}
        )
        slot.data["content"] = [part]
        slot.data["status"] = status
        self._close(slot, opened=True)

    def give_up(self, first: int) -> None:
        """Give up all items from index `first` on: an open one is closed as incomplete, the indexes stay empty."""
        for slot in [slot for slot in self._ordered() if slot.index >= first]:
            if slot.open:
                self.message_done(slot, "incomplete")
            del self._slots[slot.index]

    def reasoning(self, done: ReasoningDone, private: Mapping[str, Any]) -> None:
        """A finished reasoning item."""
        data = {key: value for key, value in done.data.items() if key != "type"}
        if self._sealed and "data" in done.private:
            data["encrypted_content"] = seal(str(private["provider"]), done.private["data"])
        slot = self._open("reasoning", {"summary": [], **data}, {**private, **done.private})
        self._log.add(*response.opening(slot.index, slot.data))
        self._close(slot, opened=True)

    def client_call(self, call: ToolCall, private: Mapping[str, Any]) -> None:
        """A call of a tool that the client runs."""
        slot = self._open(
            "function_call",
            {"call_id": call.call_id, "name": call.name, "arguments": call.arguments, "status": "completed"},
            private,
        )
        self._log.add(*response.opening(slot.index, slot.data))
        self._close(slot, opened=False)

    def approval_request(self, call: ToolCall, private: Mapping[str, Any]) -> Slot:
        """A call that waits for somebody's approval."""
        slot = self._open(
            "mcp_approval_request",
            {"server_label": self._agent, "name": call.name, "arguments": call.arguments, "status": "completed"},
            private,
        )
        self._log.add(*response.opening(slot.index, slot.data))
        self._close(slot, opened=False)
        return slot

    def server_call(self, call: ToolCall, private: Mapping[str, Any], approval: str | None = None) -> Slot:
        """A call of a tool that this runtime runs begins. `approval`: id of the request that was approved."""
        slot = self._open(
            "mcp_call",
            {
                "server_label": self._agent,
                "name": call.name,
                "arguments": call.arguments,
                "output": None,
                "error": None,
                "approval_request_id": approval,
                "status": "in_progress",
            },
            {**private, "call_id": call.call_id},
        )
        self.show_call(slot)
        return slot

    def show_call(self, slot: Slot) -> None:
        """The events that open a server-run call."""
        self._log.add(*response.opening(slot.index, slot.data))
        for event in response.mcp_opening(slot.index, slot.data):
            self._log.add(*event)

    def server_call_done(self, index: int, output: str | None, error: str | None) -> None:
        """A server-run call has its outcome; told once, whatever earlier attempts of the run had shown.

        The text of a failure stands in `output`, under the status `failed`: what `error` may be, a string or an
        object, depends on the client, and null is valid for all.
        """
        slot = self._slots[index]
        slot.data.update(
            output=error if error is not None else output, status="completed" if error is None else "failed"
        )
        if index in self._shown:
            slot.open = False
        else:
            self._close(slot, opened=True)

    def _close(self, slot: Slot, *, opened: bool) -> None:
        slot.open = False
        for event in response.closing(slot.index, slot.data, opened=opened):
            self._log.add(*event)

    def snapshot(self, indexes: Sequence[int]) -> list[dict[str, Any]]:
        """Slots as a plan keeps them."""
        slots = (self._slots[index] for index in indexes)
        return [{"index": slot.index, "data": slot.data, "private": slot.private} for slot in slots]

    @property
    def next_index(self) -> int:
        """The index that the next item gets."""
        return self._next

    def restore(self, stored: Sequence[Mapping[str, Any]], logged: Mapping[int, bool]) -> None:
        """Take up the items of a plan. `logged`: the indexes that the event log opened, and whether it closed them."""
        for kept in stored:
            slot = Slot(kept["index"], kept["data"], kept["private"])
            self._slots[slot.index] = slot
            self.reserve(slot.index)
            if slot.data["type"] == "mcp_call":
                if slot.index not in logged:
                    self.show_call(slot)
                continue
            slot.open = False
            if not slot.said and not logged.get(slot.index, False):
                if slot.index not in logged:
                    self._log.add(*response.opening(slot.index, slot.data))
                for event in response.closing(slot.index, slot.data, opened=slot.index in logged):
                    self._log.add(*event)

    def abandon(self, frames: Sequence[bytes]) -> dict[int, bool]:
        """Read an earlier attempt's log: which indexes it opened, and whether it closed them."""
        logged: dict[int, bool] = {}
        for frame in frames:
            event = orjson.loads(frame)
            match event["type"]:
                case "response.output_item.added":
                    self.reserve(event["output_index"])  # a client has seen it: never used for anything else
                    logged[event["output_index"]] = False
                    self._left_open[event["output_index"]] = event["item"]
                case "response.output_item.done":
                    logged[event["output_index"]] = True
                    self._shown.add(event["output_index"])
                    self._left_open.pop(event["output_index"], None)
        return logged

    def close_abandoned(self) -> None:
        """Close the items that the log opened and no plan knows: the pod died while it wrote them."""
        for index, item in sorted(self._left_open.items()):
            if index not in self._slots:
                closed = {**item, "status": "incomplete"}
                self._log.add("response.output_item.done", {"output_index": index, "item": closed})

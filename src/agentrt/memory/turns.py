"""Raw turns: what was said, as recall keeps it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from agentrt.memory.dates import iso
from agentrt.memory.lexicon import terms
from agentrt.memory.tokens import count
from agentrt.records import Item

__all__ = ["RECAP", "SUMMARY", "TEXT_MAX", "Memory", "recap", "recaps", "recaps_of", "recaps_over", "text_of"]

SUMMARY = "summary"
"""The role of a memory that sums up a part of a conversation."""

RECAP = "sum_"
"""What the ids of all recaps begin with."""

TEXT_MAX = 8_000
"""Characters of one turn that are kept; the item itself stays whole."""


_LINE_MAX = 600


@dataclass(frozen=True)
class Memory:
    """One raw turn. `at` is when it was said, `kept` when it was remembered, both ms; `terms` are those of the text."""

    item: str
    session: str
    role: str
    at: int
    text: str
    terms: str
    kept: int
    speaker: str = ""

    @classmethod
    def of(cls, item: str, session: str, role: str, at: int, text: str, kept: int, speaker: str = "") -> Memory:
        """A turn, with its terms worked out."""
        text = text[:TEXT_MAX]
        return cls(item, session, role, at, text, " ".join(terms(text)), kept, speaker)

    @cached_property
    def line(self) -> str:
        """How a model reads it: when, who, what."""
        text = " ".join(self.text.split())
        if len(text) > _LINE_MAX:
            text = text[:_LINE_MAX] + " […]"
        return f"- [{iso(self.at)[:16].replace('T', ' ')}, {self.speaker or self.role}] {text}"

    @cached_property
    def tokens(self) -> int:
        """What its line costs."""
        return count(self.line)

    def encode(self) -> bytes:
        """The stored form."""
        return orjson.dumps(
            [self.item, self.session, self.role, self.at, self.text, self.terms, self.kept, self.speaker]
        )

    @classmethod
    def decode(cls, raw: bytes) -> Memory:
        """Read what `encode` wrote."""
        return cls(*orjson.loads(raw))


def recap(session: str, gone: int, part: tuple[int, int], text: str, now_ms: int) -> Memory:
    """What a summary says of the items of a part, as a memory. `gone`: items of the session that were deleted by then,
    so that a part that is summed up anew gets a new id.
    """
    return Memory.of(f"{recaps(session)}{gone}_{part[0]}_{part[1]}", session, SUMMARY, now_ms, text, now_ms)


def recaps_over(known: Iterable[str], number: int) -> list[str]:
    """Those of the ids of recaps of a session that rest on the item with this number, and those behind them: all that
    will be summed up anew, see `Summary.without`.
    """
    return [item for item in known if number < int(item.rpartition("_")[2])]


def recaps_of(known: Iterable[str], session: str, number: int) -> list[str]:
    """Those of the ids whose part of the session has the item with this number in it, and no others."""
    ours = (item for item in known if item.startswith(recaps(session)))
    return [item for item in ours if int(item.split("_")[-2]) <= number < int(item.split("_")[-1])]


def recaps(session: str) -> str:
    """What the ids of all recaps of a session begin with."""
    return f"{RECAP}{session}_"


def text_of(item: Item) -> str:
    """The text of a message; of a tool call, its name and output."""
    data: dict[str, Any] = item.data
    if item.type == "message":
        content = data.get("content", "")
        if isinstance(content, str):
            return content
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict)).strip()
    return ""

"""What is persisted: items, usage, the states of a run. Versioned; this module reads one version back.

An item is stored as the API's JSON bytes, optionally followed by a newline and the private JSON object. JSON as
orjson writes it contains no raw newline, so splitting is exact and the public half can be spliced into a response
without parsing it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import orjson

from agentrt.errors import SchemaNewer

__all__ = [
    "COMPACTED",
    "SCHEMA_VERSION",
    "TERMINAL",
    "Item",
    "Items",
    "Request",
    "Usage",
    "check_version",
    "item_id",
    "oldest_known",
    "parse_item_id",
    "seal",
    "unseal",
    "upcast",
]

SCHEMA_VERSION = 2
"""The newest version that this code knows; see `store.keys` for what it is."""

TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})
"""States in which a run has ended; the others are `waiting`, `running`."""


@dataclass(frozen=True)
class Item:
    """One entry of a conversation, in the shape of an OpenAI Responses item.

    `raw` is the public JSON; `private_raw` is what only the runtime and the adapters see: `step` (int, the step of
    the run that made it), `call_id` (the provider's id of a tool call), `provider` and `data` (opaque, see
    `models.base.ReasoningDone`).
    """

    raw: bytes
    private_raw: bytes = b""

    @classmethod
    def of(cls, data: Mapping[str, Any], private: Mapping[str, Any] | None = None) -> Item:
        """Build an item from its public shape and its private data."""
        return cls(orjson.dumps(data), orjson.dumps(private) if private else b"")

    @classmethod
    def decode(cls, stored: bytes) -> Item:
        """Read what `encode` wrote."""
        raw, _, private = stored.partition(b"\n")
        return cls(raw, private)

    @classmethod
    def given(cls, data: Mapping[str, Any], origin: str, number: int) -> Item:
        """An item that a client sent, under its id here."""
        kind = str(data.get("type", "message"))
        private = unseal(data.get("encrypted_content")) if kind in {"reasoning", "compaction"} else None
        return cls.of({**data, "id": item_id(kind, origin, number)}, private)

    def encode(self) -> bytes:
        """The stored form."""
        return self.raw + b"\n" + self.private_raw if self.private_raw else self.raw

    def __len__(self) -> int:
        return len(self.raw) + len(self.private_raw)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The public shape, parsed on first use."""
        value: dict[str, Any] = orjson.loads(self.raw)
        return value

    @cached_property
    def private(self) -> dict[str, Any]:
        """The private data, parsed on first use; empty where there is none."""
        if not self.private_raw:
            return {}
        value: dict[str, Any] = orjson.loads(self.private_raw)
        return value

    @property
    def id(self) -> str:
        """The item's id."""
        return str(self.data["id"])

    @property
    def type(self) -> str:
        """The item's type, `message` where none is given."""
        return str(self.data.get("type", "message"))


class Items(Sequence[Item]):
    """Items as they are stored, each decoded when somebody looks at it: most of a window is only passed on.

    `size` is their length in bytes, private parts included.
    """

    __slots__ = ("_entries", "size")

    def __init__(self, entries: Iterable[bytes | Item]) -> None:
        self._entries = list(entries)
        self.size = sum(map(len, self._entries))

    def preceded_by(self, first: Item) -> Items:
        """`first`, then these items."""
        return Items([first, *self._entries])

    def followed_by(self, new: Sequence[Item]) -> Items:
        """These items, then `new`."""
        return Items([*self._entries, *new])

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index: int | slice) -> Item | Items:
        if isinstance(index, slice):
            return Items(self._entries[index])
        entry = self._entries[index]
        if isinstance(entry, bytes):
            entry = self._entries[index] = Item.decode(entry)
        return entry


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model calls. `input_tokens` includes those read from and written to a prompt cache."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    written_tokens: int = 0
    """Written to the provider's prompt cache, which some charge more for. Not persisted."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.written_tokens + other.written_tokens,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asked for, as the run keeps it: enough to go on with the run on any pod.

    `options` are the checked API parameters that were given (`instructions`, `temperature`, `tools`, `metadata`, ...);
    what is absent has the API's default. `conversation` (`conv_...`) and `previous` (`resp_...`) are as the client
    named them, or empty. `chat`: asked for over `/v1/chat/completions`. `compact`: not an answer is wanted but a
    summary of the input, see `/v1/responses/compact`.
    """

    agent: str
    created_s: int
    options: Mapping[str, Any]
    conversation: str = ""
    previous: str = ""
    user: str = ""
    chat: bool = False
    trace: str = ""
    """The trace that the run belongs to, as a W3C `traceparent`; empty where nobody traces."""
    compact: bool = False

    @property
    def alone(self) -> bool:
        """Whether its session is for this one run: no later message can name it, nobody reads it."""
        unstored = self.options.get("store") is False and not self.conversation and not self.previous
        return self.chat or self.compact or unstored

    def encode(self) -> bytes:
        """The stored form."""
        stored = {
            "agent": self.agent,
            "created": self.created_s,
            "options": self.options,
            "conversation": self.conversation,
            "previous": self.previous,
            "user": self.user,
        }
        if self.chat:
            stored["chat"] = True
        if self.trace:
            stored["trace"] = self.trace
        if self.compact:
            stored["compact"] = True
        return orjson.dumps(stored)

    @classmethod
    def decode(cls, stored: bytes) -> Request:
        """Read what `encode` wrote."""
        value = orjson.loads(stored)
        return cls(
            value["agent"],
            value["created"],
            value["options"],
            value.get("conversation", ""),
            value.get("previous", ""),
            value.get("user", ""),
            value.get("chat", False),
            value.get("trace", ""),
            value.get("compact", False),
        )


_SEAL = "agentrt1."
COMPACTED = "agentrt"
"""The provider of a compaction's data: this runtime."""


def seal(provider: str, data: Mapping[str, Any]) -> str:
    """A provider's opaque reasoning data as a client that keeps its own history carries it: `encrypted_content`.

    It is opaque, not secret from the client: what must not be read or changed is encrypted or signed by the provider.
    """
    packed = orjson.dumps({"provider": provider, "data": data})
    return _SEAL + base64.urlsafe_b64encode(packed).decode()


def unseal(text: object) -> dict[str, Any]:
    """The private data of an item that `seal` made; empty for anything else."""
    if not isinstance(text, str) or not text.startswith(_SEAL):
        return {}
    try:
        value = orjson.loads(base64.b64decode(text.removeprefix(_SEAL), altchars=b"-_", validate=True))
    except ValueError:
        return {}
    if isinstance(value, dict) and isinstance(value.get("provider"), str) and isinstance(value.get("data"), dict):
        return {"provider": value["provider"], "data": value["data"]}
    return {}


_PREFIXES = {
    "message": "msg",
    "mcp_call": "mcp",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "compaction": "cmp",
}
_ITEM_ID = re.compile(r"[a-z]{2,5}_([0-9A-Za-z]{22})(0|[1-9][0-9]{0,8})")


def item_id(item_type: str, origin: str, number: int | str) -> str:
    """An item's id: it names the run (or the append) it came from and its number in the conversation."""
    return f"{_PREFIXES.get(item_type, 'item')}_{origin}{number}"


def parse_item_id(text: str) -> tuple[str, int] | None:
    """(origin, number) of an id that `item_id` made; None for anything else."""
    match = _ITEM_ID.fullmatch(text)
    return (match.group(1), int(match.group(2))) if match else None


def oldest_known() -> int:
    """The oldest version whose sessions this code works on as they are."""
    return SCHEMA_VERSION - 1


def check_version(version: str | bytes) -> None:
    """Raises `SchemaNewer` for a version that this code does not know."""
    if int(version) > SCHEMA_VERSION:
        raise SchemaNewer(int(version))


def upcast(header: Mapping[str, str], to: int) -> dict[str, str]:
    """Bring a stored session header (the fields of the session hash) to version `to`; a newer one stays as it is.

    Raises `SchemaNewer` for a version this code does not know.
    """
    check_version(header["v"])
    fields = dict(header)
    for version in range(int(header["v"]), to):
        _STEPS[version](fields)
        fields["v"] = str(version + 1)
    return fields


def _from_prototype(fields: dict[str, str]) -> None:
    """Version 0 kept each metadata entry in a field `meta:<key>` of its own and called the newest committed run
    `last`. Version 1 keeps metadata as one JSON object and calls the run `head`, because a field per key could
    collide with the header's own fields."""
    prefix = "meta:"
    names = [name for name in fields if name.startswith(prefix)]
    metadata = {name.removeprefix(prefix): fields.pop(name) for name in names}
    fields["metadata"] = orjson.dumps(metadata).decode()
    fields["head"] = fields.pop("last", "")


def _from_first(fields: dict[str, str]) -> None:
    """Version 2 keeps the input of an ended run in the history only. Runs of before keep theirs: both are read."""


_STEPS = {0: _from_prototype, 1: _from_first}

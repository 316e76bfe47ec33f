"""The conversation as Anthropic messages: alternating roles, a user first, results right after their calls. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from agentrt.models import failure
from agentrt.models.conversation import Call, Entry, Said, Step, conversation, unanswered
from agentrt.records import Item

__all__ = ["PROVIDER", "system_and_messages"]

PROVIDER = "anthropic"

_OPENING = "(The conversation continues.)"
"""Stands where a user message must be and none is."""

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_FILES = frozenset({"application/pdf"})
_FORMS = "images (JPEG, PNG, GIF, WebP) and PDF files by URL or base64 are possible"

_Block = dict[str, Any]


def system_and_messages(items: Iterable[Item]) -> tuple[list[str], list[dict[str, Any]]]:
    """The texts of leading system and developer messages, and all else as messages.

    A system or developer message further on becomes user text that is marked as such: Anthropic has no place for it,
    and moving it to the front would change the prefix that is cached. Raises `Unsupported` for new content that
    Anthropic cannot take; in older messages a text stands for it.
    """
    entries = conversation(items, PROVIDER)
    leading = 0
    while leading < len(entries) and _is_system(entries[leading]):
        leading += 1
    system = [text for entry in entries[:leading] if isinstance(entry, Said) and (text := _plain(entry.content))]
    messages = _Messages()
    new = unanswered(entries)
    for number, entry in enumerate(entries[leading:], leading):
        if isinstance(entry, Step):
            messages.step(entry)
        elif entry.role == "user":
            messages.add("user", _blocks(entry.content, strict=number >= new))
        elif text := _plain(entry.content):
            messages.add("user", [_text(f"<{entry.role}>\n{text}\n</{entry.role}>")])
    return system, messages.finished()


class _Messages:
    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []

    def add(self, role: str, blocks: Sequence[_Block]) -> None:
        """Append blocks, to the last message where it has the same role."""
        if not blocks:
            return
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"].extend(blocks)
        else:
            self._messages.append({"role": role, "content": list(blocks)})

    def step(self, step: Step) -> None:
        """One step: an assistant message, and a user message that begins with the results of its calls."""
        blocks = [*_blocks(step.messages, assistant=True), *(_tool_use(call) for call in step.calls)]
        if not blocks:  # thinking alone is refused
            return
        thinking = [block for data in step.reasoning if (block := _thinking(data))]
        self.add("assistant", [*thinking, *blocks])
        self.add("user", [_tool_result(call) for call in step.calls])

    def finished(self) -> list[dict[str, Any]]:
        if not self._messages or self._messages[0]["role"] != "user":
            self._messages.insert(0, {"role": "user", "content": [_text(_OPENING)]})
        return self._messages


def _is_system(entry: Entry) -> bool:
    return isinstance(entry, Said) and entry.role in {"system", "developer"}


def _thinking(data: Mapping[str, Any]) -> _Block | None:
    """A thinking block as Anthropic made it; None for one without the signature that makes it acceptable."""
    if data.get("type") == "thinking" and data.get("signature"):
        return {
            "type": "thinking",
            "thinking": data.get("thinking", ""),
            "signature": data["signature"],
        }
    if data.get("type") == "redacted_thinking" and data.get("data"):
        return {"type": "redacted_thinking", "data": data["data"]}
    return None


def _tool_use(call: Call) -> _Block:
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        arguments = {}
    if not isinstance(arguments, dict):
        arguments = {}
    return {"type": "tool_use", "id": call.call_id, "name": call.name, "input": arguments}


def _tool_result(call: Call) -> _Block:
    content = _blocks(call.output) if isinstance(call.output, list) else call.output
    block: _Block = {"type": "tool_result", "tool_use_id": call.call_id, "content": content}
    if call.failed:
        block["is_error"] = True
    return block


def _text(text: str) -> _Block:
    return {"type": "text", "text": text}


def _plain(content: Iterable[Mapping[str, Any]]) -> str:
    """The text of content parts, those that are not text as their stand-ins."""
    return "\n".join(block["text"] for block in _blocks(content, assistant=True))


def _blocks(content: Iterable[Mapping[str, Any]], *, assistant: bool = False, strict: bool = False) -> list[_Block]:
    """Content parts as blocks. Blank text is left out (Anthropic refuses it); an assistant may only say text.
    `strict`: what cannot be sent is an error."""
    blocks = []
    for part in content:
        kind = part.get("type")
        if kind in {"input_text", "output_text", "text", "refusal"}:
            text = part.get("refusal" if kind == "refusal" else "text")
            if isinstance(text, str) and text.strip():
                blocks.append(_text(text))
            continue
        source = _source(part, str(kind)) if kind in {"input_image", "input_file"} and not assistant else None
        if source is None and strict:
            raise failure.unsupported(PROVIDER, f"content of type {kind} in this form: {_FORMS}")
        blocks.append(source or _text(_stand_in(part, str(kind))))
    return blocks


def _source(part: Mapping[str, Any], kind: str) -> _Block | None:
    """An image or document block; None where the file lives in another provider's store or has a foreign form."""
    image = kind == "input_image"
    where = part.get("image_url") if image else part.get("file_data") or part.get("file_url")
    if isinstance(where, Mapping):  # Chat's shape
        where = where.get("url")
    if not isinstance(where, str):
        return None
    kind_sent = "image" if image else "document"
    if where.startswith(("https://", "http://")):
        return {"type": kind_sent, "source": {"type": "url", "url": where}}
    inline = _DATA_URL.fullmatch(where)
    if inline is None or inline[1] not in (_IMAGES if image else _FILES):
        return None
    return {
        "type": kind_sent,
        "source": {"type": "base64", "media_type": inline[1], "data": inline[2]},
    }


def _stand_in(part: Mapping[str, Any], kind: str) -> str:
    name = part.get("filename")
    what = kind.removeprefix("input_")
    return f"[{what} {name!r} cannot be shown]" if isinstance(name, str) else f"[{what} cannot be shown]"

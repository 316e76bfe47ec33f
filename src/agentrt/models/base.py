"""What a model is to the runtime: a function from a request to a stream of events.

A provider adapter translates `ModelRequest` to its wire format and the provider's stream back to `ModelEvent`s.
It never retries (the runtime retries a step, journalled) and never runs tools. Every failure leaves it as a
`ModelError`. A stream ends with exactly one `Finished`; a stream that ends without one was cut, and the adapter
raises a retryable `ModelError` for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from agentrt.records import Item, Usage

__all__ = [
    "Finished",
    "Model",
    "ModelEvent",
    "ModelRequest",
    "ReasoningDone",
    "RefusalDelta",
    "TextDelta",
    "ToolCall",
    "ToolSpec",
]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it. `parameters` is a JSON schema object; key order is kept (prompt caches)."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call.

    `items` is the history and the new input, oldest first. Items of types an adapter cannot send are left out by
    it. A server-run tool call is ONE item of type `mcp_call` (arguments and output together); the adapter turns it
    into the provider's call/result pair. `cache_key` is stable for a session and safe to send to the provider.
    """

    items: Sequence[Item]
    instructions: str = ""
    tools: Sequence[ToolSpec] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text_format: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    cache_key: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """More text of a refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDone:
    """A finished reasoning item.

    `data` is the API shape without id and status (`{"type": "reasoning", "summary": [...]}`); `private` is
    `{"data": ...}`, opaque provider data (a thinking signature, `encrypted_content`) for the same provider only.
    """

    data: dict[str, Any]
    private: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A finished request to call a tool. `arguments` is the provider's original string, unparsed."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider closed its reply. `usage` is None where the provider did not report it."""

    reason: Literal["stop", "tool_calls", "length", "content_filter"]
    usage: Usage | None


ModelEvent = TextDelta | RefusalDelta | ReasoningDone | ToolCall | Finished


class Model(Protocol):
    """A model behind an adapter."""

    provider: str
    """`openai`, `anthropic`, `scripted`: private item data goes back only to the provider that made it."""
    name: str
    """The provider's name of the model."""

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Call the model: an async generator, so that closing it closes the provider's stream. Raises `ModelError`."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...

"""What a user declares: an agent, its tools, and what a tool gets to know when it is called."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from agentrt.errors import DeclarationError

__all__ = ["Agent", "Effect", "Limits", "Tool", "ToolContext", "ToolServer"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Effect(enum.StrEnum):
    """What a tool does to the world, which decides what happens when its outcome is unknown."""

    READ_ONLY = "read_only"
    """Changes nothing: may be run any number of times."""
    IDEMPOTENT = "idempotent"
    """The downstream deduplicates by the idempotency key: may be sent again under the same key."""
    AT_MOST_ONCE = "at_most_once"
    """Must not happen twice: a call whose outcome is unknown is in doubt. The default."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool learns about its call. Send `idempotency_key` and `fencing_token` downstream."""

    tenant: str
    session: str
    run: str
    tool: str
    idempotency_key: str
    """SHA-256 hex over (tenant, session, run, step, index of the call): the same on every attempt, on every pod."""
    fencing_token: int
    """Grows whenever ownership changes hands; a downstream that remembers the highest refuses a stale pod."""
    pod: str
    attempt: int
    user: str | None = None
    deps: Any = None


class Tool(Protocol):
    """A tool that the runtime can call; `agentrt.tool` makes one from a function."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        ...

    @property
    def effect(self) -> Effect: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def conclusive(self) -> bool | None:
        """None: no reconcile hook. True: the hook's "not seen" proves that the call did not happen."""
        ...

    def lock_name(self, arguments: dict[str, Any]) -> str | None:
        """The named lock that a call with these (parsed) arguments needs; None: it needs none."""
        ...

    def parse(self, arguments: str) -> dict[str, Any]:
        """Validate the model's arguments. Raises `ToolError` with a text that the model can act on."""
        ...

    @property
    def approval(self) -> bool:
        """Whether somebody must approve each call before it happens."""
        ...

    @property
    def in_doubt(self) -> Literal["tell", "block"]:
        """What a call in doubt means for its session; see `agentrt.tool`."""
        ...

    @property
    def key_ttl_s(self) -> float | None:
        """How long the downstream remembers an idempotency key; None for ever."""
        ...

    async def call(self, ctx: ToolContext, arguments: dict[str, Any], late: Callable[[str], None]) -> str:
        """Run the tool. Returns the output as the model will read it.

        `late` is called with an output that comes when the call has been cancelled.
        """
        ...

    async def ask(self, ctx: ToolContext, arguments: dict[str, Any]) -> str | None:
        """Ask the reconcile hook whether the call happened: its output, or None for "not seen"."""
        ...


class ToolServer(Protocol):
    """A server elsewhere that offers tools; see `agentrt.tools.mcp`. Started and closed with the pod."""

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools it was last known to have, in an order that is the same on every pod."""
        ...

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run. Exceeding one ends the run as `incomplete` (or the call as an error), never in a crash."""

    steps: int = 16
    calls_per_step: int = 32
    calls_in_parallel: int = 8
    output_bytes: int = 262_144
    """Longest reply of one model call; a reply that would not fit is cut and the run is `incomplete`."""
    tool_output_bytes: int = 65_536
    """Longest tool output; more is cut, and marked as cut."""
    context_tokens: int = 32_000
    """Budget of the window that goes to the model."""
    model_timeout_s: float = 300.0
    """Bound of one whole model call; gaps within it are bounded by `AGENTRT_MODEL_GAP_S`."""
    model_attempts: int = 3
    """Tries of one step at each of the agent's models."""
    model_wait_s: float = 20.0
    """Pauses between the tries of one step, together; a provider that asks for more is answered to the client."""


@dataclass(frozen=True)
class Agent:
    """An agent: a model, instructions, tools.

    `model` is `provider:name`, e.g. `anthropic:claude-haiku-4-5`, `openai:gpt-5`, `openai-chat:llama`,
    `scripted:echo`; or several of them: where the first does not answer, the step is asked of the next.
    `on_busy` says what a different message does while the session is busy: `wait` in line; `reject` (409);
    `interrupt`: wait, and have what is live ended, as if its response had been cancelled; `rollback`: the same, and
    its output is dropped unless something but read-only tools was called; `steer`: give the message to what is live,
    which takes it in at its next step and answers for both.
    """

    name: str
    model: str | Sequence[str]
    instructions: str = ""
    tools: Sequence[Tool] = ()
    on_busy: Literal["wait", "reject", "interrupt", "rollback", "steer"] = "wait"
    limits: Limits = field(default_factory=Limits)
    temperature: float | None = None
    max_output_tokens: int | None = None
    servers: Sequence[ToolServer] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DeclarationError(f"agent name {self.name!r} does not match {_NAME.pattern}")
        if not self.models or len(set(self.models)) < len(self.models):
            raise DeclarationError(f"agent {self.name}: needs at least one model, and none twice")
        for model in self.models:
            if ":" not in model:
                raise DeclarationError(f"agent {self.name}: model {model!r} is not of the form provider:name")
        names = [tool.name for tool in self.tools]
        if len(names) != len(set(names)):
            raise DeclarationError(f"agent {self.name}: two tools have the same name")

    @property
    def models(self) -> tuple[str, ...]:
        """The full names of its models, the preferred one first."""
        return (self.model,) if isinstance(self.model, str) else tuple(self.model)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """Its tools and those of its servers, in an order that is the same on every pod. Its own names go first."""
        found = {tool.name: tool for tool in self.tools}
        for server in self.servers:
            for tool in server.tools:
                found.setdefault(tool.name, tool)
        return tuple(found.values())

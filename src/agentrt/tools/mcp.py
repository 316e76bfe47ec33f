"""Tools of MCP servers. Needs the extra `mcp`.

    crm = McpServer("crm", url="https://crm.example/mcp", effects={"find": Effect.READ_ONLY})
    agent = Agent("support", model="…", servers=[crm])

A server's word about its tools is a hint: every tool is `at_most_once` unless the operator says otherwise. Each call
bears its idempotency key and fencing token in `_meta`, so a server that honours them can deduplicate.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import httpx2
import jsonschema
import mcp_types as types
import orjson
import pydantic_core
import referencing
import referencing.exceptions
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from agentrt.agent import Effect, ToolContext
from agentrt.errors import DeclarationError, ToolError
from agentrt.tasks import end
from agentrt.tools.mcp_link import HttpLink, Link, Rejected, StdioLink, Unreachable

__all__ = ["META_FENCE", "META_KEY", "McpServer", "McpTool"]

log = logging.getLogger("agentrt.mcp")

META_KEY = "agentrt/idempotency-key"
META_FENCE = "agentrt/fencing-token"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ODD = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS_MAX = 64
_TOOLS_MAX = 128
_TEXT_CHARS_MAX = 8_192
_SCHEMA_BYTES_MAX = 65_536
_FAULTS_MAX = 5
_LIST_S = 40.0
_FIRST_LIST_S = 5.0
"""How long a pod's start waits for a server; it goes on asking afterwards."""


class McpTool:
    """One tool of a server."""

    conclusive: bool | None = None
    key_ttl_s: float | None = None

    def __init__(self, link: Link, told: types.Tool, name: str, server: McpServer) -> None:
        self._link = link
        self._remote = told.name
        self._server = server.name
        self.name = name
        self.description = (told.description or told.title or told.name)[:_TEXT_CHARS_MAX]
        self.parameters: dict[str, Any] = {"type": "object", "properties": {}, **told.input_schema}
        self.effect = server.effect_of(told)
        self.timeout_s = server.timeout
        self.approval = server.asks_approval(told.name)
        self.in_doubt: Literal["tell", "block"] = server.in_doubt
        self._validator = _validator(self.parameters)

    def lock_name(self, arguments: dict[str, Any]) -> str | None:
        """A server's tools know no named locks."""
        return None

    def parse(self, arguments: str) -> dict[str, Any]:
        """Check the model's arguments by the server's schema. Raises `ToolError` that repeats no value."""
        try:
            parsed = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            raise ToolError(f"Invalid arguments for {self.name}: not JSON") from None
        if not isinstance(parsed, dict):
            raise ToolError(f"Invalid arguments for {self.name}: not an object")
        try:
            found = itertools.islice(self._validator.iter_errors(parsed), _FAULTS_MAX)
            faults = [_fault(error) for error in found]
        except (referencing.exceptions.Unresolvable, RecursionError) as error:
            raise ToolError(f"{self.name} cannot be called: its schema cannot be followed") from error
        if faults:
            raise ToolError(f"Invalid arguments for {self.name}: {'; '.join(faults)}")
        return parsed

    async def call(self, ctx: ToolContext, arguments: dict[str, Any], late: Callable[[str], None]) -> str:
        """Make the call. A server that is not there, or says that the tool failed, is a `ToolError`; a call that was
        sent and never answered is an `OSError`, which puts it in doubt."""
        meta = {META_KEY: ctx.idempotency_key, META_FENCE: ctx.fencing_token}
        try:
            result = await self._link.call(self._remote, arguments, meta)
        except Unreachable:
            raise ToolError(f"The server {self._server} cannot be reached; the call was not made.") from None
        except Rejected as error:
            raise ToolError(f"The server {self._server} refused the call: {str(error)[:_TEXT_CHARS_MAX]}") from None
        output = _text(result)
        if result.is_error:
            raise ToolError(output or "The tool failed.")
        return output

    async def ask(self, ctx: ToolContext, arguments: dict[str, Any]) -> str | None:
        """MCP has no way to ask whether a call happened."""
        return None


@dataclass(eq=False)
class McpServer:
    """An MCP server whose tools an agent uses: streamable HTTP at `url`, or for development a `command` over stdio.

    Its tools are called `<prefix>_<tool>`; `prefix` is the server's name unless given. The list of them is fetched when
    a pod starts and again every `refresh_s`; while the server is away, the last list holds, and calls are tool errors.

    `effects` gives classes by the server's tool names; `trust_hints` takes `readOnlyHint` and `idempotentHint` for
    those not named, which is right only for a server that you know to keep its word. `only` names the tools to offer,
    all by default; `approval` those whose calls somebody must approve (True: all). `transport` replaces the HTTP
    transport, for instance by a `GuardedTransport`. `timeout` is in seconds and holds for each call.
    """

    name: str
    _: KW_ONLY
    url: str = ""
    command: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: str | None = None
    only: Collection[str] | None = None
    effects: Mapping[str, Effect] = field(default_factory=dict)
    trust_hints: bool = False
    approval: bool | Collection[str] = False
    in_doubt: Literal["tell", "block"] = "tell"
    timeout: float = 30.0
    refresh_s: float = 300.0
    transport: httpx2.AsyncBaseTransport | None = None
    _link: Link | None = field(default=None, init=False, repr=False)
    _tools: tuple[McpTool, ...] = field(default=(), init=False, repr=False)
    _listing: asyncio.Task[None] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DeclarationError(f"MCP server name {self.name!r} does not match {_NAME.pattern}")
        if bool(self.url) == bool(self.command):
            raise DeclarationError(f"MCP server {self.name}: needs either a url or a command")

    @property
    def tools(self) -> Sequence[McpTool]:
        """The tools it had when it was last asked, by name: the same order on every pod."""
        return self._tools

    def effect_of(self, told: types.Tool) -> Effect:
        """The class of a tool: what the operator says; else the hints, if they are trusted; else the strictest."""
        given = self.effects.get(told.name)
        hints = told.annotations
        if given is not None or not self.trust_hints or hints is None:
            return given or Effect.AT_MOST_ONCE
        if hints.read_only_hint:
            return Effect.READ_ONLY
        return Effect.IDEMPOTENT if hints.idempotent_hint else Effect.AT_MOST_ONCE

    def asks_approval(self, tool: str) -> bool:
        """Whether calls of that tool of the server need somebody's approval."""
        return self.approval if isinstance(self.approval, bool) else tool in self.approval

    async def start(self) -> None:
        """Connect, and list the tools; a server that does not answer is asked again later."""
        if self._listing is not None:
            return
        http = bool(self.url)
        self._link = HttpLink(self.url, self.headers, self.transport) if http else StdioLink(self.command, self.env)
        listed = asyncio.Event()
        self._listing = asyncio.get_running_loop().create_task(self._keep_listing(self._link, listed))
        try:
            async with asyncio.timeout(_FIRST_LIST_S):
                await listed.wait()
        except TimeoutError:
            log.warning("MCP server %s does not answer; the pod starts without its tools", self.name)

    async def aclose(self) -> None:
        """Stop asking, and close what is open. The tools stay known."""
        listing, self._listing = self._listing, None
        await end(listing)
        if self._link is not None:
            await self._link.aclose()

    async def _keep_listing(self, link: Link, listed: asyncio.Event) -> None:
        pause_s = min(1.0, self.refresh_s)
        while True:
            try:
                async with asyncio.timeout(_LIST_S):
                    told = await link.tools()
            except (Unreachable, TimeoutError) as error:
                log.warning("MCP server %s cannot be asked for its tools: %s", self.name, error)
                pause_s = min(pause_s * 2, self.refresh_s)
            else:
                self._tools = self._offered(link, told)
                pause_s = min(1.0, self.refresh_s)
                listed.set()
            await asyncio.sleep(self.refresh_s if listed.is_set() else pause_s)

    def _offered(self, link: Link, told: Sequence[types.Tool]) -> tuple[McpTool, ...]:
        offered: dict[str, McpTool] = {}
        for one in sorted(told, key=lambda tool: tool.name)[:_TOOLS_MAX]:
            if self.only is not None and one.name not in self.only:
                continue
            try:
                name = _name(self.name if self.prefix is None else self.prefix, one.name)
                if len(orjson.dumps(one.input_schema)) > _SCHEMA_BYTES_MAX:
                    raise ToolError("its schema is too long")
                offered[name] = McpTool(link, one, name, self)
            except Exception as error:  # noqa: BLE001 - a foreign schema can break the check of schemas in any way
                log.warning("MCP server %s: tool %r left out: %s", self.name, one.name, type(error).__name__)
        return tuple(offered.values())


def _name(prefix: str, tool: str) -> str:
    """A tool's name as every provider takes it; what had to be changed is told apart by a hash."""
    full = f"{prefix}_{tool}" if prefix else tool
    name = _ODD.sub("_", full)
    if name != full or len(name) > _NAME_CHARS_MAX:
        name = f"{name[: _NAME_CHARS_MAX - 9]}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    return name


def _validator(schema: dict[str, Any]) -> Validator:
    """A validator that fetches nothing: a `$ref` to elsewhere in a server's schema must not become a request."""
    kind: Any = validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    checked: Validator = kind(schema, registry=referencing.Registry())
    return checked


def _fault(error: jsonschema.ValidationError) -> str:
    """Where, and which rule is broken; not the value."""
    where = ".".join(str(part) for part in error.absolute_path) or "arguments"
    rule = orjson.dumps(error.validator_value, default=str).decode()
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{where}: missing {', '.join(missing)}"
    return f"{where}: must satisfy {error.validator} {rule[:200]}"


def _text(result: types.CallToolResult) -> str:
    """A result as the model reads it: its texts, a stand-in for what is no text, else the structured content."""
    parts = []
    for block in result.content:
        match block:
            case types.TextContent():
                parts.append(block.text)
            case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
                parts.append(resource.text)
            case types.ResourceLink():
                parts.append(f"[{block.name}: {block.uri}]")
            case _:
                parts.append(f"[{block.type} cannot be shown]")
    if not parts and result.structured_content is not None:
        return pydantic_core.to_json(result.structured_content).decode()
    return "\n".join(parts)

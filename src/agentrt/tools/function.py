"""Tools from Python functions: type hints and the docstring become the JSON schema, bad arguments go to the model."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import re
import string
import threading
import typing
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, overload

import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from agentrt.agent import Effect, ToolContext
from agentrt.errors import DeclarationError, ToolError

__all__ = ["FunctionTool", "tool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_THREADS_MAX = 1024
_THREADS = ThreadPoolExecutor(max_workers=_THREADS_MAX, thread_name_prefix="agentrt-tool")
"""Where sync tools run: a blocking tool must never hold up the pod's heartbeat. More threads than a pod's runs have
calls: one that is `intended` in the journal starts at once, so that a pod's death leaves nothing in doubt that was only
waiting for a thread. They can all be taken only by calls that hang."""
_busy = threading.Semaphore(_THREADS_MAX)


class FunctionTool:
    """A tool made of a function; see `tool`."""

    def __init__(
        self,
        function: Callable[..., Any],
        effect: Effect,
        timeout_s: float,
        name: str | None,
        *,
        lock: str | None = None,
        approval: bool = False,
        in_doubt: Literal["tell", "block"] = "tell",
        key_ttl_s: float | None = None,
    ) -> None:
        self.function = function
        self.approval = approval
        self.in_doubt: Literal["tell", "block"] = in_doubt
        self.key_ttl_s = key_ttl_s
        self.name = name if name is not None else function.__name__
        if not _NAME.fullmatch(self.name):
            raise DeclarationError(f"tool name {self.name!r} does not match {_NAME.pattern}")
        if key_ttl_s is not None and effect != Effect.IDEMPOTENT:
            raise DeclarationError(f"tool {self.name}: only an idempotent tool has a key that is forgotten")
        if in_doubt not in {"tell", "block"}:
            raise DeclarationError(f"tool {self.name}: in_doubt must be 'tell' or 'block'")
        self.effect = effect
        self.timeout_s = timeout_s
        self.conclusive: bool | None = None
        self._reconcile: Callable[..., Any] | None = None
        docstring = inspect.getdoc(function)
        if not docstring:
            raise DeclarationError(f"tool {self.name}: needs a docstring, it is what the model reads")
        self.description = docstring
        self._model, self._context_name = _arguments_model(function, self.name)
        try:
            schema = self._model.model_json_schema()
        except pydantic.errors.PydanticInvalidForJsonSchema as error:
            raise DeclarationError(f"tool {self.name}: no JSON schema: {error}") from error
        schema.pop("title", None)
        self.parameters: dict[str, Any] = schema
        self.lock = lock
        """Template of the named lock that a call holds, such as `order:{order_id}`; None for no lock."""
        self._lock_parts = [] if lock is None else _lock_parts(lock, self._model, self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, for tests and for calling it from other code."""
        return self.function(*args, **kwargs)

    def reconcile(self, *, conclusive: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare the hook that is asked when the outcome of a call is unknown.

        It takes what the tool takes and returns the output if the call happened, None if it was not seen.
        `conclusive`: the author vouches that what is not there by now will not come; then the call is run again.
        """

        def register(hook: Callable[..., Any]) -> Callable[..., Any]:
            if list(inspect.signature(hook).parameters) != list(inspect.signature(self.function).parameters):
                raise DeclarationError(f"tool {self.name}: the reconcile hook must take the tool's own parameters")
            self._reconcile = hook
            self.conclusive = conclusive
            return hook

        return register

    def parse(self, arguments: str) -> dict[str, Any]:
        """Validate the model's arguments. Raises `ToolError` that names each fault and repeats no value."""
        try:
            parsed = self._model.model_validate_json(arguments or "{}")
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(part) for part in fault['loc']) or 'arguments'}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            )
            raise ToolError(f"Invalid arguments for {self.name}: {faults}") from None
        return {name: getattr(parsed, name) for name in type(parsed).model_fields}

    def lock_name(self, arguments: dict[str, Any]) -> str | None:
        """The named lock of a call with these parsed arguments; None where the tool is declared without one.

        Two calls whose arguments read alike in the template share a lock; that costs time, never exclusion.
        """
        if self.lock is None:
            return None
        return "".join(
            literal + ("" if field is None else _as_part(arguments[field])) for literal, field in self._lock_parts
        )

    async def call(self, ctx: ToolContext, arguments: dict[str, Any], late: Callable[[str], None]) -> str:
        """Run the function; a sync one in a thread, which nothing can stop: what it returns then goes to `late`."""
        return _as_text(await self._run(self.function, ctx, arguments, late))

    async def ask(self, ctx: ToolContext, arguments: dict[str, Any]) -> str | None:
        """Ask the reconcile hook."""
        if self._reconcile is None:
            return None
        seen = await self._run(self._reconcile, ctx, arguments)
        return None if seen is None else _as_text(seen)

    async def _run(
        self,
        function: Callable[..., Any],
        ctx: ToolContext,
        arguments: dict[str, Any],
        late: Callable[[str], None] | None = None,
    ) -> Any:
        if self._context_name is not None:
            arguments = {**arguments, self._context_name: ctx}
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        call = functools.partial(contextvars.copy_context().run, function, **arguments)
        if not _busy.acquire(blocking=False):
            raise ToolError("All threads are taken by calls that hang; the call was not made.")
        running = _THREADS.submit(call)
        running.add_done_callback(lambda _: _busy.release())
        try:
            returned = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancel() and late is not None:  # it has begun
                loop = asyncio.get_running_loop()
                running.add_done_callback(lambda done: _came_late(loop, late, done))
            raise
        # An async function behind a decorator that is none has only been called by now; here is where it runs.
        return await returned if inspect.isawaitable(returned) else returned


def _came_late(loop: asyncio.AbstractEventLoop, late: Callable[[str], None], done: Future[Any]) -> None:
    if done.exception() is not None:
        return
    if inspect.iscoroutine(done.result()):
        done.result().close()  # nothing of it ran
    else:
        with suppress(RuntimeError):  # the pod is gone by now
            loop.call_soon_threadsafe(late, _as_text(done.result()))


def _lock_parts(template: str, model: type[BaseModel], name: str) -> list[tuple[str, str | None]]:
    """(text, parameter that follows it) of a lock's template. Only plain names of parameters may stand in braces."""
    try:
        parts = [
            (literal, field, bool(spec or conversion))
            for literal, field, spec, conversion in string.Formatter().parse(template)
        ]
    except ValueError as error:
        raise DeclarationError(f"tool {name}: lock {template!r}: {error}") from error
    if not parts:
        raise DeclarationError(f"tool {name}: a lock needs a name")
    for _, field, formatted in parts:
        if field is not None and (formatted or field not in model.model_fields):
            raise DeclarationError(
                f"tool {name}: lock {template!r}: {{{field}}} is not just a parameter of the function"
            )
    return [(literal, field) for literal, field, _ in parts]


def _as_part(value: Any) -> str:
    """A value in the name of a lock: the same value gives the same text on every pod."""
    return value if type(value) is str else pydantic_core.to_json(value, fallback=str).decode().strip('"')


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # The effect has happened by now: whatever was returned, it must not look like a failure.
    if isinstance(value, bytes | bytearray):
        return f"The tool ran, but it returned {len(value)} bytes of binary data, which cannot be shown to the model."
    try:
        if isinstance(value, BaseModel):
            return value.model_dump_json()
        return pydantic_core.to_json(value, fallback=str).decode()
    except Exception:  # noqa: BLE001 - a str() of the author's that raises; the type is all that can be told
        return f"<{type(value).__name__}>"


def _arguments_model(function: Callable[..., Any], name: str) -> tuple[type[BaseModel], str | None]:
    """The pydantic model of the function's arguments, and the name of its `ToolContext` parameter if it has one."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise DeclarationError(f"tool {name}: its type hints cannot be resolved: {error}") from error
    fields: dict[str, Any] = {}
    context_name = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
            raise DeclarationError(f"tool {name}: parameter {parameter.name!r} cannot be named in a JSON object")
        hint = hints.get(parameter.name)
        if hint is None:
            raise DeclarationError(f"tool {name}: parameter {parameter.name!r} needs a type hint")
        if hint is ToolContext or ToolContext in typing.get_args(hint):
            context_name = parameter.name
            continue
        if parameter.name.startswith("_"):
            raise DeclarationError(f"tool {name}: parameter {parameter.name!r} must not begin with an underscore")
        fields[parameter.name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    try:
        model = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    except (pydantic.errors.PydanticUserError, TypeError, NameError) as error:
        raise DeclarationError(f"tool {name}: {error}") from error
    return model, context_name


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...
@overload
def tool(
    *,
    effect: Effect = Effect.AT_MOST_ONCE,
    timeout: float = 30.0,
    name: str | None = None,
    lock: str | None = None,
    approval: bool = False,
    in_doubt: Literal["tell", "block"] = "tell",
    key_ttl: float | None = None,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = Effect.AT_MOST_ONCE,
    timeout: float = 30.0,
    name: str | None = None,
    lock: str | None = None,
    approval: bool = False,
    in_doubt: Literal["tell", "block"] = "tell",
    key_ttl: float | None = None,
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool of a function, sync or async.

    Its type hints become the JSON schema, its docstring the description; a parameter of type `ToolContext` gets the
    context. `effect` says what the tool does to the world; `timeout` is in seconds. `lock` names what calls must not
    touch at the same time, with parameters in braces: `order:{order_id}`; it is shared by all sessions of the tenant.

    `approval`: somebody must approve each call. `in_doubt`: while the outcome of a call is unknown, `tell` lets the
    session go on without this tool, `block` holds up the session until it is resolved. `key_ttl`: how many seconds the
    downstream of an idempotent tool remembers a key; a retry that comes later is in doubt.
    """

    def make(declared: Callable[..., Any]) -> FunctionTool:
        return FunctionTool(
            declared, effect, timeout, name, lock=lock, approval=approval, in_doubt=in_doubt, key_ttl_s=key_ttl
        )

    return make(function) if function is not None else make

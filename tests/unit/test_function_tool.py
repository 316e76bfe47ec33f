"""Tools from functions: the schema, the arguments, the call, the hook, and what cannot be declared."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import functools
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
import pydantic
import pytest
from pydantic import BaseModel, Field

from agentrt.agent import Effect, ToolContext
from agentrt.errors import DeclarationError, ToolError
from agentrt.tools import function
from agentrt.tools.function import FunctionTool, tool

CTX = ToolContext(
    tenant="t", session="s", run="r", tool="x", idempotency_key="k", fencing_token=7, pod="p", attempt=1, deps="world"
)


class Size(enum.StrEnum):
    S = "small"
    L = "large"


class Address(BaseModel):
    """Where to."""

    city: str
    zip: str = Field(pattern=r"^\d{5}$")


class Opaque:
    """Nothing that a schema can be made of."""


class Unserializable:
    """A value that is no JSON."""


@tool
def ship(order: str, to: Address, size: Size = Size.S, notes: list[str] | None = None) -> str:
    """Ship an order.

    The second paragraph belongs to it.
    """
    return f"{order} to {to.city} {to.zip}, {size.value}, {notes}"


async def run(made: FunctionTool, arguments: str) -> str:
    """Parse and call."""
    return await made.call(CTX, made.parse(arguments), lambda _: None)


# --- the declaration --------------------------------------------------------------------------------------------------


def test_type_hints_and_docstring_become_the_schema() -> None:
    assert ship.name == "ship"
    assert ship.description == "Ship an order.\n\nThe second paragraph belongs to it."
    schema = ship.parameters
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["order", "to"], False)
    assert list(schema["properties"]) == ["order", "to", "size", "notes"]
    assert schema["properties"]["order"]["type"] == "string"
    assert schema["$defs"]["Address"]["required"] == ["city", "zip"]
    assert schema["$defs"]["Size"]["enum"] == ["small", "large"]
    assert "title" not in schema


def test_the_defaults_are_the_careful_ones() -> None:
    assert (ship.effect, ship.timeout_s, ship.conclusive) == (Effect.AT_MOST_ONCE, 30.0, None)

    @tool(effect=Effect.READ_ONLY, timeout=5, name="other")
    def named() -> None:
        """Named."""

    assert (named.effect, named.timeout_s, named.name) == (Effect.READ_ONLY, 5, "other")
    assert named.parameters["properties"] == {}


def test_the_context_is_not_part_of_the_schema() -> None:
    @tool
    def peek(context: ToolContext, item: int) -> str:
        """Peek."""
        return f"{item} {context.idempotency_key} {context.deps}"

    assert list(peek.parameters["properties"]) == ["item"]
    assert asyncio.run(run(peek, '{"item": 3}')) == "3 k world"
    with pytest.raises(ToolError, match="context"):
        peek.parse('{"item": 3, "context": {"tenant": "other"}}')


def test_a_field_says_more_about_a_parameter() -> None:
    @tool
    def pay(cents: Annotated[int, Field(gt=0, description="how much")]) -> None:
        """Pay."""

    assert pay.parameters["properties"]["cents"]["description"] == "how much"
    with pytest.raises(ToolError, match="greater than 0"):
        pay.parse('{"cents": 0}')


def test_the_function_can_still_be_called() -> None:
    assert ship("a", Address(city="Rome", zip="00100")) == "a to Rome 00100, small, None"


def test_a_tool_needs_a_docstring() -> None:
    def silent(x: int) -> None: ...

    with pytest.raises(DeclarationError, match="silent: needs a docstring"):
        tool(silent)


def test_every_parameter_needs_a_type_hint() -> None:
    def untyped(x: int, y) -> None:  # type: ignore[no-untyped-def]
        """Untyped."""

    with pytest.raises(DeclarationError, match="untyped: parameter 'y' needs a type hint"):
        tool(untyped)


def test_parameters_must_have_names() -> None:
    def variadic(*args: int) -> None:
        """Variadic."""

    def keywords(**kwargs: int) -> None:
        """Keywords."""

    def positional(x: int, /) -> None:
        """Positional."""

    for declared, name in ((variadic, "args"), (keywords, "kwargs"), (positional, "x")):
        with pytest.raises(DeclarationError, match=f"parameter '{name}'"):
            tool(declared)


def _private(_x: int) -> None:
    """A leading underscore is no name of a pydantic field."""


def _no_schema(x: Opaque) -> None:
    """There is no JSON schema of this type."""


def _unknown_hint(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """The hint names nothing."""


@pytest.mark.parametrize("function", [_private, _no_schema, _unknown_hint])
def test_what_cannot_work_is_refused_at_the_declaration(function: Any) -> None:
    with pytest.raises(DeclarationError, match=function.__name__):
        tool(function)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "naïve"])
def test_a_name_must_be_one_that_providers_take(name: str) -> None:
    def function() -> None:
        """Named."""

    with pytest.raises(DeclarationError, match="name"):
        FunctionTool(function, Effect.READ_ONLY, 30.0, name or "a.b c")


def test_an_optional_context_is_no_argument_of_the_models() -> None:
    @tool
    def act(x: int, ctx: ToolContext | None = None) -> None:
        """Act."""

    assert list(act.parameters["properties"]) == ["x"]


# --- the lock ---------------------------------------------------------------------------------------------------------


def locked(lock: str) -> FunctionTool:
    """A tool with this lock."""

    @tool(lock=lock)
    async def pay(
        ctx: ToolContext, order: str, to: Address | None = None, size: Size = Size.S, cents: int = 0, times: float = 1
    ) -> None:
        """Pay."""

    return pay


@pytest.mark.parametrize(
    ("lock", "name"),
    [
        ("order:{order}", "order:A 1"),
        ("{order}{order}", "A 1A 1"),
        ("orders", "orders"),
        ("{{{order}}}", "{A 1}"),
        ("{size}/{cents}", "large/7"),
        ("{to}", '{"city":"Rome","zip":"00100"}'),
    ],
)
def test_the_name_of_a_call_s_lock(lock: str, name: str) -> None:
    """Made of the arguments as they were parsed, defaults among them."""
    made = locked(lock)
    parsed = made.parse('{"order": "A 1", "to": {"zip": "00100", "city": "Rome"}, "size": "large", "cents": 7}')
    assert made.lock_name(parsed) == name
    assert made.lock == lock


def test_no_lock_is_the_default() -> None:
    assert ship.lock is None
    assert ship.lock_name({"order": "a"}) is None


def test_defaults_are_part_of_the_name() -> None:
    made = locked("{size} {to} {cents}")
    assert made.lock_name(made.parse('{"order": "a"}')) == "small null 0"


@pytest.mark.parametrize(
    "lock",
    [
        *("", "{", "}", "{order", "{}", "{0}", "{other}", "{ctx}", "{ctx.tenant}"),
        *("{to.city}", "{to[city]}", "{order!r}", "{order:>9}", "{order:{size}}"),
    ],
)
def test_a_lock_names_parameters_and_nothing_else(lock: str) -> None:
    """Told at the declaration, not by a call that cannot find its lock."""
    with pytest.raises(DeclarationError, match=r"tool pay: .*lock"):
        locked(lock)


# --- the arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("{", "arguments: Invalid JSON"),
        ("[]", "arguments: "),
        ("null", "arguments: "),
        ("", "order: Field required"),
        ("{}", "order: Field required"),
        ('{"order": 5, "to": {"city": "x", "zip": "00100"}}', "order: Input should be a valid string"),
        ('{"order": "a", "to": {"city": "x"}}', "to.zip: Field required"),
        ('{"order": "a", "to": "Rome"}', "to: "),
        ('{"order": "a", "to": {"city": "x", "zip": "00100"}, "size": "huge"}', "size: Input should be 'small' or"),
        ('{"order": "a", "to": {"city": "x", "zip": "00100"}, "notes": [1]}', "notes.0: "),
        ('{"order": "a", "to": {"city": "x", "zip": "00100"}, "rush": true}', "rush: Extra inputs are not permitted"),
    ],
)
def test_bad_arguments_are_named(arguments: str, fault: str) -> None:
    with pytest.raises(ToolError) as refused:
        ship.parse(arguments)
    assert str(refused.value).startswith("Invalid arguments for ship: ")
    assert fault in str(refused.value)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ToolError) as refused:
        ship.parse('{"to": {"zip": "x"}}')
    for place in ("order: ", "to.city: ", "to.zip: "):
        assert place in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        '{"order": {"card": "hunter2"}, "to": "hunter2", "size": "hunter2", "notes": "hunter2"}',
        '{"order": "hunter2", "to": {"city": 1, "zip": "hunter2"}}',
        "hunter2",
    ],
)
def test_a_fault_repeats_no_value(arguments: str) -> None:
    with pytest.raises(ToolError) as refused:
        ship.parse(arguments)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_arguments_arrive_as_their_types() -> None:
    parsed = ship.parse('{"order": "a", "to": {"city": "Rome", "zip": "00100"}, "size": "large"}')
    assert parsed == {"order": "a", "to": Address(city="Rome", zip="00100"), "size": Size.L, "notes": None}


# --- the call ---------------------------------------------------------------------------------------------------------


async def test_a_sync_tool_runs_in_a_thread_and_an_async_one_in_the_loop() -> None:
    @tool
    def sync(x: int) -> str:
        """Sync."""
        return f"{x} {threading.current_thread() is threading.main_thread()}"

    @tool
    async def asynchronous(x: int) -> str:
        """Async."""
        return f"{x} {threading.current_thread() is threading.main_thread()}"

    assert await run(sync, '{"x": 1}') == "1 False"
    assert await run(asynchronous, '{"x": 2}') == "2 True"


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them, of either kind of function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def test_an_async_tool_behind_a_sync_decorator_runs() -> None:
    """Else the model would read `<coroutine>` of a call that never happened."""
    asked: list[str] = []

    @tool
    @logged
    async def give(x: int) -> str:
        """Give."""
        await asyncio.sleep(0)
        return f"{x} {threading.current_thread() is threading.main_thread()}"

    @give.reconcile()
    @logged
    async def gave(x: int) -> str | None:
        asked.append(str(x))
        return None

    assert await run(give, '{"x": 1}') == "1 True"
    assert await give.ask(CTX, {"x": 2}) is None and asked == ["2"]


async def test_an_async_tool_that_was_given_up_before_it_began_has_no_late_result() -> None:
    release, seen, begun = threading.Event(), [], asyncio.Event()
    loop = asyncio.get_running_loop()

    async def inner() -> str:
        return "done"

    @tool
    def slow() -> Any:
        """Take its time to begin."""
        loop.call_soon_threadsafe(begun.set)
        release.wait(10)
        return inner()

    task = asyncio.create_task(slow.call(CTX, {}, seen.append))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await asyncio.to_thread(_idle)
    await asyncio.sleep(0)
    assert seen == []


def _idle() -> None:
    """Until no thread of the tools is at work."""
    while function._busy._value < function._THREADS_MAX:
        time.sleep(0.001)


async def test_a_blocking_tool_does_not_hold_up_the_loop() -> None:
    release = threading.Event()

    @tool
    def blocking() -> str:
        """Block."""
        return str(release.wait(10))

    task = asyncio.create_task(run(blocking, "{}"))
    await asyncio.sleep(0)
    release.set()
    assert await task == "True"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, "null"),
        (5, "5"),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        (Address(city="Rome", zip="00100"), '{"city":"Rome","zip":"00100"}'),
        ([Address(city="Rome", zip="00100")], '[{"city":"Rome","zip":"00100"}]'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (Size.L, "large"),
    ],
)
async def test_what_a_tool_returns_becomes_text(value: Any, text: str) -> None:
    @tool
    def give() -> Any:
        """Give."""
        return value

    assert await run(give, "{}") == text


@pytest.mark.parametrize(
    "value",
    [{1, 2}, decimal.Decimal("1.50"), {1: "x"}, {"a": {2}}, Unserializable()],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_a_tool_returns_its_effect_is_not_called_a_failure(value: Any) -> None:
    @tool
    def give() -> Any:
        """Give."""
        return value

    assert await run(give, "{}")


@pytest.mark.parametrize("value", [b"\x00", bytearray(b"x")])
async def test_bytes_are_not_shown(value: Any) -> None:
    """The effect has happened, so it must not look like a failure."""

    @tool
    async def give() -> Any:
        """Give."""
        return value

    assert (await run(give, "{}")).startswith("The tool ran, but it returned 1 bytes of binary data")


async def test_what_a_tool_raises_comes_out() -> None:
    @tool
    def broken() -> None:
        """Broken."""
        raise KeyError("inside")

    with pytest.raises(KeyError):
        await run(broken, "{}")


# --- the hook ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conclusive", [True, False])
async def test_the_hook_is_asked_with_what_the_tool_takes(conclusive: bool) -> None:
    @tool
    def book(ctx: ToolContext, seat: int) -> str:
        """Book."""
        raise AssertionError("only the hook is asked")

    assert book.conclusive is None
    assert await book.ask(CTX, {"seat": 1}) is None

    @book.reconcile(conclusive=conclusive)
    async def find(ctx: ToolContext, seat: int) -> dict[str, Any] | None:
        return {"seat": seat, "key": ctx.idempotency_key} if seat < 5 else None

    assert book.conclusive is conclusive
    assert orjson.loads(await book.ask(CTX, book.parse('{"seat": 1}')) or "") == {"seat": 1, "key": "k"}
    assert await book.ask(CTX, book.parse('{"seat": 9}')) is None


async def test_a_sync_hook_runs_in_a_thread_and_an_empty_answer_is_an_answer() -> None:
    seen: list[threading.Thread] = []

    @tool
    def book(seat: int) -> str:
        """Book."""
        return "booked"

    @book.reconcile()
    def find(seat: int) -> str:
        seen.append(threading.current_thread())
        return ""

    assert await book.ask(CTX, {"seat": 1}) == ""
    assert book.conclusive is False
    assert seen[0] is not threading.main_thread()


def test_a_hook_that_cannot_be_called_like_its_tool_is_refused() -> None:
    @tool
    def book(ctx: ToolContext, seat: int) -> str:
        """Book."""
        return "booked"

    with pytest.raises(DeclarationError, match="book"):

        @book.reconcile(conclusive=True)
        def find(seat: int) -> str | None:
            return None


def test_a_literal_is_an_enum() -> None:
    @tool
    def choose(kind: Literal["a", "b"]) -> None:
        """Choose."""

    assert choose.parameters["properties"]["kind"]["enum"] == ["a", "b"]
    assert isinstance(pydantic.TypeAdapter(dict[str, Any]).validate_python(choose.parameters), dict)


async def test_calls_in_threads_never_wait_for_one() -> None:
    """A hundred that block until all have begun: each has a thread at once."""
    together = threading.Barrier(100)

    @tool
    def meet() -> str:
        """Wait for the others."""
        together.wait(20)
        return "met"

    called = [meet.call(CTX, {}, lambda _: None) for _ in range(100)]
    assert await asyncio.gather(*called) == ["met"] * 100


async def test_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the call is not made, which is certain, and said."""
    monkeypatch.setattr(function, "_busy", threading.Semaphore(1))
    hang = threading.Event()

    @tool
    def wait() -> str:
        """Hang."""
        hang.wait(20)
        return "done"

    first = asyncio.create_task(wait.call(CTX, {}, lambda _: None))
    await asyncio.sleep(0)
    with pytest.raises(ToolError, match="was not made"):
        await wait.call(CTX, {}, lambda _: None)
    hang.set()
    assert await first == "done"
    assert await wait.call(CTX, {}, lambda _: None) == "done"

"""What every guard is, and what the runtime is without it. For negative controls only.

Guards of scripts are taken out of the texts as they are loaded; the shipped files stay as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis.asyncio
from redis import exceptions

from agentrt.errors import OutcomeUnknown
from agentrt.runtime.heartbeat import Heartbeat
from agentrt.runtime.intents import Intents
from agentrt.store import scripts
from agentrt.store.connection import Redis, Unit
from tests.negative import memory_guards

__all__ = ["GUARDS", "take_out"]

Edit = Callable[[str, str], str]


def cut(text: str, old: str, new: str = "") -> str:
    """Replace what must be there: a guard that moved would make the control prove nothing."""
    if old not in text:
        raise SystemExit(f"the guard is not where the control expects it: {old!r}")
    return text.replace(old, new)


def in_scripts(edit: Edit) -> Callable[[], None]:
    """A guard that stands in scripts: `edit` gets (name, text) of each and returns the text to load."""

    def take() -> None:
        read = scripts._read
        scripts._read = lambda name: edit(name, read(name))

    return take


def fence(name: str, text: str) -> str:
    """Every guarded write is let through, whoever owns the session; commit also loses its look at the list."""
    if name == "ownership.lua":
        guard = "if held[1] ~= token or tonumber(fence) < tonumber(held[2]) then return 'fenced' end"
        return cut(text, guard)
    if name == "commit.lua":
        return cut(text, "if length ~= tonumber(r[2]) + tonumber(skip) then return {'corrupt', length} end")
    return text


def intent(name: str, text: str) -> str:
    """Calls leave without a word in the journal."""
    if name == "plan.lua":
        return cut(text, "if ARGV[i + 2] == '1' then", "if false then")
    if name == "intend.lua":
        return cut(text, "for i = calls, #ARGV do", "for i = calls, 0 do")
    return text


def op_tokens(name: str, text: str) -> str:
    """A script that is sent again does its work again."""
    guards = {
        "plan.lua": "if known[1] then",
        "record.lua": "if known[1] then return {'ok', known[2] or '0'} end",
        "commit.lua": "if by == token then",
        "append.lua": "if s[5] == op then return {'ok', s[4]} end",
        "create.lua": "if s[2] == op then return {'ok', s[3]} end",
        "log.lua": "if state[1] and tonumber(state[1]) >= last then return end",
    }
    return cut(text, guards[name], "if false then" if guards[name].endswith("then") else "") if name in guards else text


def sweep(name: str, text: str) -> str:
    """Nobody looks for leases that have run out."""
    return cut(text, "'LIMIT', 0, limit)", "'LIMIT', 0, 0)") + "\n-- limit" if name == "sweep.lua" else text


def renewal() -> None:
    """Neither leases nor the locks of calls are moved."""

    async def never(self: object) -> None:
        await asyncio.Event().wait()

    Heartbeat._beat = never  # type: ignore[method-assign, assignment]
    Intents._keep = never  # type: ignore[method-assign, assignment]


def retries() -> None:
    """Units go over redis-py as it comes, with its own time-outs and its own retries."""

    async def execute(self: Redis, unit: Unit) -> list[Any]:
        client = redis.asyncio.Redis.from_url(self._options.url, protocol=2)
        link = client.connection_pool.make_connection()

        async def once() -> list[Any]:
            await link.send_packed_command([unit.data])
            return [await link.read_response() for _ in range(unit.count)]

        async def failed(error: Exception) -> None:
            await link.disconnect()

        try:
            return list(await link.retry.call_with_retry(once, failed))
        except exceptions.NoScriptError:
            await link.disconnect()  # the replies behind it
            for script in self.scripts.values():
                await link.send_packed_command([script.pack_load()])
                await link.read_response()
            return await once()
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            raise OutcomeUnknown(str(error)) from error
        finally:
            await link.disconnect()

    Redis.execute = execute  # type: ignore[method-assign]


def generation() -> None:
    """An erasure leaves no tombstone."""
    in_scripts(lambda name, text: memory_guards.without_generation(cut, name, text))()
    memory_guards.generation()


GUARDS: dict[str, Callable[[], None]] = {
    "fence": in_scripts(fence),
    "intent": in_scripts(intent),
    "op_tokens": in_scripts(op_tokens),
    "sweep": in_scripts(sweep),
    "renewal": renewal,
    "retries": retries,
    "pins": memory_guards.pins,
    "keys": memory_guards.keys,
    "generation": generation,
}
"""By name: what takes the guard out of this process."""


def take_out(guard: str) -> None:
    """Go on without `guard`."""
    GUARDS[guard]()

"""`agentrt effects`: what is in doubt, and saying what became of it."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import orjson

from agentrt.commands.state import opened
from agentrt.errors import AgentrtError
from agentrt.runtime.resolution import continuation, report, resolve
from agentrt.runtime.response import response_id
from agentrt.store.begin import Blocked
from agentrt.store.doubts import Doubted, Doubts, Place
from agentrt.store.keys import lease_member
from agentrt.store.leases import Leases
from agentrt.store.sessions import Sessions

__all__ = ["effects"]

_T = TypeVar("_T")


@click.group()
def effects() -> None:
    """Effects whose outcome is not known. AGENTRT_REDIS_URL says where the state is."""


def _run(work: Callable[..., Awaitable[_T]], *args: Any) -> _T:
    async def connected() -> _T:
        async with opened() as (redis, config):
            return await work(redis, config, *args)

    try:
        return asyncio.run(connected())
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error


@effects.command("list")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
def list_effects(limit: int) -> None:
    """The effects in doubt, the oldest first, one JSON object a line."""

    async def work(redis: Any, config: Any) -> list[Doubted]:
        return await Doubts(redis, config).listed(limit)

    for doubted in _run(work):
        click.echo(orjson.dumps(report(doubted)).decode())


@effects.command()
@click.argument("effect")
def show(effect: str) -> None:
    """One effect, by the id that `list` prints."""

    async def work(redis: Any, config: Any) -> Doubted:
        return await _found(Doubts(redis, config), effect)

    click.echo(orjson.dumps(report(_run(work)), option=orjson.OPT_INDENT_2).decode())


@effects.command("resolve")
@click.argument("effect")
@click.option("--happened", "output", metavar="JSON", help="It took effect; this is its output.")
@click.option("--did-not-happen", "denied", is_flag=True, help="It did not take effect.")
def resolve_effect(effect: str, output: str | None, denied: bool) -> None:
    """Say what became of an effect. The first resolution stands."""
    if (output is None) == (not denied):
        raise click.UsageError("give either --happened JSON or --did-not-happen")
    try:
        value = None if output is None else json.loads(output)
    except ValueError as error:
        raise click.UsageError(f"--happened: not JSON: {error}") from error

    async def work(redis: Any, config: Any) -> tuple[Doubted, str | None]:
        doubts = Doubts(redis, config)
        doubted = await _found(doubts, effect)
        known = await resolve(doubts, doubted, not denied, value, f"cli/{getpass.getuser()}")
        if known is None:
            raise click.ClickException(f"{effect} is not in doubt")
        begin = continuation(doubted)
        if begin is not None:
            # Begun here and left at once: a pod goes on with it when the lease has run out.
            await Leases(redis, config).entering(lease_member(begin.session, begin.run, begin.token))
            if isinstance(await Sessions(redis, config).begin(begin), Blocked):
                begin = None
        going_on = response_id(begin.session.id, begin.run) if begin is not None else None
        return await _found(doubts, effect), going_on

    doubted, going_on = _run(work)
    shown = {**report(doubted), "continued_by": going_on}
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())


async def _found(doubts: Doubts, text: str) -> Doubted:
    place = Place.parse(text)
    doubted = await doubts.read(place) if place is not None else None
    if doubted is None:
        raise click.ClickException(f"{text}: no effect in doubt has this id")
    return doubted

"""`agentrt users`: what is remembered of a user, to see, to take along, to erase."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import orjson

from agentrt.commands.state import opened
from agentrt.errors import AgentrtError
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.erasure import Erasure
from agentrt.runtime.people import People
from agentrt.runtime.recollections import Recollections
from agentrt.settings import Settings
from agentrt.store.conversations import Conversations
from agentrt.store.jobs import Jobs
from agentrt.store.keys import UserKeys
from agentrt.store.scan import Scan
from agentrt.store.users import Users

__all__ = ["users"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Kept:
    """The parts of the store that know of users."""

    users: Users
    conversations: Conversations
    jobs: Jobs
    recollections: Recollections


@click.group()
def users() -> None:
    """What is remembered of a user. AGENTRT_REDIS_URL says where the state is."""


def _user(tenant: str, user: str) -> UserKeys:
    try:
        return UserKeys(tenant, user)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _run(work: Callable[[People, Erasure], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        settings = Settings.from_env()
        async with opened() as (redis, config):
            remembered = Users(redis, config, settings.memory_ttl_s)
            kept = _Kept(remembered, Conversations(redis, config), Jobs(redis), Recollections(remembered))
            secret = settings.receipt_secret or settings.api_keys_secret
            return await work(People(kept, {}), Erasure(kept, Scan(redis), secret))

    try:
        return asyncio.run(connected())
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error


def _show(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


@users.command()
@click.argument("user")
@click.option("--tenant", required=True)
def show(user: str, tenant: str) -> None:
    """Counts and facts, each with its state and where it was said."""
    keys = _user(tenant, user)

    async def shown(people: People, _: Erasure) -> Any:
        return {**await people.overview(keys), "facts": await people.facts(keys, wall_ms())}

    _show(_run(shown))


@users.command()
@click.argument("user")
@click.option("--tenant", required=True)
def export(user: str, tenant: str) -> None:
    """Everything that is kept of a user, as JSON."""
    keys = _user(tenant, user)
    _show(_run(lambda people, _: people.export(keys)))


@users.command()
@click.argument("user")
@click.option("--tenant", required=True)
@click.option("--verify", is_flag=True, help="Look at every key afterwards; fail if anything is left.")
@click.option("--needle", "needles", multiple=True, help="With --verify: a text that must not be left anywhere.")
def erase(user: str, tenant: str, verify: bool, needles: tuple[str, ...]) -> None:
    """Erase a user; prints the receipt."""
    keys = _user(tenant, user)
    receipt = _run(lambda _, erasure: erasure.erase(keys, scan=verify, needles=needles))
    _show(receipt)
    if receipt["scan"]["hits"]:
        raise click.exceptions.Exit(1)

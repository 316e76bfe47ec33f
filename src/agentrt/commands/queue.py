"""`agentrt queue`: runs that wait for a pod, and those that were given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import click

from agentrt.commands.state import opened
from agentrt.errors import AgentrtError
from agentrt.runtime.dead_letters import DeadLetters
from agentrt.store.leases import Leases
from agentrt.store.queue import Queue
from agentrt.store.sessions import Sessions

__all__ = ["queue"]

_T = TypeVar("_T")


@click.group()
def queue() -> None:
    """The queue of runs that wait for a pod. AGENTRT_REDIS_URL says where the state is."""


@queue.group()
def dead() -> None:
    """Runs that were given up. RUN is tenant/session/run, as `list` prints it."""


def _run(work: Callable[[DeadLetters], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        async with opened() as (redis, config):
            return await work(DeadLetters(Sessions(redis, config), Leases(redis, config), Queue(redis, config)))

    try:
        return asyncio.run(connected())
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error


@dead.command("list")
def list_dead() -> None:
    """Each with when, which agent and why; the oldest first."""
    for letter in _run(lambda letters: letters.list()):
        at = datetime.fromtimestamp(letter.at / 1000, UTC).isoformat(timespec="seconds")
        click.echo(f"{letter.run} {at} {letter.agent}: {letter.reason}")


@dead.command()
@click.argument("run")
def retry(run: str) -> None:
    """Queue a run again, with all its attempts."""
    _run(lambda letters: letters.retry(run))


@dead.command()
@click.argument("run")
def drop(run: str) -> None:
    """Forget a dead letter; its run stays failed."""
    if not _run(lambda letters: letters.drop(run)):
        raise click.ClickException(f"no dead letter {run!r}")

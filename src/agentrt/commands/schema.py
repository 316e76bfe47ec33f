"""`agentrt schema`: which version of the Redis schema the pods write, and moving on to the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from agentrt.commands.state import opened
from agentrt.errors import AgentrtError
from agentrt.records import SCHEMA_VERSION, oldest_known
from agentrt.store.connection import Redis
from agentrt.store.sample import Sample, take_sample
from agentrt.store.schema import Schema, SchemaState

__all__ = ["schema"]

_T = TypeVar("_T")
_SAMPLE_KEYS = 5_000


@click.group()
def schema() -> None:
    """The version of the Redis schema. AGENTRT_REDIS_URL says where the state is."""


def _run(work: Callable[[Redis], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        async with opened() as (redis, _):
            return await work(redis)

    try:
        return asyncio.run(connected())
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error


async def _look(redis: Redis) -> tuple[SchemaState, Sample]:
    return await Schema(redis).state(), await take_sample(redis, _SAMPLE_KEYS)


@schema.command()
def show() -> None:
    """What is written, what this agentrt and the live pods know, and what a sample of the sessions has."""
    state, sample = _run(_look)
    click.echo(f"written: {'nothing yet, no pod was here' if state.writes is None else state.writes}")
    click.echo(f"this agentrt: {oldest_known()} to {SCHEMA_VERSION}")
    for name, known in sorted(state.pods.items()):
        click.echo(f"pod {name}: up to {known}")
    for version, count in sorted(sample.versions.items()):
        click.echo(f"sessions of version {version}: {count}, among {sample.keys} keys")


@schema.command()
@click.option("--force", is_flag=True, help="Although live pods do not know it: they answer 503 for what is newer.")
def bump(force: bool) -> None:
    """Have the pods write the version that this agentrt brings. There is no way back."""
    behind = _run(lambda redis: Schema(redis).bump(SCHEMA_VERSION, force=force))
    if behind:
        raise click.ClickException(
            f"these pods do not know version {SCHEMA_VERSION}: {', '.join(sorted(behind))}. Upgrade them first (one "
            "that is gone is forgotten after 10 s); --force if they shall refuse what is newer."
        )
    click.echo(f"written: {SCHEMA_VERSION}; every pod knows within 2 s")

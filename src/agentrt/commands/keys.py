"""`agentrt keys`: API keys and quotas. In Redis, where every pod knows them within 2 s, or keys in a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click
import orjson

from agentrt.assembly import default_quota, tenant_users
from agentrt.commands.state import opened
from agentrt.errors import AgentrtError, SettingsError
from agentrt.http.auth import line_of, mint
from agentrt.settings import Settings
from agentrt.store.access import SCOPES, Access, Quota
from agentrt.store.keys import is_name

__all__ = ["keys"]

_T = TypeVar("_T")


@click.group()
def keys() -> None:
    """API keys and quotas. AGENTRT_REDIS_URL says where they are, AGENTRT_API_KEYS_SECRET seals them."""


def _run(work: Callable[[Access], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        async with opened() as (redis, _):
            return await work(Access(redis))

    try:
        return asyncio.run(connected())
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error


@keys.command()
@click.option("--tenant", required=True)
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Default: run and read.")
@click.option("--operator", is_flag=True, help="With the scope `operate`: the native routes, for every tenant.")
@click.option("--file", "path", type=click.Path(path_type=Path), help="Append it to a file of keys, not to Redis.")
def create(tenant: str, scopes: tuple[str, ...], operator: bool, path: Path | None) -> None:
    """Make a key for a tenant. It is printed once; kept is only its HMAC."""
    wanted = [scope for scope in SCOPES if scope in (scopes or ("run", "read")) or (operator and scope == "operate")]
    try:
        key, identifier, record = mint(tenant, os.environ.get("AGENTRT_API_KEYS_SECRET", ""), wanted)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if path is None:
        _run(lambda access: access.set_key(identifier, record))
    else:
        if scopes:
            raise click.UsageError("a file of keys knows no scopes but --operator")
        try:
            broken = path.exists() and path.read_bytes()[-1:] not in {b"", b"\n"}
            with path.open("a", encoding="utf-8") as file:
                file.write(("\n" if broken else "") + line_of(identifier, record) + "\n")
        except OSError as error:
            raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    click.echo(key)


@keys.command("list")
@click.option("--tenant", help="Of this tenant only.")
def list_keys(tenant: str | None) -> None:
    """The keys in Redis, one a line: id, tenant, scopes, when it was made."""
    granted = _run(lambda access: access.read())
    for identifier, record in sorted(granted.keys.items(), key=lambda one: (one[1].tenant, one[1].created)):
        if tenant in {None, record.tenant}:
            at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
            click.echo(f"{identifier} {record.tenant} {','.join(record.scopes)} {at}")


@keys.command()
@click.argument("identifier", metavar="ID")
def revoke(identifier: str) -> None:
    """Forget a key in Redis: within 2 s no pod accepts it. ID is what stands between the underscores of the key."""

    async def work(access: Access) -> bool:
        known = identifier in (await access.read()).keys
        await access.set_key(identifier, None)
        return known

    if not _run(work):
        raise click.ClickException(f"no key {identifier!r} in Redis")


@keys.command()
@click.option("--tenant", required=True)
@click.option("--runs", type=click.IntRange(0), help="Runs in flight. 0: no limit.")
@click.option("--turns-per-minute", type=click.IntRange(0))
@click.option("--tokens-per-day", type=click.IntRange(0))
@click.option("--default", "forget", is_flag=True, help="Back to what AGENTRT_TENANT_* say.")
def quota(tenant: str, forget: bool, **limits: int | None) -> None:
    """Set what a tenant may use; without a limit: show it. What is not named stays as it is: as it was set, else as
    AGENTRT_TENANT_* say here."""
    if not is_name(tenant):
        raise click.ClickException(f"{tenant!r} is not a tenant name")
    given = {name: value for name, value in limits.items() if value is not None}
    if forget and given:
        raise click.UsageError("--default goes with no limit")

    async def work(access: Access) -> Quota | None:
        found = (await access.read()).quotas.get(tenant)
        if given or forget:
            found = None if forget else replace(found or default_quota(Settings.from_env()), **given)
            await access.set_quota(tenant, found)
        return found

    found = _run(work)
    click.echo(orjson.dumps(found).decode() if found is not None else "the default")


@keys.command()
@click.option("--tenant", required=True)
def acl(tenant: str) -> None:
    """Print the command that makes a tenant's own Redis user; see AGENTRT_REDIS_TENANT_USER."""
    try:
        settings = Settings.from_env()
        if not settings.redis_tenant_user:
            raise SettingsError("AGENTRT_REDIS_TENANT_USER is not set")
        click.echo(tenant_users(settings).rule(tenant))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error

"""The command line: `agentrt dev`, `agentrt serve`, `agentrt keys`, `agentrt queue`."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import uvicorn

from agentrt.agent import Agent
from agentrt.app import create_app
from agentrt.assembly import Deps
from agentrt.commands.doctor import doctor
from agentrt.commands.effects import effects
from agentrt.commands.keys import keys
from agentrt.commands.queue import queue
from agentrt.commands.schema import schema
from agentrt.commands.users import users
from agentrt.embedded import run_dev
from agentrt.errors import AgentrtError, SettingsError
from agentrt.http.protocol import BoundedProtocol
from agentrt.logs import configure
from agentrt.runtime.doctor import preflight
from agentrt.server import Server
from agentrt.settings import Settings, describe
from agentrt.store.connection import RedisOptions, check_url

__all__ = ["main"]

_IDLE_S = 75
"""Idle connections are kept for longer than load balancers keep theirs, most of them 60 s: who closes first must not be
the one to whom the next request is just under way."""
_CUT_S = 10
"""Behind the runs' own time to end: an answer that is not out by then is cut."""


def _settings_help() -> str:
    rows = [f"  {name}={default or chr(39) * 2}\n      {text}" for name, default, text in describe()]
    return "\b\nSettings, from the environment:\n" + "\n".join(rows)


def _load(target: str) -> Any:
    """What stands at `MODULE:ATTR`. Raises `SettingsError` that says what is wrong."""
    module_name, _, attribute = target.partition(":")
    if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise SettingsError(f"{target!r} is not of the form MODULE:ATTR")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise SettingsError(f"cannot import {module_name}: {error}") from error
    except AttributeError:
        raise SettingsError(f"module {module_name} has no attribute {attribute!r}") from None


def load_agents(target: str) -> list[Agent]:
    """The agents at `MODULE:ATTR`: an `Agent` or a list of them. Raises `SettingsError` that says what is wrong."""
    found = _load(target)
    agents = [found] if isinstance(found, Agent) else found
    if not isinstance(agents, Sequence) or not all(isinstance(agent, Agent) for agent in agents):
        raise SettingsError(f"{target} is neither an Agent nor a list of Agents")
    return list(agents)


def _load_deps(target: str) -> Deps:
    factory = _load(target)
    if not callable(factory):
        raise SettingsError(f"{target} is not a function that makes an async context manager")
    made: Deps = factory
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@click.group()
@click.version_option(package_name="agentrt")
def main() -> None:
    """agentrt: any pod serves any request; any pod may die at any instruction."""


@main.command(epilog=_settings_help())
@click.argument("target", metavar="MODULE:ATTR")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--reuse-port", is_flag=True, help="Share the port with other pods; the kernel balances.")
@click.option("--deps", metavar="MODULE:ATTR", help="An async context manager's factory: what tools find in ctx.deps.")
def serve(target: str, host: str, port: int, reuse_port: bool, deps: str | None) -> None:
    """Run one pod: one process, no Redis started."""
    try:
        settings = Settings.from_env()
        guarded = settings.api_keys_file or settings.api_keys_secret
        if not _is_loopback(host) and not guarded and settings.auth != "off":
            raise SettingsError(
                f"no API keys, and {host} is not loopback: set AGENTRT_API_KEYS_SECRET for keys in Redis (and "
                "AGENTRT_API_KEYS_FILE for those of a file), or AGENTRT_AUTH=off"
            )
        configure(settings.log_level, settings.log_format, settings.pod)
        check_url(settings.redis_url, "AGENTRT_REDIS_URL")
        asyncio.run(preflight(RedisOptions(settings.redis_url, "agentrt-preflight"), settings.preflight))
        app = create_app(load_agents(target), settings=settings, deps=_load_deps(deps) if deps else None)
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048, reuse_port=reuse_port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=settings.drain_runs_s + _CUT_S,
    )
    server = Server(config, app, settings.drain_s)
    server.run(sockets=[listening])
    if not server.started:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("target", metavar="MODULE:ATTR", default="agentrt.demo:agents")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--pods", default=2, show_default=True, type=click.IntRange(1, 64))
def dev(target: str, host: str, port: int, pods: int) -> None:
    """Run a private Redis and some pods on one port, in the foreground. AGENTRT_REDIS_URL: use that Redis instead."""
    data_dir = Path(os.environ.get("AGENTRT_DATA_DIR") or ".agentrt")
    try:
        status = run_dev(target, host, port, pods, os.environ.get("AGENTRT_REDIS_URL") or None, data_dir)
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error
    raise click.exceptions.Exit(status)


main.add_command(doctor)
main.add_command(effects)
main.add_command(keys)
main.add_command(queue)
main.add_command(schema)
main.add_command(users)


if __name__ == "__main__":
    main()

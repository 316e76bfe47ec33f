"""`make run`: a private Redis and N pods on one port, in the foreground, with nothing left behind.

    supervisor (this process)
    ├── redis-server      127.0.0.1, a free port, AOF in <data dir>/redis
    ├── pod-1             agentrt serve … --reuse-port       ┐ one port: the kernel balances
    └── pod-2 → pod-2-2   the name of a restarted pod differs ┘ the connections between them

- A pod that dies is started again under a new name; so is the private Redis, on its old port with its data.
- SIGINT, SIGTERM and SIGHUP stop the pods first (they drain, at most `POD_STOP_S_MAX`), then Redis. The children
  have sessions of their own, so a Ctrl-C reaches the supervisor alone, which keeps this order.
- A supervisor that is SIGKILLed takes its children along (Linux): the kernel signals them at their parent's death,
  pods with SIGKILL, Redis with SIGTERM, so that it flushes its AOF. A pipe to watch would need their cooperation.
- Two Redis never share a data directory: the running one holds a lock on it until it is gone.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from agentrt.embedded.pods import RESTART_PAUSE_S, Supervisor, reserve_port
from agentrt.embedded.redis import PrivateRedis
from agentrt.errors import SettingsError

__all__ = ["run_dev"]


def run_dev(
    agent: str, host: str, port: int, pods: int, redis_url: str | None, data_dir: Path, *, command: Sequence[str] = ()
) -> int:
    """Everything, in the foreground, until SIGINT, SIGTERM or SIGHUP; then 0.

    `redis_url`: use that Redis and start none. `port` 0: any free one. `command` stands in for
    `python -m agentrt.cli serve AGENT`; either gets `--host H --port P --reuse-port` appended.
    Raises `SettingsError` when it cannot start: the port is taken, no Redis, a pod that does not get ready.
    """
    command = command or (sys.executable, "-m", "agentrt.cli", "serve", agent)
    data_dir = data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    with reserve_port(host, port) as held:
        port = held.getsockname()[1]
        argv = (*command, "--host", host, "--port", str(port), "--reuse-port")
        asyncio.run(_dev(argv, pods, redis_url, data_dir, f"url: {_url(host, port)}", _to_try(agent, _url(host, port))))
    return 0


async def _dev(argv: Sequence[str], pods: int, redis_url: str | None, data_dir: Path, head: str, tail: str) -> None:
    redis = None if redis_url else PrivateRedis(data_dir)
    url = redis.url if redis else str(redis_url)
    # All pods go together: nobody is there to take over, so there is nothing to wait for.
    env = {"AGENTRT_DRAIN_S": "0", "AGENTRT_DRAIN_RUNS_S": "2", "AGENTRT_DEMO_DB": str(data_dir / "demo.db")}
    if redis_url is None:
        env["AGENTRT_PREFLIGHT"] = "off"  # the private Redis is ours, and for trying out
    env |= os.environ
    env |= {"AGENTRT_REDIS_URL": url, "AGENTRT_DATA_DIR": str(data_dir)}

    def on_ready(ready: str) -> None:
        shown = re.sub(r"//[^/@]*@", "//***@", url)  # a password is not for the screen
        private = f" (private, pid {redis.pid}, data in {data_dir})" if redis else ""
        _say(f"{head}\n{ready}\nredis: {shown}{private}\n{tail}")

    supervisor = Supervisor(argv, pods, env, _say, on_ready)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays in force
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    if redis is None:
        return await supervisor.run()
    await redis.start()
    keeper = asyncio.create_task(_keep_redis(redis, supervisor))
    try:
        return await supervisor.run()
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])
        await redis.stop()


async def _keep_redis(redis: PrivateRedis, supervisor: Supervisor) -> None:
    """A Redis that dies comes back on its port with its data, as one under Kubernetes would."""
    try:
        while True:
            _say(f"{await redis.ended()}; restarting")
            await asyncio.sleep(RESTART_PAUSE_S)
            await redis.start()
            _say(f"redis pid {redis.pid} ready")
    except SettingsError as error:
        supervisor.stop(str(error))


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # `make run | head` closes our stdout: no reason to stop
        click.echo(line)


def _url(host: str, port: int) -> str:
    """Where a client on this machine reaches what listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _to_try(agent: str, url: str) -> str:
    """Two commands for a POSIX shell: a conversation by curl, and one by the openai package."""
    model = "support" if agent.startswith("agentrt.demo:") else "NAME-OF-YOUR-AGENT"
    curl = "curl -sS -H 'Authorization: Bearer dev' -H 'Content-Type: application/json'"
    body = f'"{{\\"model\\":\\"{model}\\",\\"conversation\\":\\"$C\\",\\"input\\":\\"$TEXT\\"}}"'
    snippet = (
        f'from openai import OpenAI; c = OpenAI(base_url="{url}/v1", api_key="dev"); v = c.conversations.create().id; '
        f'say = lambda text: print(c.responses.create(model="{model}", conversation=v, input=text).output_text); '
        'say("my name is Ada"); say("what is my name")'
    )
    return f"""
Try it; each request may be answered by another pod, and you may `kill -9` one at any time:

  C=$({curl} -d '{{}}' {url}/v1/conversations | grep -oE 'conv_[A-Za-z0-9]+' | head -n 1); \
for TEXT in 'my name is Ada' 'what is my name'; do {curl} -d {body} {url}/v1/responses; echo; done

  {shlex.quote(sys.executable)} -c {shlex.quote(snippet)}
"""

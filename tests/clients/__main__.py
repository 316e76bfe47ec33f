"""`make clients`: outside clients, each in an environment of its own, run a scripted session against two pods.

Both pods share a port, so the kernel chooses one for each connection. Whenever a script asks for it one pod is killed,
and started again for the next script. The table in docs/clients.md is what came out; `--no-write` leaves it alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.clients.client import HOMES, Client, NodeClient, PythonClient, Suite
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer, free_port

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "clients.md"
MARK = "<!-- what follows is written by `make clients` -->\n"
TIMEOUT_S = 300


CLIENTS = [
    PythonClient("openai-3.51", "openai~=3.51.0", "openai_client.py"),
    PythonClient("openai-2.8", "openai~=2.8.0", "openai_client.py"),
    PythonClient("openai-1.109", "openai~=1.109.0", "openai_client.py"),
    PythonClient("openai-agents", "openai-agents>=0.24", "openai_agents.py"),
    PythonClient("langchain-openai", "langchain-openai>=1.7", "langchain_client.py"),
    PythonClient("pydantic-ai", "pydantic-ai-slim[openai]>=2.62", "pydantic_ai_client.py"),
    PythonClient("litellm", "litellm>=1.83 mcp>=2", "litellm_client.py"),
    PythonClient("schemathesis", "schemathesis>=4.32", "schemathesis_run.py"),
    NodeClient("openai-node", "openai@^7.57", "openai_node.mjs"),
    NodeClient("openai-node-6", "openai@^6.49", "openai_node.mjs"),
    NodeClient("ai-sdk", "ai@^7 @ai-sdk/openai@^4 @ai-sdk/openai-compatible@^3", "ai_sdk.mjs"),
    NodeClient("ai-sdk-6", "ai@^6 @ai-sdk/openai@^3 @ai-sdk/openai-compatible@^2", "ai_sdk.mjs"),
    NodeClient("codex", "@openai/codex@^0.169", "codex_exec.mjs"),
    Suite("open-responses", "tsx@^4 zod@^3.25", "open_responses.mjs"),
]


def _serving(pod: Pod) -> None:
    """Wait until this very pod answers on the port that it shares."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"{pod.url}/readyz", timeout=2).json()["pod"] == pod.name:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"{pod.name} does not serve")


@contextmanager
def two_pods() -> Iterator[list[Pod]]:
    """Two pods that share a port, on a Redis of their own."""
    port = free_port()
    env = {"AGENTRT_DEMO_DB": str(HOMES / "demo.db"), "PYTHONPATH": str(ROOT)}
    with RedisServer() as redis:
        pods = [Pod(redis.url, target="tests.clients.agents:agents", name=name, port=port, env=env) for name in "ab"]
        try:
            for pod in pods:
                pod._command.append("--reuse-port")
                _serving(pod.start(wait=False))
            yield pods
        finally:
            for pod in pods:
                pod.stop()


def run(client: Client, pods: list[Pod], log: Path) -> None:
    """One client's session; `kill` on its output is a kill of the first pod that lives, or of the one it names,
    and `wait` waits until both serve again.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "PYTHON", "VIRTUAL_"))}
    env["CLIENTS_URL"] = pods[0].url
    with log.open("ab") as errors:
        with subprocess.Popen(
            client.command(),
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child:
            timer = threading.Timer(TIMEOUT_S, child.kill)
            timer.start()
            _follow(client, pods, child)
        timer.cancel()
        if child.returncode != 0:
            client.failed.append(f"the script ended with {child.returncode}")


def _follow(client: Client, pods: list[Pod], child: subprocess.Popen[str]) -> None:
    """Do what the script asks for, and keep what it tells, until it ends."""
    assert child.stdout is not None
    assert child.stdin is not None
    for line in child.stdout:
        word, _, rest = line.strip().partition(" ")
        if word == "kill":
            victim = next(pod for pod in pods if pod.alive and rest in {"", pod.name})
            victim.kill()
            child.stdin.write("killed\n")
            child.stdin.flush()
            _serving(victim.start(wait=False))  # the next kill must leave one that serves
        elif word == "wait":
            child.stdin.write("serving\n")
            child.stdin.flush()
        elif word in {"ok", "failed"}:
            (client.passed if word == "ok" else client.failed).append(rest)


def write(client: Client) -> None:
    """Put what came out into docs/clients.md, in the place of what was there of the same client."""
    text, mark, old = DOCUMENT.read_text(encoding="utf-8").partition(MARK)
    rows = {line.split(" | ")[0]: line for line in old.splitlines() if line.startswith("| `")}
    row = f"| `{client.name}` | {client.version} | {', '.join(client.passed)} | {', '.join(client.failed) or '–'} |"
    rows[f"| `{client.name}`"] = row
    order = [f"| `{one.name}`" for one in CLIENTS]
    table = [rows[name] for name in order if name in rows]
    lines = ["", "| client | version | passed | failed |", "|---|---|---|---|", *table, ""]
    DOCUMENT.write_text(text + mark + "\n".join(lines), encoding="utf-8")


def main() -> int:
    """Run all, or those that are named; the number of clients that failed somewhere."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--no-write", action="store_true")
    asked = parser.parse_args()
    clients = [client for client in CLIENTS if not asked.names or client.name in asked.names]
    HOMES.mkdir(exist_ok=True)
    for client in list(clients):
        if client.missing:
            print(f"{client.name} is left out: {client.missing}", flush=True)
            clients.remove(client)
        else:
            client.install()
    with two_pods() as pods:
        for client in clients:
            run(client, pods, HOMES / f"{client.name}.log")
            print(f"{client.name}: {len(client.passed)} passed, failed: {client.failed}", flush=True)
            if not asked.no_write:
                write(client)
    return sum(bool(client.failed) for client in clients)


if __name__ == "__main__":
    sys.exit(main())

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
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer, free_port

ROOT = Path(__file__).parents[2]
VENVS = ROOT / ".clients"
DOCUMENT = ROOT / "docs" / "clients.md"
MARK = "<!-- what follows is written by `make clients` -->\n"
TIMEOUT_S = 300


@dataclass
class Client:
    """A client, what pip is asked for, its script, and what came out: steps that passed, steps that failed."""

    name: str
    wants: str
    script: str
    version: str = ""
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def python(self) -> Path:
        return VENVS / self.name / "bin" / "python"

    def install(self) -> None:
        """Make its environment, once."""
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(VENVS / self.name)], check=True)
            pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *self.wants.split()], check=True)
        package = self.wants.split()[0].split("=")[0].split("~")[0].split(">")[0].split("[")[0]
        ask = f"import importlib.metadata as m; print(m.version({package!r}))"
        told = subprocess.run([str(self.python), "-c", ask], capture_output=True, text=True, check=True)
        self.version = f"{package} {told.stdout.strip()}"


CLIENTS = [
    Client("openai-3.51", "openai~=3.51.0", "openai_client.py"),
    Client("openai-2.8", "openai~=2.8.0", "openai_client.py"),
    Client("openai-1.109", "openai~=1.109.0", "openai_client.py"),
    Client("openai-agents", "openai-agents>=0.24", "openai_agents.py"),
    Client("langchain-openai", "langchain-openai>=1.7", "langchain_client.py"),
    Client("pydantic-ai", "pydantic-ai-slim[openai]>=2.62", "pydantic_ai_client.py"),
    Client("litellm", "litellm>=1.83 mcp>=2", "litellm_client.py"),
    Client("schemathesis", "schemathesis>=4.32", "schemathesis_run.py"),
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


def run(client: Client, pods: list[Pod], log: Path) -> None:
    """One client's session; `kill` on its output is a kill of the first pod that lives."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "PYTHON", "VIRTUAL_"))}
    env["CLIENTS_URL"] = pods[0].url
    script = Path(__file__).parent / "scripts" / client.script
    with log.open("ab") as errors:
        child = subprocess.Popen(
            [str(client.python), str(script)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        timer = threading.Timer(TIMEOUT_S, child.kill)
        timer.start()
        assert child.stdout is not None
        assert child.stdin is not None
        for line in child.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "kill":
                victim = next(pod for pod in pods if pod.alive)
                victim.kill()
                child.stdin.write("killed\n")
                child.stdin.flush()
                _serving(victim.start(wait=False))  # the next kill must leave one that serves
            elif word in {"ok", "failed"}:
                (client.passed if word == "ok" else client.failed).append(rest)
        if child.wait() != 0:
            client.failed.append(f"the script ended with {child.returncode}")
        timer.cancel()


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
    VENVS.mkdir(exist_ok=True)
    for client in clients:
        client.install()
    port = free_port()
    env = {"AGENTRT_DEMO_DB": str(VENVS / "demo.db"), "PYTHONPATH": str(ROOT)}
    with RedisServer() as redis:
        pods = [Pod(redis.url, target="tests.clients.agents:agents", name=name, port=port, env=env) for name in "ab"]
        try:
            for pod in pods:
                pod._command.append("--reuse-port")
                _serving(pod.start(wait=False))
            for client in clients:
                run(client, pods, VENVS / f"{client.name}.log")
                print(f"{client.version}: {len(client.passed)} passed, failed: {client.failed}", flush=True)
                if not asked.no_write:
                    write(client)
        finally:
            for pod in pods:
                pod.stop()
    return sum(bool(client.failed) for client in clients)


if __name__ == "__main__":
    sys.exit(main())

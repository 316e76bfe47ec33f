"""`make load`: locust, headless, against a Redis and two pods of its own; the exit status is that of the thresholds."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer, free_port

from loadtest.driver import ROOT
from loadtest.shapes import SHAPES

_READY_S = 120.0
_LOCUSTFILE = str(ROOT / "loadtest" / "locustfile.py")
_THRESHOLDS, _FULL = "thresholds.toml", "thresholds-full.toml"
"""What must be kept; and what where more is asked of the pods than they have slots and places for."""


def main() -> int:
    """Start, load, stop."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.load", description=__doc__)
    parser.add_argument("--locust", default=str(ROOT / ".venv" / "load" / "bin" / "locust"))
    parser.add_argument("--shape", choices=sorted(SHAPES), default="ramp")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--max-runs", type=int, default=0, help="slots of each pod; default: agentrt's")
    parser.add_argument("--queue-limit", type=int, default=0, help="runs that may wait for a pod; default: agentrt's")
    parser.add_argument("--pause-ms", type=int, default=0, help="how long the model takes for a word")
    parser.add_argument("--workers", type=int, default=0, help="processes of locust that make the load; 0: its own")
    parser.add_argument("--results", type=Path, help="folder for the tables (CSV) and the report (HTML)")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentrt-load-"))
        redis = stack.enter_context(RedisServer())
        env = {"AGENTRT_DEMO_DB": str(Path(folder) / "demo.db"), "AGENTRT_LOG_LEVEL": "warning"}
        env["LOAD_PAUSE_MS"] = str(args.pause_ms)
        if args.max_runs:
            env["AGENTRT_MAX_RUNS"] = str(args.max_runs)
        if args.queue_limit:
            env["AGENTRT_QUEUE_LIMIT"] = str(args.queue_limit)
        target = "loadtest.agents:agents"
        pods = [Pod(redis.url, target=target, name=f"load-{number}", env=env) for number in range(2)]
        for pod in pods:
            stack.callback(pod.stop)
            pod.start(wait=False)
        for pod in pods:
            pod.wait_ready(_READY_S)
        command = [
            args.locust,
            "--headless",
            "--only-summary",
            "--loglevel",
            "WARNING",
            "-f",
            _LOCUSTFILE,
        ]
        if args.results:
            args.results.mkdir(parents=True, exist_ok=True)
            command += ["--csv", str(args.results / args.shape), "--html", str(args.results / f"{args.shape}.html")]
        load = {
            "PYTHONPATH": str(ROOT),
            "LOAD_HOSTS": ",".join(pod.url for pod in pods),
            "LOAD_SHAPE": args.shape,
            "LOAD_SECONDS": str(args.seconds),
            "LOAD_USERS": str(args.users),
            # What arrives within one look at the queue may exceed it together: no more than users there are.
            "LOAD_QUEUE_MAX": str(args.queue_limit + args.users if args.queue_limit else 0),
            "LOAD_THRESHOLDS": str(ROOT / "loadtest" / (_FULL if args.queue_limit else _THRESHOLDS)),
        }
        env = {**os.environ, **load}
        if args.workers:
            command += _directing(stack, args.locust, args.workers, env)
        return subprocess.run(command, env=env, check=False).returncode


def _directing(stack: ExitStack, locust: str, count: int, env: dict[str, str]) -> list[str]:
    """Start workers, as loadtest/k8s has them; what makes locust their master."""
    port = str(free_port())
    worker = [locust, "--worker", "--master-host", "127.0.0.1", "--master-port", port, "--loglevel", "WARNING"]
    for _ in range(count):
        process = stack.enter_context(subprocess.Popen([*worker, "-f", _LOCUSTFILE], env=env))
        stack.callback(process.terminate)
    master = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    return [*master, "--expect-workers", str(count)]


if __name__ == "__main__":
    sys.exit(main())

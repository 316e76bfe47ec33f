"""Processes that need not import what every pod imports: forks of one that did, for the hundreds of pods of a test run.

A pod takes more than a second of CPU to import what it consists of, most of what a test with pods of its own costs.
Behind the fork nothing is shared: each is a process of its own, with environment, signals and exit status like any
other. What is run by hand (benches, soaks, kills), and the tests of the start itself, begin as production does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["WarmProcess", "agentrt"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["agentrt.cli"])


class WarmProcess:
    """`python -m MODULE ARGUMENTS`, with those methods of `subprocess.Popen` that pods need. Files are appended to."""

    def __init__(
        self, module: str, arguments: Sequence[str], env: Mapping[str, str], out: Path, err: Path | None = None
    ) -> None:
        args = (module, list(arguments), dict(env), str(out), str(err or out))
        self._process = _CONTEXT.Process(target=_become, args=args, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout_s)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout_s or 0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing once it has ended: its pid may be another's by then."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def agentrt(
    *args: str, env: Mapping[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """`agentrt ARGS`, to its end; `env` is added to the environment. Raises `subprocess.TimeoutExpired`."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        process = WarmProcess("agentrt.cli", args, {**os.environ, **(env or {})}, Path(out.name), Path(err.name))
        try:
            status = process.wait(timeout_s)
        finally:
            process.send_signal(signal.SIGKILL)
        return subprocess.CompletedProcess(args, status, out.read(), err.read())


def _become(module: str, arguments: Sequence[str], env: Mapping[str, str], *outputs: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    for descriptor, path in enumerate(outputs, 1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = [module, *arguments]
    sys.modules.pop("agentrt.cli")  # run as the main module, or imported by it
    runpy.run_module(module, run_name="__main__", alter_sys=True)

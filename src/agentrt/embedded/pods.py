"""Pods on one port, started again when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

from agentrt.embedded.children import fate, spawn, stop
from agentrt.errors import SettingsError

__all__ = ["RESTART_PAUSE_S", "Say", "Supervisor", "reserve_port"]

POD_START_S_MAX = 60.0
POD_STOP_S_MAX = 15.0
RESTART_PAUSE_S = 0.5
RESTART_PAUSE_S_MAX = 5.0
HEALTHY_S = 10.0  # a pod that lived shorter than this makes the next pause longer

T = TypeVar("T")
Say = Callable[[str], None]


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket that holds `port` (0: any free one) for the pods. It never listens, so it gets no connection.

    `SettingsError` when somebody listens there: SO_REUSEPORT would silently share it with a forgotten `make run`.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family, backlog=1).close()  # fails where somebody listens
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}; choose another PORT") from error
    return held


class Supervisor:
    """Keeps `pods` children of one command alive until `stop()`.

    A child gets `AGENTRT_POD` (its name) and `AGENTRT_READY_FD`, a pipe to which it writes the line `ready` when it
    serves: all share one port, so no request could tell which of them answers. One that ends before every pod has been
    ready once ends them all, with a `SettingsError` from `run`: most likely its agent cannot be imported.
    """

    def __init__(
        self, command: Sequence[str], pods: int, env: Mapping[str, str], say: Say, on_ready: Say | None = None
    ) -> None:
        self._command = command
        self._count = pods
        self._env = env
        self._say = say
        self._on_ready = on_ready or say
        self._pods: dict[int, str] = {}  # the ready ones, as `NAME pid PID`
        self._complete = False
        self._failure: str | None = None
        self._stopping = asyncio.Event()

    def stop(self, failure: str | None = None) -> None:
        """Let `run` end: cleanly, or with a `SettingsError` that says `failure`."""
        if not self._stopping.is_set():  # who asks first says why
            self._failure = failure
        self._stopping.set()

    async def run(self) -> None:
        """Returns after `stop()`, when the last child is gone."""
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._count + 1):
                group.create_task(self._keep(number))
        if self._failure:
            raise SettingsError(self._failure)

    async def _keep(self, number: int) -> None:
        clock = asyncio.get_running_loop().time
        generation, pause_s = 0, 0.0
        while not self._stopping.is_set():
            generation += 1
            name = f"pod-{number}" if generation == 1 else f"pod-{number}-{generation}"
            began = clock()
            fate = await self._one_life(number, name)
            self._pods.pop(number, None)
            if not self._complete:
                self.stop(f"{fate} before all pods were ready")
            if self._stopping.is_set():
                return
            self._say(f"{fate}; restarting")
            again = pause_s > 0 and clock() - began < HEALTHY_S
            pause_s = min(pause_s * 2, RESTART_PAUSE_S_MAX) if again else RESTART_PAUSE_S
            await self._unless_stopping(asyncio.sleep(pause_s))

    async def _one_life(self, number: int, name: str) -> str:
        """Start a child, stay until it has ended or all stop, end it, and say what became of it."""
        ready_read, ready_write = os.pipe()
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ready_read, "rb", buffering=0)
        )
        env = {**self._env, "AGENTRT_POD": name, "AGENTRT_READY_FD": str(ready_write)}
        with closing(pipe):
            process = await spawn(self._command, env, hand_over=ready_write, death_signal=signal.SIGKILL)
            try:
                line = await self._unless_stopping(reader.readline(), POD_START_S_MAX)
                if line == b"ready\n":
                    self._announce(number, f"{name} pid {process.pid}")
                    await self._unless_stopping(process.wait())
                elif line is not None:  # it closed the pipe: it is dead, or will be
                    await self._unless_stopping(process.wait(), POD_STOP_S_MAX)
                hung = process.returncode is None
            finally:
                await stop(process, POD_STOP_S_MAX)
        return f"{name} (pid {process.pid}) {'did not get ready' if hung else fate(process.returncode)}"

    def _announce(self, number: int, pod: str) -> None:
        self._pods[number] = pod
        if self._complete:
            self._say(f"{pod} ready")
        elif len(self._pods) == self._count:
            self._complete = True
            self._on_ready("pods: " + ", ".join(self._pods[n] for n in sorted(self._pods)))

    async def _unless_stopping(self, work: Coroutine[Any, Any, T], s_max: float | None = None) -> T | None:
        """The result of `work`; None when all stop, or `s_max` is over, before it has one."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, timeout=s_max, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stop.cancel()

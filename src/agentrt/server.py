"""The HTTP server of a pod: uvicorn, which says when it serves, and does not leave anybody who has just connected."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn

from agentrt.app import PodApp
from agentrt.http.protocol import BoundedProtocol

__all__ = ["Server"]

_READY_FD = "AGENTRT_READY_FD"
_SHAKEN_S = 0.05
"""A handshake that has begun is over by then, where round trips are shorter."""
_ASK_S = 1.0
"""Who has connected before the port is closed may ask for so long."""
_SO_ATTACH_FILTER = 26
_DROP_SYN = struct.pack(
    "HBBI" * 4,
    *(0x30, 0, 0, 13),  # load the byte with the flags, the 14th of a TCP header
    *(0x45, 0, 1, 0x02),  # SYN?
    *(0x06, 0, 0, 0),  # then drop it,
    *(0x06, 0, 0, 0xFFFF_FFFF),  # else take it, whole
)
"""A classic BPF program, of `struct sock_filter` (Linux: Documentation/networking/filter.rst)."""


class Server(uvicorn.Server):
    """Tells the supervisor, over an inherited pipe, when this pod serves; leaves in good order on SIGTERM.

    The first SIGTERM makes the pod unready; it serves on for `drain_s`, then closes its port, lets its runs end and
    hands over the rest. A second one ends it at once, as a kill would.
    """

    def __init__(self, config: uvicorn.Config, app: PodApp, drain_s: float) -> None:
        super().__init__(config)
        self._pod_app = app
        self._drain_s = drain_s
        self._leave_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM or self._loop is None:
            super().handle_exit(sig, frame)
        elif self._leave_at is None:
            self._captured_signals.append(sig)
            self._leave_at = time.monotonic() + self._drain_s
            self._loop.call_soon_threadsafe(self._pod_app.begin_drain)
        else:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)

    async def on_tick(self, counter: int) -> bool:
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._loop = asyncio.get_running_loop()
        # What is there by now stays; a full collection over it in the middle of the traffic would find nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        descriptor = os.environ.pop(_READY_FD, "")
        if descriptor and self.started:
            os.write(int(descriptor), b"ready\n")
            os.close(int(descriptor))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._close_port(sockets or [])
        finally:
            draining = asyncio.create_task(self._pod_app.drain())
            await super().shutdown(sockets=sockets)  # closes idle connections, waits for answers, then stops the app
            await draining

    async def _close_port(self, sockets: Sequence[socket.socket]) -> None:
        """Nobody connects any more; who has connected may still ask.

        A balancer that looks at no readiness has sent requests until now. One that cannot connect asks the next pod;
        one that could, and is not answered, does not know whether it may. (Who holds a connection from before is told
        to leave it with each answer of the drain.)
        """
        for listening in sockets:
            _shut_out(listening)
        await asyncio.sleep(_SHAKEN_S)
        accepted = [connection for listening in sockets for connection in _accepted(listening)]
        for server in self.servers:
            server.close()
        for listening in sockets:
            listening.close()
        for connection in accepted:
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
            except (OSError, RuntimeError):  # its other side has gone
                connection.close()
        asking = [one.asked for one in self.server_state.connections if isinstance(one, BoundedProtocol)]
        if asking:
            await asyncio.wait(asking, timeout=_ASK_S)

    def _protocol(self) -> BoundedProtocol:
        return BoundedProtocol(self.config, self.server_state, self.lifespan.state)


def _shut_out(listening: socket.socket) -> None:
    """From now on nobody begins to connect: who tries is not answered, tries again within a second, and is refused by
    then. Closed at once, the port would reset those whose handshake is over and who were not accepted yet. Only Linux
    can; elsewhere it is less likely that there are any, not certain.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(_DROP_SYN)
    fprog = struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
    with suppress(OSError):  # a kernel without it
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _accepted(listening: socket.socket) -> list[socket.socket]:
    """The connections that are there and were not accepted yet."""
    found = []
    while True:
        try:
            found.append(listening.accept()[0])
        except ConnectionAbortedError:  # gone while it waited
            continue
        except OSError:  # BlockingIOError: no more
            return found

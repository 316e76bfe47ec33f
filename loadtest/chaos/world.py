"""Redis, a link to it for each pod, the pods, a model provider and a load balancer; and what is done to them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.harness.haproxy import HAProxy
from tests.harness.pod import Pod
from tests.harness.proxy import ByteProxy
from tests.models.fake_server import serve

from loadtest.chaos.pod import CLOCK, NEW, OLD
from loadtest.chaos.provider import Provider
from loadtest.chaos.schedule import Fault
from loadtest.chaos.topology import TOPOLOGIES, Single

__all__ = ["World"]

_TARGET = "loadtest.chaos.agents:agents"
_ENV = {
    # Short, so that a fault of seconds is one of leases; a pod that is stopped for 4 s has lost everything.
    "AGENTRT_LEASE_MS": "1500",
    "AGENTRT_LOCK_TTL_MS": "1500",
    # So few that runs wait in the queue.
    "AGENTRT_MAX_RUNS": "6",
    # Nobody is given up here: what is left in the end would otherwise depend on how often pods died of it.
    "AGENTRT_ATTEMPTS_MAX": "1000",
    "AGENTRT_LOG_LEVEL": "warning",
    "AGENTRT_DRAIN_S": "1",
    "AGENTRT_DRAIN_RUNS_S": "1",
    "AGENTRT_OPENAI_API_KEY": "none",
}
_LEAVES_S = 30.0
_READY_S = 120.0
_JUMP_S = 60.0
_RAISED_S = 120.0
"""Within this time after the last pod of the old release has gone, the schema is raised."""


class World:
    """Everything that runs, from entering to leaving it. `waiting`: what is acknowledged waits for a replica, where
    there are any. `release`: of which all pods are in the beginning. `guard`: the pods run without it
    (`tests/negative`)."""

    def __init__(
        self, pods: int, topology: str = "single", waiting: bool = True, release: str = NEW, guard: str | None = None
    ) -> None:
        self.redis = TOPOLOGIES[topology]()
        self.folder = Path(tempfile.mkdtemp(prefix="agentrt-chaos-"))
        self.pods: list[Pod] = []
        self.provider = Provider()
        self.urls: list[str] = []
        """Where clients may go: any of them takes any request. The load balancer, if there is one, as often as all pods
        together."""
        self.wrong: list[str] = []
        """Pods that ended of themselves."""
        self._raising = False
        self._counts: Counter[str] = Counter()
        self._links: list[ByteProxy] = []
        self._restarting = [asyncio.Lock() for _ in range(pods)]
        self._env = {**_ENV, "AGENTRT_WAIT_TURNS": "on"}
        self._env["AGENTRT_WAIT_REPLICAS"] = str(self.redis.replicas if waiting else 0)
        self._env["AGENTRT_DEMO_DB"] = str(self.sink)
        self._first_release = release
        self._guard = guard or "-"
        self._left = AsyncExitStack()

    @property
    def sink(self) -> Path:
        """What really happened."""
        return self.folder / "world.db"

    @property
    def counts(self) -> Counter[str]:
        """What happened to it, beside the faults of the schedule."""
        return self._counts + self.redis.counts + self.provider.counts

    async def __aenter__(self) -> World:
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            await asyncio.to_thread(stack.enter_context, self.redis)
            await stack.enter_async_context(serve(lambda: self.provider))
            self._env["AGENTRT_OPENAI_BASE_URL"] = f"{self.provider.url}/v1"
            for number in range(len(self._restarting)):
                url = await self._linked(stack)
                self._clock(number).write_bytes(CLOCK.pack(0.0))
                self._release(number).write_text(self._first_release)
                files = str(self._clock(number)), str(self._release(number))
                entry = ("-m", "loadtest.chaos.pod", *files, self._guard)
                pod = Pod(url, target=_TARGET, name=f"chaos-{number}", env=self._env, entry=entry)
                stack.callback(pod.stop)
                self.pods.append(pod.start(wait=False))
            await self.wait_ready()
            self.urls = [pod.url for pod in self.pods]
            if shutil.which("haproxy"):
                balancer = await asyncio.to_thread(stack.enter_context, HAProxy(self.pods))
                self.urls += [balancer.url] * len(self.pods)
            self._left = stack.pop_all()
        return self

    def keep_logs(self, folder: Path) -> None:
        """Copy what the pods have logged so far."""
        folder.mkdir(parents=True, exist_ok=True)
        for pod in self.pods:
            shutil.copy(pod.log, folder / f"{pod.name}.log")

    async def __aexit__(self, *_: object) -> None:
        for pod in self.pods:  # all has been looked at: nobody need wait for them to drain
            pod.kill()
        await self._left.aclose()

    async def _linked(self, stack: AsyncExitStack) -> str:
        """The URL for one pod. Sentinels and Clusters tell where servers are, so nothing can stand before those."""
        if not isinstance(self.redis, Single):
            return self.redis.url
        link = await stack.enter_async_context(ByteProxy(self.redis.server.port))
        self._links.append(link)
        return link.url

    def _clock(self, number: int) -> Path:
        return self.folder / f"clock-{number}"

    def _release(self, number: int) -> Path:
        return self.folder / f"release-{number}"

    async def wait_ready(self) -> None:
        """Until every pod is ready; the links go on meanwhile."""
        await asyncio.gather(*(asyncio.to_thread(pod.wait_ready, _READY_S) for pod in self.pods))

    async def inject(self, fault: Fault) -> None:
        """Do it, and make it good again after its time."""
        number = fault.target % len(self.pods)
        match fault.kind:
            case "kill" | "stop" | "rolling" | "clock" | "release":
                await self._to_pods(fault, number)
            case "half_open" | "lost_reply" | "slow_link":
                await self._to_link(fault, self._links[number])
            case "rate_limit" | "overloaded" | "cut_stream":
                self.provider.day = fault.kind
                await asyncio.sleep(fault.for_s)
                self.provider.day = ""
            case _:
                await self.redis.inject(fault)

    async def _to_pods(self, fault: Fault, number: int) -> None:
        pod = self.pods[number]
        match fault.kind:
            case "kill":
                async with self._restarting[number]:
                    self._look(pod)
                    await asyncio.to_thread(pod.kill)
                    pod.start(wait=False)
            case "stop":
                pod.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.for_s)
                pod.signal(signal.SIGCONT)
            case "clock":
                clock = self._clock(number)
                (ahead_s,) = CLOCK.unpack(clock.read_bytes())
                with clock.open("r+b") as file:  # in place: the pod has it mapped
                    file.write(CLOCK.pack(0.0 if ahead_s else _JUMP_S * (1 if fault.at_s % 1 < 0.5 else -1)))
            case "rolling":
                for other in range(len(self.pods)):
                    await self._restart(other)
            case "release" if not self._raising:
                other_release = NEW if self._release(number).read_text() == OLD else OLD
                self._release(number).write_text(other_release)
                await self._restart(number)
                self._counts[f"pods of the {other_release} release"] += 1

    async def raise_schema(self) -> None:
        """As an operator does it: every pod of this release, then `agentrt schema bump`, again while it is refused."""
        self._raising = True
        for number in range(len(self.pods)):
            if self._release(number).read_text() == OLD:
                self._release(number).write_text(NEW)
                await self._restart(number)
        command = [sys.executable, "-m", "agentrt.cli", "schema", "bump"]
        env = {**os.environ, "AGENTRT_REDIS_URL": self.redis.url}
        deadline = time.monotonic() + _RAISED_S
        while True:
            done = await asyncio.to_thread(
                subprocess.run, command, env=env, capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                self._counts["schema raised"] += 1
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the schema could not be raised: {done.stdout}{done.stderr}")
            await asyncio.sleep(1)

    async def _restart(self, number: int) -> None:
        """As a rolling restart does it: the next one only when this one is ready."""
        pod = self.pods[number]
        async with self._restarting[number]:
            self._look(pod)
            graceful = await asyncio.to_thread(pod.leave, _LEAVES_S)
            self._counts["drained" if graceful else "did not end by itself when told to"] += 1
            pod.start(wait=False)
        await self.until(pod.ready, _LEAVES_S)  # or it was killed meanwhile, and is on its way

    async def _to_link(self, fault: Fault, link: ByteProxy) -> None:
        match fault.kind:
            case "half_open":
                link.blackhole = True
                await asyncio.sleep(fault.for_s)
                await self._break(link)
            case "slow_link":
                link.delay_s = 0.15
                await asyncio.sleep(fault.for_s)
                link.delay_s = 0.0
            case _:
                await self._lose_reply(link)

    @staticmethod
    async def _break(link: ByteProxy) -> None:
        """End every connection before bytes pass again: one that lost some in its middle is nothing that TCP does."""
        while link.open:
            link.cut()
            await asyncio.sleep(0)
        link.blackhole = False

    async def _lose_reply(self, link: ByteProxy) -> None:
        """The next reply that is more than a word of a probe is lost with its connection."""
        lost = asyncio.Event()

        def lose(data: bytes) -> bytes | None:
            if lost.is_set() or data in {b"+OK\r\n", b"+PONG\r\n"}:
                return data
            lost.set()
            return None

        link.on_reply = lose
        try:
            await asyncio.wait_for(lost.wait(), 5)
            self._counts["replies that were lost"] += 1
        except TimeoutError:
            pass  # its pod was away all the time
        finally:
            link.on_reply = lambda data: data

    def _look(self, pod: Pod) -> None:
        """Before it is ended: has it done so by itself?"""
        if not pod.alive:
            self.wrong.append(f"{pod.name} ended of itself: {pod.log.read_text()[-1000:]}")

    def look(self) -> None:
        """Has any pod ended by itself?"""
        for pod in self.pods:
            self._look(pod)

    async def until(self, condition: Callable[[], bool], bound_s: float) -> bool:
        """Whether `condition` holds within the bound; asked in a thread."""
        deadline = time.monotonic() + bound_s
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
        return True

"""Redis, a link to it for each pod, and the pods: as processes, and what is done to them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.harness.pod import Pod
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer

from loadtest.chaos.schedule import Fault

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
}


class World:
    """Everything that runs, from entering to leaving it. `guard`: the pods run without it (`tests/negative`)."""

    def __init__(self, pods: int, guard: str | None = None) -> None:
        self.redis = RedisServer()
        self.folder = Path(tempfile.mkdtemp(prefix="agentrt-chaos-"))
        self.pods: list[Pod] = []
        self._links: list[ByteProxy] = []
        self._number = pods
        self._entry = ("-m", "tests.negative.pod_without", guard) if guard else ("-m", "agentrt.cli")
        self._left = AsyncExitStack()

    @property
    def sink(self) -> Path:
        """What really happened."""
        return self.folder / "world.db"

    async def __aenter__(self) -> World:
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.enter_context(self.redis)
            for number in range(self._number):
                link = await stack.enter_async_context(ByteProxy(self.redis.port))
                env = {**_ENV, "AGENTRT_DEMO_DB": str(self.sink)}
                pod = Pod(link.url, target=_TARGET, name=f"chaos-{number}", env=env, entry=self._entry)
                stack.callback(pod.stop)
                self._links.append(link)
                self.pods.append(pod.start(wait=False))
            await self.wait_ready()
            self._left = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        for pod in self.pods:  # all has been looked at: nobody need wait for them to drain
            pod.kill()
        await self._left.aclose()

    async def wait_ready(self) -> None:
        """Until every pod is ready; the links go on meanwhile."""
        await asyncio.gather(*(asyncio.to_thread(pod.wait_ready, 40) for pod in self.pods))

    async def inject(self, fault: Fault) -> None:
        """Do it, and make it good again after its time."""
        pod, link = self.pods[fault.pod], self._links[fault.pod]
        match fault.kind:
            case "kill":
                await asyncio.to_thread(pod.kill)
                pod.start(wait=False)
            case "stop":
                pod.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.for_s)
                pod.signal(signal.SIGCONT)
            case "freeze":
                self.redis.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.for_s)
                finally:
                    self.redis.signal(signal.SIGCONT)
            case "half_open":
                link.blackhole = True
                await asyncio.sleep(fault.for_s)
                await self._break(link)
            case "lost_reply":
                await self._lose_reply(link)
            case unknown:
                raise ValueError(unknown)

    @staticmethod
    async def _break(link: ByteProxy) -> None:
        """End every connection before bytes pass again: one that lost some in its middle is nothing that TCP does."""
        while link.open:
            link.cut()
            await asyncio.sleep(0)
        link.blackhole = False

    @staticmethod
    async def _lose_reply(link: ByteProxy) -> None:
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
        except TimeoutError:
            pass  # its pod was away all the time
        finally:
            link.on_reply = lambda data: data

    def ended(self) -> list[str]:
        """The pods that died of themselves."""
        return [pod.name for pod in self.pods if not pod.alive]

    async def until(self, condition: object, bound_s: float) -> bool:
        """Whether `condition`, a function of nothing, holds within the bound; asked in a thread."""
        deadline = time.monotonic() + bound_s
        while not await asyncio.to_thread(condition):  # type: ignore[arg-type]
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True

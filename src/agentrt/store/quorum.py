"""Named locks on N independent Redis: held is what a majority of the configured N says is held. No line, no fairness.

An attempt asks all nodes at once and has a token of its own, so that the late release of an earlier one frees nothing.
The fence is the highest of the majority, written back to a majority before the lock counts as held: the next majority
shares a node with it, and that node mints a higher one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Sequence

from agentrt.errors import LockTimeout, StoreError, StoreUnavailable
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import LockKeys
from agentrt.store.tenure import LockConfig, Tenure
from agentrt.tasks import Errands

__all__ = ["NODE_S", "Quorum"]

log = logging.getLogger("agentrt.locks")

NODE_S = 0.1
"""Longest wait for one node: one that does not answer must not use up the time that the others granted."""
_RELEASE_S = 1.0
"""A release may take longer, nobody waits for the slow ones."""
_BACKOFF_MS_MIN = 10.0
_BACKOFF_MS_MAX = 200.0

Answers = list[list[bytes]]


class Quorum:
    """Takes locks on a majority. `nodes` is all that are configured, whether they are there or not."""

    def __init__(self, nodes: Sequence[Redis], config: LockConfig, errands: Errands) -> None:
        if len(nodes) % 2 == 0:
            raise ValueError(f"a majority wants an odd number of nodes, not {len(nodes)}")
        self._nodes = nodes
        self._config = config
        self._errands = errands
        self._majority = len(nodes) // 2 + 1
        self._scripts = nodes[0].scripts
        self._attempts = itertools.count()

    async def take(self, lock: LockKeys, token: str, wait_s: float) -> Tenure:
        """See `Taker`. Between attempts a random while passes, so that rivals do not split the nodes for ever."""
        clock_ms = self._config.clock_ms
        give_up_ms = clock_ms() + wait_s * 1000
        backoff_ms = _BACKOFF_MS_MIN
        while True:
            tenure, answered = await self._attempt(lock, f"{token}.{next(self._attempts)}")
            if tenure is not None:
                return tenure
            left_ms = give_up_ms - clock_ms()
            if left_ms <= 0:
                break
            backoff_ms = min(backoff_ms * 2, _BACKOFF_MS_MAX)
            await asyncio.sleep(min(left_ms, random.uniform(_BACKOFF_MS_MIN / 2, backoff_ms)) / 1000)
        if answered < self._majority:
            raise StoreUnavailable(f"{answered} of {len(self._nodes)} lock nodes answer, {self._majority} are needed")
        raise LockTimeout("the lock was not free in time")

    async def _attempt(self, lock: LockKeys, token: str) -> tuple[Tenure | None, int]:
        """One try, and how many nodes answered it. What was not had is given back."""
        config = self._config
        acquire = Unit(lock.tag).call(
            self._scripts["lock_acquire"],
            (lock.hash,),
            token=token,
            pod=config.pod,
            lock_ms=config.lock_ms,
            line_max=0,
            ttl=config.ttl_s,
        )
        asked_ms = config.clock_ms()
        try:
            answers = await self._ask(acquire, lambda got: self._settled(got, b"held"))
            fences = [int(answer[1]) for answer in answers if answer[0] == b"held"]
            if len(fences) >= self._majority and await self._write_back(lock, token, max(fences)):
                deadline_ms = config.deadline_ms(asked_ms)
                if config.clock_ms() < deadline_ms - config.margin_ms:
                    return Tenure(token, max(fences), deadline_ms), len(answers)
        except BaseException:
            self._give_back(lock, token)
            raise
        await self.release(lock, token)
        return None, len(answers)

    async def _write_back(self, lock: LockKeys, token: str, fence: int) -> bool:
        """Whether a majority knows the fence from here on."""
        unit = Unit(lock.tag).call(self._scripts["lock_raise"], (lock.hash,), token=token, fence=fence)
        answers = await self._ask(unit, lambda got: self._settled(got, b"ok"))
        return self._count(answers, b"ok") >= self._majority

    async def renew(self, lock: LockKeys, token: str) -> float | None:
        """See `Taker`. A majority must say so, either way."""
        config = self._config
        unit = Unit(lock.tag).call(
            self._scripts["lock_renew"], (lock.hash,), token=token, lock_ms=config.lock_ms, ttl=config.ttl_s
        )
        asked_ms = config.clock_ms()
        answers = await self._ask(
            unit, lambda got: max(self._count(got, b"held"), self._count(got, b"lost")) >= self._majority
        )
        if self._count(answers, b"held") >= self._majority:
            return config.deadline_ms(asked_ms)
        if self._count(answers, b"lost") >= self._majority:
            return None
        raise StoreUnavailable(f"no majority of the {len(self._nodes)} lock nodes says whose the lock is")

    async def release(self, lock: LockKeys, token: str) -> None:
        """See `Taker`. All nodes are told; returns when a majority has heard, or after `NODE_S`."""
        telling = self._give_back(lock, token)
        heard: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        until = loop.time() + NODE_S
        while len(heard) < self._majority and loop.time() < until:
            done, _ = await asyncio.wait(
                telling - heard, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
            heard |= done

    def _give_back(self, lock: LockKeys, token: str) -> set[asyncio.Task[None]]:
        unit = Unit(lock.tag).call(self._scripts["lock_release"], (lock.hash,), token=token, ttl=self._config.ttl_s)
        return {self._errands.start(self._tell(node, unit)) for node in self._nodes}

    @staticmethod
    async def _tell(node: Redis, unit: Unit) -> None:
        try:
            async with asyncio.timeout(_RELEASE_S):
                await node.execute(unit)
        except (StoreError, TimeoutError) as error:
            log.info("a lock was not given back on one node, it runs out there: %s", error)

    async def _ask(self, unit: Unit, settled: Callable[[Answers], bool]) -> Answers:
        """Ask all nodes at once; their answers as soon as these settle it, without those that did not answer.

        The rest is cancelled. What was sent of it is executed before anything that is sent later.
        """
        loop = asyncio.get_running_loop()
        asking = {loop.create_task(self._one(node, unit)) for node in self._nodes}
        waiting = asking
        answers: Answers = []
        try:
            while waiting and not settled(answers):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                answers += [answer for task in done if (answer := task.result()) is not None]
        finally:
            for task in asking:
                task.cancel()
        return answers

    @staticmethod
    async def _one(node: Redis, unit: Unit) -> list[bytes] | None:
        try:
            async with asyncio.timeout(NODE_S):
                answer: list[bytes] = (await node.execute(unit))[0]
                return answer
        except (StoreError, TimeoutError) as error:
            log.debug("a lock node does not answer: %s", error)
            return None

    def _settled(self, answers: Answers, wanted: bytes) -> bool:
        """Whether a majority wants it, or can no more."""
        granted = self._count(answers, wanted)
        return granted >= self._majority or len(answers) - granted > len(self._nodes) - self._majority

    @staticmethod
    def _count(answers: Answers, word: bytes) -> int:
        return sum(answer[0] == word for answer in answers)

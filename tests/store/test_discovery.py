"""Which server is the master, where Sentinels are asked."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from agentrt.errors import StoreUnavailable
from agentrt.store.connection import RedisOptions
from agentrt.store.discovery import find
from agentrt.store.probe import Probe
from tests.harness.redis_server import RedisServer
from tests.harness.runs import wait_until
from tests.harness.sentinels import MASTER, Sentinel, Watched

HOUR_MS = 3_600_000


@pytest.fixture
def disagreeing() -> Iterator[tuple[list[Sentinel], RedisServer]]:
    """Three Sentinels, two of which have not heard of a fail-over: the old master is back, and they name it. And the
    new one.
    """
    with ExitStack() as stack:
        old, new = (stack.enter_context(RedisServer()) for _ in range(2))
        stale = [stack.enter_context(Sentinel(old.port, 2, HOUR_MS, epoch=1)) for _ in range(2)]
        sentinels = [*stale, stack.enter_context(Sentinel(new.port, 2, HOUR_MS, epoch=2))]
        for sentinel in sentinels:
            with sentinel.client() as client:
                wait_until(lambda client=client: bool(client.sentinel_masters()), 10, "a Sentinel")  # type: ignore[misc]
        yield sentinels, new


def options(sentinels: list[Sentinel], master: str = MASTER) -> RedisOptions:
    places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    return RedisOptions(f"redis+sentinel://{places}/{master}/0")


async def test_the_newest_configuration_counts(disagreeing: tuple[list[Sentinel], RedisServer]) -> None:
    """Whichever answers first, and however many are of another opinion."""
    sentinels, new = disagreeing
    for _ in range(10):
        found = await find(options(sentinels), b"x")
        assert (found.host, found.port) == ("127.0.0.1", new.port)  # type: ignore[attr-defined]


async def test_a_master_that_is_down_is_no_reason_for_the_one_before(
    disagreeing: tuple[list[Sentinel], RedisServer],
) -> None:
    sentinels, new = disagreeing
    with sentinels[-1].client() as client:
        client.execute_command("SENTINEL", "SET", MASTER, "down-after-milliseconds", "100")
        new.kill()
        wait_until(lambda: client.sentinel_masters()[MASTER]["is_sdown"], 10, "its being noticed")
    with pytest.raises(StoreUnavailable, match="name no master"):
        await find(options(sentinels), b"x")


async def test_who_does_not_answer_is_done_without(disagreeing: tuple[list[Sentinel], RedisServer]) -> None:
    sentinels, new = disagreeing
    frozen = sentinels[0]._process
    assert frozen is not None
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        assert (await find(options(sentinels), b"x")).port == new.port  # type: ignore[attr-defined]
        probe = Probe(options(sentinels), "pod")
        assert await probe.ask(0.5) is None, "what is waited for the silent one is not the master's time"
        await probe.aclose()
        with pytest.raises(StoreUnavailable, match="name no master"):
            await find(options(sentinels[:1]), b"x")
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    with pytest.raises(StoreUnavailable, match="name no master 'other'"):
        await find(options(sentinels, "other"), b"x")


@pytest.mark.timeout(120)
async def test_the_old_master_is_named_no_more_when_it_is_back() -> None:
    """Back, and empty, as soon as most Sentinels name another one: until they have told it so, it is a master too."""
    with Watched(replicas=2) as watched:
        old = watched.master
        old.kill()
        wait_until(lambda: watched.named() not in {None, old.port}, 60, "a fail-over")
        old.start()
        asked = options(watched.sentinels)
        with old.client() as client:
            while client.role()[0] == b"master":
                with suppress(StoreUnavailable):
                    assert (await find(asked, b"x")).port != old.port  # type: ignore[attr-defined]

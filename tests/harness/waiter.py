"""A process that waits for a named lock, to be killed: `python -m tests.harness.waiter URL TENANT NAME TOKEN`."""

from __future__ import annotations

import asyncio
import sys

from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.locks import LockConfig, open_locks
from agentrt.store.notices import Notices
from agentrt.telemetry import Telemetry


async def wait(url: str, tenant: str, name: str, token: str) -> None:
    """Wait, hold, and never give back."""
    options = RedisOptions(url)
    redis = Redis(options)
    await redis.start()
    notices = Notices(redis, options, "pod-doomed")
    notices.start()
    locks = await open_locks((), redis, notices, LockConfig("pod-doomed"), Telemetry())
    await locks.acquire(tenant, name, token, 600)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(wait(*sys.argv[1:]))

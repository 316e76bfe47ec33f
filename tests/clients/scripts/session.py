"""What the scripted clients share. Runs in the client's own environment: nothing but the standard library."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

URL = os.environ.get("CLIENTS_URL", "")
"""The base URL of both pods; the kernel chooses one for each connection."""
SLOW = "tell me something that takes a while " * 4

Step = Callable[[], Awaitable[None]]


def kill_a_pod(name: str = "") -> None:
    """Have one of the two pods killed, that of this name or any, with SIGKILL, and return when it is dead."""
    print(f"kill {name}", flush=True)
    assert sys.stdin.readline().strip() == "killed"


def both_serve() -> None:
    """Return when both pods serve: the one that was killed takes a while to be back."""
    print("wait", flush=True)
    assert sys.stdin.readline().strip() == "serving"


@contextmanager
def step(name: str) -> Iterator[None]:
    """Report a step; one that fails does not keep the others from being tried."""
    try:
        yield
    except Exception:  # noqa: BLE001 - any is a failed step
        traceback.print_exc()
        print(f"failed {name}", flush=True)
    else:
        print(f"ok {name}", flush=True)


async def under_a_kill(ask: Callable[[int], Awaitable[str]]) -> None:
    """Eight requests at once, and a pod killed while they are answered: all must be answered all the same."""
    asked = [asyncio.ensure_future(ask(number)) for number in range(8)]
    await asyncio.sleep(0.6)
    kill_a_pod()
    for answer in await asyncio.gather(*asked):
        assert answer.startswith("echo: tell me something"), answer

"""A pod that kills itself at its Nth step: `KILL_AT=N python -m tests.harness.pod_that_dies serve ...`.

`KILL_AT` may also name the step in words (`written plan`), and `KILL_BY` another signal: SIGSTOP lets it sleep until
somebody wakes it.

A step is what a turn does with the world outside of its process, before and after: a unit for Redis (handed over,
written, answered), a call of the model, an effect. They are counted from the first message on; what goes on beside a
turn, renewals and probes, is not. Each step is written to the file `KILL_LOG` before it is taken.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator
from typing import Any

from agentrt.cli import main
from agentrt.models.base import ModelEvent, ModelRequest
from agentrt.models.scripted import ScriptedModel
from agentrt.runtime.admission import Admission
from agentrt.store.multiplexer import Multiplexer
from agentrt.store.scripts import load_all
from tests.harness import agents

KILL_AT = os.environ["KILL_AT"]
KILL_BY = signal.Signals[os.environ.get("KILL_BY", "SIGKILL")]
NAMES = {script.sha.encode(): name for name, script in load_all().items()}
BESIDE = {"renew", "watch", "follow", "take", "job_take", "pod_seen"}


class Steps:
    """The count, from the first message on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.armed = False

    def take(self, name: str) -> None:
        """Take one step, or die before it."""
        with self._lock:
            if not self.armed:
                return
            self._count += 1
            with open(os.environ["KILL_LOG"], "a", encoding="utf-8") as log:
                log.write(f"{self._count} {name}\n")
            if str(self._count) == KILL_AT or set(KILL_AT.split()) <= set(name.split()):
                os.kill(os.getpid(), KILL_BY)


STEPS = Steps()
step = STEPS.take


def unit_name(data: bytes) -> str | None:
    """The scripts of a unit, or its first command; None for what goes on beside a turn."""
    found = [name for sha, name in NAMES.items() if sha in data]
    if set(found) & BESIDE or b"PUBSUB" in data or b"SCRIPT" in data:
        return None
    return "+".join(found) or data.split(b"\r\n")[2].decode()


def watch_redis() -> None:
    submit, flush = Multiplexer.submit, Multiplexer._flush
    leaving: list[str] = []

    def submitting(self: Multiplexer, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        name = unit_name(data)
        if name is None:
            return submit(self, data, count)
        step(f"before {name}")
        future = submit(self, data, count)
        leaving.append(name)
        future.add_done_callback(lambda _: step(f"answered {name}"))
        return future

    def flushing(self: Multiplexer) -> None:
        flush(self)
        if leaving:
            names = " ".join(leaving)
            leaving.clear()
            step(f"written {names}")

    Multiplexer.submit = submitting  # type: ignore[method-assign]
    Multiplexer._flush = flushing  # type: ignore[method-assign]


def watch_the_rest() -> None:
    enter, stream, happen = Admission.enter, ScriptedModel.stream, agents._happen

    async def entering(self: Admission, want: Any) -> Any:
        STEPS.armed = True
        return await enter(self, want)

    async def streaming(self: ScriptedModel, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        step("before the model")
        async for event in stream(self, request):
            yield event
        step("after the model")

    def happening(ctx: Any, args: str) -> int:
        step("before the effect")
        number = happen(ctx, args)
        step("after the effect")
        return number

    Admission.enter = entering  # type: ignore[method-assign]
    ScriptedModel.stream = streaming  # type: ignore[method-assign]
    agents._happen = happening


if __name__ == "__main__":
    watch_redis()
    watch_the_rest()
    main()

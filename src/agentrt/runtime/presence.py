"""This pod among the others: says every 2 s that it lives, and what of it an operator would ask; hears which version of
the schema is written."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from agentrt.errors import StoreError
from agentrt.records import SCHEMA_VERSION
from agentrt.store.schema import Schema, Writes
from agentrt.tasks import end

__all__ = ["Presence"]

log = logging.getLogger("agentrt.presence")

_PERIOD_S = 2.0


class Presence:
    """`state` gives what changes: runs in flight, readiness."""

    def __init__(self, schema: Schema, writes: Writes, pod: str, state: Callable[[], Mapping[str, Any]]) -> None:
        self._schema = schema
        self._writes = writes
        self._pod = pod
        self._state = state
        self._fixed = {"pid": os.getpid(), "started_at": int(time.time())}
        self._heard = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to say so."""
        self._task = asyncio.get_running_loop().create_task(self._tell())

    async def aclose(self) -> None:
        """Say goodbye; whoever cannot is forgotten after 10 s."""
        await end(self._task)
        await self._say(None)

    async def _tell(self) -> None:
        while True:
            await self._say({**self._fixed, **self._state()})
            await asyncio.sleep(_PERIOD_S)

    async def _say(self, told: Mapping[str, Any] | None) -> None:
        try:
            writes = await self._schema.seen(self._pod, told)
        except StoreError as error:
            log.debug("not said that this pod lives: %s", error)
            return
        if writes > SCHEMA_VERSION and writes != self._heard:
            log.error("schema version %d is written by now, which this pod does not know", writes)
        self._heard = writes
        self._writes.version = min(writes, SCHEMA_VERSION)

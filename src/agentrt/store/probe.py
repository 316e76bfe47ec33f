"""The readiness probe: a write and a read on a connection of its own. PING answers even when Redis refuses writes.

On a Cluster it asks the master of the queue, which every message needs; the others answer for their own sessions.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from agentrt.errors import StoreUnavailable
from agentrt.store.address import RedisOptions
from agentrt.store.discovery import find
from agentrt.store.handover import reason_of
from agentrt.store.keys import QueueKeys, probe_key

__all__ = ["Probe"]

log = logging.getLogger("agentrt.probe")


class Probe:
    """Asks Redis whether it serves: writes, reads back, compares."""

    def __init__(self, options: RedisOptions, pod: str) -> None:
        self._options = options
        self._key = probe_key(pod)
        self._connection: AbstractConnection | None = None

    async def ask(self, timeout_s: float) -> str | None:
        """None when Redis serves, else the reason as one word (`timeout`, `readonly`, `oom`, ...)."""
        try:
            if self._connection is None:  # bounded by itself, and not to be counted: a Sentinel may be silent
                self._connection = await find(self._options, QueueKeys().slot)
            async with asyncio.timeout(timeout_s):
                return await self._write_and_read(self._connection)
        except TimeoutError:
            reason = "timeout"
        except StoreUnavailable as error:
            reason = error.reason
        except (RedisError, OSError) as error:
            reason = reason_of(error)
        except Exception:  # the boundary of asking: nobody would ask again
            log.exception("the probe failed")
            reason = "unreachable"
        await self.aclose()
        return reason

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _write_and_read(self, connection: AbstractConnection) -> str | None:
        await connection.connect()  # type: ignore[no-untyped-call]
        value = secrets.token_hex(8).encode()
        await connection.send_packed_command(
            connection.pack_commands([("SET", self._key, value, "EX", 60), ("GET", self._key)])
        )
        await connection.read_response()
        read = await connection.read_response()
        return None if read == value else "wrong_answer"

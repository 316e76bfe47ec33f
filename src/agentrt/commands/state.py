"""The state Redis, opened for one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agentrt.assembly import store_config, tenant_users
from agentrt.errors import StoreUnavailable
from agentrt.settings import Settings
from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.ownership import StoreConfig

__all__ = ["opened"]


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Redis, StoreConfig]]:
    """The connection that the settings name, and what the store's classes are told. Raises `StoreUnavailable`."""
    settings = Settings.from_env()
    redis = Redis(RedisOptions(settings.redis_url, client_name="agentrt-cli"), tenant_users(settings))
    await redis.start()
    try:
        if not redis.connected:
            raise StoreUnavailable("the state Redis is not reachable")
        yield redis, replace(store_config(settings), pod="cli")
    finally:
        await redis.aclose()

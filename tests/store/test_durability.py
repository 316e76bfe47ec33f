"""What a Redis keeps, as it says itself."""

from __future__ import annotations

import pytest

from agentrt.errors import StoreUnavailable
from agentrt.store.durability import judge, read_durability
from tests.harness.redis_server import RedisServer
from tests.store.stage import connected

SOUND = {"aof_enabled": "1", "appendfsync": "always", "maxmemory_policy": "noeviction", "connected_slaves": "1"}


def test_a_sound_one_is_not_warned_of() -> None:
    found = judge([SOUND, SOUND], 1)
    assert (found.aof, found.warnings) == ("always", ())
    assert "survives" in found.keeps


@pytest.mark.parametrize(
    ("changes", "aof", "warning"),
    [
        ({"aof_enabled": "0"}, "off", "appendonly is off"),
        ({"appendfsync": "everysec"}, "everysec", ""),
        ({"appendfsync": "no"}, "no", ""),
        ({"appendfsync": "sometimes"}, "unknown", ""),
        ({"maxmemory_policy": "allkeys-lru"}, "always", "allkeys-lru"),
        ({"connected_slaves": "0"}, "always", "a master has 0"),
    ],
)
def test_the_weakest_master_decides(changes: dict[str, str], aof: str, warning: str) -> None:
    found = judge([SOUND, {**SOUND, **changes}], 1)
    assert found.aof == aof
    assert [warning in text for text in found.warnings] == ([True] if warning else [])


def test_one_that_says_nothing_is_not_known() -> None:
    assert judge([{"aof_enabled": "1"}], 0).aof == "unknown"
    assert judge([], 0).aof == "unknown"


@pytest.mark.parametrize(
    ("args", "aof", "warnings"),
    [
        (("--appendonly", "yes", "--appendfsync", "always"), "always", 0),
        (("--appendonly", "yes"), "everysec", 0),
        (("--maxmemory-policy", "volatile-ttl"), "off", 2),
        (("--appendonly", "yes", "--rename-command", "CONFIG", ""), "unknown", 0),
    ],
)
async def test_a_real_one_is_asked(args: tuple[str, ...], aof: str, warnings: int) -> None:
    with RedisServer(*args) as server:
        async with connected(server.url) as redis:
            found = await read_durability(redis, 0)
            assert (found.aof, len(found.warnings)) == (aof, warnings)
            assert len((await read_durability(redis, 1)).warnings) == warnings + 1
            server.stop()
            with pytest.raises(StoreUnavailable):
                await read_durability(redis, 0)

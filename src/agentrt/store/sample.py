"""A look at some of the keys: which have no TTL though they should, which are big, whose schema is not this one's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agentrt.records import SCHEMA_VERSION
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys
from agentrt.store.slots import slot_of

__all__ = ["BIG_BYTES", "OWNED", "Sample", "take_sample"]

BIG_BYTES = 8 * 1024 * 1024
"""Above it a key makes Redis stand still for others when it is deleted, moved or read whole."""
_PREFIX = b"agentrt:"
OWNED = (
    *(b":leases", b":config", b":ready", b":since", b":tags", b":dead", b":jobs", b":later", b":marks", b":buried"),
    *(b"{access}:keys", b"{access}:quotas", b"{access}:rev", b"{pods}:schema"),
)
"""Keys without a TTL, which somebody deletes: see the schema in `store.keys`."""


@dataclass(slots=True)
class Sample:
    """What was seen of `keys` keys. Names are shown to an operator only: they hold ids, no text of a user."""

    keys: int = 0
    foreign: int = 0
    immortal: list[str] = field(default_factory=list)
    big: list[tuple[str, int]] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)
    """How many sessions of which schema version."""
    tags: Counter[str] = field(default_factory=Counter)

    @property
    def newer(self) -> int:
        """Sessions that this code cannot read."""
        return sum(count for version, count in self.versions.items() if version > SCHEMA_VERSION)

    @property
    def older(self) -> int:
        """Sessions of an older version."""
        return sum(count for version, count in self.versions.items() if version < SCHEMA_VERSION)


async def take_sample(redis: Redis, keys_max: int) -> Sample:
    """Look at `keys_max` keys or somewhat more, all if there are fewer; on a Cluster, of one node. Reads only."""
    slot, sample, cursor = QueueKeys().slot, Sample(), b"0"
    while True:
        cursor, names = (await redis.execute(Unit(slot).command("SCAN", cursor, "COUNT", 500)))[0]
        ours = [name for name in names if name.startswith(_PREFIX)]
        sample.keys += len(names)
        sample.foreign += len(names) - len(ours)
        for name in ours:
            await _look(redis, sample, name)
        if cursor == b"0" or sample.keys >= keys_max:
            return sample


async def _look(redis: Redis, sample: Sample, name: bytes) -> None:
    tag, _, rest = name.partition(b"{")[2].partition(b"}")
    is_header = b"/" in tag and not rest and b"/lock:" not in tag
    unit = Unit(slot_of(name)).command("TTL", name).command("MEMORY", "USAGE", name)
    if is_header:
        unit.command("HGET", name, "v")
    replies: list[Any] = await redis.execute(unit)
    shown = name.decode(errors="replace")
    sample.tags[tag.decode(errors="replace")] += 1
    if replies[0] == -1 and not name.endswith(OWNED):
        sample.immortal.append(shown)
    if (replies[1] or 0) > BIG_BYTES:
        sample.big.append((shown, replies[1]))
    if is_header and replies[2] is not None:
        sample.versions[int(replies[2])] += 1

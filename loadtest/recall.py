"""What recall costs: `python -m loadtest.recall`. A real Redis, and one pod's own code against it.

100,000 turns over 1,000 users, beside them one user with 2,000 and one with 20,000. A measurement is what a turn does:
read the head of the user with what is new in the same round trip, then search the decoded index, hybrid. The embedder
is a hash: it costs nothing, and the search does not care where numbers come from.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy
from tests.harness.redis_server import RedisServer

from agentrt.memory.turns import Memory
from agentrt.runtime.recollections import Recollections
from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.keys import UserKeys
from agentrt.store.ownership import StoreConfig
from agentrt.store.users import Turn, Users

SIZE = 384
_WORDS = [hashlib.sha256(str(n).encode()).hexdigest()[:7] for n in range(4000)]
_QUESTIONS = 400


class _Hashed:
    """Vectors out of a hash."""

    name = "hash"

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        return [_vector(text).tolist() for text in texts]


def _vector(text: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    found = numpy.random.default_rng(seed).standard_normal(SIZE).astype(numpy.float32)
    return found / numpy.linalg.norm(found)


def _sentence(chance: random.Random) -> str:
    """Words as common as words are: the n-th with a frequency of 1/n."""
    return " ".join(_WORDS[int(4000 ** chance.random()) - 1] for _ in range(14))


async def _fill(users: Users, user: UserKeys, count: int, chance: random.Random, *, embedded: bool) -> None:
    texts = [_sentence(chance) for _ in range(count)]
    turns = [
        Turn(f"m{n}", Memory.of(f"m{n}", f"s{n // 40}", "user", n, text, 0).encode()) for n, text in enumerate(texts)
    ]
    await users.remember(user, "", turns)
    if embedded:
        gen = (await users.head(user)).gen
        for start in range(0, count, 500):
            page = texts[start : start + 500]
            vectors = {start + 1 + n: _vector(text).astype(numpy.float16).tobytes() for n, text in enumerate(page)}
            await users.embed(user, gen, vectors)


async def _measure(
    users: Users, user: UserKeys, chance: random.Random, *, hybrid: bool
) -> tuple[list[float], float, float]:
    """Seconds of each question, sorted; of the first, cold one; and of CPU for each."""
    recollections, embedder = Recollections(users), _Hashed() if hybrid else None
    begun = time.perf_counter()
    await recollections.search(await users.head(user), _sentence(chance), 12, embedder)
    cold_s = time.perf_counter() - begun
    taken, cpu = [], time.process_time()
    for _ in range(_QUESTIONS):
        question = " ".join(_sentence(chance).split()[:7])
        known = recollections._shelves[f"{user.tenant}/{user.user}"].index.upto
        begun = time.perf_counter()
        await recollections.search(await users.head(user, known), question, 12, embedder)
        taken.append(time.perf_counter() - begun)
    return sorted(taken), cold_s, (time.process_time() - cpu) / _QUESTIONS


async def main() -> None:
    """Fill, measure, print."""
    chance = random.Random(1)
    with RedisServer() as server:
        redis = Redis(RedisOptions(server.url, reply_timeout_s=30))
        await redis.start()
        users = Users(redis, StoreConfig("bench"), 86_400)
        with server.client() as client:
            for number in range(1000):
                await _fill(users, UserKeys("bench", f"u{number}"), 78, chance, embedded=False)
            before = client.info("memory")["used_memory"]
            await _fill(users, UserKeys("bench", "two"), 2_000, chance, embedded=True)
            each = (client.info("memory")["used_memory"] - before) / 2_000
            await _fill(users, UserKeys("bench", "twenty"), 20_000, chance, embedded=True)
        print(f"a turn of 14 words with its embedding: {each:.0f} bytes of Redis")
        for name in ("two", "twenty"):
            for hybrid in (False, True):
                taken, cold_s, cpu_s = await _measure(users, UserKeys("bench", name), chance, hybrid=hybrid)
                half, most = taken[len(taken) // 2] * 1000, taken[int(len(taken) * 0.99)] * 1000
                kind = "hybrid " if hybrid else "lexical"
                p50, p99 = f"p50 {half:.2f} ms", f"p99 {most:.2f} ms"
                print(f"{name:7} {kind} {p50}, {p99}, CPU {cpu_s * 1000:.2f} ms, cold {cold_s * 1000:.0f} ms")
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())

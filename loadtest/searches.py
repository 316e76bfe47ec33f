"""What a search costs: a real Redis, and one pod's own code against it. A part of `loadtest.recall`.

100,000 turns over 1,000 users, beside them one user with 2,000 and one with 20,000. A measurement is what a turn does:
read the head of the user with what is new in the same round trip, then search the decoded index, hybrid. The embedder
knows its questions before: it costs nothing, and the search does not care where numbers come from.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from agentrt.memory.turns import Memory
from agentrt.runtime.recollections import Recollections
from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.keys import UserKeys
from agentrt.store.ownership import StoreConfig
from agentrt.store.users import Turn, Users

__all__ = ["Figures", "fill", "measure", "product_s", "sentence"]

SIZE = 384
_LETTERS = str.maketrans("0123456789", "ghijklmnop")
_WORDS = [hashlib.sha256(str(n).encode()).hexdigest()[:7].translate(_LETTERS) for n in range(4000)]
_QUESTIONS = 400


class _Prepared:
    """Vectors out of a hash, made before anybody asks."""

    name = "hash"

    def __init__(self, texts: Sequence[str]) -> None:
        self._vectors = {text: _vector(text).tolist() for text in texts}

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        return [self._vectors[text] for text in texts]


def _vector(text: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    found = numpy.random.default_rng(seed).standard_normal(SIZE).astype(numpy.float32)
    return found / numpy.linalg.norm(found)


def sentence(chance: random.Random) -> str:
    """Words as common as words are: the n-th with a frequency of 1/n."""
    return " ".join(_WORDS[int(4000 ** chance.random()) - 1] for _ in range(14))


async def fill(users: Users, user: UserKeys, count: int, chance: random.Random, *, embedded: bool) -> None:
    texts = [sentence(chance) for _ in range(count)]
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
    first, *questions = (" ".join(sentence(chance).split()[:7]) for _ in range(_QUESTIONS + 1))
    recollections, embedder = Recollections(users), _Prepared([first, *questions]) if hybrid else None
    begun = time.perf_counter()
    await recollections.search(await users.head(user), first, 12, embedder)
    cold_s = time.perf_counter() - begun
    taken, cpu = [], time.process_time()
    for question in questions:
        known = recollections._shelves[f"{user.tenant}/{user.user}"].index.upto
        begun = time.perf_counter()
        await recollections.search(await users.head(user, known), question, 12, embedder)
        taken.append(time.perf_counter() - begun)
    return sorted(taken), cold_s, (time.process_time() - cpu) / _QUESTIONS


def product_s(turns: int) -> float:
    """Seconds that numpy takes for nothing but the cosines of so many turns, the best of many: what this machine is."""
    matrix = numpy.random.default_rng(1).standard_normal((turns, SIZE)).astype(numpy.float32)
    taken = []
    for _ in range(50):
        begun = time.perf_counter()
        numpy.vecdot(matrix, matrix[0])
        taken.append(time.perf_counter() - begun)
    return min(taken)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one kind of search over one user's turns; seconds. `cold_s`: the first one, which reads all of them."""

    turns: int
    kind: str
    p50_s: float
    p99_s: float
    cpu_s: float
    cold_s: float


async def measure(redis_url: str, client: Any, rounds: int) -> tuple[list[Figures], float]:
    """The figures, the best of the rounds each, and the bytes of Redis for a turn with its embedding."""
    chance, found = random.Random(1), list[Figures]()
    redis = Redis(RedisOptions(redis_url, reply_timeout_s=30))
    await redis.start()
    users = Users(redis, StoreConfig("bench"), 86_400)
    for number in range(1000):
        await fill(users, UserKeys("bench", f"u{number}"), 78, chance, embedded=False)
    before = client.info("memory")["used_memory"]
    await fill(users, UserKeys("bench", "two"), 2_000, chance, embedded=True)
    each = (client.info("memory")["used_memory"] - before) / 2_000
    await fill(users, UserKeys("bench", "twenty"), 20_000, chance, embedded=True)
    for name, turns in (("two", 2_000), ("twenty", 20_000)):
        user = UserKeys("bench", name)
        for hybrid in (False, True):
            each_round = [await _measure(users, user, chance, hybrid=hybrid) for _ in range(rounds)]
            p50_s, p99_s = (min(taken[int(len(taken) * part)] for taken, _, _ in each_round) for part in (0.5, 0.99))
            cold_s, cpu_s = min(cold for _, cold, _ in each_round), min(cpu for _, _, cpu in each_round)
            found.append(Figures(turns, "hybrid" if hybrid else "lexical", p50_s, p99_s, cpu_s, cold_s))
    await redis.aclose()
    return found, each

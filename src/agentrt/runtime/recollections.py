"""What a turn is given of the past: this pod's decoded indexes, and the block that a turn's context gets.

An index is a copy. Every use of it is checked against the generation and the epoch that came with the turn's own first
round trip, and what it lacks came along; so a stale one costs time, never an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import orjson

from agentrt.agent import Agent, Embedder, Memory
from agentrt.errors import DeclarationError, ModelError
from agentrt.memory import block, turns
from agentrt.memory.arrays import load
from agentrt.memory.block import Block, Known, Shares
from agentrt.memory.facts import Fact, shown
from agentrt.memory.index import Hit, Index, nothing
from agentrt.memory.summary import Summary
from agentrt.memory.window import newest
from agentrt.records import Item, parse_item_id
from agentrt.store.conversations import Conversations
from agentrt.store.jobs import Jobs
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.ownership import Owned
from agentrt.store.users import Greeting, Head, Users

__all__ = ["AT_ONCE", "PAGE", "Kept", "Recollections", "each_turn", "numpy"]

log = logging.getLogger("agentrt.recollections")

_TURNS_MAX = 200_000
"""Turns in the indexes of a pod; the users that were not here for the longest time go first."""
_IDLE_S = 600.0
AT_ONCE = 256
"""Turns decoded before others get their turn on the event loop."""
PAGE = 512
"""Turns that are read with one command where all of a user are gone through."""
_EMBED_S = 1.0
"""A question's embedding that takes longer is done without."""
_VECTORS_S = 5.0
_FACTS_FOUND = 16
"""Facts that are looked for beside those of the profile."""


async def each_turn(users: Users, user: UserKeys) -> AsyncIterator[tuple[int, turns.Memory]]:
    """All turns of a user with their numbers, in the order in which they were remembered."""
    last = (await users.head(user)).mseq
    for start in range(1, last + 1, PAGE):
        for count, (number, raw) in enumerate(await users.memories(user, start, min(start + PAGE - 1, last)), 1):
            yield number, turns.Memory.decode(raw)
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)


def numpy() -> Any:
    """The library behind dense search. Raises `DeclarationError` where it is not installed."""
    library = load()
    if library is None:
        raise DeclarationError("an agent has an embedder, which needs numpy: install agentrt[memory]")
    return library


class Kept(Protocol):
    """The parts that know what is kept of users: `Services`, or less."""

    @property
    def users(self) -> Users: ...
    @property
    def conversations(self) -> Conversations: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def recollections(self) -> Recollections: ...


class _Shelf:
    """One user's index on this pod."""

    __slots__ = ("facts", "index", "lock", "looked", "profile", "used")

    def __init__(self, index: Index) -> None:
        self.index = index
        self.lock = asyncio.Lock()
        self.facts: tuple[int, Index, list[Known]] | None = None
        """Those that hold, as of a revision."""
        self.profile: tuple[int, Sequence[Known]] | None = None
        self.looked = 0.0
        self.used = time.monotonic()


class Recollections:
    """Indexes of the users that this pod served lately."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()

    # --- before the turn ------------------------------------------------------------------------------------------

    def greet(self, session: SessionKeys, user: str) -> Greeting:
        """Say that a session of a user goes on, and ask for what this pod does not know yet."""
        keys = UserKeys(session.tenant, user)
        shelf = self._shelves.get(_name(keys))
        return self._users.greet(keys, session.id, shelf.index.upto if shelf else 0)

    def drop(self, name: str) -> None:
        """Forget a user (`tenant/user`) here."""
        self._shelves.pop(name, None)

    @property
    def held(self) -> list[str]:
        """Users (`tenant/user`) whose memories this pod holds a copy of."""
        return list(self._shelves)

    # --- for a turn -----------------------------------------------------------------------------------------------

    async def for_turn(self, agent: Agent, owned: Owned, new: Sequence[Item], now_ms: int, budget: int) -> Block:
        """The block for a run's context of `budget` tokens; empty where there is nothing to remember."""
        memory = agent.memory
        if memory is None:
            return Block()
        head = owned.head
        if owned.user and (head is None or head.user.user != owned.user):
            head = await self.greet(owned.session, owned.user).head()
        summary = Summary.decode(owned.summary) if memory.summary and owned.summary else None
        if head is None and summary is None:
            return Block()
        shares = shares_of(memory, budget // 2)
        question = question_of(new)
        spent = sum(len(item.raw) for item in new) // 4
        kept = newest(owned.window, max(0, budget - spent - sum(shares)))
        start = owned.first - len(kept)

        def seen(turn: turns.Memory) -> bool:
            if turn.session != owned.session.id:
                return False
            number = parse_item_id(turn.item)
            # Of this conversation the summary stands in the block anyway.
            return turn.role == turns.SUMMARY or (number is not None and number[1] >= start)

        return await self.compose(head, memory, shares, question, now_ms, summary, seen)

    async def compose(
        self,
        head: Head | None,
        memory: Memory,
        shares: Shares,
        question: str,
        now_ms: int,
        summary: Summary | None = None,
        seen: Callable[[turns.Memory], bool] = nothing,
    ) -> Block:
        """The block for a question; `seen` are turns that the window shows anyway."""
        profile: list[Known] = []
        hits: Sequence[Hit] = ()
        if head is not None:
            if memory.facts and head.profile:
                profile = list(self._profile(head))
                if head.left and question:
                    there = {one.id for one in profile}
                    profile += [one for one in await self._facts(head, question) if one.id not in there]
            if memory.recall and head.mseq and question:
                hits = await self.search(head, question, memory.recall_hits, memory.embedder, seen)
        return block.compose(
            shares, profile=profile, summary=summary, recalled=lambda: hits, question=question, now_ms=now_ms
        )

    async def search(
        self,
        head: Head,
        question: str,
        k: int,
        embedder: Embedder | None = None,
        seen: Callable[[turns.Memory], bool] = nothing,
    ) -> list[Hit]:
        """The turns of a user that fit a question best."""
        shelf = await self._shelf(head, embedder)
        embedded = embedder is not None and bool(shelf.index.matrix.numbers)
        vector = await self._question_vector(question, embedder) if embedder is not None and embedded else None
        return shelf.index.search(question, k, vector=vector, without=seen)

    def _profile(self, head: Head) -> Sequence[Known]:
        """The facts of the head; kept from turn to turn, with what turns made of them."""
        shelf = self._shelf_of(head)
        if shelf.profile is None or shelf.profile[0] != head.frev:
            shelf.profile = head.frev, [Known(*one) for one in orjson.loads(head.profile)]
        return shelf.profile[1]

    async def _facts(self, head: Head, question: str) -> list[Known]:
        """The facts that fit a question best, also those that the profile has no room for."""
        shelf = self._shelf_of(head)
        if shelf.facts is None or shelf.facts[0] < head.frev:
            _, frev, raw = await self._users.facts(head.user)
            holding = [Fact.decode(identifier, value) for identifier, value in raw.items()]
            known = [Known(*one) for one in shown(holding, lambda _: False, len(holding))]
            index = Index(head.gen, 0)
            for number, one in enumerate(known, 1):
                index.add(number, turns.Memory.of(one.id, one.id, "fact", one.seen, one.words, 0))
            shelf.facts = frev, index, known
        _, index, known = shelf.facts
        return [known[hit.number - 1] for hit in index.search(question, _FACTS_FOUND)]

    # --- the copies -----------------------------------------------------------------------------------------------

    async def _shelf(self, head: Head, embedder: Embedder | None) -> _Shelf:
        """The user's index, as new as `head`."""
        shelf = self._shelf_of(head)
        if shelf.index.upto < head.mseq:
            async with shelf.lock:
                await self._read_on(shelf.index, head)
            self._make_room()
        if embedder is not None:
            await self._read_vectors(shelf, head.user)
        return shelf

    def _shelf_of(self, head: Head) -> _Shelf:
        name = _name(head.user)
        shelf = self._shelves.get(name)
        if shelf is None or (shelf.index.gen, shelf.index.epoch) != (head.gen, head.epoch):
            shelf = self._shelves[name] = _Shelf(Index(head.gen, head.epoch))
        self._shelves.move_to_end(name)
        shelf.used = time.monotonic()
        self._drop_idle()
        return shelf

    async def _read_on(self, index: Index, head: Head) -> None:
        known = index.upto
        if known >= head.mseq:
            return
        news: Sequence[tuple[int, bytes]] = head.news
        if not news or news[0][0] > known + 1 or len(news) < head.mseq - known:
            news = await self._users.memories(head.user, known + 1, head.mseq)
        for count, (number, raw) in enumerate(news):
            if number > index.upto:
                index.add(number, turns.Memory.decode(raw))
            if count % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        index.upto = max(index.upto, head.mseq)

    def _drop_idle(self) -> None:
        """Let go of users that were not here for long, also of those of whom nothing but the profile was read."""
        now = time.monotonic()
        while len(self._shelves) > 1 and now - next(iter(self._shelves.values())).used >= _IDLE_S:
            self._shelves.popitem(last=False)

    def _make_room(self) -> None:
        held = sum(len(shelf.index) for shelf in self._shelves.values())
        while held > _TURNS_MAX and len(self._shelves) > 1:
            _, oldest = self._shelves.popitem(last=False)
            held -= len(oldest.index)

    # --- embeddings -----------------------------------------------------------------------------------------------

    async def _read_vectors(self, shelf: _Shelf, user: UserKeys) -> None:
        known = shelf.index.matrix.numbers
        if len(known) >= len(shelf.index) or time.monotonic() - shelf.looked < _VECTORS_S:
            return
        shelf.looked = time.monotonic()
        missing = [number for number in shelf.index.numbers if number not in known]
        shelf.index.add_vectors(await self._users.vectors(user, missing))

    async def _question_vector(self, question: str, embedder: Embedder) -> Any:
        try:
            async with asyncio.timeout(_EMBED_S):
                (found,) = await embedder.embed([question])
        except (TimeoutError, ModelError) as error:
            log.warning("recall without embeddings: %s", type(error).__name__)
            return None
        library = numpy()
        vector = library.asarray(found, dtype=library.float32)
        return vector / (library.linalg.norm(vector) or 1.0)


def shares_of(memory: Memory, most: int) -> Shares:
    """The budgets of a policy's parts, scaled down where they exceed `most` tokens together."""
    shares = Shares(
        memory.profile_tokens if memory.facts else 0,
        memory.summary_tokens if memory.summary else 0,
        memory.recall_tokens if memory.recall else 0,
    )
    total = sum(shares)
    return shares if total <= most else Shares(*(share * most // total for share in shares))


def question_of(items: Sequence[Item]) -> str:
    """What the user says now."""
    said = [turns.text_of(item) for item in items if item.type == "message" and item.data.get("role") == "user"]
    return "\n".join(said)


def _name(user: UserKeys) -> str:
    return f"{user.tenant}/{user.user}"

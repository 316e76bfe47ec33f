"""Forgetting a fact, or what was said in one item, wherever it stands, whoever works on it at the same time.

The item's id stays in the user's slot as forgotten, so whoever has read it before and would remember it, draw facts
from it or sum it up is refused. What leads to the rest goes last, so that whoever asked can ask again after a pod died
in between, and all of it is done again: an operator finds an item by the user's slot, a client by the session's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentrt.errors import StoreUnavailable, UserGone
from agentrt.memory import facts as ledgers
from agentrt.memory import turns
from agentrt.memory.facts import Fact, drop_item
from agentrt.memory.summary import Summary
from agentrt.records import Item, parse_item_id
from agentrt.runtime.ledger import Ledger, read_facts
from agentrt.runtime.recollections import Kept
from agentrt.store.conversations import Appended
from agentrt.store.keys import SessionKeys, UserKeys

__all__ = ["Busy", "Forgetting", "NoSuchMemory"]

_TRIES = 8


class NoSuchMemory(Exception):
    """Nothing of that id is kept of this user."""


class Busy(Exception):
    """A run of the conversation is under way: nothing was forgotten; ask again when it has ended."""


class Forgetting:
    """Takes out single facts and items."""

    def __init__(self, services: Kept, ledger: Ledger) -> None:
        self._services = services
        self._ledger = ledger

    async def fact(self, user: UserKeys, identifier: str) -> None:
        """Forget one fact, and for recall the turns that said it and what sums those up; a later message may bring it.

        Raises `NoSuchMemory`; for one that is forgotten already, whatever is left of it goes.
        """
        users, items = self._services.users, list[str]()

        def change(facts: dict[str, Fact]) -> list[str]:
            if identifier not in facts:
                raise NoSuchMemory("no fact has this id")
            ledgers.forget(facts[identifier])
            items[:] = sorted(facts[identifier].dropped)
            return [identifier]

        gen = (await users.facts(user))[0]
        if not gen:
            raise NoSuchMemory("no fact has this id")
        await self._ledger.change(user, change, gen=gen)
        places = [await self._place(user, item) for item in items]

        def over(known: list[str]) -> list[str]:
            return [one for session, number in filter(None, places) for one in turns.recaps_of(known, session, number)]

        await self._forget(user, gen, items, over)

    async def _place(self, user: UserKeys, item: str) -> tuple[str, int] | None:
        """Session and number of an item that is remembered; None for one that is not, or came from elsewhere."""
        users, place = self._services.users, parse_item_id(item)
        number = await users.source(user, item)
        found = await users.memories(user, number, number) if number else []
        return (turns.Memory.decode(found[0][1]).session, place[1]) if found and place is not None else None

    async def item(self, user: UserKeys, item: str) -> None:
        """Forget what was said in one item: its memory, what only it supported, and the item with its run.

        Raises `NoSuchMemory` where nothing of it is kept, `Busy`.
        """
        users = self._services.users
        _, _, raw = await users.facts(user)
        known = await users.source(user, item) is not None
        if not known and not any(item in fact.sightings for fact in read_facts(raw).values()):
            raise NoSuchMemory("nothing is kept of an item of this id")
        place = await self._place(user, item)
        if place is None:
            await self._remembered(user, item)
            return
        session, number = place
        try:
            keys = SessionKeys(user.tenant, session)
        except ValueError:  # brought along from elsewhere: no session of ours
            await self._remembered(user, item)
            return
        await self._said(keys, user, item, number)
        await self._remembered(user, item, session, number)

    async def _said(self, keys: SessionKeys, user: UserKeys, item: str, number: int) -> None:
        """The item and its run, where they are in a session of the user's. Raises `Busy`."""
        conversations, place = self._services.conversations, parse_item_id(item)
        header = await conversations.header(keys)
        if place is None or header is None or header.user != user.user:
            return
        stored = await conversations.item(keys, number)
        if header.live_run:
            raise Busy(f"run {header.live_run} of the conversation is under way")
        if stored is not None and stored.id == item:
            outcome = await self._erased(keys, number, stored)
            if outcome.outcome == "busy":
                raise Busy(f"run {outcome.detail} of the conversation is under way")
        await conversations.delete_run(keys, place[0])

    async def stored(self, keys: SessionKeys, user: str, number: int, item: Item) -> Appended:
        """Delete an item of a session, and all that rests on it alone: `ok`, `missing`, or `busy` with the live run.

        `user`: whose session it is, or empty. Raises `StoreUnavailable`.
        """
        header = await self._services.conversations.header(keys)
        if header is not None and header.live_run:
            return Appended("busy", header.live_run)
        if user:
            await self._remembered(UserKeys(keys.tenant, user), item.id, keys.id, number)
        return await self._erased(keys, number, item)

    async def _erased(self, keys: SessionKeys, number: int, item: Item) -> Appended:
        """Delete an item of a session, and what the session's summary says of it."""
        services = self._services
        for _ in range(_TRIES):
            summary = (await services.users.summary(keys)).raw
            rest = Summary.decode(summary).without(number).encode()
            outcome = await services.conversations.erase_item(keys, number, item, summary, rest)
            if outcome.outcome != "moved":
                return outcome
        raise StoreUnavailable(f"session {keys.id}: its summary changed {_TRIES} times meanwhile", "busy")

    async def _remembered(self, user: UserKeys, item: str, session: str = "", number: int = 0) -> None:
        """What the user's slot keeps of an item, and of summaries that rest on it."""

        def over(known: list[str]) -> list[str]:
            ours = [one for one in known if one.startswith(turns.recaps(session))]
            return turns.recaps_over(ours, number) if session else []

        try:
            await self._forget(user, "", [item], over)
            await self._ledger.change(user, lambda facts: drop_item(facts, item))
        except UserGone:  # erased meanwhile, and that with it
            return

    async def _forget(
        self, user: UserKeys, gen: str, items: Sequence[str], over: Callable[[list[str]], list[str]]
    ) -> None:
        """The memories of items, with the summaries that are `over` them. Once more, for a summary that somebody kept
        after it was looked for: afterwards none can be, since the items that it rests on are known as forgotten."""
        users = self._services.users
        for _ in range(2):
            recaps = over(await users.known(user, turns.RECAP))
            await users.forget(user, gen, [*recaps, *items], keep=True)

"""Forgetting a fact, or what was said in one item, wherever it stands, whoever works on it at the same time.

The user's slot goes first: the item's id stays there as forgotten, so whoever has read it before and would remember it,
draw facts from it or sum it up is refused. The session's slot goes last: as long as the item stands there, a client
whose pod died in between can ask again, and all of it is done again.
"""

from __future__ import annotations

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

__all__ = ["Forgetting", "NoSuchMemory"]

_TRIES = 8


class NoSuchMemory(Exception):
    """Nothing of that id is kept of this user."""


class Forgetting:
    """Takes out single facts and items."""

    def __init__(self, services: Kept, ledger: Ledger) -> None:
        self._services = services
        self._ledger = ledger

    async def fact(self, user: UserKeys, identifier: str) -> None:
        """Forget one fact, and the turns that said it, for recall; a later message may say it anew.

        Raises `NoSuchMemory`.
        """
        users, items = self._services.users, list[str]()

        def change(facts: dict[str, Fact]) -> list[str]:
            if identifier not in facts or not facts[identifier].sightings:
                raise NoSuchMemory("no fact has this id")
            items[:] = list(facts[identifier].sightings)
            ledgers.forget(facts[identifier])
            return [identifier]

        gen = (await users.facts(user))[0]
        if not gen:
            raise NoSuchMemory("no fact has this id")
        await self._ledger.change(user, change, gen=gen)
        await users.forget(user, gen, items, keep=True)

    async def item(self, user: UserKeys, item: str) -> None:
        """Forget what was said in one item: its memory, what only it supported, and the item with its run.

        Raises `NoSuchMemory` where nothing of it is kept.
        """
        users = self._services.users
        number = await users.number(user, item)
        _, _, raw = await users.facts(user)
        if number is None and not any(item in fact.sightings for fact in read_facts(raw).values()):
            raise NoSuchMemory("nothing is kept of an item of this id")
        found = await users.memories(user, number, number) if number is not None else []
        session = turns.Memory.decode(found[0][1]).session if found else ""
        try:
            keys = SessionKeys(user.tenant, session)
        except ValueError:  # brought along from elsewhere: no session of ours
            await self._remembered(user, item)
            return
        place, header = parse_item_id(item), await self._services.conversations.header(keys)
        stored = await self._services.conversations.item(keys, place[1]) if place is not None else None
        if place is None or stored is None or stored.id != item or header is None or header.user != user.user:
            await self._remembered(user, item)
            return
        if (await self.stored(keys, user.user, place[1], stored)).outcome == "ok":
            await self._services.conversations.delete_run(keys, place[0])

    async def stored(self, keys: SessionKeys, user: str, number: int, item: Item) -> Appended:
        """Delete an item of a session, and all that rests on it alone: `ok`, `missing`, or `busy` with the live run.

        `user`: whose session it is, or empty. Raises `StoreUnavailable`.
        """
        services = self._services
        if user:
            await self._remembered(UserKeys(keys.tenant, user), item.id, keys.id, number)
        for _ in range(_TRIES):
            summary = (await services.users.summary(keys)).raw
            rest = Summary.decode(summary).without(number).encode()
            outcome = await services.conversations.erase_item(keys, number, item, summary, rest)
            if outcome.outcome != "moved":
                return outcome
        raise StoreUnavailable(f"session {keys.id}: its summary changed {_TRIES} times meanwhile", "busy")

    async def _remembered(self, user: UserKeys, item: str, session: str = "", number: int = 0) -> None:
        """What the user's slot keeps of an item, and of summaries that rest on it."""
        users = self._services.users
        try:
            await users.forget(user, "", [item], keep=True)
            if session and (over := turns.recaps_over(await users.known(user, turns.recaps(session)), number)):
                await users.forget(user, "", over, keep=True)
            await self._ledger.change(user, lambda facts: drop_item(facts, item))
        except UserGone:  # erased meanwhile, and that with it
            return

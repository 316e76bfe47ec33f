"""The clients: talkers who share conversations, and workers who send runs to the background. They remember it all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson

from agentrt.records import TERMINAL
from loadtest.chaos.history import Operation, Turn
from loadtest.chaos.stream import Watched

__all__ = ["Conversation", "Crowd", "Load"]

_TURNS_MAX = 120
"""Then its talkers begin another conversation: what is checked stays small."""
_PATIENCE_S = 60.0
"""So long a message is sent again before its outcome is left unknown."""
_PASSING = frozenset({429, 502, 503, 504})
"""What a client is told that shall come again."""
_LAST_S = 30.0
"""How long a message may take when everything is at rest."""
_FAILURES_MAX = 20
"""So often it may fail: one that left items in the history, and has others behind it, is not taken up again."""


@dataclass(slots=True)
class Conversation:
    """One conversation, and everything that was tried in it."""

    id: str
    operations: list[Operation] = field(default_factory=list)
    forgotten: bool = False
    """A fail-over came before anything was acknowledged in it."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who talks: the same seed is clients that say the same."""

    seed: int
    talkers: int
    """In pairs, two a conversation."""
    workers: int
    """With one background run each at a time."""
    pause_s: float = 0.0
    """How long each thinks between two messages, on average."""


class Load:
    """A crowd, each of it at any of `urls` at any time.

    `losing`: a conversation in which nothing was acknowledged may be forgotten. `hasty`: nobody waits for replicas, so
    one in which something was may be forgotten too, and a background run.
    """

    def __init__(self, urls: Sequence[str], crowd: Crowd, *, losing: bool = False, hasty: bool = False) -> None:
        self.conversations: list[Conversation] = []
        self.accepted: dict[str, tuple[dict[str, Any], str]] = {}
        """Background runs that a pod said it has: by id the message, and its key."""
        self.wrong: list[str] = []
        """What clients saw and should not have seen."""
        self.counts: Counter[str] = Counter()
        self._urls = urls
        self._crowd = crowd
        self._losing, self._hasty = losing, hasty
        self._over = asyncio.Event()
        self._current: dict[int, Conversation] = {}
        self._beginning: dict[int, asyncio.Lock] = {}

    async def run(self, over: asyncio.Event) -> None:
        """Until `over` is set, and what was begun has ended or is given up."""
        self._over = over
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(timeout=10, limits=limits) as client, asyncio.TaskGroup() as group:
            for number in range(self._crowd.talkers):
                group.create_task(self._talk(client, number))
            for number in range(self._crowd.workers):
                group.create_task(self._work(client, number))

    # --- talkers ---

    async def _talk(self, client: httpx2.AsyncClient, number: int) -> None:
        chance = random.Random(f"talker {self._crowd.seed} {number}")
        turn = 0
        while not self._over.is_set():
            conversation = await self._conversation(client, number // 2, chance)
            if conversation is None:
                return
            turn += 1
            tools = ("", "", "note", "book", "note book", "wire", "read")[chance.randrange(7)]
            text = f"talker {number} turn {turn}: {tools}".rstrip()
            operation = Operation(text, time.monotonic())
            conversation.operations.append(operation)
            body = {"model": _agent(number // 2), "conversation": conversation.id, "input": text}
            body["stream"] = chance.random() < 0.4
            key = f"talk-{number}-{turn}"
            answer = await self._until_answered(client, body, key, chance)
            if answer is not None:
                operation.returned = time.monotonic()
                operation.outcome, operation.saw = "ok", _said(answer).removeprefix("after ")
                await self._bother(client, conversation, body, key, answer, chance)
            await self._pause(chance)

    async def _pause(self, chance: random.Random) -> None:
        """Think, unless it is over."""
        if self._crowd.pause_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), chance.uniform(0, 2 * self._crowd.pause_s))

    async def _bother(
        self,
        client: httpx2.AsyncClient,
        conversation: Conversation,
        body: dict[str, Any],
        key: str,
        answer: dict[str, Any],
        chance: random.Random,
    ) -> None:
        """Now and then: the same again, which is the same answer; or another text under its key, which is refused."""
        roll = chance.random()
        if roll < 0.1:
            again = await self._until_answered(client, body, key, chance)
            if again is not None and (again["id"], _said(again)) != (answer["id"], _said(answer)):
                self.wrong.append(f"{key} was answered twice, differently: {answer['id']}, {again['id']}")
            self.counts["replayed"] += again is not None
        elif roll < 0.15:
            other = body["input"] + " other"
            now = time.monotonic()
            conversation.operations.append(Operation(other, now, now, "failed"))
            answered = await self._until_answered(client, {**body, "input": other}, key, chance, refused=422)
            if answered is not None:
                self.wrong.append(f"{key} was taken for another message")

    async def _conversation(
        self, client: httpx2.AsyncClient, number: int, chance: random.Random
    ) -> Conversation | None:
        """The pair's conversation; a new one when the old one is long; None when time is over before there is one."""
        async with self._beginning.setdefault(number, asyncio.Lock()):
            found = self._current.get(number)
            while found is None or found.forgotten or len(found.operations) >= _TURNS_MAX:
                if self._over.is_set():
                    return None
                try:
                    answer = await client.post(f"{chance.choice(self._urls)}/v1/conversations", json={})
                    answer.raise_for_status()
                except httpx2.HTTPError as error:
                    self._passing("a conversation", error)
                    await asyncio.sleep(0.1)
                    continue
                found = self._current[number] = Conversation(answer.json()["id"])
                self.conversations.append(found)
            return found

    def _passing(self, what: str, error: httpx2.HTTPError) -> None:
        """What fails may pass, or is wrong."""
        if isinstance(error, httpx2.HTTPStatusError) and (status := error.response.status_code) not in _PASSING:
            self.wrong.append(f"{what}: {status} {error.response.text[:200]}")

    async def _until_answered(
        self,
        client: httpx2.AsyncClient,
        body: dict[str, Any],
        key: str,
        chance: random.Random,
        refused: int | None = None,
    ) -> dict[str, Any] | None:
        """The final response; None when it was given up, or answered with `refused`, which is not sent again."""
        deadline, failed = time.monotonic() + _PATIENCE_S, 0
        while time.monotonic() < deadline and failed < _FAILURES_MAX:
            try:
                status, answer = await self._post(client, chance.choice(self._urls), body, key)
            except httpx2.HTTPError:
                status, answer = 0, {}
            if status == refused:
                return None
            if status == 200 and answer.get("status") == "completed":
                return answer
            if status == 404 and self._forget(str(body["conversation"])):
                return None
            if status not in {0, 200, 409, *_PASSING}:
                self.wrong.append(f"{key}: {status} {str(answer)[:200]}")
                return None
            self.counts["sent again"] += 1
            failed += answer.get("status") == "failed"
            if status == 0 and chance.random() < 0.05:
                break
            await asyncio.sleep(chance.uniform(0.05, 0.2))
        self.counts["given up"] += 1
        return None

    def _forget(self, conversation: str) -> bool:
        """Whether it may be gone: nothing was acknowledged in it, and there are fail-overs."""
        found = next(one for one in self.conversations if one.id == conversation)
        told = any(one.outcome == "ok" for one in found.operations)
        if self._losing and (self._hasty or not told):
            self.counts[f"conversations lost with a master{', turns and all' if told else ''}"] += not found.forgotten
            found.forgotten = True
        return found.forgotten

    async def _post(
        self, client: httpx2.AsyncClient, url: str, body: dict[str, Any], key: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and body, of a stream that of its last event; 0 for a stream that broke off. The load balancer's own
        answers have no body."""
        headers = {"Idempotency-Key": key}
        async with client.stream("POST", f"{url}/v1/responses", json=body, headers=headers) as answer:
            kind = answer.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                told = await answer.aread()
                return answer.status_code, orjson.loads(told) if kind == "application/json" else {}
            watched = Watched()
            try:
                async for line in answer.aiter_lines():
                    watched.take(line)
            finally:  # also of one that broke off
                self.wrong += [f"{key}: {one}" for one in watched.wrong]
        return (200, watched.final) if watched.final else (0, {})

    # --- workers ---

    async def _work(self, client: httpx2.AsyncClient, number: int) -> None:
        chance = random.Random(f"worker {self._crowd.seed} {number}")
        turn = 0
        while not self._over.is_set():
            turn += 1
            tools = ("book note wire read", "wire", "note book wire", "read wire note book")[chance.randrange(4)]
            body = {"model": _agent(number), "input": f"worker {number} run {turn}: {tools}", "background": True}
            key = f"work-{number}-{turn}"
            response = await self._accepted(client, body, key, chance)
            if response is None:
                continue
            self.accepted[response] = body, key
            while await self._ended(client, response, chance) == "failed":
                # its model was away for longer than it waits; the message, sent again, takes it up again
                self.counts["background runs taken up again"] += 1
                await self._accepted(client, body, key, chance)
            await self._pause(chance)

    async def _ended(self, client: httpx2.AsyncClient, response: str, chance: random.Random) -> str:
        """How a background run ended; empty when time was over before."""
        while not self._over.is_set():
            await asyncio.sleep(0.3)
            try:
                answer = await client.get(f"{chance.choice(self._urls)}/v1/responses/{response}")
                if answer.status_code == 404:
                    self._unknown(response)
                    break
                answer.raise_for_status()
            except httpx2.HTTPError as error:
                self._passing(response, error)
                continue
            if (ended := answer.json()["status"]) in TERMINAL:
                return str(ended)
        return ""

    def _unknown(self, response: str) -> None:
        """A background run that was accepted, and that nobody knows."""
        if self._hasty:
            del self.accepted[response]
            self.counts["accepted runs lost with a master"] += 1
        else:
            self.wrong.append(f"{response} was accepted, and is not known")

    async def _accepted(
        self, client: httpx2.AsyncClient, body: dict[str, Any], key: str, chance: random.Random
    ) -> str | None:
        """Its id, once a pod has said that it has it; None when time was over before."""
        while not self._over.is_set():
            try:
                status, answer = await self._post(client, chance.choice(self._urls), body, key)
            except httpx2.HTTPError:
                status, answer = 0, {}
            if status == 200:
                return str(answer["id"])
            if status not in {0, *_PASSING}:
                self.wrong.append(f"{key}: {status} {str(answer)[:200]}")
                return None
            await asyncio.sleep(chance.uniform(0.05, 0.2))
        return None

    # --- the end ---

    async def last_words(self) -> None:
        """One message more in each conversation that is talked in, and a new one at each place: all must be answered,
        now that nothing is in their way."""
        async with httpx2.AsyncClient(timeout=_LAST_S) as client, asyncio.TaskGroup() as group:
            for number, conversation in self._current.items():
                if not conversation.forgotten:
                    group.create_task(self._last(client, self._urls[number % len(self._urls)], conversation, number))
            for number, url in enumerate(dict.fromkeys(self._urls)):
                try:
                    made = await client.post(f"{url}/v1/conversations", json={})
                    made.raise_for_status()
                except httpx2.HTTPError as error:
                    self.wrong.append(f"a conversation at {url} when all was at rest: {error!r}")
                    continue
                conversation = Conversation(made.json()["id"])
                self.conversations.append(conversation)
                group.create_task(self._last(client, url, conversation, number))

    async def _last(self, client: httpx2.AsyncClient, url: str, conversation: Conversation, number: int) -> None:
        operation = Operation(f"last words in {conversation.id}: book note", time.monotonic())
        conversation.operations.append(operation)
        body = {"model": _agent(number), "conversation": conversation.id, "input": operation.text}
        try:
            status, answer = await self._post(client, url, body, f"last-{conversation.id}")
        except httpx2.HTTPError as error:
            self.wrong.append(f"{operation.text}, at {url}: {error!r}")
            return
        if status != 200 or answer["status"] != "completed":
            self.wrong.append(f"{operation.text}, at {url}: {status} {str(answer)[:200]}")
            return
        operation.returned, operation.outcome = time.monotonic(), "ok"
        operation.saw = _said(answer).removeprefix("after ")

    async def take_up(self, response: str) -> None:
        """Send an accepted message again, whose run has failed: now nothing is in its way."""
        body, key = self.accepted[response]
        async with httpx2.AsyncClient(timeout=20) as client:
            await self._post(client, self._urls[0], body, key)

    async def read(self, response: str) -> None:
        """Read the events of a response to their end, as a client does who wants to know what became of it."""
        async with (
            httpx2.AsyncClient(timeout=20) as client,
            client.stream("GET", f"{self._urls[0]}/v1/responses/{response}", params={"stream": "true"}) as answer,
        ):
            async for _ in answer.aiter_lines():
                pass

    async def stored(self, conversation: Conversation) -> list[Turn]:
        """The conversation as a pod tells it, after everything has come to rest. Its answers are the last of a turn."""
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"order": "asc", "limit": 100}
        async with httpx2.AsyncClient(timeout=20) as client:
            while True:
                url = f"{self._urls[0]}/v1/conversations/{conversation.id}/items"
                answer = await client.get(url, params=query)
                answer.raise_for_status()
                page = answer.json()
                items += page["data"]
                if not page["has_more"]:
                    break
                query["after"] = page["last_id"]
        turns: list[Turn] = []
        for item in items:
            if item["type"] != "message" or item["role"] not in {"user", "assistant"}:
                continue
            text = "".join(part.get("text", "") for part in item["content"])
            if item["role"] == "user":
                turns.append(Turn(text, None))
            elif turns:
                if turns[-1].after is not None:
                    self.wrong.append(f"{conversation.id}: {turns[-1].text!r} has two answers")
                turns[-1] = Turn(turns[-1].text, text.removeprefix("after "))
        return turns


def _agent(number: int) -> str:
    """One of three pairs, and one of three workers, has a model at a provider that fails now and then."""
    return "ask" if number % 3 == 2 else "talk"


def _said(answer: dict[str, Any]) -> str:
    """The text of a response."""
    messages = [item for item in answer["output"] if item["type"] == "message"]
    return "".join(part["text"] for part in messages[-1]["content"]) if messages else ""

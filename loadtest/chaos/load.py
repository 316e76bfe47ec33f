"""The clients: talkers who share conversations, and workers who send runs to the background. They remember it all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson
from tests.harness.pod import Pod

from agentrt.records import TERMINAL
from loadtest.chaos.history import Operation, Turn
from loadtest.chaos.stream import Watched

__all__ = ["Conversation", "Load"]

_TURNS_MAX = 120
"""Then its talkers begin another conversation: what is checked stays small."""
_PATIENCE_S = 60.0
"""So long a message is sent again before its outcome is left unknown."""


@dataclass(slots=True)
class Conversation:
    """One conversation, and everything that was tried in it."""

    id: str
    operations: list[Operation] = field(default_factory=list)


class Load:
    """`talkers` in pairs, two a conversation, on any pod; and `workers` with one background run each at a time."""

    def __init__(self, pods: Sequence[Pod], seed: int, talkers: int, workers: int) -> None:
        self.conversations: list[Conversation] = []
        self.accepted: list[str] = []
        """Background runs that a pod said it has."""
        self.wrong: list[str] = []
        """What clients saw and should not have seen."""
        self.counts: Counter[str] = Counter()
        self._pods = pods
        self._seed = seed
        self._over = asyncio.Event()
        self._talkers, self._workers = talkers, workers
        self._current: dict[int, Conversation] = {}
        self._beginning: dict[int, asyncio.Lock] = {}

    async def run(self, over: asyncio.Event) -> None:
        """Until `over` is set, and what was begun has ended or is given up."""
        self._over = over
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(timeout=10, limits=limits) as client, asyncio.TaskGroup() as group:
            for number in range(self._talkers):
                group.create_task(self._talk(client, number))
            for number in range(self._workers):
                group.create_task(self._work(client, number))

    # --- talkers ---

    async def _talk(self, client: httpx2.AsyncClient, number: int) -> None:
        chance = random.Random(f"talker {self._seed} {number}")
        turn = 0
        while not self._over.is_set():
            conversation = await self._conversation(client, number // 2, chance)
            turn += 1
            tools = ("", "", "note", "book", "note book", "wire", "read")[chance.randrange(7)]
            text = f"talker {number} turn {turn}: {tools}".rstrip()
            operation = Operation(text, time.monotonic())
            conversation.operations.append(operation)
            body = {"model": "talk", "conversation": conversation.id, "input": text, "stream": chance.random() < 0.4}
            key = f"talk-{number}-{turn}"
            answer = await self._until_answered(client, body, key, chance)
            if answer is None:
                continue
            operation.returned = time.monotonic()
            operation.outcome, operation.saw = "ok", _said(answer).removeprefix("after ")
            await self._bother(client, conversation, body, key, answer, chance)

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

    async def _conversation(self, client: httpx2.AsyncClient, number: int, chance: random.Random) -> Conversation:
        """The pair's conversation; a new one when the old one is long."""
        async with self._beginning.setdefault(number, asyncio.Lock()):
            found = self._current.get(number)
            while found is None or len(found.operations) >= _TURNS_MAX:
                try:
                    answer = await client.post(f"{chance.choice(self._pods).url}/v1/conversations", json={})
                    answer.raise_for_status()
                except httpx2.HTTPError:
                    await asyncio.sleep(0.1)
                    continue
                found = self._current[number] = Conversation(answer.json()["id"])
                self.conversations.append(found)
            return found

    async def _until_answered(
        self,
        client: httpx2.AsyncClient,
        body: dict[str, Any],
        key: str,
        chance: random.Random,
        refused: int | None = None,
    ) -> dict[str, Any] | None:
        """The final response; None when it was given up, or answered with `refused`, which is not sent again."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                status, answer = await self._post(client, chance.choice(self._pods), body, key)
            except httpx2.HTTPError:
                status, answer = 0, {}
            if status == refused:
                return None
            if status == 200 and answer.get("status") == "completed":
                return answer
            if status not in {0, 200, 409, 429, 503}:
                self.wrong.append(f"{key}: {status} {str(answer)[:200]}")
                return None
            self.counts["sent again"] += 1
            if status == 0 and chance.random() < 0.05:
                break
            await asyncio.sleep(chance.uniform(0.05, 0.2))
        self.counts["given up"] += 1
        return None

    async def _post(
        self, client: httpx2.AsyncClient, pod: Pod, body: dict[str, Any], key: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and body, of a stream that of its last event; 0 for a stream that broke off."""
        headers = {"Idempotency-Key": key}
        async with client.stream("POST", f"{pod.url}/v1/responses", json=body, headers=headers) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                return answer.status_code, orjson.loads(await answer.aread())
            watched = Watched()
            async for line in answer.aiter_lines():
                watched.take(line)
        self.wrong += [f"{key}: {one}" for one in watched.wrong]
        return (200, watched.final) if watched.final else (0, {})

    # --- workers ---

    async def _work(self, client: httpx2.AsyncClient, number: int) -> None:
        chance = random.Random(f"worker {self._seed} {number}")
        turn = 0
        while not self._over.is_set():
            turn += 1
            tools = ("book note wire read", "wire", "note book wire", "read wire note book")[chance.randrange(4)]
            body = {"model": "talk", "input": f"worker {number} run {turn}: {tools}", "background": True}
            response = await self._accepted(client, body, f"work-{number}-{turn}", chance)
            if response is None:
                continue
            self.accepted.append(response)
            while not self._over.is_set():
                await asyncio.sleep(0.3)
                try:
                    answer = await client.get(f"{chance.choice(self._pods).url}/v1/responses/{response}")
                except httpx2.HTTPError:
                    continue
                if answer.status_code == 200 and answer.json()["status"] in TERMINAL:
                    break
                if answer.status_code == 404:
                    self.wrong.append(f"{response} was accepted, and is not known")
                    break

    async def _accepted(
        self, client: httpx2.AsyncClient, body: dict[str, Any], key: str, chance: random.Random
    ) -> str | None:
        """Its id, once a pod has said that it has it; None when time was over before."""
        while not self._over.is_set():
            try:
                status, answer = await self._post(client, chance.choice(self._pods), body, key)
            except httpx2.HTTPError:
                status, answer = 0, {}
            if status == 200:
                return str(answer["id"])
            if status not in {0, 429, 503}:
                self.wrong.append(f"{key}: {status} {str(answer)[:200]}")
                return None
            await asyncio.sleep(chance.uniform(0.05, 0.2))
        return None

    # --- the end ---

    async def stored(self, conversation: Conversation) -> list[Turn]:
        """The conversation as a pod tells it, after everything has come to rest. Its answers are the last of a turn."""
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"order": "asc", "limit": 100}
        async with httpx2.AsyncClient(timeout=20) as client:
            while True:
                url = f"{self._pods[0].url}/v1/conversations/{conversation.id}/items"
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
                turns.append(Turn(text, "nobody: it was not answered"))
            elif turns:
                turns[-1] = Turn(turns[-1].text, text.removeprefix("after "))
        return turns


def _said(answer: dict[str, Any]) -> str:
    """The text of a response."""
    messages = [item for item in answer["output"] if item["type"] == "message"]
    return "".join(part["text"] for part in messages[-1]["content"]) if messages else ""

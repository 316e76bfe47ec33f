"""A crowd of clients of which as many talk as are told to, one thing after the other; none of them tries twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx2
import orjson

__all__ = ["Crowd", "Heard"]


@dataclass
class Heard:
    """What became of the turns. A turn failed that was not answered as completed; a stream was cut that did not end."""

    turns: int = 0
    streams: int = 0
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


class Crowd:
    """Clients of one URL. Every second one streams. `words` is how long their turns last, 50 ms each."""

    def __init__(self, url: str, words: int) -> None:
        self.heard = Heard()
        self._url = f"{url}/v1/responses"
        self._text = " ".join(["word"] * words)
        self._talkers: list[asyncio.Task[None]] = []
        self._wanted = 0
        self._client = httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None))

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hold(0)
        await asyncio.gather(*self._talkers)
        await self._client.aclose()

    async def hold(self, wanted: int) -> None:
        """Have so many talk; those too many end what they are saying."""
        before, self._wanted = self._wanted, wanted
        self._talkers += [asyncio.create_task(self._talk(number)) for number in range(before, wanted)]

    async def _talk(self, number: int) -> None:
        while number < self._wanted:
            try:
                await (self._stream() if number % 2 else self._turn())
            except httpx2.HTTPError as error:
                self.heard.failed.append(repr(error))

    async def _turn(self) -> None:
        answer = await self._client.post(self._url, json={"model": "slow", "input": self._text})
        self.heard.turns += 1
        if answer.status_code != 200 or answer.json()["status"] != "completed":
            self.heard.failed.append(f"{answer.status_code} {answer.text[:200]}")

    async def _stream(self) -> None:
        body = {"model": "slow", "input": self._text, "stream": True}
        last, done = "nothing", False
        async with self._client.stream("POST", self._url, json=body) as answer:
            self.heard.streams += 1
            if answer.status_code != 200:
                self.heard.failed.append(f"{answer.status_code} {(await answer.aread())[:200]!r}")
                return
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    last = orjson.loads(line[6:])["type"]
                done |= line == "data: [DONE]"
        if last != "response.completed" or not done:
            self.heard.cut.append(f"ended with {last} from {answer.headers.get('x-agentrt-pod')}")

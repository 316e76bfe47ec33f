"""A fake of `/v1/embeddings`: vectors of letter trigrams, so that texts that look alike are near each other."""

from __future__ import annotations

import zlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tests.models.fake_server import FakeServer, Reply

SIZE = 64


def vector(text: str) -> list[float]:
    """How often each of 64 classes of trigrams is in a text."""
    found = [0.0] * SIZE
    padded = f"  {text.casefold()}  "
    for at in range(len(padded) - 2):
        found[zlib.crc32(padded[at : at + 3].encode()) % SIZE] += 1.0
    return found


class FakeEmbeddings(FakeServer):
    """Answers what is asked, in another order; a reply of `script` goes first."""

    def __init__(self) -> None:
        super().__init__("/v1/embeddings")

    async def _answer(self, request: Request) -> Response:
        if not self.script:
            body: dict[str, Any] = await request.json()
            rows = [
                {"object": "embedding", "index": n, "embedding": vector(one)} for n, one in enumerate(body["input"])
            ]
            self.script.append(Reply(body={"object": "list", "model": body["model"], "data": rows[::-1]}))
        return await super()._answer(request)

    @property
    def texts(self) -> list[str]:
        """All texts that vectors were asked for."""
        return [text for seen in self.seen for text in seen.body["input"]]

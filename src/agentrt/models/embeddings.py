"""Embeddings from any server with OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx2

from agentrt.errors import ModelError

__all__ = ["OpenAIEmbedder"]

_BATCH = 128
_STATUS_AGAIN = frozenset({408, 409, 429})


class OpenAIEmbedder:
    """Asks `POST {base_url}/embeddings`, in batches of 128 texts, never twice: whoever asks decides on that."""

    def __init__(
        self, model: str, *, base_url: str, api_key: str = "", timeout_s: float = 20.0, dimensions: int | None = None
    ) -> None:
        self._model = model
        self._dimensions = dimensions
        self._url = base_url.rstrip("/") + "/embeddings"
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        """Model and size."""
        return f"{self._model}/{self._dimensions or 'full'}"

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector a text. Raises `ModelError`."""
        found: list[Sequence[float]] = []
        for start in range(0, len(texts), _BATCH):
            found += await self._ask(texts[start : start + _BATCH])
        return found

    async def _ask(self, texts: Sequence[str]) -> list[Sequence[float]]:
        body: dict[str, object] = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        try:
            answer = await self._connected().post(self._url, json=body, headers=self._headers)
        except httpx2.HTTPError as error:
            raise ModelError(f"the embedding server: {type(error).__name__}", retryable=True) from error
        if answer.status_code != 200:
            again = answer.status_code in _STATUS_AGAIN or answer.status_code >= 500
            wait = answer.headers.get("retry-after", "")
            raise ModelError(
                f"the embedding server answered {answer.status_code}",
                code="rate_limit_exceeded" if answer.status_code == 429 else "server_error",
                retryable=again,
                retry_after_s=float(wait) if wait.isdigit() else None,
            )
        try:
            rows = sorted(answer.json()["data"], key=lambda row: int(row["index"]))
            vectors: list[Sequence[float]] = [[float(x) for x in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("the embedding server answered nonsense", retryable=False) from error
        if len(vectors) != len(texts):
            raise ModelError("the embedding server answered another number of vectors", retryable=False)
        return vectors

    def _connected(self) -> httpx2.AsyncClient:
        """One client for each event loop: an agent may be declared once and served by several."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = httpx2.AsyncClient(timeout=self._timeout_s), loop
        return self._client

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

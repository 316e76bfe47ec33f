"""The embedder for OpenAI's `/v1/embeddings`, against a fake of it on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentrt.errors import ModelError
from agentrt.models.embeddings import OpenAIEmbedder
from tests.models.fake_embeddings import FakeEmbeddings, vector
from tests.models.fake_server import FakeServer, Reply, serve


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with serve(FakeEmbeddings) as fake:
        yield fake


@pytest.fixture
async def embedder(fake: FakeServer) -> AsyncIterator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder("small", base_url=f"{fake.url}/v1/", api_key="k", dimensions=64)
    yield embedder
    await embedder.aclose()


async def test_one_vector_a_text_in_their_order(fake: FakeServer, embedder: OpenAIEmbedder) -> None:
    """In batches of 128, whatever the order of the answer; what is asked for is as the API wants it."""
    texts = [f"text {number}" for number in range(300)]
    assert await embedder.embed(texts) == [vector(text) for text in texts]
    assert [len(seen.body["input"]) for seen in fake.seen] == [128, 128, 44]
    assert {seen.headers["authorization"] for seen in fake.seen} == {"Bearer k"}
    assert fake.seen[0].body == {
        "model": "small",
        "input": texts[:128],
        "encoding_format": "float",
        "dimensions": 64,
    }
    assert embedder.name == "small/64"
    assert await embedder.embed([]) == []


async def test_without_a_key_and_a_size_none_is_sent(fake: FakeServer) -> None:
    embedder = OpenAIEmbedder("small", base_url=f"{fake.url}/v1")
    await embedder.embed(["a"])
    assert "authorization" not in fake.seen[0].headers
    assert "dimensions" not in fake.seen[0].body
    await embedder.aclose()


ROW = {"index": 0, "embedding": [1.0]}


@pytest.mark.parametrize(
    ("reply", "retryable", "after_s"),
    [
        (Reply(status=429, headers={"retry-after": "7"}, body={}), True, 7.0),
        (Reply(status=429, headers={"retry-after": "soon"}, body={}), True, None),
        (Reply(status=503, body={}), True, None),
        (Reply(status=400, body={}), False, None),
        (Reply(status=401, body={}), False, None),
        (Reply(body={}), False, None),
        (Reply(body={"data": [{"index": 0}]}), False, None),
        (Reply(body={"data": [{"index": 0, "embedding": ["x"]}]}), False, None),
        (Reply(body={"data": [ROW, {**ROW, "index": 1}]}), False, None),
    ],
)
async def test_failures(
    fake: FakeServer, embedder: OpenAIEmbedder, reply: Reply, retryable: bool, after_s: float | None
) -> None:
    """Each is a `ModelError` that says whether it may pass, and when; nothing is asked for twice."""
    fake.script.append(reply)
    with pytest.raises(ModelError) as caught:
        await embedder.embed(["a"])
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_s == after_s
    assert len(fake.seen) == 1


async def test_a_server_that_is_away() -> None:
    embedder = OpenAIEmbedder("small", base_url="http://127.0.0.1:1/v1", timeout_s=5)
    with pytest.raises(ModelError) as caught:
        await embedder.embed(["a"])
    assert caught.value.retryable
    await embedder.aclose()

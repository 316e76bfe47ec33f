"""Recall over turns, facts and summaries: by words, and by embeddings beside them."""

from __future__ import annotations

import orjson

from agentrt.models.base import ModelRequest
from agentrt.models.embeddings import OpenAIEmbedder
from agentrt.models.scripted import texts
from tests.memory.inside import USER, Tongue, idle, inside, stated
from tests.models.fake_embeddings import FakeEmbeddings
from tests.models.fake_server import FakeServer, Reply, serve
from tests.runtime.conftest import Runtime

DIET = "I am a strict vegetarian."
QUESTION = "Tell me of vegetarianism."


async def _vectors(runtime: Runtime) -> int:
    return len(await runtime.services.users.vectors(USER, range(1, 100)))


def _embedder(fake: FakeServer) -> OpenAIEmbedder:
    return OpenAIEmbedder("small", base_url=f"{fake.url}/v1")


async def test_what_no_word_of_the_question_names_is_found_by_its_embedding(redis_url: str) -> None:
    """And not without one, which is the control. What the turns say goes to the embedder once."""
    async with serve(FakeEmbeddings) as fake:
        embedder = _embedder(fake)
        async with inside(redis_url, Tongue(), memory={"embedder": embedder, "facts": False}) as runtime:
            for text in (DIET, "The boat is moored.", "It rained a lot."):
                await runtime.turn("a", text, user="u1")
            await idle(runtime)
            assert await _vectors(runtime) == 6
            assert sorted(fake.texts) == sorted([DIET, "The boat is moored.", "It rained a lot.", "ok", "ok", "ok"])
            found = await runtime.surface.people.search(USER, QUESTION, 5, 0)
            assert found["turns"][0]["text"] == DIET
            head = await runtime.services.users.head(USER)
            assert await runtime.services.recollections.search(head, QUESTION, 5) == []
        await embedder.aclose()


async def test_an_embedder_that_is_away_costs_time_only(redis_url: str) -> None:
    """Recall goes on by words; embeddings come when it is back; a question's is not waited for."""
    async with serve(FakeEmbeddings) as fake:
        embedder = _embedder(fake)
        fake.script += [Reply(status=429, headers={"retry-after": "0"}, body={})] * 3
        async with inside(redis_url, Tongue(), memory={"embedder": embedder, "facts": False}) as runtime:
            await runtime.turn("a", DIET, user="u1")
            await idle(runtime)
            assert await _vectors(runtime) == 2
            fake.script.append(Reply(status=500, body={}))
            found = await runtime.surface.people.search(USER, "vegetarian", 5, 0)
            assert found["turns"][0]["text"] == DIET
        await embedder.aclose()


async def test_texts_are_redacted_before_they_are_embedded(redis_url: str) -> None:
    async with serve(FakeEmbeddings) as fake:
        embedder = _embedder(fake)
        policy = {"embedder": embedder, "facts": False, "redact": lambda text: text.replace("Ida", "[name]")}
        async with inside(redis_url, Tongue(), memory=policy) as runtime:
            await runtime.turn("a", "I am Ida.", user="u1")
            await idle(runtime)
            assert "I am [name]." in fake.texts
            assert not any("Ida" in text for text in fake.texts)
        await embedder.aclose()


async def test_facts_that_the_profile_has_no_room_for_are_found(redis_url: str) -> None:
    """The oldest of a hundred facts is in the context of a message that names it, and only there."""
    tongue, heard, said = Tongue(), list[ModelRequest](), "Here is all that I own."
    tongue.answers[said] = []
    async with inside(redis_url, tongue, heard, memory={"recall": False}) as runtime:
        people = runtime.surface.people
        await people.set(USER, attribute="owns", value="a theodolite", at=1)
        for number in range(100):
            await people.set(USER, attribute="likes", value=f"band number {number}", at=1000 + number)
        head = await runtime.services.users.head(USER)
        assert head.left == 101 - 64
        assert "theodolite" not in head.profile.decode()
        _, end = await runtime.turn("a", "Where did I put the theodolite?", user="u1")
        await runtime.turn("a", "Something else.", user="u1")
    assert "owns: a theodolite" in texts(heard[0].items[0])
    assert "theodolite" not in texts(heard[1].items[0])
    note = orjson.loads(orjson.loads(end.result)["metadata"]["agentrt_context"])
    assert note["facts"]


async def test_a_pinned_fact_is_always_in_the_context(redis_url: str) -> None:
    """However many newer ones there are; and not any more once it is unpinned."""
    heard: list[ModelRequest] = []
    async with inside(redis_url, Tongue(), heard, memory={"recall": False, "profile_tokens": 60}) as runtime:
        people = runtime.surface.people
        identifier = await people.set(USER, attribute="motto", value="never on Mondays", at=1, pinned=True)
        for number in range(80):
            await people.set(USER, attribute="likes", value=f"band number {number}", at=1000 + number)
        assert (await people.why(USER, identifier, 0))["pinned"]
        await runtime.turn("a", "Hello.", user="u1")
        await people.set(USER, attribute="motto", value="never on Mondays", at=1, pinned=False)
        await runtime.turn("a", "Hello.", user="u1")
    assert "never on Mondays" in texts(heard[0].items[0])
    assert "never on Mondays" not in texts(heard[1].items[0])


async def test_the_policy_s_pins_outlast_compaction(redis_url: str) -> None:
    tongue, said = Tongue(), "Call me at 5."
    tongue.answers[said] = [
        stated("hours", "5", said),
        stated("trip", "Oslo", said, valid_until="2001-01-01T00:00:00Z"),
    ]
    async with inside(redis_url, tongue, memory={"pinned": frozenset({"hours"})}) as runtime:
        await runtime.turn("a", said, user="u1")
        await idle(runtime)
        assert (await runtime.surface.compaction.tidy(USER, "a", 4 * 10**12))["facts"] == 1
        (known,) = orjson.loads((await runtime.services.users.head(USER)).profile)
        assert known[7] is True


async def test_a_summary_of_another_conversation_is_recalled(redis_url: str) -> None:
    """Of the conversation itself the summary stands in the context anyway."""
    heard: list[ModelRequest] = []
    async with inside(redis_url, Tongue(), heard, memory={"facts": False}) as runtime:
        want, _ = await runtime.turn("a", "We plan Reykjavik.", user="u1")
        for number in range(20):
            await runtime.turn("a", f"Point {number}.", user="u1", session=want.session, create=False)
        await idle(runtime)
        heard.clear()
        await runtime.turn("a", "Which plan was it, Reykjavik?", user="u1", session=want.session, create=False)
        await runtime.turn("a", "Which plan was it, Reykjavik?", user="u1")
    here, elsewhere = (texts(request.items[0]) for request in heard)
    assert ", summary] user: We plan Reykjavik." not in here
    assert "- user: We plan Reykjavik." in here
    assert ", summary] user: We plan Reykjavik." in elsewhere

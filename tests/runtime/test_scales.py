"""Budgets follow what providers report: a model that counts more tokens than we do is given less."""

from __future__ import annotations

import importlib.util

import pytest

from agentrt.agent import Agent, Limits
from agentrt.memory import tokens
from agentrt.models.base import ModelRequest
from agentrt.records import Item
from agentrt.runtime.scales import Scales, counted
from tests.models.fake_openai import Script, fake_openai
from tests.models.fake_server import serve
from tests.runtime.conftest import running


def _request(words: int) -> ModelRequest:
    text = "word " * words
    return ModelRequest([Item.of({"type": "message", "role": "user", "content": text})], instructions="Be kind.")


def test_what_is_believed_grows_at_once_and_shrinks_slowly() -> None:
    scales, request = Scales(), _request(1000)
    ours = counted(request)
    assert 1000 <= ours <= 1100
    scales.learn("m", request, int(ours * 1.5))
    assert scales.of("m") == pytest.approx(1.5, abs=0.01)
    scales.learn("m", request, ours)
    assert scales.of("m") == pytest.approx(1.45, abs=0.01)
    scales.learn("m", request, ours * 100)
    assert scales.of("m") == 4.0
    assert scales.of("other") == 1.0
    assert scales.budget(Agent("a", "m:m", limits=Limits(context_tokens=1000))) == 1000


def test_what_says_nothing_is_passed_over() -> None:
    """Short prompts, images, replies without usage; and behind the first replies most of them, for it costs CPU."""
    scales = Scales()
    scales.learn("m", _request(20), 10_000)
    image = Item.of({"type": "message", "role": "user", "content": "data:" + "x" * 4000})
    scales.learn("m", ModelRequest([image]), 10_000)
    scales.learn("m", _request(1000), 0)
    assert scales.of("m") == 1.0
    for number in range(4, 64):
        scales.learn("m", _request(1000), 0 if number <= 16 or number % 16 == 0 else 10_000)
    assert scales.of("m") == 1.0
    scales.learn("m", _request(1000), 10_000)
    assert scales.of("m") == 4.0


async def test_the_window_shrinks_when_a_provider_counts_more(redis_url: str) -> None:
    """The usage of a reply decides how much of the history goes into the next prompt."""
    async with serve(fake_openai) as fake:
        agent = Agent("a", model="openai:m", limits=Limits(context_tokens=2_000), memory=None)
        settings = {"openai_api_key": "k", "openai_base_url": f"{fake.url}/v1"}
        async with running(redis_url, [agent], **settings) as runtime:

            async def turn(text: str, **more: object) -> tuple[object, int]:
                fake.script.append(Script().text("ok").completed())
                want, end = await runtime.turn("a", text, **more)
                assert end.status == "completed"
                return want.session, len(fake.seen[-1].body["input"])

            session, _ = await turn("word " * 400)
            for _ in range(2):
                await turn("word " * 400, session=session, create=False)
            _, before = await turn("hello", session=session, create=False)
            scales = runtime.services.scales
            assert scales.of("openai:m") < 1.0  # the fake reports 100 tokens, whatever it is sent
            scales.learn("openai:m", _request(1000), 4_000)
            _, after = await turn("hello", session=session, create=False)
            assert after < before


def test_without_a_vocabulary_tokens_are_estimated(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Nothing is downloaded for it."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    tokens.vocabulary.cache_clear()
    assert tokens.vocabulary() is None
    assert tokens.count("some words, 12345") == tokens.estimate("some words, 12345")
    assert tokens.usable(1000) == 850
    tokens.vocabulary.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("tiktoken") is None, reason="tiktoken is not installed")
def test_with_a_vocabulary_tokens_are_counted() -> None:
    exact = tokens.vocabulary()
    if exact is None:
        pytest.skip("no vocabulary in tiktoken's cache")
    assert tokens.count("antidisestablishmentarianism") == exact("antidisestablishmentarianism") > 1
    assert tokens.usable(1000) == 1000

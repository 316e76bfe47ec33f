"""Any pod may die: conversations go on, every acknowledged turn is there exactly once and in order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from tests.harness.dev import Dev

AGENTS = "tests.harness.agents:agents"


def agent_for(number: int) -> str:
    """Every third turn takes 150 ms, so that kills land in the middle of it."""
    return "slow" if number % 3 == 0 else "echo"


@contextmanager
def killing(dev: Dev) -> Iterator[None]:
    """Kill a pod, chosen at random, whenever both are ready; never the last one."""
    stop = threading.Event()
    chance = random.Random(7)

    def work() -> None:
        while not stop.is_set():
            pods = list(dev.pods())
            if len(pods) == 2:
                dev.kill(chance.choice(pods))
            stop.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def history(client: openai.OpenAI, conversation: str) -> list[tuple[str, str]]:
    """(role, text) of all items, oldest first."""
    items = client.conversations.items.list(conversation, order="asc", limit=100)
    return [(item.role, item.content[0].text) for item in items]  # type: ignore[union-attr]


def send_until_answered(client: httpx2.Client, body: dict[str, str], key: str) -> str:
    """The same POST under the same Idempotency-Key, again after every error, for at most a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = client.post("/v1/responses", json=body, headers={"Idempotency-Key": key})
            if answer.status_code == 200:
                return str(answer.json()["output"][0]["content"][0]["text"])
            assert answer.status_code in {409, 429, 503}, answer.text
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline, f"no answer to {body['input']}"
        time.sleep(0.05)


def test_the_other_pod_knows_the_name(tmp_path: Path) -> None:
    """`my name is Ada`, SIGKILL the pod that answered, `what is my name`: Ada, from the other pod."""
    with Dev(tmp_path) as dev, openai.OpenAI(base_url=f"{dev.url}/v1", api_key="any") as client:
        conversation = client.conversations.create().id
        first = client.responses.with_raw_response.create(
            model="support", conversation=conversation, input="my name is Ada"
        )
        killed = first.headers["x-agentrt-pod"]
        assert dev.kill(killed)
        second = client.responses.with_raw_response.create(
            model="support", conversation=conversation, input="what is my name"
        )
        assert "Ada" in second.parse().output_text
        assert second.headers["x-agentrt-pod"] != killed


@pytest.mark.timeout(240)
def test_200_turns_under_kills_with_idempotency_keys(tmp_path: Path) -> None:
    """200 turns, each sent again until it is answered, while a pod dies whenever the other one is ready."""
    with (
        Dev(tmp_path, AGENTS, AGENTRT_LEASE_MS="2000") as dev,
        httpx2.Client(base_url=dev.url, timeout=30) as client,
        openai.OpenAI(base_url=f"{dev.url}/v1", api_key="any") as reader,
    ):
        conversation = reader.conversations.create().id
        with killing(dev):
            for number in range(200):
                body = {"model": agent_for(number), "conversation": conversation, "input": f"turn {number}"}
                assert send_until_answered(client, body, f"key-{number}") == f"echo: turn {number}"
                time.sleep(random.uniform(0, 0.05))  # so that the turns outlast several kills
        dev.wait_for(2, 30)
        said = history(reader, conversation)
    expected = [pair for n in range(200) for pair in (("user", f"turn {n}"), ("assistant", f"echo: turn {n}"))]
    assert said == expected
    assert dev.kills >= 2, "the pods were not killed often enough to prove anything"


@pytest.mark.timeout(240)
def test_60_turns_under_kills_with_the_clients_own_retries(tmp_path: Path) -> None:
    """Default settings, and nothing but what the unmodified openai client does by itself."""
    with Dev(tmp_path, AGENTS) as dev, openai.OpenAI(base_url=f"{dev.url}/v1", api_key="any") as client:
        conversation = client.conversations.create().id
        with killing(dev):
            for number in range(60):
                answer = client.responses.create(
                    model=agent_for(number), conversation=conversation, input=f"turn {number}"
                )
                assert answer.output_text == f"echo: turn {number}"
                time.sleep(random.uniform(0, 0.2))
        dev.wait_for(2, 30)
        said = history(client, conversation)
    expected = [pair for n in range(60) for pair in (("user", f"turn {n}"), ("assistant", f"echo: turn {n}"))]
    assert said == expected
    assert dev.kills >= 2

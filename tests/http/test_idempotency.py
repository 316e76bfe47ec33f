"""The same message twice, another message meanwhile: one run, one effect, a history in order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from tests.http.wire import (
    Live,
    answer,
    conversation_of,
    events_of,
    eventually,
    history,
    in_line,
    new_conversation,
    rows,
    say,
    spoken,
    unique,
)

Client = httpx2.AsyncClient


def _key() -> dict[str, str]:
    return {"Idempotency-Key": unique("key")}


def _final(response: httpx2.Response) -> dict[str, Any]:
    """The final body, of a plain answer or of a stream."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        final: dict[str, Any] = events_of(response.text)[-1].data["response"]
        return final
    body: dict[str, Any] = response.json()
    return body


async def test_the_same_key_and_body_later_is_the_same_answer(a: Client, b: Client, sink: Path) -> None:
    title, key = unique("later"), _key()
    first = await say(a, f"open a ticket: {title}", headers=key)
    for client in (b, a):
        again = await say(client, f"open a ticket: {title}", headers=key)
        assert again.content == first.content
    assert first.json()["status"] == "completed"
    assert len(rows(sink, title)) == 1


@pytest.mark.parametrize("said", ["open a ticket: {}", "open a slow ticket 0.3: {}"], ids=["fast", "slow"])
async def test_the_same_key_at_once_on_both_pods_is_one_run(a: Client, b: Client, sink: Path, said: str) -> None:
    title, key = unique("at once"), _key()
    answers = await asyncio.gather(*(say(client, said.format(title), headers=key) for client in (a, b, a, b)))
    assert {answered.status_code for answered in answers} == {200}
    assert len({answered.content for answered in answers}) == 1
    assert len(rows(sink, title)) == 1


async def test_the_same_key_in_a_conversation_adds_one_turn(a: Client, b: Client, sink: Path) -> None:
    conversation, title, key = await new_conversation(a), unique("turn"), _key()
    sent = [say(client, f"open a ticket: {title}", conversation=conversation, headers=key) for client in (a, b)]
    one, other = await asyncio.gather(*sent)
    assert one.content == other.content
    assert await spoken(b, conversation) == [f"open a ticket: {title}", "create_ticket", answer(one)]
    assert len(rows(sink, title)) == 1


async def test_items_under_a_key_are_appended_once(a: Client, b: Client) -> None:
    """Also when a turn and another append came in between; the answer is that of the first time."""
    conversation, key = await new_conversation(a), _key()
    path = f"/v1/conversations/{conversation}/items"
    body = {"items": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}
    await say(a, "hello", conversation=conversation)
    answers = await asyncio.gather(*(client.post(path, json=body, headers=key) for client in (a, b, a, b)))
    assert {answered.status_code for answered in answers} == {200}
    assert (await b.post(path, json=body)).status_code == 200
    await say(b, "hello", conversation=conversation)
    answers.append(await b.post(path, json=body, headers=key))
    assert len({answered.content for answered in answers}) == 1
    kept = [item["id"] for item in await history(a, conversation)]
    assert len(kept) == len(set(kept)) == 8
    assert [item["id"] for item in answers[0].json()["data"]] == kept[2:4]
    other = await a.post(path, json={"items": body["items"][:1]}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    elsewhere = await new_conversation(a)
    assert (await a.post(f"/v1/conversations/{elsewhere}/items", json=body, headers=key)).status_code == 200
    assert len(await history(a, elsewhere)) == 2, "a key is one conversation's"


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_goes_on_from_an_item_that_was_deleted_since(a: Client, b: Client, order: str) -> None:
    """Who deletes what it has read would else never come to the second page."""
    items = [{"role": "user", "content": str(number)} for number in range(6)]
    conversation = await new_conversation(a, items=items)
    path = f"/v1/conversations/{conversation}/items"
    page = {"limit": 2, "order": order}
    first = (await a.get(path, params=page)).json()
    for item in first["data"]:
        assert (await b.delete(f"{path}/{item['id']}")).status_code == 200
    second = (await a.get(path, params={**page, "after": first["last_id"]})).json()
    texts = [item["content"][0]["text"] for item in second["data"]]
    assert texts == (["2", "3"] if order == "asc" else ["3", "2"]) and second["has_more"]


async def test_plain_and_streaming_under_one_key_are_one_run(a: Client, b: Client, sink: Path) -> None:
    title, key = unique("mixed"), _key()
    sent = [
        say(client, f"open a slow ticket 0.2: {title}", headers=key, stream=streamed)
        for client, streamed in ((a, True), (b, False), (b, True), (a, False))
    ]
    finals = [_final(answered) for answered in await asyncio.gather(*sent)]
    assert all(final == finals[0] for final in finals)
    assert len(rows(sink, title)) == 1


async def test_a_fork_under_a_key_happens_once(a: Client, b: Client, sink: Path) -> None:
    first = (await say(a, "my name is Ada")).json()["id"]
    await say(a, "my name is Bob", previous_response_id=first)
    title, key = unique("forked"), _key()
    sent = [
        say(client, f"open a slow ticket 0.1: {title}", previous_response_id=first, headers=key) for client in (a, b)
    ]
    one, other = await asyncio.gather(*sent)
    later = await say(b, f"open a slow ticket 0.1: {title}", previous_response_id=first, headers=key)
    assert one.status_code == 200, one.text
    assert one.content == other.content == later.content
    assert len(rows(sink, title)) == 1


@pytest.mark.parametrize("when", ["after", "while"])
async def test_another_body_under_the_key_is_refused_for_good(a: Client, b: Client, sink: Path, when: str) -> None:
    title, key = unique("other"), _key()
    said = f"open a slow ticket 0.2: {title}"
    async with a.stream("POST", "/v1/responses", json=_body(said, stream=True), headers=key) as answered:
        live = Live(answered)
        await live.until("response.mcp_call.in_progress")
        if when == "after":
            await live.rest()
        refused = await say(b, f"open a ticket: {title} too", headers=key)
        await live.rest()
    assert refused.status_code == 422
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["code"] == "idempotency_key_reused"
    assert (len(rows(sink, title)), len(rows(sink, f"{title} too"))) == (1, 0)


async def test_a_key_belongs_to_its_credential_and_user(a: Client) -> None:
    key = _key()
    one = await say(a, "hello", headers={**key, "Authorization": "Bearer one"})
    other = await say(a, "hello", headers={**key, "Authorization": "Bearer other"})
    for_user = await say(a, "hello", headers={**key, "Authorization": "Bearer one"}, user="u1")
    assert len({answered.json()["id"] for answered in (one, other, for_user)}) == 3


async def test_a_conversation_is_created_once_under_a_key(a: Client, b: Client) -> None:
    key = _key()
    body = {"metadata": {"a": "1"}, "items": [{"role": "user", "content": "hi"}]}
    made = await asyncio.gather(*(client.post("/v1/conversations", json=body, headers=key) for client in (a, b, a)))
    assert len({answered.content for answered in made}) == 1
    assert len(await history(b, made[0].json()["id"])) == 1
    other = await b.post("/v1/conversations", json={"metadata": {"a": "2"}}, headers=key)
    assert (other.status_code, other.headers["x-should-retry"]) == (422, "false")


# --- without a key: the page refresh ----------------------------------------------------------------------------------


def _body(said: str, **body: Any) -> dict[str, Any]:
    return {"model": "support", "input": said, **body}


@pytest.mark.parametrize("first_streams", [True, False], ids=["first streams", "first plain"])
@pytest.mark.parametrize("second_streams", [True, False], ids=["second streams", "second plain"])
async def test_a_page_refresh_joins_the_live_run(
    a: Client, b: Client, sink: Path, store: redis.Redis, first_streams: bool, second_streams: bool
) -> None:
    conversation, title = await new_conversation(a), unique("refresh")
    said = f"open a slow ticket 0.3: {title}"
    first = asyncio.create_task(say(a, said, conversation=conversation, stream=first_streams))
    await _live(store, conversation)
    second = await say(b, said, conversation=conversation, stream=second_streams)
    assert _final(second) == _final(await first)
    assert len(rows(sink, title)) == 1
    assert await spoken(a, conversation) == [
        said,
        "create_slow_ticket",
        f"Done, create_slow_ticket says: {_of(second)}",
    ]


def _of(response: httpx2.Response) -> str:
    return str(_final(response)["output"][0]["output"])


async def _live(store: redis.Redis, conversation: str) -> None:
    """Wait until a run of the conversation is at work."""
    key = f"agentrt:{{dev/{conversation.removeprefix('conv_')}}}"

    async def live() -> bool:
        return bool(store.hget(key, "run"))

    await eventually(live)


async def test_a_client_that_left_finds_its_run_again(a: Client, b: Client, sink: Path) -> None:
    """The first connection is cut in the middle: the run goes on, and the same message joins it."""
    conversation, title = await new_conversation(a), unique("left")
    said = f"open a slow ticket 0.3: {title}"
    body = _body(said, conversation=conversation, stream=True)
    async with a.stream("POST", "/v1/responses", json=body) as answered:
        begun = await Live(answered).until("response.mcp_call.in_progress")
    assert begun["sequence_number"] > 0
    again = await say(b, said, conversation=conversation)
    assert answer(again).startswith("Done")
    assert len(rows(sink, title)) == 1


async def test_the_same_message_after_the_end_is_a_new_turn_unless_the_sdk_retries(a: Client, b: Client) -> None:
    conversation = await new_conversation(a)
    first = await say(a, "hello", conversation=conversation)
    retried = await say(b, "hello", conversation=conversation, headers={"x-stainless-retry-count": "1"})
    assert retried.content == first.content
    anew = await say(b, "hello", conversation=conversation, headers={"x-stainless-retry-count": "0"})
    assert anew.json()["id"] != first.json()["id"]
    assert len(await history(a, conversation)) == 4


async def test_the_same_message_of_another_credential_is_another_message(a: Client, b: Client, sink: Path) -> None:
    conversation, title = await new_conversation(a), unique("credentials")
    said = f"open a slow ticket 0.1: {title}"
    sent = [
        say(client, said, conversation=conversation, headers={"Authorization": f"Bearer {who}"})
        for client, who in ((a, "one"), (b, "other"))
    ]
    one, other = await asyncio.gather(*sent)
    assert one.json()["id"] != other.json()["id"]
    assert len(rows(sink, title)) == 2


# --- another message while the first runs -----------------------------------------------------------------------------


async def test_other_messages_wait_in_line_and_run_in_order(
    a: Client, b: Client, sink: Path, store: redis.Redis
) -> None:
    conversation, title = await new_conversation(a), unique("line")
    said = f"open a slow ticket 0.4: {title}"
    async with a.stream("POST", "/v1/responses", json=_body(said, conversation=conversation, stream=True)) as answered:
        live = Live(answered)
        await live.until("response.mcp_call.in_progress")
        waiting = []
        for number, (client, text) in enumerate([(b, "my name is Ada"), (a, "what is my name"), (b, "count to 3")]):
            waiting.append(asyncio.create_task(say(client, text, conversation=conversation)))
            await in_line(store, conversation, number + 1)
        refresh = asyncio.create_task(say(a, "my name is Ada", conversation=conversation))
        await live.rest()
    texts = [answer(await task) for task in waiting]
    assert texts[1:] == ["Your name is Ada.", "1 2 3 "]
    assert (await refresh).content == (await waiting[0]).content
    items = await spoken(b, conversation)
    assert [items[0], *items[3:]] == [
        said, "my name is Ada", texts[0], "what is my name", texts[1], "count to 3", texts[2]
    ]  # fmt: skip
    assert len(rows(sink, title)) == 1


async def test_a_waiting_message_may_stream(a: Client, b: Client, store: redis.Redis) -> None:
    conversation = await new_conversation(a)
    said = unique("open a slow ticket 0.2: streamed wait")
    first = asyncio.create_task(say(a, said, conversation=conversation))
    await _live(store, conversation)
    second = await say(b, "count to 3", conversation=conversation, stream=True)
    assert [event.data["sequence_number"] for event in events_of(second.text)][:2] == [0, 1]
    assert _final(second)["output"][0]["content"][0]["text"] == "1 2 3 "
    assert (await first).json()["status"] == "completed"
    assert (await spoken(a, conversation))[-2:] == ["count to 3", "1 2 3 "]


@pytest.mark.parametrize("how", ["metadata", "header"])
async def test_a_message_that_will_not_wait_is_told_to_come_again(a: Client, b: Client, sink: Path, how: str) -> None:
    conversation, title = await new_conversation(a), unique("reject")
    said = f"open a slow ticket 0.2: {title}"
    asked: dict[str, Any] = {"metadata": {"agentrt_on_busy": "reject"}} if how == "metadata" else {}
    headers = {"X-Agentrt-On-Busy": "reject"} if how == "header" else {}
    async with a.stream("POST", "/v1/responses", json=_body(said, conversation=conversation, stream=True)) as answered:
        live = Live(answered)
        run = (await live.until("response.created"))["response"]["id"][-22:]
        await live.until("response.mcp_call.in_progress")
        refused = await say(b, "hello", conversation=conversation, headers=headers, **asked)
        await live.rest()
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "conversation_locked"
    assert run in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert "x-should-retry" not in refused.headers
    assert (await spoken(a, conversation))[0] == said
    assert len(await history(a, conversation)) == 3
    assert answer(await say(b, "count to 2", conversation=conversation, headers=headers, **asked)) == "1 2 "


async def test_items_are_not_appended_in_the_middle_of_a_turn(a: Client, b: Client) -> None:
    conversation = await new_conversation(a)
    item = {"items": [{"role": "user", "content": "psst"}]}
    said = unique("open a slow ticket 0.2: append")
    async with a.stream("POST", "/v1/responses", json=_body(said, conversation=conversation, stream=True)) as answered:
        live = Live(answered)
        await live.until("response.mcp_call.in_progress")
        refused = await b.post(f"/v1/conversations/{conversation}/items", json=item)
        await live.rest()
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conversation_locked")
    assert "psst" not in await spoken(b, conversation)
    assert (await b.post(f"/v1/conversations/{conversation}/items", json=item)).status_code == 200


async def test_many_messages_at_once_are_one_history_in_order(a: Client, b: Client, sink: Path) -> None:
    conversation = await new_conversation(a)
    titles = [unique("crowd") for _ in range(6)]
    sent = [
        say((a, b)[number % 2], f"open a ticket: {title}", conversation=conversation)
        for number, title in enumerate(titles)
    ]
    answers = {answered.json()["output"][0]["arguments"]: answer(answered) for answered in await asyncio.gather(*sent)}
    items = await history(b, conversation)
    assert [item["type"] for item in items] == ["message", "mcp_call", "message"] * 6
    for number in range(0, 18, 3):
        asked, call, said = items[number : number + 3]
        title = asked["content"][0]["text"].removeprefix("open a ticket: ")
        assert title in call["arguments"]
        assert answers[call["arguments"]] == said["content"][0]["text"]
        assert len(rows(sink, title)) == 1


async def test_a_waiting_message_is_told_at_once_that_it_is_its_turn(a: Client, b: Client) -> None:
    """Eight turns in a row, on two pods: far less than the poll of a second behind each of them."""
    conversation = await new_conversation(a)
    async with asyncio.timeout(1.5):
        sent = [say((a, b)[n % 2], f"count to {n}", conversation=conversation, model="support") for n in range(1, 9)]
        answers = await asyncio.gather(*sent)
    assert {answered.status_code for answered in answers} == {200}


async def test_a_chained_message_waits_for_its_parent_that_still_runs(a: Client, b: Client) -> None:
    """The parent is the live run, the tail: no fork, the message waits in line."""
    said = unique("open a slow ticket 0.2: parent")
    async with a.stream("POST", "/v1/responses", json=_body(said, stream=True)) as answered:
        live = Live(answered)
        parent = (await live.until("response.created"))["response"]["id"]
        await live.until("response.mcp_call.in_progress")
        chained = asyncio.create_task(say(b, "count to 2", previous_response_id=parent))
        await live.rest()
    done = await chained
    assert answer(done) == "1 2 "
    assert conversation_of(done.json()["id"]) == conversation_of(parent)
    assert (await spoken(a, conversation_of(parent)))[-2:] == ["count to 2", "1 2 "]

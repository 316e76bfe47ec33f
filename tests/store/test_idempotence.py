"""Every reply lost once, every script sent again: what is stored is stored exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import redis as redis_py

from agentrt.store.connection import Redis, Unit
from agentrt.store.journal import Batch
from agentrt.store.keys import LockKeys, RunKeys, SessionKeys, lease_member, new_id
from agentrt.store.line import Line
from agentrt.store.ownership import Owned
from agentrt.store.queue import DeadLetter, Urgency
from agentrt.store.quorum import Quorum
from agentrt.store.scripts import Script
from agentrt.store.tenure import LockConfig
from agentrt.tasks import Errands
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.store.stage import Store, connected, dump, ending, message, new_session, planned, recorded, until

LINES = (b'{"id":"in"}', b'{"id":"call"}', b"", b'{"id":"out"}')


class Loser:
    """Cuts the connection instead of passing on the first reply after `lose`."""

    def __init__(self, proxy: ByteProxy, outside: redis_py.Redis) -> None:
        self._outside = outside
        self._armed = False
        self._calls = 0
        self.lost: list[bytes] = []
        proxy.on_reply = self._reply

    def _reply(self, data: bytes) -> bytes | None:
        if not self._armed:
            return data
        self._armed = False
        self.lost.append(data)
        return None

    def lose(self) -> None:
        self._armed = True
        self._calls = self.evalsha_calls()

    def sent_again(self, *, at_least: bool = False) -> bool:
        """Whether the reply was lost, and was that of a script that ran, and the server got the script twice.

        `at_least`: others send scripts meanwhile.
        """
        ran = not self._armed and not self.lost[-1].startswith(b"-")
        calls = self.evalsha_calls() - self._calls
        return ran and (calls == 2 or (at_least and calls > 2))

    def evalsha_calls(self) -> int:
        return int(self._outside.info("commandstats")["cmdstat_evalsha"]["calls"])


@pytest.fixture
async def proxy(redis_server: RedisServer, redis_url: str) -> AsyncIterator[ByteProxy]:
    async with ByteProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def redis(proxy: ByteProxy, outside: redis_py.Redis) -> AsyncIterator[Redis]:
    """The store's connection through the proxy; it knows all scripts, so a lost reply is one of a script that ran."""
    async with connected(proxy.url) as redis:
        for script in redis.scripts.values():
            outside.script_load(script.source)
        outside.evalsha(redis.scripts["lease"].sha, 1, "agentrt:{q:0}:leases", "x", 1)
        outside.zrem("agentrt:{q:0}:leases", "x")
        yield redis


@pytest.fixture
def loser(proxy: ByteProxy, redis: Redis, outside: redis_py.Redis) -> Loser:
    return Loser(proxy, outside)


async def one_step(store: Store, loser: Loser | None) -> Owned:
    """begin, plan, two records and ten emits in one step, commit; with a loser, the reply of each is lost once."""

    async def losing(call: Any) -> Any:
        if loser is None:
            return await call
        loser.lose()
        value = await call
        assert loser.sent_again()
        return value

    owned: Owned = await losing(store.own(message(new_session())))
    calls = [planned(owned, 0), planned(owned, 1)]
    await losing(store.journal.plan(owned, 0, b"plan", [(call, True) for call in calls], Batch(0, b"event 0")))
    number = 1
    for index, call in enumerate(calls):
        for _ in range(5):
            await losing(store.journal.emit(owned, Batch(number, b"event %d" % number)))
            number += 1
        outcomes = [recorded(call, f"outcome {index}")]
        await losing(store.journal.record(owned, f"0.{index}", outcomes, Batch(number, b"event %d" % number)))
        number += 1
    end = ending(*LINES, last_event=number, events=b"event %d" % number)
    assert await losing(store.sessions.commit(owned, end)) == 1
    return owned


def stored(outside: redis_py.Redis, session: SessionKeys, run: RunKeys) -> dict[str, Any]:
    """All that the step left, without ids and times."""
    header, effects = dump(outside, session), outside.hgetall(run.effects)
    record = {name.decode(): value for name, value in outside.hgetall(run.hash).items()}
    keys = [planned(Owned(session, run, "", 0, 1, 0), index).key.encode() for index in range(2)]
    return {
        "header": {name: header[name] for name in ("v", "rev", "seq", "owner", "run", "waiters")},
        "head is the run": header["head"] == run.id,
        "items": outside.lrange(session.items, 0, -1),
        "runs": outside.lrange(session.runs, 0, -1) == [run.id.encode()],
        "events": [(entry, fields[b"e"]) for entry, fields in outside.xrange(run.events)],
        "effects": sorted(effects) == sorted([*keys, *(key + b"!" for key in keys)]),
        "outcomes": [orjson.loads(effects[key + b"!"])["output"] for key in keys],
        "record": {name: record[name] for name in ("status", "attempt", "first", "n_items", "log", "plan:0", "result")},
        "operations": sum(name.startswith("op:") for name in record),
    }


async def test_each_reply_lost_once(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """Two `record`s and ten `emit`s in one step, each reply lost once, the script sent again: stored exactly once."""
    plain = await one_step(store, None)
    expected = stored(outside, plain.session, plain.run)
    owned = await one_step(store, loser)
    assert len(loser.lost) == 1 + 1 + 2 + 10 + 1
    assert stored(outside, owned.session, owned.run) == expected
    # And in absolute terms, so that the two cannot be wrong alike.
    assert expected["events"] == [(b"%d-0" % (n + 1), b"event %d" % n) for n in range(14)]
    assert expected["items"] == list(LINES)
    assert expected["effects"]
    assert expected["outcomes"] == ["outcome 0", "outcome 1"]
    assert (expected["header"]["rev"], expected["header"]["seq"]) == ("1", "4")
    assert (expected["record"]["attempt"], expected["record"]["n_items"]) == (b"1", b"4")
    assert expected["runs"]


async def test_negative_control_without_op_tokens(redis: Redis, loser: Loser, outside: redis_py.Redis) -> None:
    """A commit that does not look its token up is refused the second time: the owner's own end looks like a theft."""
    text = redis.scripts["commit"].source
    text = text[text.index("-- commit: ") :].replace("if by == token then", "if false then")
    redis.scripts["commit"] = Script("commit", text)
    outside.script_load(redis.scripts["commit"].source)
    store = Store(redis)
    owned = await store.own(message(new_session()))
    loser.lose()
    with pytest.raises(Exception, match="fenced"):
        await store.sessions.commit(owned, ending(*LINES))


async def test_a_joined_message_and_a_place_in_the_line(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """A waiter whose reply was lost has one place, and is granted once."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session)
    loser.lose()
    waiting = await store.begin(want)
    assert loser.sent_again()
    assert waiting == await store.begin(want)
    assert len(orjson.loads(dump(outside, live.session)["waiters"])) == 1
    await store.sessions.commit(owner, ending(b"a"))
    loser.lose()
    assert (await store.own(want)).attempt == 1
    assert loser.sent_again()


async def test_claim(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """A lost claim is no second attempt."""
    dead = await store.own(message(new_session()))
    loser.lose()
    claimed = await store.claim(dead)
    assert loser.sent_again()
    assert claimed is not None
    assert claimed.attempt == 2
    assert int(dump(outside, dead.session)["fence"]) == claimed.fence


async def test_create_and_append(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """A conversation is made once, its items are appended once."""
    session = new_session()
    loser.lose()
    assert await store.conversations.create(session, op=new_id(), lines=(b"0", b"1")) is not None
    assert loser.sent_again()
    assert await store.conversations.create(session, op=new_id()) is None
    loser.lose()
    appended = await store.conversations.append(session, new_id(), 2, [])
    assert (appended.outcome, loser.sent_again()) == ("ok", True)
    assert outside.lrange(session.items, 0, -1) == [b"0", b"1"]
    assert dump(outside, session)["rev"] == "1"


async def test_a_named_lock(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """Whoever did not hear that it got the lock has it, once, under one fence; released twice is released."""
    lock, token = LockKeys("acme", "order:1"), new_id()
    line = Line(store.redis, store.notices, LockConfig("pod-a"), Errands())
    loser.lose()
    tenure = await line.take(lock, token, 0)
    assert loser.sent_again()
    assert (outside.hget(lock.hash, "holder"), outside.hget(lock.hash, "line")) == (token.encode(), b"")
    assert outside.hget(lock.hash, "fence") == b"%d" % tenure.fence
    loser.lose()
    assert await line.renew(lock, token) is not None
    assert loser.sent_again()
    loser.lose()
    await line.release(lock, token)
    assert loser.sent_again()
    assert outside.hget(lock.hash, "holder") is None


async def test_a_place_in_a_lock_s_line(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """One place, whoever's reply was lost, and handed on once: the second release does not hand on again."""
    lock, tokens = LockKeys("acme", "order:1"), [new_id() for _ in range(3)]
    line = Line(store.redis, store.notices, LockConfig("pod-a"), Errands())
    await line.take(lock, tokens[0], 0)
    waiting = []
    for number, token in enumerate(tokens[1:], 1):
        loser.lose()
        waiting.append(asyncio.create_task(line.take(lock, token, 5)))
        await until(lambda number=number: len(orjson.loads(outside.hget(lock.hash, "line") or b"[]")) == number)
        await until(lambda: loser.sent_again(at_least=True))
        assert len(orjson.loads(outside.hget(lock.hash, "line") or b"[]")) == number
    loser.lose()
    await line.release(lock, tokens[0])
    assert outside.hget(lock.hash, "holder") == tokens[1].encode()
    first = await waiting[0]
    await line.release(lock, tokens[1])
    assert (await waiting[1]).fence > first.fence
    await line.release(lock, tokens[2])


async def test_a_quorum_s_fence(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """Each reply of a taking lost once: the acquire's, then that of the fence's way back."""
    lock = LockKeys("acme", "order:1")
    quorum = Quorum([store.redis], LockConfig("pod-a"), Errands())
    loser.lose()
    tenure = await quorum.take(lock, new_id(), 5)
    assert loser.lost
    outside.hset(lock.hash, "fence", 1)
    raising = Unit(lock.tag).call(store.redis.scripts["lock_raise"], (lock.hash,), token=tenure.token, fence=7)
    loser.lose()
    assert await store.redis.execute(raising) == [[b"ok"]]
    assert loser.sent_again()
    assert outside.hget(lock.hash, "fence") == b"7"
    await quorum.release(lock, tenure.token)


async def test_lease_and_renewal(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """The timer's scripts only move a deadline."""
    member = lease_member(new_session(), new_id(), new_id())
    loser.lose()
    await store.leases.entering(member)
    assert loser.sent_again()
    loser.lose()
    assert await store.leases.renew([member]) == []
    assert loser.sent_again()
    assert outside.zrange("agentrt:{q:0}:leases", 0, -1) == [member]


async def test_the_queue(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """Handed over once, queued once, taken once: a lost reply costs no entry and makes no second one."""
    dead = await store.own(message(new_session()))
    owned = await store.claim(dead)
    assert owned is not None
    await store.leases.entering(owned.lease)
    loser.lose()
    await store.sessions.hand_over(owned)
    assert loser.sent_again()
    assert outside.hget(owned.run.hash, "spared") == b"1"
    loser.lose()
    await store.queue.enqueue(owned.lease, Urgency.RECOVERED)
    assert loser.sent_again()
    assert outside.zrange("agentrt:{q:0}:ready", 0, -1) == [owned.lease]
    loser.lose()
    assert await store.queue.take(1, new_id()) == [owned.lease]
    assert loser.sent_again()
    loser.lose()
    await store.leases.park(owned.lease, 1)
    assert loser.sent_again()
    loser.lose()
    assert (await store.queue.sweep(10))[1] == 1
    assert loser.sent_again()
    assert outside.zrange("agentrt:{q:0}:ready", 0, -1) == [owned.lease]


async def test_dead_letters(store: Store, loser: Loser, outside: redis_py.Redis) -> None:
    """Buried once, revived once."""
    want = message(new_session(), by_key=True)
    await store.sessions.commit(await store.own(want), ending(status="failed"))
    loser.lose()
    await store.queue.bury(DeadLetter("acme/s/r", "reason", "agent", 3, "pod", 1))
    assert loser.sent_again()
    loser.lose()
    assert not isinstance(await store.sessions.revive(want.session, want.run), str)
    assert loser.sent_again()
    assert outside.hget(want.session.run(want.run).hash, "spared") == b"1"


@pytest.mark.parametrize("ordered", [True, False], ids=["behind its lease", "control"])
async def test_nobody_owns_a_session_before_the_lease_is_entered(
    redis: Redis, proxy: ByteProxy, outside: redis_py.Redis, ordered: bool
) -> None:
    """Lease and begin leave in one write, and both are lost with the connection. Were only the begin sent again, a pod
    that is killed now would leave an owner whom no timer knows."""
    store = Store(redis)
    want = message(new_session())
    member = lease_member(want.session, want.run, want.token)
    outside.config_set("slowlog-log-slower-than", 0)
    outside.slowlog_reset()
    proxy.blackhole = True
    entered = store.leases.entering(member)
    begun = asyncio.create_task(store.sessions.begin(want, entered if ordered else None))
    await until(lambda: redis.waiting == 2)
    proxy.cut()
    proxy.blackhole = False
    assert isinstance(await begun, Owned)
    outside.config_set("slowlog-log-slower-than", 10_000)
    shas = {redis.scripts[name].sha.encode() for name in ("lease", "begin")}
    sent = [part for one in reversed(outside.slowlog_get(100)) for part in one["command"].split(b" ")[1:2]]
    scripts = [sha for sha in sent if sha in shas]
    assert scripts == [redis.scripts[name].sha.encode() for name in (("lease", "begin") if ordered else ("begin",))]
    assert (outside.zscore("agentrt:{q:0}:leases", member) is not None) == ordered
    entered.abandon()

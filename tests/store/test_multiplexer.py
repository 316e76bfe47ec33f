"""The multiplexed connection: one write a tick, replies first in first out; what callers get when it breaks."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import redis as redis_py
import uvloop
from redis.asyncio.connection import AbstractConnection

from agentrt.errors import OutcomeUnknown, StoreUnavailable
from agentrt.store.connection import Redis, RedisOptions, Unit, new_connection
from agentrt.store.handover import TakenOver, take_over
from agentrt.store.multiplexer import Multiplexer, MultiplexerLimits, RedisReplyError
from agentrt.store.probe import Probe
from agentrt.store.scripts import pack
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer, free_port
from tests.store.stage import Store, connected, new_session

FAR_S = 30.0
"""A delay that no test waits for."""


def dialling(url: str) -> Callable[[asyncio.Protocol], Awaitable[TakenOver]]:
    return lambda protocol: take_over(new_connection(RedisOptions(url)), protocol)


@asynccontextmanager
async def multiplexed(url: str, kind: type[Multiplexer] = Multiplexer, **limits: Any) -> AsyncIterator[Multiplexer]:
    line = kind(dialling(url), MultiplexerLimits(**limits))
    line.start()
    await line.wait_connected(2)
    try:
        yield line
    finally:
        await line.aclose()


@pytest.fixture
async def proxy(redis_server: RedisServer, redis_url: str) -> AsyncIterator[ByteProxy]:
    async with ByteProxy(redis_server.port) as proxy:
        yield proxy


def echo(line: Multiplexer, text: str) -> asyncio.Future[list[Any]]:
    return line.submit(pack("ECHO", text), 1)


async def written(line: Multiplexer) -> None:
    """Let the write of this tick happen."""
    writes = line.stats.writes
    while line.stats.writes == writes:
        await asyncio.sleep(0)


# --- together, and in order -------------------------------------------------------------------------------------------


async def test_one_tick_is_one_write(redis_url: str) -> None:
    """Whatever is submitted in one tick leaves in one write, and each caller gets its own reply."""
    async with multiplexed(redis_url) as line:
        for tick in range(1, 4):
            texts = [f"{tick}-{i}" for i in range(50)]
            replies = await asyncio.gather(*(echo(line, text) for text in texts))
            assert replies == [[text.encode()] for text in texts]
            assert (line.stats.writes, line.stats.units) == (tick, tick * 50)
        assert line.waiting == 0


async def test_a_units_replies_stay_together(redis_url: str) -> None:
    """Units of one, two and three commands, interleaved: each future gets as many replies as its unit has commands."""
    async with multiplexed(redis_url) as line:
        wanted = [[b"%d.%d" % (unit, i) for i in range(1 + unit % 3)] for unit in range(30)]
        futures = [line.submit(b"".join(pack("ECHO", text) for text in texts), len(texts)) for texts in wanted]
        assert await asyncio.gather(*futures) == wanted


async def test_error_replies_are_values(redis_url: str) -> None:
    """A refused command is its caller's business: the connection and the neighbours go on."""
    async with multiplexed(redis_url) as line:
        before, refused, after = await asyncio.gather(
            echo(line, "before"), line.submit(pack("GET") + pack("ECHO", "same unit"), 2), echo(line, "after")
        )
        assert (before, after) == ([b"before"], [b"after"])
        assert isinstance(refused[0], RedisReplyError)
        assert refused[0].code == "ERR"
        assert refused[1] == b"same unit"
        assert line.stats.breaks == 0


# --- cancelled callers ------------------------------------------------------------------------------------------------


async def test_a_cancelled_callers_reply_is_dropped(proxy: ByteProxy) -> None:
    """Whether it left before or after the write, its reply reaches nobody; the next callers get their own."""
    async with multiplexed(proxy.url) as line:
        proxy.delay_s = 0.02
        early, second = echo(line, "early"), echo(line, "second")
        early.cancel()
        await written(line)
        late, fourth = echo(line, "late"), echo(line, "fourth")
        await written(line)
        late.cancel()
        assert await second == [b"second"]
        assert await fourth == [b"fourth"]
        assert line.stats.breaks == 0
        assert line.waiting == 0


class Forgetful(Multiplexer):
    """The mistake to be found: a cancelled caller gives up its place in the line as well."""

    def _received(self, wire: Any, reply: Any) -> None:
        while self._line and self._line[0].future.cancelled():
            self._line.popleft()
        super()._received(wire, reply)


async def test_negative_control_a_line_without_places(proxy: ByteProxy) -> None:
    """With that mistake the second caller is handed the first one's answer, and the test above would see it."""
    async with multiplexed(proxy.url, Forgetful) as line:
        proxy.delay_s = 0.02
        first, second = echo(line, "first"), echo(line, "second")
        await written(line)
        first.cancel()
        assert await second == [b"first"]


async def test_2000_random_cancels(proxy: ByteProxy) -> None:
    """Row 31: two tenants, delayed replies, cut connections; every answer is the caller's own or an error."""
    chance = random.Random(31)

    def vary(data: bytes) -> bytes:
        proxy.delay_s = chance.uniform(0, 0.004)
        return data

    async with connected(proxy.url) as redis:
        store = Store(redis)
        sessions = [new_session(tenant) for tenant in ("acme", "rival") for _ in range(20)]
        for session in sessions:
            await store.conversations.create(session, op="op", user=f"user-of-{session.id}")
        proxy.on_reply = vary

        async def ask(number: int) -> str:
            session = sessions[number % len(sessions)]
            unit = Unit(session.tag).command("HMGET", session.hash, "tenant", "user").command("ECHO", f"ask {number}")
            try:
                (tenant, user), echoed = await redis.execute(unit)
            except StoreUnavailable:
                return "error"
            own = (session.tenant.encode(), f"user-of-{session.id}".encode(), b"ask %d" % number)
            return "own" if (tenant, user, echoed) == own else "FOREIGN"

        outcomes = await cancel_at_random(ask, chance, proxy)
        proxy.delay_s, proxy.on_reply = 0.0, lambda data: data
        assert outcomes.count("FOREIGN") == 0
        assert len(outcomes) == 2000
        assert outcomes.count("own") > 0  # of some hundred, where nothing else is at work
        assert outcomes.count("cancelled") > 300
        assert redis.stats.breaks >= 5
        await redis.execute(Unit(b"x").command("PING"))
        assert redis.waiting == 0


async def cancel_at_random(ask: Callable[[int], Awaitable[str]], chance: random.Random, proxy: ByteProxy) -> list[str]:
    """2,000 askers, 40 at a time, each cancelled after a random moment; now and then the connection is cut."""
    loop = asyncio.get_running_loop()
    outcomes: list[str] = []
    for wave in range(50):
        tasks = []
        for i in range(40):
            task = asyncio.ensure_future(ask(wave * 40 + i))
            loop.call_later(chance.uniform(0, 0.02), task.cancel)
            tasks.append(task)
        if wave % 10 == 5:
            loop.call_later(0.003, proxy.cut)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        outcomes += ["cancelled" if isinstance(one, asyncio.CancelledError) else str(one) for one in done]
    return outcomes


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_waiters_are_bounded(proxy: ByteProxy) -> None:
    """One more than the bound is refused at once and not sent; those in the line are served."""
    async with multiplexed(proxy.url, waiters_max=3) as line:
        proxy.delay_s = 0.02
        first = [echo(line, f"{i}") for i in range(2)]
        await written(line)
        first.append(echo(line, "2"))  # written and buffered ones count alike
        with pytest.raises(StoreUnavailable) as caught:
            echo(line, "3")
        assert caught.value.reason == "overloaded"
        assert not isinstance(caught.value, OutcomeUnknown)
        assert await asyncio.gather(*first) == [[b"0"], [b"1"], [b"2"]]
        assert await echo(line, "room again") == [b"room again"]


async def test_the_buffer_is_bounded(redis_url: str) -> None:
    """By bytes that were not written so far."""
    async with multiplexed(redis_url, buffer_bytes_max=1000) as line:
        fits = echo(line, "x" * 900)
        with pytest.raises(StoreUnavailable) as caught:
            echo(line, "y" * 100)
        assert caught.value.reason == "overloaded"
        assert await fits == [b"x" * 900]
        assert await echo(line, "y" * 100) == [b"y" * 100]
        assert line.stats.units == 2


# --- broken connections -----------------------------------------------------------------------------------------------


async def test_a_cut_connection_leaves_written_units_unknown(proxy: ByteProxy) -> None:
    """What was written may have happened, and the error says so; then the line stands again."""
    async with multiplexed(proxy.url) as line:
        proxy.delay_s = FAR_S
        lost = [echo(line, f"{i}") for i in range(5)]
        await written(line)
        proxy.cut()
        outcomes = await asyncio.gather(*lost, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 5
        proxy.delay_s = 0
        await line.wait_connected(2)
        assert await echo(line, "new") == [b"new"]
        assert (line.stats.breaks, line.stats.connects) == (1, 2)


async def test_unsent_units_did_not_happen(own_server: RedisServer) -> None:
    """A unit that never left gets `StoreUnavailable` and not `OutcomeUnknown`: the socket was full."""
    async with multiplexed(own_server.url, reply_timeout_s=0.3) as line:
        own_server.signal(signal.SIGSTOP)
        big = line.submit(pack("ECHO", b"x" * 12_000_000), 1)
        await written(line)
        writes = line.stats.writes
        unsent = echo(line, "small")
        outcomes = await asyncio.gather(big, unsent, return_exceptions=True)
        assert line.stats.writes == writes, "the small unit was written, so this test shows nothing"
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, StoreUnavailable]


async def test_without_a_connection_nothing_is_sent(redis_url: str) -> None:
    line = Multiplexer(dialling(redis_url))
    with pytest.raises(StoreUnavailable) as caught:
        echo(line, "x")
    assert not isinstance(caught.value, OutcomeUnknown)
    await line.aclose()


async def test_a_silent_redis_is_given_up(proxy: ByteProxy) -> None:
    """No reply within the timeout: the connection may be half open, so it goes, and callers are told."""
    async with multiplexed(proxy.url, reply_timeout_s=0.2) as line:
        proxy.blackhole = True
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(OutcomeUnknown):
            await echo(line, "into the dark")
        assert 0.19 <= loop.time() - before < 1.0
        proxy.blackhole = False
        await line.wait_connected(3)
        assert await echo(line, "light") == [b"light"]


async def test_the_timeout_counts_from_the_write(proxy: ByteProxy) -> None:
    """Slow but steady replies are no reason to give up: each unit has its own time."""
    async with multiplexed(proxy.url, reply_timeout_s=0.3) as line:
        proxy.delay_s = 0.12
        for i in range(5):
            assert await echo(line, f"{i}") == [b"%d" % i]
        assert line.stats.breaks == 0


async def test_a_stopped_redis_is_given_up_and_found_again(own_server: RedisServer) -> None:
    """SIGSTOP: an answer within the budget that says so; SIGCONT: the same object serves again."""
    async with connected(own_server.url, reply_timeout_s=0.3, resend_budget_s=0.5) as redis:
        ask = Unit(b"x").command("ECHO", "x")
        loop = asyncio.get_running_loop()
        own_server.signal(signal.SIGSTOP)
        before = loop.time()
        with pytest.raises(OutcomeUnknown):
            await redis.execute(ask)
        assert loop.time() - before < 3
        own_server.signal(signal.SIGCONT)
        assert await asyncio.wait_for(until_served(redis, ask), 3) == [b"x"]


async def until_served(redis: Redis, unit: Unit) -> list[Any]:
    while True:
        with suppress(StoreUnavailable):
            return await redis.execute(unit)


async def test_client_kill_is_cured(redis: Redis, outside: redis_py.Redis) -> None:
    """The server throws the connection out between two units: the next one finds a new connection."""
    ask = Unit(b"x").command("ECHO", "x")
    await redis.execute(ask)
    killed = [client["id"] for client in outside.client_list() if client["name"] == "agentrt"]
    assert len(killed) == 1
    outside.client_kill_filter(_id=killed[0])
    assert await redis.execute(ask) == [b"x"]
    assert (redis.stats.breaks, redis.stats.connects) == (1, 2)


async def test_reconnecting_backs_off() -> None:
    """Tries go on for as long as it takes, each pause within 50 to 100 % of a doubling delay up to its bound."""
    port, times, loop = free_port(), [], asyncio.get_running_loop()
    enough = asyncio.Event()

    async def dial(protocol: asyncio.Protocol) -> TakenOver:
        times.append(loop.time())
        if len(times) == 8:
            enough.set()
        return await dialling(f"redis://127.0.0.1:{port}/0")(protocol)

    line = Multiplexer(dial, MultiplexerLimits(backoff_s_min=0.01, backoff_s_max=0.08))
    line.start()
    try:
        await asyncio.wait_for(enough.wait(), 5)
        pauses = [later - earlier for earlier, later in pairwise(times[:8])]
        delays = [0.01, 0.02, 0.04, 0.08, 0.08, 0.08, 0.08]
        assert all(pause >= 0.5 * delay for pause, delay in zip(pauses, delays, strict=True)), pauses
        assert sum(pauses) < sum(delays) + 1
        server = await asyncio.to_thread(RedisServer(port=port).start)
        try:
            await line.wait_connected(3)
            assert await echo(line, "there") == [b"there"]
        finally:
            server.stop()
    finally:
        await line.aclose()


async def test_what_a_failed_connection_said_is_forgotten(redis_url: str) -> None:
    """It was full when it broke, before it was greeted; the next one has nothing to resume."""
    tries = 0

    async def dial(protocol: asyncio.Protocol) -> TakenOver:
        nonlocal tries
        tries += 1
        if tries == 1:
            protocol.pause_writing()
            raise ConnectionError("it broke")
        return await dialling(redis_url)(protocol)

    line = Multiplexer(dial, MultiplexerLimits(backoff_s_min=0.01))
    line.start()
    try:
        await line.wait_connected(3)
        async with asyncio.timeout(3):
            assert await echo(line, "there") == [b"there"]
    finally:
        await line.aclose()


async def test_closing_tells_the_waiters(proxy: ByteProxy) -> None:
    """Nobody waits for a closed connection, and it does not come back."""
    async with multiplexed(proxy.url) as line:
        proxy.delay_s = FAR_S
        lost = echo(line, "x")
        await written(line)
        await line.aclose()
        with pytest.raises(OutcomeUnknown):
            await lost
        with pytest.raises(StoreUnavailable):
            echo(line, "y")
        with pytest.raises(StoreUnavailable) as caught:
            await line.wait_connected(1)
        assert caught.value.reason == "closed"
        assert line.stats.connects == 1


# --- dirty connections and the hand-over ------------------------------------------------------------------------------


async def test_a_reply_that_nobody_asked_for(proxy: ByteProxy) -> None:
    """The line is out of step: better no connection than somebody else's answers."""
    async with multiplexed(proxy.url) as line:
        proxy.on_reply = lambda data: data + b"+stray\r\n"
        assert await echo(line, "own") == [b"own"]
        proxy.on_reply = lambda data: data
        assert line.stats.breaks == 1
        await line.wait_connected(2)
        assert await echo(line, "clean") == [b"clean"]


async def test_garbage_breaks_the_connection(proxy: ByteProxy) -> None:
    async with multiplexed(proxy.url) as line:
        proxy.on_reply = lambda data: b"\x00garbage\r\n"
        with pytest.raises(OutcomeUnknown):
            await echo(line, "x")
        assert line.stats.breaks == 1


async def test_private_names_of_redis_py(redis_url: str) -> None:
    """The hand-over rests on these; when redis-py renames one, this fails and not production."""
    connection = new_connection(RedisOptions(redis_url))
    await connection.connect()
    try:
        assert isinstance(connection._writer, asyncio.StreamWriter)
        assert isinstance(connection._reader, asyncio.StreamReader)
        assert isinstance(connection._reader._buffer, bytearray)  # type: ignore[attr-defined]
        assert not connection._reader.at_eof()
        assert not await connection._parser.can_read()
    finally:
        await connection.disconnect()


@pytest.mark.parametrize("together", [True, False], ids=["with the last reply", "behind it"])
@pytest.mark.parametrize("stray", [b"+stray\r\n", b"$5\r\nst"], ids=["a whole reply", "half a reply"])
async def test_leftover_bytes_are_refused(proxy: ByteProxy, stray: bytes, together: bool) -> None:
    """Row 32: bytes behind the handshake's last reply, read by redis-py or not, are never taken along."""
    connection = new_connection(RedisOptions(proxy.url))
    if together:
        last = await handshake_replies(proxy)
        seen: list[bytes] = []

        def plant(data: bytes) -> bytes:
            seen.append(data)
            return data + stray if b"".join(seen).count(b"\r\n") == last else data

        proxy.on_reply = plant
    else:
        await connection.connect()
        assert connection._reader is not None
        connection._reader.feed_data(stray)
    with pytest.raises(StoreUnavailable, match="not clean"):
        await take_over(connection, asyncio.Protocol())
    assert not connection.is_connected


async def handshake_replies(proxy: ByteProxy) -> int:
    """How many replies redis-py's handshake reads."""
    seen: list[bytes] = []

    def listen(data: bytes) -> bytes:
        seen.append(data)
        return data

    proxy.on_reply = listen
    connection = new_connection(RedisOptions(proxy.url))
    await connection.connect()
    await connection.disconnect()
    return b"".join(seen).count(b"\r\n")


@pytest.mark.parametrize("when", ["connected", "during the handshake", "just broken"])
async def test_closing_leaves_nothing_open(proxy: ByteProxy, when: str) -> None:
    """redis-py closes what it opened: no connection object is left that believes to be connected."""
    opened: list[AbstractConnection] = []
    arrived = asyncio.Event()

    def swallow(data: bytes) -> bytes:
        arrived.set()
        return b"" if when == "during the handshake" else data

    async def dial(protocol: asyncio.Protocol) -> TakenOver:
        opened.append(new_connection(RedisOptions(proxy.url)))
        return await take_over(opened[-1], protocol)

    proxy.on_reply = swallow
    line = Multiplexer(dial)
    line.start()
    await arrived.wait()
    if when != "during the handshake":
        await line.wait_connected(2)
    if when == "just broken":
        proxy.on_reply = lambda data: b"\x00garbage\r\n"
        with pytest.raises(OutcomeUnknown):
            await echo(line, "x")
    await line.aclose()
    assert opened
    assert not any(connection.is_connected for connection in opened)


def test_a_reset_within_the_handshake_is_one_more_try() -> None:
    """uvloop's transports raise errors of their own for a write into what was reset, and redis-py lets them pass."""
    fake = socket.create_server(("127.0.0.1", 0))
    port, asked = fake.getsockname()[1], 0

    def reset() -> None:
        nonlocal asked
        with suppress(OSError):  # closed: it is over
            while True:
                connection, _ = fake.accept()
                asked += 1
                connection.recv(100)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.send(b"+OK\r\n")
                connection.close()

    async def scene() -> None:
        options = RedisOptions(f"redis://127.0.0.1:{port}/0")
        redis, probe = Redis(options), Probe(options, "pod")
        await redis.start()
        for _ in range(20):
            assert await probe.ask(0.5) is not None
        assert asked > 20, "both ask again and again"
        fake.shutdown(socket.SHUT_RDWR)
        fake.close()
        server = await asyncio.to_thread(RedisServer(port=port).start)
        try:
            async with asyncio.timeout(10):
                while not redis.connected or await probe.ask(0.5) is not None:
                    await asyncio.sleep(0.02)
        finally:
            await redis.aclose()
            await probe.aclose()
            server.stop()

    resetting = threading.Thread(target=reset)
    resetting.start()
    uvloop.run(scene())
    resetting.join()

"""TLS to Redis: a certificate that is not trusted, or is somebody else's, is refused unless the URL says otherwise."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest
import uvloop

from agentrt.errors import StoreUnavailable
from agentrt.store.connection import Redis, RedisOptions, Unit
from agentrt.store.notices import Notices
from agentrt.store.probe import Probe
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.harness.tls import Authority
from tests.store.stage import Store, connected, message, new_session

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> ssl.SSLContext:
    """The certificate of the server under test."""
    return authority.server("IP:127.0.0.1")


@pytest.fixture
async def front(redis_server: RedisServer, redis_url: str, ours: ssl.SSLContext) -> AsyncIterator[ByteProxy]:
    """TLS in front of the shared Redis."""
    async with ByteProxy(redis_server.port, ssl=ours) as front:
        yield front


def url(front: ByteProxy, query: str) -> str:
    return f"rediss://127.0.0.1:{front.port}/0?{query}"


async def refusal(address: str) -> str:
    """Why nobody is served over it."""
    redis = Redis(RedisOptions(address, resend_budget_s=0.2))
    await redis.start()
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await redis.execute(Unit(b"x").command("PING"))
        assert await Probe(RedisOptions(address), "pod-tls").ask(5) == "unreachable"
        return str(caught.value)
    finally:
        await redis.aclose()


async def test_a_trusted_server_serves_over_tls(front: ByteProxy, authority: Authority) -> None:
    """Commands, the probe and the subscription."""
    address = url(front, f"ssl_ca_certs={authority.ca}")
    probe = Probe(RedisOptions(address), "pod-tls")
    assert await probe.ask(5) is None
    await probe.aclose()
    async with connected(address) as redis:
        await Store(redis).own(message(new_session()))
        notices = Notices(redis, RedisOptions(address), "pod-tls")
        notices.start()
        while not await notices.listening("pod-tls"):
            await asyncio.sleep(0.01)
        await notices.aclose()


async def test_the_loop_that_pods_run_on_takes_tls_over_too(front: ByteProxy, authority: Authority) -> None:
    """uvloop has transports of its own."""

    async def begin() -> None:
        async with connected(url(front, f"ssl_ca_certs={authority.ca}")) as redis:
            await Store(redis).own(message(new_session()))

    def on_uvloop() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(begin())

    await asyncio.to_thread(on_uvloop)


async def test_an_unknown_authority_is_refused(front: ByteProxy) -> None:
    assert "certificate" in (await refusal(url(front, ""))).lower()


async def test_the_certificate_of_another_server_is_refused(redis_server: RedisServer, authority: Authority) -> None:
    other = authority.server("DNS:other.example")
    async with ByteProxy(redis_server.port, ssl=other) as front:
        assert "certificate" in (await refusal(url(front, f"ssl_ca_certs={authority.ca}"))).lower()


async def test_whoever_says_so_is_not_protected(front: ByteProxy) -> None:
    """The control: the same server, with verification taken out."""
    async with connected(url(front, "ssl_cert_reqs=none&ssl_check_hostname=false")) as redis:
        assert await redis.execute(Unit(b"x").command("PING")) == [b"PONG"]

"""URLs of Redis: what is read from them, and what is refused."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import SSLConnection

from agentrt.errors import SettingsError
from agentrt.store.address import Server, check_url, read_url


def test_one_server() -> None:
    address = read_url("redis://ann:secret@there:7000/3")
    assert (address.kind, address.servers, address.master) == ("single", (), "")
    assert address.kwargs == {"host": "there", "port": 7000, "db": 3, "username": "ann", "password": "secret"}


def test_sentinels() -> None:
    address = read_url("redis+sentinel://:s%40cret@one:1,two,[::1]:3,[::2]/main/2?sentinel_password=other")
    assert (address.kind, address.master) == ("sentinel", "main")
    assert address.servers == (Server("one", 1), Server("two", 26379), Server("::1", 3), Server("::2", 26379))
    assert address.kwargs == {"db": 2, "password": "s@cret"}
    assert address.sentinel_kwargs == {"password": "other"}
    assert read_url("redis+sentinel://one/main").kwargs == {"db": 0}


def test_a_cluster() -> None:
    address = read_url("rediss+cluster://ann@one:1,two:2?ssl_ca_certs=ca.pem")
    assert (address.kind, address.servers) == ("cluster", (Server("one", 1), Server("two", 2)))
    assert address.kwargs == {
        "db": 0,
        "username": "ann",
        "connection_class": SSLConnection,
        "ssl_ca_certs": "ca.pem",
    }


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://one", "schemes"),
        ("redis+quorum://one", "scheme"),
        ("unix+cluster://one", "scheme"),
        ("redis+sentinel://one:26379", "name of the master"),
        ("redis+sentinel:///main", "no host"),
        ("redis+sentinel://one/main/zero", "number of a database"),
        ("redis+cluster://", "no host"),
        ("redis+cluster://one/1", "no databases"),
        ("redis+cluster://one:port", "host and port"),
        ("redis+cluster://one?socket_timeout=soon", "socket_timeout"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"AGENTRT_REDIS_URL: .*{why}"):
        check_url(url, "AGENTRT_REDIS_URL")

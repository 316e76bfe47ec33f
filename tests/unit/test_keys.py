"""Ids and key names: what may reach Redis as part of a key, and what belongs together."""

from __future__ import annotations

import hashlib

import pytest
from redis.crc import key_slot

from agentrt.store.keys import (
    LockKeys,
    QueueKeys,
    SessionKeys,
    derive_id,
    is_id,
    is_name,
    lease_member,
    new_id,
    parse_lease_member,
    pod_channel,
    probe_key,
)

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def number(text: str) -> int:
    """The number that an id stands for."""
    value = 0
    for character in text:
        value = value * 62 + DIGITS.index(character)
    return value


def test_new_ids_are_distinct_and_of_one_shape() -> None:
    """22 characters of base62, never the same twice."""
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert all(is_id(text) and len(text) == 22 and set(text) <= set(DIGITS) for text in ids)


def test_new_ids_are_uniform_over_128_bits() -> None:
    """Each of the 128 bits is set in half of the ids; a shortened or biased id would lack some."""
    numbers = [number(new_id()) for _ in range(4000)]
    assert max(numbers) < 1 << 128
    for bit in range(128):
        ones = sum(value >> bit & 1 for value in numbers)
        assert abs(ones - 2000) < 253, f"bit {bit} is set in {ones} of 4000"  # 8 standard deviations


def test_derived_id_is_the_head_of_a_sha256() -> None:
    """The first 128 bits over length-prefixed parts: any pod, any release derives the same."""
    digest = hashlib.sha256(b"4:acme" + b"3:\xc3\xa9k").digest()
    assert number(derive_id("acme", "ék")) == int.from_bytes(digest[:16], "big")
    assert is_id(derive_id("acme", "ék"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", ""), ("a",)),
        (("", "a"), ("a", "")),
        (("a", "b"), ("b", "a")),
        (("1:a",), ("a",)),
        (("a", "1:b"), ("a1:b",)),
    ],
)
def test_derived_ids_are_unambiguous(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """No part can shift into its neighbour."""
    assert derive_id(*one) != derive_id(*other)


@pytest.mark.parametrize("text", ["a", "A-9_z", "x" * 64])
def test_good_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "a/b", "a b", "a}", "{a", "ä", "a\n", "a:b", "a.b", "\0"])
def test_bad_names_are_refused(text: str) -> None:
    """Nothing that could leave its place in a key, a hash tag or a lease entry."""
    assert not is_name(text)
    with pytest.raises(ValueError, match="not a tenant and session"):
        SessionKeys(text, new_id())


@pytest.mark.parametrize("text", ["", "a" * 21, "a" * 23, "a" * 21 + "-", "a" * 21 + "/", "a" * 22 + "\n", "é" * 22])
def test_bad_session_ids_are_refused(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(ValueError, match="not a tenant and session"):
        SessionKeys("acme", text)


def test_all_keys_of_a_session_share_a_slot() -> None:
    """No script of the session slot can touch two nodes; two tenants' sessions of the same id are apart."""
    session = SessionKeys("acme", "S" * 22)
    run = session.run("R" * 22)
    keys = [session.hash, session.items, session.runs, run.hash, run.effects, run.events]
    assert len(set(keys)) == 6
    assert {key_slot(key) for key in keys} == {key_slot(session.tag)}
    assert session.hash == b"agentrt:{acme/%b}" % (b"S" * 22)
    assert SessionKeys("other", "S" * 22).hash != session.hash


def test_queue_and_pod_keys() -> None:
    """One slot a queue; everything of ours begins with `agentrt:`, as the Redis user's rights say."""
    queue = QueueKeys(7)
    assert key_slot(queue.leases) == key_slot(queue.config) == key_slot(b"q:7")
    names = [queue.leases, queue.config, probe_key("pod-a"), pod_channel("pod-a").encode()]
    assert all(name.startswith(b"agentrt:") for name in names)
    assert len(set(names)) == 4


def test_lease_member_round_trip() -> None:
    """The sweeper finds tenant, session, run and token of an entry again."""
    session, run, token = SessionKeys("a-c_me", new_id()), new_id(), new_id()
    assert parse_lease_member(lease_member(session, run, token)) == ("a-c_me", session.id, run, token)


@pytest.mark.parametrize("member", [b"", b"a/b/c", b"a/b/c/d/e"])
def test_a_foreign_lease_member_is_refused(member: bytes) -> None:
    with pytest.raises(ValueError, match="unpack"):
        parse_lease_member(member)


def test_the_key_of_a_named_lock() -> None:
    """The hash of the name, whatever the name; a slot of its own for each tenant and name."""
    lock = LockKeys("acme", "order:4711")
    assert lock.hash == b"agentrt:{acme/lock:%b}" % hashlib.sha256(b"order:4711").hexdigest().encode()
    assert key_slot(lock.hash) == key_slot(lock.tag)
    assert len({LockKeys(tenant, name).hash for tenant in ("a", "b") for name in ("", "x", "}", "é", "\ud800")}) == 10


@pytest.mark.parametrize("tenant", ["", "a/lock:b", "a}", "é"])
def test_a_lock_wants_a_tenant(tenant: str) -> None:
    with pytest.raises(ValueError, match="not a tenant"):
        LockKeys(tenant, "order")

"""The loader of the Lua scripts: contracts in headers, operands by name, refusals before anything is sent."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import Any

import pytest

import agentrt.store
from agentrt.errors import ScriptError
from agentrt.store.scripts import Script, load, load_all, pack

SCRIPTS = load_all()
PIECES = {"generation", "jobs", "ownership", "waiters", "log", "doubts", "line", "queue", "pods", "steers", "versions"}
"""Files that are only included."""

HEADER = "-- probe: a script for this test\n-- KEYS first second\n-- ARGV one two ...rest\n"


def probe(text: str = HEADER) -> Script:
    return Script("probe", text + "return 1\n")


def test_every_file_is_a_script_or_a_piece() -> None:
    """No file is forgotten by the loader."""
    folder = resources.files(agentrt.store)
    files = {entry.name.removesuffix(".lua") for entry in folder.iterdir() if entry.name.endswith(".lua")}
    assert set(SCRIPTS) == files - PIECES
    assert files >= PIECES


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_shipped_script(name: str) -> None:
    """Loads, names its operands once each, has its includes spliced in, and is named by its own text."""
    script = SCRIPTS[name]
    names = [*script.keys, *script.argv]
    assert script.keys
    assert len(set(names)) == len(names)
    assert "-- INCLUDE" not in script.source
    assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    assert "-- returns" in script.source


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_shipped_script_binds_its_operands(name: str) -> None:
    """Every operand of the header is used by the script: none is sent for nothing."""
    script = SCRIPTS[name]
    body = script.source[script.source.index(f"-- {name}: ") :]
    code = re.sub(r"--.*|'[^']*'", "", body)
    operands = (*script.keys, *script.argv)
    assert [operand for operand in operands if not re.search(rf"\b{operand}\b", code)] == []


def test_operands_become_locals() -> None:
    """By their names; the open tail by the number of its first operand."""
    script = probe()
    assert script.source.startswith(
        "local first = KEYS[1]\nlocal second = KEYS[2]\nlocal one = ARGV[1]\nlocal two = ARGV[2]\nlocal rest = 3\n"
    )
    assert (script.keys, script.argv, script.open_tail) == (("first", "second"), ("one", "two"), True)


@pytest.mark.parametrize(
    "text",
    [
        "-- KEYS a\n-- ARGV b\n",
        "-- other: its name is not the file's\n-- KEYS a\n-- ARGV b\n",
        "-- probe: no keys\n-- ARGV b\n",
        "-- probe: no operands\n-- KEYS a\n",
        "return 1\n",
        "\n" + HEADER,
    ],
)
def test_a_script_needs_its_header(text: str) -> None:
    with pytest.raises(ScriptError, match="header"):
        probe(text)


def test_packed_call() -> None:
    """What is sent is EVALSHA with the operands in the header's order, whatever order they were given in."""
    script = probe()
    expected = pack("EVALSHA", script.sha, 2, b"k1", b"k2", "1", b"\xff", "t", 9)
    assert script.pack((b"k1", b"k2"), ("t", 9), two=b"\xff", one="1") == expected
    assert expected.startswith(b"*9\r\n$7\r\nEVALSHA\r\n$40\r\n")
    assert script.pack_load() == pack("SCRIPT", "LOAD", script.source)


def test_a_prepared_call_is_the_same_call() -> None:
    """Packed in part beforehand, for scripts of one key: the bytes are those of `pack`."""
    script = SCRIPTS["lock_release"]
    prepared = script.prepare(ttl=60)
    for key, token in ((b"k", "t"), (b"", ""), (b"k" * 100, "é")):
        assert prepared.pack(key, token) == script.pack((key,), token=token, ttl=60)
    assert script.prepare(ttl="$0\r\n\r\n").pack(b"k", "t") == script.pack((b"k",), token="t", ttl="$0\r\n\r\n")


@pytest.mark.parametrize(
    ("name", "constants"),
    [("lock_release", {}), ("lock_release", {"token": "t", "ttl": 1}), ("lock_release", {"tll": 1}), ("plan", {})],
)
def test_what_cannot_be_prepared(name: str, constants: dict[str, Any]) -> None:
    with pytest.raises(ScriptError, match="prepared"):
        SCRIPTS[name].prepare(**constants)


@pytest.mark.parametrize(
    ("keys", "argv", "complaint"),
    [
        ((b"k1",), {"one": 1, "two": 2}, "wants the keys"),
        ((b"k1", b"k2", b"k3"), {"one": 1, "two": 2}, "wants the keys"),
        ((b"k1", b"k2"), {"one": 1}, "'two' is missing"),
        ((b"k1", b"k2"), {}, "'one' is missing"),
        ((b"k1", b"k2"), {"one": 1, "two": 2, "three": 3}, "unknown operands.*three"),
        ((b"k1", b"k2"), {"one": 1, "tow": 2}, "'two' is missing"),
    ],
)
def test_another_set_of_operands_is_refused(keys: tuple[bytes, ...], argv: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ScriptError, match=complaint):
        probe().pack(keys, (), **argv)


def test_an_extra_tail_is_refused() -> None:
    """A script without an open tail takes no operands beyond its header's."""
    script = probe("-- probe: closed\n-- KEYS first\n-- ARGV one\n")
    assert not script.open_tail
    script.pack((b"k",), one=1)
    with pytest.raises(ScriptError, match="no open tail"):
        script.pack((b"k",), (b"more",), one=1)


def test_a_script_without_operands() -> None:
    script = probe("-- probe: bare\n-- KEYS first\n-- ARGV\n")
    assert (script.argv, script.open_tail) == ((), False)
    assert script.pack((b"k",)) == pack("EVALSHA", script.sha, 1, b"k")


def test_includes_are_spliced_in() -> None:
    """The guard stands in every script that asks for it, once, before its use."""
    source = load("commit").source
    assert source.count("local function refusal(") == 1
    assert source.index("local function refusal(") < source.index("refusal(session, token, fence, s)\nif refused")
    assert "local function grant(" in source
    assert "local function log(" in source
    assert "local function" not in load("bury").source


def test_a_missing_script_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        load("no_such_script")

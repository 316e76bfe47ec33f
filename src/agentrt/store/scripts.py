"""Loads the Lua scripts beside this file and binds their operands by name.

A script opens with its contract:

    -- begin: what it is for
    -- KEYS session run
    -- ARGV run_id token ...effects
    -- returns ...

`KEYS` and `ARGV` become locals of the same names; a last name with three dots in front binds the number of the first
operand of an open tail. `-- INCLUDE file.lua` splices a shared piece in. Calling a script with another set of operands
than its header names is refused before anything is sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources

import hiredis

from agentrt.errors import ScriptError

__all__ = ["Operand", "Prepared", "Script", "load", "load_all", "pack"]

Operand = bytes | str | int


def pack(*command: Operand) -> bytes:
    """A command in the Redis protocol."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


_HEADER = re.compile(r"^-- (KEYS|ARGV)(?: +(.*))?$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- INCLUDE (\S+)$", re.MULTILINE)


class Script:
    """One Lua script: `sha` names it on the server, `source` is what the server is given."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        headers = {kind: (names or "").split() for kind, names in _HEADER.findall(text)}
        if set(headers) != {"KEYS", "ARGV"} or not text.startswith(f"-- {name}: "):
            raise ScriptError(f"{name}.lua: the header needs a purpose, KEYS and ARGV")
        self.keys: tuple[str, ...] = tuple(headers["KEYS"])
        argv = headers["ARGV"]
        self.open_tail = bool(argv) and argv[-1].startswith("...")
        self.argv: tuple[str, ...] = tuple(argv[:-1] if self.open_tail else argv)
        self.source = self._prelude(argv) + text
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self._head = ("EVALSHA", self.sha, len(self.keys))

    def _prelude(self, argv: Sequence[str]) -> str:
        lines = [f"local {name} = KEYS[{i}]" for i, name in enumerate(self.keys, 1)]
        lines += [f"local {name} = ARGV[{i}]" for i, name in enumerate(self.argv, 1)]
        if self.open_tail:
            lines.append(f"local {argv[-1][3:]} = {len(argv)}")
        return "\n".join(lines) + "\n"

    def pack(self, keys: Sequence[bytes], tail: Sequence[Operand] = (), **argv: Operand) -> bytes:
        """The packed EVALSHA command. Refuses operands that are not the header's."""
        if len(keys) != len(self.keys):
            raise ScriptError(f"{self.name}: wants the keys {self.keys}, got {len(keys)}")
        if tail and not self.open_tail:
            raise ScriptError(f"{self.name}: takes no open tail")
        try:
            values = [argv[name] for name in self.argv]
        except KeyError as error:
            raise ScriptError(f"{self.name}: operand {error} is missing") from None
        if len(argv) != len(values):
            raise ScriptError(f"{self.name}: unknown operands {sorted(set(argv) - set(self.argv))}")
        return pack(*self._head, *keys, *values, *tail)

    def prepare(self, **constants: Operand) -> Prepared:
        """This script of one key with all operands but the first given once and for all."""
        rest = self.argv[1:]
        if len(self.keys) != 1 or self.open_tail or set(constants) != set(rest):
            raise ScriptError(f"{self.name}: cannot be prepared with {sorted(constants)}")
        return Prepared(self, [constants[name] for name in rest])

    def pack_load(self) -> bytes:
        """The packed SCRIPT LOAD command."""
        return pack("SCRIPT", "LOAD", self.source)


class Prepared:
    """A script that is sent often: what is the same every time is packed once."""

    __slots__ = ("_head", "_tail")

    def __init__(self, script: Script, constants: Sequence[Operand]) -> None:
        whole = pack(*script._head, b"", b"", *constants)
        blank = b"$0\r\n\r\n" * 2
        self._head, _, self._tail = whole.partition(blank)

    def pack(self, key: bytes, operand: str) -> bytes:
        """The packed EVALSHA command with its key and its first operand."""
        raw = operand.encode()
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (self._head, len(key), key, len(raw), raw, self._tail)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def load(name: str) -> Script:
    """Load `name`.lua with its includes."""
    text = _INCLUDE.sub(lambda match: _read(match.group(1)), _read(f"{name}.lua"))
    return Script(name, text)


def load_all() -> dict[str, Script]:
    """Every script of this folder. Pieces that are only included have no KEYS header and are left out."""
    names = sorted(
        entry.name.removesuffix(".lua")
        for entry in resources.files(__package__).iterdir()
        if entry.name.endswith(".lua") and _HEADER.search(entry.read_text(encoding="utf-8"))
    )
    return {name: load(name) for name in names}

"""Counting tokens: with a vocabulary where there is one, else by an estimate. Pure, once `vocabulary` has looked.

The estimate: letter runs cost a token per 4 letters begun, digits one per 3, other marks one each, other scripts one a
character. Against cl100k on English prose this errs to the high side; `usable` leaves room on top. What a provider says
that a prompt was long corrects both, see `runtime.scales`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module, util
from pathlib import Path

__all__ = ["FILL", "count", "estimate", "item_tokens", "usable", "vocabulary"]

FILL = 0.85
"""The part of a budget that is used where tokens are estimated."""
_SPACES = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_CONTINUED = bytes(range(0x80, 0xC0))
"""The bytes of a UTF-8 character behind its first one."""
_KINDS = bytes(
    ord("a" if chr(byte).isalpha() else "0" if chr(byte).isdigit() else " " if byte in _SPACES else ".")
    if byte < 0x80
    else ord(".")
    for byte in range(256)
)
"""Every byte as its kind: a letter, a digit, a space, or a mark."""
_VOCABULARIES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}
"""tiktoken's encodings, the preferred one first, and the names of their files in its cache."""


_DATA = re.compile(rb'"data:[^"]{200,}"')
_DATA_TOKENS = 1500
"""What an image or a file costs, about: its bytes are not read as text."""


@cache
def vocabulary() -> Callable[[str], int] | None:
    """Counts exactly, by tiktoken; None where it is not installed or has no vocabulary in its cache.

    Nothing is ever downloaded: `TIKTOKEN_CACHE_DIR` has to hold the file. Loading it takes a second; done at the start.
    """
    if util.find_spec("tiktoken") is None:
        return None
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    where = Path(folder) if folder else Path(tempfile.gettempdir(), "data-gym-cache")
    for name, file in _VOCABULARIES.items():
        if (where / file).is_file():
            encode = import_module("tiktoken").get_encoding(name).encode_ordinary
            return lambda text: len(encode(text))
    return None


def count(text: str) -> int:
    """How many tokens `text` is, as exactly as is known here."""
    exact = vocabulary()
    return estimate(text) if exact is None else exact(text)


def usable(budget: int) -> int:
    """How many tokens by `count` may go into a budget: all where they are exact, else `FILL` of it."""
    return budget if vocabulary() is not None else int(budget * FILL)


def item_tokens(raw: bytes) -> int:
    """About how many tokens an item of this JSON is; data URLs of images and files at a flat rate."""
    data = 0
    if b'"data:' in raw:
        raw, found = _DATA.subn(b'""', raw)
        data = found * _DATA_TOKENS
    exact = vocabulary()
    return data + (_estimate(raw) if exact is None else exact(raw.decode()))


def estimate(text: str) -> int:
    """About how many tokens `text` is; never less than 1 for a text that is not empty."""
    return _estimate(text.encode(errors="surrogatepass"))


def _estimate(raw: bytes) -> int:
    """Runs are counted by replacing them, longest first: on the way of every turn that has a summary, or more history
    than fits, a regular expression would be the dearest part."""
    kinds = raw.translate(_KINDS, _CONTINUED)
    for run in (b"aaaa", b"aaa", b"aa", b"000", b"00"):
        kinds = kinds.replace(run, b".")
    return len(kinds) - kinds.count(b" ") or int(bool(raw))

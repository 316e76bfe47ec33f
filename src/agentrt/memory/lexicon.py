"""Words to terms: what two wordings of one thing should have in common. Pure, and the same on every pod."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["STOP", "asked", "normal", "stem", "terms"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
"""Scripts without spaces between words: a term is a pair of neighbouring characters."""

_STOP_WORDS = (
    "a an and are as at be been being but by can could did do does doing for from had has have having he "
    "her hers him his how i if in into is it its just me more most my no nor not of off on once only or "
    "other our ours out over own same she should so some such t than that the their theirs them then "
    "there these they this those through to too under until up very was we were what when where which "
    "while who whom whose why will with would you your yours am any both each few further here again "
    "about above after against all also because before below between down during im ive id dont didnt "
    "doesnt isnt wasnt cant wont tell know said say says get got go went going let lets please ever much "
    "many kind "
)
STOP = frozenset(_STOP_WORDS.split())
"""What questions are made of. It is left out of questions and texts alike: it would only say that both are English."""


def normal(text: str) -> str:
    """`text` for comparing: NFKC, case folded, blanks single, no full stop or the like at either end."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split()).strip(" .,;:!?\"'…。、！？")


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of an English word, by a few rules in the manner of Porter's first steps; others stay as they are."""
    if len(word) <= 3 or not word.isascii():
        return word
    for suffix, to in (("sses", "ss"), ("ies", "y" if len(word) > 4 else "ie"), ("ss", "ss"), ("us", "us"), ("s", "")):
        if word.endswith(suffix):
            word = word.removesuffix(suffix) + to
            break
    for suffix in ("ingly", "edly", "ing", "ed"):
        base = word.removesuffix(suffix)
        if base != word and len(base) >= 3 and re.search("[aeiouy]", base):
            word = base[:-1] if base[-1] == base[-2] and base[-1] not in "lsz" else base
            break
    for suffix, to in _ENDINGS:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix) + to
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3:
        word = word[:-1] + "i"
    return word


_ENDINGS = (
    ("ational", "ate"),
    ("ization", "ize"),
    ("fulness", "ful"),
    ("iveness", "ive"),
    ("ousness", "ous"),
    ("ation", "ate"),
    ("ness", ""),
    ("ment", ""),
    ("ally", "al"),
    ("ful", ""),
    ("ity", ""),
    ("ies", "y"),
    ("ly", ""),
    ("er", ""),
    ("or", ""),
    ("ic", "i"),
)


@lru_cache(maxsize=256)
def asked(question: str) -> tuple[str, ...]:
    """The terms of a question, each once; facts and turns are looked for by the same."""
    return tuple(dict.fromkeys(terms(question)))


def terms(text: str) -> list[str]:
    """The terms of a text in its order, stop words left out."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _WIDE.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
            continue
        plain = word.replace("’", "'").removesuffix("'s").replace("'", "")
        if plain and plain not in STOP:
            found.append(stem(plain))
    return found

"""Rules that stand in for a language model where there is none: drawing facts and summarising, for the demo and tests.

They understand a handful of plain English sentences and nothing else, and are named as scripted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson

from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.models.scripted import Script, last_user_text

__all__ = ["RULES"]

_END = r"(?=[.!?;\n]|,? (?:and|but) (?:i|my)\b|$)"
_RULES: tuple[tuple[str, str, str, str], ...] = (
    # attribute, card, polarity, the sentence
    ("name", "one", "+", r"\bmy name is (?P<v>[^\W\d_][\w'-]*)"),
    ("name", "one", "+", r"\bcall me (?P<v>[^\W\d_][\w'-]*)"),
    ("preference", "many", "+", rf"\bi prefer (?P<v>[^.!?;\n]{{2,120}}?){_END}"),
    ("allergy", "many", "+", rf"\bi(?: am|'m) allergic to (?P<v>[^.!?;\n]{{2,80}}?){_END}"),
    ("allergy", "many", "-", rf"\bi(?: am|'m) (?:not|no longer) allergic to (?P<v>[^.!?;\n]{{2,80}}?){_END}"),
    ("home_city", "one", "+", rf"\bi live in (?P<v>[^.!?;\n,]{{2,60}}?){_END}"),
    ("diet", "one", "+", r"\bi(?: am|'m)(?: an?)? (?P<v>vegetarian|vegan|pescatarian)\b"),
    ("note", "many", "+", r"^(?:please )?remember that (?P<v>.+?)[.!]*$"),
)
_COMPILED = [
    (attribute, card, polarity, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for attribute, card, polarity, pattern in _RULES
]


def _facts(text: str) -> Iterable[dict[str, Any]]:
    for attribute, card, polarity, pattern in _COMPILED:
        for match in pattern.finditer(text.replace("’", "'")):
            yield {
                "subject": "user",
                "attribute": attribute,
                "value": match["v"].strip(),
                "polarity": polarity,
                "card": card,
                "confidence": 0.95,
                "quote": match[0].strip(),
                "modality": "asserted",
                "valid_until": None,
                "pii": attribute in {"name", "home_city", "allergy"},
            }


def extract(request: ModelRequest) -> Iterable[ModelEvent]:
    """The facts of the message that `memory.extract.request` asks about."""
    message = str(orjson.loads(last_user_text(request.items))["message"]).strip()
    if re.match(r"(?:if|suppose|imagine|what if)\b", message, re.IGNORECASE):
        facts: list[dict[str, Any]] = []
    else:
        facts = list(_facts(message))
    yield ToolCall("call_facts", "record_facts", orjson.dumps({"facts": facts}).decode())


def summarize(request: ModelRequest) -> Iterable[ModelEvent]:
    """The beginnings of the lines, as many as make 600 characters."""
    lines = [line.strip() for line in last_user_text(request.items).splitlines() if line.strip()]
    each = max(24, 600 // max(1, len(lines)))
    yield TextDelta(" / ".join(line[:each] for line in lines)[:600])


RULES: dict[str, Script] = {"extract": extract, "summarize": summarize}
"""`scripted:extract` and `scripted:summarize`."""

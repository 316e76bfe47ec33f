"""The JSON schemas of what is kept of users, for `/openapi.json`: `/operator/users` and `/operator/jobs`."""

from __future__ import annotations

from agentrt.http.shapes import COUNT, FLAG, NAME, NUMBER, OBJECT, TEXT, Schema, array, one_of, or_null, ref, table
from agentrt.memory.facts import STATES

__all__ = ["USER_SCHEMAS"]

_AT: Schema = {"type": "string", "format": "date-time"}
_RANK = one_of("inferred", "said", "set")
_USER: dict[str, Schema] = {"user": TEXT, "tenant": NAME}
_LONG: Schema = {"type": "string", "maxLength": 65_536}
_SHORT: Schema = {"type": "string", "maxLength": 128}
_TOLD: dict[str, Schema] = {"at": or_null(_AT), "agent": TEXT}

_FACT = table(
    {
        "id": TEXT,
        "subject": TEXT,
        "attribute": TEXT,
        "value": TEXT,
        "polarity": one_of("+", "-"),
        "state": one_of(*STATES),
        "card": or_null(one_of("one", "many")),
        "confidence": or_null(NUMBER),
        "rank": or_null(_RANK),
        "sources": array(TEXT),
        "support": COUNT,
        "seen": or_null(_AT),
        "valid_until": or_null(_AT),
        "pinned": FLAG,
        "pii": FLAG,
    },
    {
        "because": array(
            table(
                {
                    "item": TEXT,
                    "at": _AT,
                    "rank": _RANK,
                    "confidence": NUMBER,
                    "quote": TEXT,
                    "text": or_null(TEXT),
                },
                closed=True,
            )
        ),
        "score": NUMBER,
        "quotes": array(TEXT),
    },
    closed=True,
)
_TURN = table(
    {"item": TEXT, "conversation": TEXT, "role": TEXT, "speaker": TEXT, "at": _AT, "text": TEXT},
    {"number": COUNT, "score": NUMBER},
    closed=True,
)
_KEPT: dict[str, Schema] = {"created": _AT, "items": array(ref("Item"))}
_REMOVED = ("facts", "turns", "vectors", "conversations", "runs", "items", "jobs", "dead_letters")

USER_SCHEMAS: dict[str, Schema] = {
    "User": table(
        {
            **_USER,
            "generation": TEXT,
            "facts": COUNT,
            "turns": COUNT,
            "sessions": COUNT,
            "ingest": table({"pending": COUNT, "retrying": COUNT, "dead": COUNT}, closed=True),
        },
        closed=True,
    ),
    "Fact": _FACT,
    "FactList": table({"facts": array(ref("Fact"))}, closed=True),
    "FactRequest": table(
        {"attribute": _LONG, "value": _LONG},
        {
            "subject": _LONG,
            "polarity": one_of("+", "-"),
            "card": one_of("one", "many"),
            "valid_until": or_null(_AT),
            "at": or_null(_AT),
            "replaces": _LONG,
            "pinned": FLAG,
        },
    ),
    "ForgottenFact": table({"id": TEXT, "forgotten": FLAG}, closed=True),
    "TurnList": table({"turns": array(_TURN)}, closed=True),
    "TurnsRequest": table(
        {
            "items": array(
                table(
                    {"id": {"type": "string", "minLength": 1, "maxLength": 128}, "text": _LONG},
                    {
                        "role": one_of("user", "assistant", "tool", "system"),
                        "at": or_null(_AT),
                        "conversation": _SHORT,
                        "speaker": _SHORT,
                    },
                ),
                minItems=1,
                maxItems=1_000,
            )
        },
        {"agent": _LONG},
    ),
    "Remembered": table({"added": COUNT}, closed=True),
    "ForgottenTurn": table({"item": TEXT, "forgotten": FLAG}, closed=True),
    "Found": table({"facts": array(ref("Fact")), "turns": array(_TURN), "summaries": array(_TURN)}, closed=True),
    "ContextRequest": table(
        {"query": _LONG},
        {**_TOLD, "budget": or_null({"type": "integer", "minimum": 0, "maximum": 1_000_000})},
    ),
    "Context": table(
        {
            "text": TEXT,
            "tokens": table({"total": COUNT}, {"profile": COUNT, "summary": COUNT, "recall": COUNT}, closed=True),
            "facts": array(table({"id": TEXT, "attribute": TEXT, "why": one_of("pinned", "profile")}, closed=True)),
            "summary": array(table({"first": COUNT, "last": COUNT}, closed=True)),
            "recalled": array(table({"item": TEXT, "score": NUMBER, "at": _AT}, closed=True)),
            "left_out": table({}, {"facts": COUNT, "summary": COUNT, "recalled": COUNT}, closed=True),
        },
        closed=True,
    ),
    "Export": table(
        {
            **_USER,
            "exported": _AT,
            "facts": array(ref("Fact")),
            "turns": array(_TURN),
            "summaries": array(_TURN),
            "conversations": array(
                table({"conversation": TEXT, "metadata": OBJECT, "summary": array(TEXT), **_KEPT}, closed=True)
            ),
            "single_runs": array(table({"run": TEXT, **_KEPT}, closed=True)),
        },
        closed=True,
    ),
    "TidyRequest": table({}, _TOLD),
    "Tidied": table({"facts": COUNT, "turns": COUNT, "sessions": COUNT}, closed=True),
    "ErasureRequest": table({}, {"scan": FLAG, "needles": array({"type": "string", "minLength": 1}, maxItems=100)}),
    "Receipt": table(
        {
            **_USER,
            "generation": TEXT,
            "erased": _AT,
            "finished": _AT,
            "removed": table(dict.fromkeys(_REMOVED, COUNT), closed=True),
            "scan": table({"keys": COUNT, "hits": {"type": ["array", "null"]}}, closed=True),
            "signature": or_null(TEXT),
        },
        closed=True,
    ),
    "Jobs": table(
        {
            "jobs": COUNT,
            "late": COUNT,
            "buried": array(table({"job": TEXT, "reason": TEXT, "tries": COUNT, "at": COUNT}, closed=True)),
        },
        closed=True,
    ),
    "ReviveRequest": table({}, {"job": _LONG}),
    "Revived": table({"revived": array(TEXT)}, closed=True),
}

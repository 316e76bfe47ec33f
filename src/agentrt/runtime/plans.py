"""The record of a step: what the model replied and which effects it asked for, written before anything happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentrt.records import Usage
from agentrt.store.journal import Outcome
from agentrt.store.ownership import Approval

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """`items` are output slots, `calls` keys of effects; `usage` is None where nobody knows what the reply cost."""

    items: Sequence[dict[str, Any]]
    calls: Sequence[str]
    usage: Usage | None
    client_calls: int = 0
    approvals: Sequence[Approval] = ()
    steered: int = 0
    """How many of the messages that came to the run had been taken in when the model was asked."""
    decided: Mapping[str, Outcome] = field(default_factory=dict)
    """Outcomes of calls that are not to be made, by key: denied, refused, too many, not to be understood."""

    def encode(self) -> bytes:
        """As the run's hash keeps it."""
        usage = self.usage
        return orjson.dumps(
            {
                "items": self.items,
                "calls": self.calls,
                "client_calls": self.client_calls,
                "approvals": [list(one) for one in self.approvals],
                "usage": None
                if usage is None
                else [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens],
                "steered": self.steered,
                "decided": self.decided,
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> Plan:
        """Read one back."""
        kept = orjson.loads(raw)
        return cls(
            kept["items"],
            kept["calls"],
            Usage(*kept["usage"]) if kept["usage"] else None,
            kept["client_calls"],
            [Approval(*one) for one in kept.get("approvals", ())],
            kept.get("steered", 0),
            {key: Outcome(**outcome) for key, outcome in kept.get("decided", {}).items()},
        )

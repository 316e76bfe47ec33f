"""A model provider that has bad days: OpenAI's Responses API on loopback, over the script of `agents.talk`."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any

from tests.models.fake_openai import Script, failure
from tests.models.fake_server import FakeServer, Reply, Seen

from loadtest.chaos.agents import calls, words

__all__ = ["Provider"]


class Provider(FakeServer):
    """Answers by what it is asked with alone; `day` is the kind of fault that it has at present, empty for none."""

    def __init__(self) -> None:
        super().__init__("/v1/responses")
        self.day = ""
        self.counts: Counter[str] = Counter()

    def choose(self, seen: Seen) -> Reply:
        self.counts[f"provider, {self.day or 'answered'}"] += 1
        match self.day:
            case "rate_limit":
                return failure(429, "rate_limit_exceeded", "slow down", retry_after_ms="300")
            case "overloaded":
                return failure(529, "overloaded_error", "come back later")
        reply = _reply(seen.body["input"])
        if self.day == "cut_stream":
            return Reply(reply.frames[: len(reply.frames) // 2], cut=True)
        return reply


def _reply(items: list[dict[str, Any]]) -> Reply:
    said = [part["text"] for item in items if item.get("role") == "user" for part in item["content"]]
    script = Script()
    names = [] if items[-1]["type"] == "function_call_output" else calls(said)
    for name in names:
        script.call(f"call_{secrets.token_hex(4)}", name, "{}")
    return (script if names else script.text(*words(said))).completed()

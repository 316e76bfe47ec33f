"""Recall on any data set: `python -m tests.memory.recall --items items.jsonl --questions questions.jsonl`.

Items: `{user?, id, text, role?, at?, conversation?, speaker?}`, in their order. Questions: `{user?, question, items}`,
`items` being the ids of those that answer it. Everything goes over HTTP, to two pods on a Redis of its own. Printed:
the share of the wanted items among the first k, for some k, and among the first that fit a budget of tokens.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrt.memory.tokens import estimate
from tests.memory.adapter import Adapter

KS = (1, 5, 10, 20, 50)
BUDGETS = (500, 1_000, 2_000)
_ITEM = frozenset({"id", "text", "role", "at", "conversation", "speaker"})


def read(path: str) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def measure(
    adapter: Adapter, items: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Mean recall by name: `@k`, and `<budget> tokens`."""
    by_user: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        kept = {name: value for name, value in item.items() if name in _ITEM and value is not None}
        by_user[str(item.get("user", "u1"))].append(kept)
    for user, theirs in by_user.items():
        adapter.ingest(user, theirs)
    adapter.wait_idle()
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for question in questions:
        user, wanted = str(question.get("user", "u1")), {str(one) for one in question["items"]}
        hits = adapter.search("t1", user, question["question"], max(KS))["turns"]
        found = [hit["item"] for hit in hits]
        for k in KS:
            scores[f"@{k}"].append(len(wanted & set(found[:k])) / len(wanted))
        for budget in BUDGETS:
            room, taken = budget, set()
            for hit in hits:
                room -= estimate(hit["text"]) + 12  # date and speaker stand before it
                if room < 0:
                    break
                taken.add(hit["item"])
            scores[f"{budget} tokens"].append(len(wanted & taken) / len(wanted))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def main() -> None:
    """Read, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", required=True)
    parser.add_argument("--questions", required=True)
    arguments = parser.parse_args()
    with Adapter() as adapter:
        for name, share in measure(adapter, read(arguments.items), read(arguments.questions)).items():
            print(f"{name:12} {share:.3f}")


if __name__ == "__main__":
    main()

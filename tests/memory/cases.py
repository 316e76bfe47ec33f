"""Running a case of a case file against the adapter: its steps, then what must hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentrt.memory.lexicon import normal
from tests.memory.adapter import Adapter, stands

FOLDER = Path(__file__).parent

Case = Mapping[str, Any]


def files() -> list[Path]:
    """The case files: those of the environment (MEMORY_CASES, colons between), else all of this folder."""
    named = os.environ.get("MEMORY_CASES")
    return [Path(path) for path in named.split(":")] if named else sorted(FOLDER.glob("*.jsonl"))


def read() -> Iterator[Case]:
    """All cases."""
    for path in files():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield json.loads(line)


class Failed(AssertionError):
    """What a case wants does not hold."""


def run(adapter: Adapter, case: Case) -> None:
    """Run one case on an empty deployment. Raises `Failed`."""
    adapter.reset()
    said = _given(adapter, case, case["given"])
    for wanted in case["then"]:
        _check(adapter, case, wanted, said)


def _given(adapter: Adapter, case: Case, steps: list[Mapping[str, Any]]) -> dict[str, bool]:
    said: dict[str, bool] = {}
    told: dict[str, Any] = {}
    for step in steps:
        if step["op"] == "say":
            if step["text"] in told and told[step["text"]] != step.get("extract"):
                _settle(adapter)  # the same words again, and another answer about them
            told[step["text"]] = step.get("extract")
            said[step["id"]] = adapter.say(case["id"], step)
        else:
            if step["op"] not in {"clock", "hold", "release"}:
                _settle(adapter)
            adapter.do(step)
    _settle(adapter)
    return said


def _settle(adapter: Adapter) -> None:
    for tenant, user in list(adapter.people):
        adapter.settle(tenant, user)


def _check(adapter: Adapter, case: Case, wanted: Mapping[str, Any], said: Mapping[str, bool]) -> None:
    tenant, user = wanted.get("tenant", _first(case, "tenant")), wanted.get("user", _first(case, "user"))
    kind = wanted["assert"]
    match kind:
        case "fact":
            _fact(adapter, tenant, user, wanted)
        case "fact_count":
            found = [one for one in adapter.facts(tenant, user) if one["state"] == "active" and _is(one, wanted)]
            _hold(len(found) == wanted["n"], wanted, found)
        case "search":
            _search(adapter, tenant, user, wanted)
        case "context":
            _context(adapter, tenant, user, wanted)
        case "no_bytes":
            dump = adapter.dump()
            left = [needle for needle in wanted["needles"] if stands(needle, dump)]
            _hold(not left, wanted, left)
        case "order_independent":
            _order(adapter, case, tenant, user, wanted)
        case "no_growth":
            _hold(all(after <= before for before, after in adapter.sizes), wanted, adapter.sizes)
        case "ok":
            _hold(said.get(wanted["step"], False), wanted, said)
        case _:
            raise Failed(f"no such assertion: {kind}")


def _first(case: Case, name: str) -> str:
    return str(next(step[name] for step in case["given"] if name in step))


def _hold(true: bool, wanted: Mapping[str, Any], seen: object) -> None:
    if not true:
        raise Failed(f"{json.dumps(wanted)} does not hold: {str(seen)[:2000]}")


def _is(fact: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    attribute = normal(wanted["attribute"]).replace(" ", "_")
    if fact["attribute"] != attribute or wanted.get("subject", fact["subject"]) != fact["subject"]:
        return False
    if "polarity" in wanted and wanted["polarity"] != fact["polarity"]:
        return False
    return "value" not in wanted or normal(str(wanted["value"])) == normal(fact["value"])


def _fact(adapter: Adapter, tenant: str, user: str, wanted: Mapping[str, Any]) -> None:
    names = adapter.names(tenant)
    wanted = {"subject": "user", **wanted}
    facts = adapter.facts(tenant, user)
    if wanted.get("state") == "forgotten":  # nothing of it is left but its id
        identifier = adapter.fact_id(tenant, user, wanted)
        _hold(any(one["id"] == identifier and one["state"] == "forgotten" for one in facts), wanted, facts)
        return
    for one in facts:
        if not _is(one, wanted) or one["state"] != wanted.get("state", "active"):
            continue
        sources = {names.of(item) for item in one["sources"]}
        if "sources" in wanted and sources != set(wanted["sources"]):
            continue
        if all(one[name] == wanted[name] for name in ("support", "seen") if name in wanted):
            return
    _hold(False, wanted, facts)


def _search(adapter: Adapter, tenant: str, user: str, wanted: Mapping[str, Any]) -> None:
    facts_only = bool(wanted.get("facts_only"))
    found = adapter.search(tenant, user, wanted["query"], wanted.get("k", 10), facts_only=facts_only)
    names = adapter.names(tenant)
    turns = [names.of(hit["item"]) for hit in found["turns"] if hit["text"] != "ok"]
    sources = {names.of(item) for fact in found["facts"] for item in fact["sources"]}
    everywhere = {*turns, *sources}
    _hold(set(wanted.get("must", ())) <= everywhere, wanted, found)
    _hold(not set(wanted.get("must_not", ())) & everywhere, wanted, found)
    if "exact_count" in wanted:
        _hold(len(turns) == wanted["exact_count"], wanted, found)


def _context(adapter: Adapter, tenant: str, user: str, wanted: Mapping[str, Any]) -> None:
    given = adapter.context(tenant, user, wanted["query"], wanted["budget"])
    facts = {one["id"]: one for one in adapter.facts(tenant, user)}
    names = adapter.names(tenant)
    shown = {names.of(item) for one in given["facts"] for item in facts[one["id"]]["sources"]}

    def there(one: Any) -> bool:
        return one["fact"] in shown if isinstance(one, dict) else str(one) in given["text"]

    _hold(all(there(one) for one in wanted.get("must", ())), wanted, given)
    _hold(not any(there(one) for one in wanted.get("must_not", ())), wanted, given)
    most = wanted.get("max_tokens", wanted["budget"])
    _hold(given["tokens"]["total"] <= most, wanted, given)


def _order(adapter: Adapter, case: Case, tenant: str, user: str, wanted: Mapping[str, Any]) -> None:
    """The same steps the other way round lead to the same facts."""

    def active() -> list[tuple[str, str, str]]:
        facts = [one for one in adapter.facts(tenant, user) if one["attribute"] == wanted["attribute"]]
        return sorted((one["value"], one["polarity"], one["state"]) for one in facts)

    before = active()
    adapter.reset()
    _given(adapter, case, list(reversed(case["given"])))
    _hold(active() == before, wanted, (before, active()))

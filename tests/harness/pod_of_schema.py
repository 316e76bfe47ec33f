"""A pod of the release before: `python -m tests.harness.pod_of_schema first | blind serve ...`.

`first` knows versions 0 and 1 of the schema and reads runs as such a release does; `blind` is the same without its look
at the version: for negative controls.
"""

from __future__ import annotations

import sys

import orjson

from agentrt import records
from agentrt.cli import main
from agentrt.records import Item
from agentrt.store import scripts
from agentrt.store.conversations import Conversations, StoredRun
from agentrt.store.keys import SessionKeys

FIRST = 1


def everywhere(name: str, value: object) -> None:
    """Set a name of `records` in all modules that have it."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("agentrt.") and hasattr(module, name):
            setattr(module, name, value)


async def asked(self: Conversations, keys: SessionKeys, run_id: str, stored: StoredRun) -> list[tuple[str, bytes]]:
    """The input of a run, which stands in its record, and nowhere else to look."""
    given = orjson.loads(stored.input or b"[]")
    items = [Item.given(data, run_id, stored.first + number) for number, data in enumerate(given)]
    return [(item.id, item.raw) for item in items]


def look_away() -> None:
    """Whatever the version is, it is taken for the own one."""
    everywhere("check_version", lambda version: None)
    read = scripts._read
    check = "if found > newest then return {'newer', v} end"

    def without(name: str) -> str:
        text = read(name)
        if name == "versions.lua":
            assert check in text
            return text.replace(check, "")
        return text

    scripts._read = without


def be_of_the_release_before() -> None:
    """From now on this process is a pod that knows the first version only."""
    assert records.SCHEMA_VERSION == FIRST + 1, "the release before knows one version less"
    everywhere("SCHEMA_VERSION", FIRST)
    Conversations.asked = asked  # type: ignore[method-assign]


if __name__ == "__main__":
    kind = sys.argv.pop(1)
    be_of_the_release_before()
    if kind == "blind":
        look_away()
    main()

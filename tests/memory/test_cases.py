"""Every case of the case files, end to end: HTTP, two pods, a real Redis, a fake extractor on loopback."""

from __future__ import annotations

import pytest

from tests.memory.adapter import Adapter
from tests.memory.cases import Case, read, run

CASES = list(read())


@pytest.mark.parametrize("case", CASES, ids=[f"{case['id']}-{case.get('group', 'case')}" for case in CASES])
def test_case(adapter: Adapter, case: Case) -> None:
    """What the case says must hold, holds."""
    run(adapter, case)

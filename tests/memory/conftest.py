"""One deployment for all tests of a worker; each case empties it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.memory.adapter import TENANTS, Adapter
from tests.memory.cases import read


@pytest.fixture(scope="session")
def adapter() -> Iterator[Adapter]:
    tenants = {step["tenant"] for case in read() for step in case["given"] if "tenant" in step}
    with Adapter({*TENANTS, *tenants}) as adapter:
        yield adapter


@pytest.fixture
def fresh(adapter: Adapter) -> Adapter:
    """The deployment, emptied."""
    adapter.reset()
    return adapter

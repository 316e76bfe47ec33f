"""What an error of the runtime is to a client."""

from __future__ import annotations

import pytest

from agentrt.errors import AgentrtError, OwnershipLost, SchemaNewer, StoreUnavailable
from agentrt.http.errors import to_api_error


@pytest.mark.parametrize("error", [OwnershipLost("lost"), StoreUnavailable("away"), SchemaNewer(9)])
def test_what_may_pass_is_a_503_that_says_when(error: AgentrtError) -> None:
    """A defect of ours is a 500; these are none, and the same message may be sent again."""
    told = to_api_error(error)
    assert told.status == 503
    assert told.response().headers["retry-after"]


def test_what_nobody_expected_is_a_500_without_its_text() -> None:
    told = to_api_error(KeyError("secret"))
    assert told.status == 500
    assert b"secret" not in bytes(told.response().body)

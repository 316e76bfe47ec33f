"""A pytest plugin: the tests of this process run without the guard that `WITHOUT` names."""

from __future__ import annotations

import os

from tests.negative.guards import take_out

take_out(os.environ["WITHOUT"])

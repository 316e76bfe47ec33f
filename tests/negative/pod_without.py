"""A pod with one guard taken out: `python -m tests.negative.pod_without GUARD serve ...`."""

from __future__ import annotations

import sys

from agentrt.cli import main
from tests.negative.guards import take_out

if __name__ == "__main__":
    take_out(sys.argv.pop(1))
    main()

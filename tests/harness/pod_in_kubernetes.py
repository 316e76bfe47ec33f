"""A pod whose service account is elsewhere: `SERVICE_ACCOUNT=FOLDER python -m tests.harness.pod_in_kubernetes`."""

from __future__ import annotations

import os
from pathlib import Path

from agentrt.cli import main
from agentrt.runtime import deletion_cost

if __name__ == "__main__":
    deletion_cost.MOUNT = Path(os.environ["SERVICE_ACCOUNT"])
    main()

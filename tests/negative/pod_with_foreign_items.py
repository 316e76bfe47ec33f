"""A pod with a defect in building keys: the items of every session are at the key that FOREIGN_ITEMS names."""

from __future__ import annotations

import os

from agentrt.cli import main
from agentrt.store.keys import SessionKeys

if __name__ == "__main__":
    SessionKeys.items = property(lambda self: os.environ["FOREIGN_ITEMS"].encode())  # type: ignore[assignment]
    main()

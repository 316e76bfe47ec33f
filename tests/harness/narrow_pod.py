"""A pod with room for few units in wait of Redis: `ROOM=20 python -m tests.harness.narrow_pod serve ...`."""

from __future__ import annotations

import os

from agentrt.cli import main
from agentrt.store.multiplexer import MultiplexerLimits

if __name__ == "__main__":
    reply_s, _, *others = MultiplexerLimits.__init__.__defaults__ or ()
    MultiplexerLimits.__init__.__defaults__ = (reply_s, int(os.environ["ROOM"]), *others)
    main()

"""What a model that takes its time says: the same for a pod's model and for the floor's."""

from __future__ import annotations

import time
from collections.abc import Iterable

__all__ = ["pieces"]


def pieces(text: str) -> Iterable[str | float]:
    """`FIRST_MS PIECES BURST GAP_MS`: a pause, then pieces of text, `BURST` at a time with a pause between.

    A float is a pause in seconds. The first piece says when the model was asked and when it spoke, in seconds of the
    machine's monotonic clock, which all processes share.
    """
    asked_s = time.monotonic()
    first_ms, count, burst, gap_ms = (int(word) for word in text.split()[:4])
    yield first_ms / 1000
    yield f"<{asked_s:.6f} {time.monotonic():.6f}> "
    for number in range(1, count):
        if number % burst == 0 and gap_ms:
            yield gap_ms / 1000
        yield f"word{number} "

"""Cutting server-sent events from bytes: the same events however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrt.models import streaming
from agentrt.models.streaming import Frames

WIRE = (
    b": a comment\n\n"
    b'event: one\ndata: {"a": 1}\n\n'
    b"data:no space\r\nid: 7\r\n\r\n"
    b"data: two\ndata: lines\n\n"
    b"event: nothing\n\n"
    b"data: \xf0\x9f\x98\x80\n\n"
    b"data: cut"
)
EVENTS = [b'{"a": 1}', b"no space", b"two\nlines", "😀".encode()]


@given(st.lists(st.integers(0, len(WIRE)), max_size=12))
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    frames, found, begin = Frames(), [], 0
    for cut in [*sorted(cuts), len(WIRE)]:
        found += frames.feed(WIRE[begin:cut])
        begin = cut
    assert found == EVENTS


def test_an_event_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_FRAME_BYTES_MAX", 100)
    frames = Frames()
    assert frames.feed(b"data: " + b"x" * 200 + b"\n\n") == [b"x" * 200]
    with pytest.raises(ValueError, match="too long"):
        frames.feed(b"data: " + b"x" * 200)

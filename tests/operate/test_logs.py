"""Log lines as JSON: which pod, which run, which trace."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from agentrt.logs import RUN, configure

_PROGRAM = """
import logging
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from agentrt.logs import RUN, configure
configure("info", "json", "pod-a")
log = logging.getLogger("agentrt.test")
log.debug("not this")
logging.getLogger("httpx2").info("HTTP Request: GET https://tool/?key=secret")
log.info("hello %s", "there")
RUN.set("0000000000000000000042")
context = SpanContext(0xAB, 0xCD, is_remote=False, trace_flags=TraceFlags(1))
with trace.use_span(NonRecordingSpan(context)):
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("two\\nlines")
"""


def test_a_line_is_an_object_with_its_run_and_trace() -> None:
    told = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True).stderr
    first, second = (json.loads(line) for line in told.splitlines())
    assert first["time"].endswith("+00:00")
    assert (first["level"], first["logger"], first["message"]) == ("info", "agentrt.test", "hello there")
    assert first["pod"] == "pod-a" and "run" not in first and "trace_id" not in first
    assert (second["message"], second["run"]) == ("two\nlines", "0000000000000000000042")
    assert (second["trace_id"], second["span_id"]) == (f"{0xAB:032x}", f"{0xCD:016x}")
    assert "ZeroDivisionError" in second["exception"]


def test_text_is_the_default_and_no_run_is_none() -> None:
    assert RUN.get() == ""
    before = logging.getLogger().handlers[:]
    configure("info", "text", "pod")  # pytest's handlers are there already, and stay
    assert logging.getLogger().handlers == before

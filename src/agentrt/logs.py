"""Log lines, as text or as one JSON object a line, with the run and the trace they belong to."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from datetime import UTC, datetime

import orjson
from opentelemetry import trace

__all__ = ["RUN", "configure"]

RUN: ContextVar[str] = ContextVar("agentrt_run", default="")
"""The run that the present task works on."""

_TALKATIVE = ("anthropic", "openai", "httpcore2", "mcp")
"""Libraries whose debug lines have what was said in them."""

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _Json(logging.Formatter):
    """One line: time (UTC), level, logger, message, pod; run, trace_id, span_id and exception where there are any."""

    def __init__(self, pod: str) -> None:
        super().__init__()
        self._pod = pod

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pod": self._pod,
        }
        if run := RUN.get():
            line["run"] = run
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line |= {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure(level: str, style: str, pod: str) -> None:
    """Log to stderr from this level on; `style` is `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(pod) if style == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its INFO lines have URLs, and what stands in them

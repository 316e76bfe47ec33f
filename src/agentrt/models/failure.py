"""How a provider's failures become `ModelError`: one table for both providers.

No text of the provider goes into a message: providers echo parts of the prompt and of the API key there. What is
said instead is the status, the provider's short error code, the parameter it complains about and the request id.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from collections.abc import Mapping
from typing import Any

from agentrt.errors import ModelError, Unsupported

__all__ = ["broken", "from_status", "number", "retry_after_s", "table", "text", "unsupported"]

_WORD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,80}")
_INVALID = frozenset({400, 413, 422})
_NOT_RETRYABLE = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422})
_TOO_MANY = 429


def from_status(
    provider: str,
    status: int,
    words: Mapping[str, Any] | None = None,
    *,
    wait_s: float | None = None,
    refused: bool = False,
) -> ModelError:
    """The error for an HTTP status, or for the status that an error event in a stream stands for.

    `refused`: the status is the answer itself, not an event. `words` are details such as `code`, `param`,
    `request_id`; values that are not one short word are left out.
    """
    said = "".join(
        f", {name} {value}"
        for name, value in (words or {}).items()
        if isinstance(value, str) and _WORD.fullmatch(value)
    )
    message = f"{provider} answered {status}{said}"
    if status == _TOO_MANY:
        return ModelError(message, code="rate_limit_exceeded", retryable=True, retry_after_s=wait_s, refused=refused)
    code = "invalid_prompt" if status in _INVALID else "server_error"
    retryable = status not in _NOT_RETRYABLE
    wait_s = wait_s if retryable else None
    return ModelError(message, code=code, retryable=retryable, retry_after_s=wait_s, refused=refused)


def unsupported(provider: str, what: str) -> Unsupported:
    """The error for input that this provider has no place for: said at once, instead of leaving it out."""
    return Unsupported(f"{provider} cannot take {what}", code="invalid_prompt", retryable=False, refused=True)


def broken(provider: str, what: str, cause: BaseException | None = None, *, refused: bool = False) -> ModelError:
    """The retryable error for a connection or a stream that failed; of `cause` only the type is told."""
    kind = f" ({type(cause).__name__})" if cause is not None else ""
    return ModelError(f"{provider}: {what}{kind}", code="server_error", retryable=True, refused=refused)


def retry_after_s(headers: Mapping[str, str], now: datetime.datetime) -> float | None:
    """Seconds that the provider asks to wait, never negative; None where it does not say so in a readable way.

    `retry-after-ms` goes before `retry-after`, which is a number of seconds or an HTTP date (compared with `now`).
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        seconds = _seconds(value, unit_s)
        if seconds is None and name == "retry-after":
            seconds = _until(value, now)
        if seconds is not None:
            return max(0.0, seconds)
    return None


def _seconds(value: str, unit_s: float) -> float | None:
    try:
        number = float(value) * unit_s
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _until(value: str, now: datetime.datetime) -> float | None:
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    return (then - now).total_seconds()


def text(provider: str, event: Mapping[str, Any], key: str) -> str:
    """The string under `key`. Raises a retryable `ModelError` where the provider's event has none."""
    value = event.get(key)
    if not isinstance(value, str):
        raise broken(provider, f"malformed event: {key} is not a string")
    return value


def table(provider: str, event: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`. Raises a retryable `ModelError` where the provider's event has none."""
    value = event.get(key)
    if not isinstance(value, dict):
        raise broken(provider, f"malformed event: {key} is not an object")
    return value


def number(usage: Mapping[str, Any], *path: str) -> int:
    """The count at `path`, 0 where any part of it is missing or of another type."""
    value: Any = usage
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else 0

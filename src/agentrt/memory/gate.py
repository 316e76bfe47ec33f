"""The write gate: what may become a fact or a memory. Pure."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["VALUE_MAX", "quoted", "refusal", "without_secrets"]

VALUE_MAX = 300
ATTRIBUTE_MAX = 64
_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\b(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9_-]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bA(?:KIA|SIA)[A-Z0-9]{16}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*|\bak_[0-9a-f]{12}_[A-Za-z0-9_-]{20,}",
    re.DOTALL,
)
_MARKS = (
    *("-----BEGIN ", "sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    *("xox", "AKIA", "ASIA", "eyJ", "ak_"),
)
"""Every secret has one of these in it. Most texts have none, and to find that out with the expression takes fifty times
as long."""
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?!\d|\.\d)")
_CARD_DIGITS = 13
_SECRET_MARK = "[secret]"


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit)
        if place % 2:
            number = number * 2 - 9 if number > 4 else number * 2
        total += number
    return total % 10 == 0


def without_secrets(text: str) -> str:
    """`text` with keys, tokens and card numbers replaced: nobody wants them remembered."""

    def card(match: re.Match[str]) -> str:
        return _SECRET_MARK if _luhn(re.sub(r"\D", "", match.group())) else match.group()

    if any(mark in text for mark in _MARKS):
        text = _SECRET.sub(_SECRET_MARK, text)
    if not text.isascii() or _digits(text) >= _CARD_DIGITS:
        text = _CARD.sub(card, text)
    return text


def _digits(text: str) -> int:
    """How many there are in an ASCII text."""
    raw = text.encode()
    return len(raw) - len(raw.translate(None, b"0123456789"))


def quoted(quote: str, text: str) -> bool:
    """Whether the quote stands in the text; case, width and blanks do not count."""
    wanted = _plain(quote)
    return bool(wanted) and wanted in _plain(text)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())


def refusal(subject: str, attribute: str, value: str, *, negative: bool) -> str | None:
    """Why this must not become a fact: `empty`, `too_long`, `secret`; None where it may."""
    if not subject.strip() or not attribute.strip() or not (value.strip() or negative):
        return "empty"
    if len(value) > VALUE_MAX or len(attribute) > ATTRIBUTE_MAX or len(subject) > ATTRIBUTE_MAX:
        return "too_long"
    if without_secrets(value) != value or _SECRET_MARK in value:
        return "secret"
    return None

"""What tokens cost, as the operator wrote it down: no price is built in, since prices change without us."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pydantic

from agentrt.errors import SettingsError
from agentrt.records import Usage

__all__ = ["Price", "Prices"]

_MILLION = 1_000_000


class Price(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Prices of one model per million tokens, in whatever currency. `cached`: read from the provider's prompt cache,
    `written`: written to it; both default to `input`."""

    input: pydantic.NonNegativeFloat
    output: pydantic.NonNegativeFloat
    cached: pydantic.NonNegativeFloat | None = None
    written: pydantic.NonNegativeFloat | None = None


_TABLE = pydantic.TypeAdapter(dict[str, Price])


class Prices:
    """Prices by a model's full name, such as `openai:gpt-5`."""

    def __init__(self, table: Mapping[str, Price] | None = None) -> None:
        self._table = dict(table or {})

    @classmethod
    def read(cls, path: str) -> Prices:
        """Read a JSON file: `{"openai:gpt-5": {"input": 1.25, "cached": 0.125, "output": 10}}`; no path, no prices.

        Raises `SettingsError`.
        """
        if not path:
            return cls()
        try:
            return cls(_TABLE.validate_json(Path(path).read_bytes()))
        except OSError as error:
            raise SettingsError(f"AGENTRT_PRICES_FILE: {path} cannot be read: {error.strerror}") from error
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise SettingsError(f"AGENTRT_PRICES_FILE: {where}: {first['msg']}") from None

    def cost(self, model: str, usage: Usage) -> float | None:
        """What one reply cost; None where the model has no price."""
        price = self._table.get(model)
        if price is None:
            return None
        fresh = max(0, usage.input_tokens - usage.cached_tokens - usage.written_tokens)
        cached = price.input if price.cached is None else price.cached
        written = price.input if price.written is None else price.written
        total = fresh * price.input + usage.cached_tokens * cached + usage.written_tokens * written
        return (total + usage.output_tokens * price.output) / _MILLION

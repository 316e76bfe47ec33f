"""The same scores as `Index` works out in Python, with numpy where it is installed: twenty times faster. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module, util
from typing import Any

__all__ = ["Arrays", "library"]

# A pod is a process for one core; threads of a matrix library would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
library: Any = import_module("numpy") if util.find_spec("numpy") is not None else None
"""An extra: without it recall is lexical and slower, and finds the same."""


class Arrays:
    """An index as arrays; brought up to date when it is used."""

    def __init__(self) -> None:
        self._postings: dict[str, tuple[Any, Any]] = {}
        self.count = -1
        """Places that the arrays know."""
        self._lengths: Any = None
        self._before: Any = None
        self._after: Any = None
        self._sessions: Any = None

    def update(self, lengths: Sequence[float], links: Sequence[tuple[int, int, int]]) -> None:
        """`links` are (place before, place after, session) by place, -1 for none."""
        self.count = len(lengths)
        self._lengths = library.array(lengths, dtype=library.float64)
        columns = library.array(links, dtype=library.int64).reshape(-1, 3)
        self._before, self._after, self._sessions = columns[:, 0], columns[:, 1], columns[:, 2]

    def posting(self, term: str, posting: Mapping[int, float]) -> tuple[Any, Any]:
        """(places, frequencies) of a term."""
        known = self._postings.get(term)
        if known is None or len(known[0]) != len(posting):
            places = library.fromiter(posting.keys(), dtype=library.int64, count=len(posting))
            frequencies = library.fromiter(posting.values(), dtype=library.float64, count=len(posting))
            known = self._postings[term] = (places, frequencies)
        return known

    def lexical(self, weighted: Sequence[tuple[float, tuple[Any, Any]]], k1: float, b: float, average: float) -> Any:
        """BM25 by place, of terms with their weights."""
        norms = k1 * (1 - b + b * self._lengths / average)
        scores = library.zeros(self.count)
        for weight, (places, frequencies) in weighted:
            scores[places] += weight * frequencies / (frequencies + norms[places])
        return scores

    def shared(self, scores: Any, neighbour: float, session: float) -> Any:
        """Each score that is not nothing, with its shares of the neighbours' and of the session's best."""
        best = library.zeros(int(self._sessions.max(initial=-1)) + 1)
        library.maximum.at(best, self._sessions, scores)
        padded = library.append(scores, 0.0)  # -1, no neighbour, is the last place
        near = library.maximum(padded[self._before], padded[self._after])
        return library.where(scores > 0, scores + neighbour * near + session * best[self._sessions], 0.0)

    @staticmethod
    def fused(lexical: Any, rows: Any, dense: Any) -> Any:
        """Half of each, both from 0 to 1."""
        scores = 0.5 * lexical / (lexical.max(initial=0.0) or 1.0)
        low, high = dense.min(initial=0.0), dense.max(initial=0.0)
        if len(dense):
            low, high = dense.min(), dense.max()
        scores[rows] += 0.5 * (dense - low) / ((high - low) or 1.0)
        return scores

    @staticmethod
    def best(scores: Any, count: int) -> dict[int, float]:
        """The best places with their scores."""
        if count < len(scores):
            places = library.argpartition(scores, len(scores) - count)[-count:]
        else:
            places = library.arange(len(scores))
        chosen = scores[places]
        return dict(zip(places.tolist(), chosen.tolist(), strict=True))

"""The same scores as `Index` works out in Python, with numpy where it is installed: twenty times faster. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module, util
from typing import Any

__all__ = ["Arrays", "load"]


@cache
def load() -> Any:
    """numpy, or None where it is not installed: an extra. Imported on first use: a pod that starts is waited for."""
    return import_module("numpy") if util.find_spec("numpy") is not None else None


class Arrays:
    """An index as arrays; brought up to date when it is used."""

    def __init__(self) -> None:
        self._np = load()
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
        self._lengths = self._np.array(lengths, dtype=self._np.float64)
        columns = self._np.array(links, dtype=self._np.int64).reshape(-1, 3)
        self._before, self._after, self._sessions = columns[:, 0], columns[:, 1], columns[:, 2]

    def posting(self, term: str, posting: Mapping[int, float]) -> tuple[Any, Any]:
        """(places, frequencies) of a term."""
        known = self._postings.get(term)
        if known is None or len(known[0]) != len(posting):
            places = self._np.fromiter(posting.keys(), dtype=self._np.int64, count=len(posting))
            frequencies = self._np.fromiter(posting.values(), dtype=self._np.float64, count=len(posting))
            known = self._postings[term] = (places, frequencies)
        return known

    def lexical(self, weighted: Sequence[tuple[float, tuple[Any, Any]]], k1: float, b: float, average: float) -> Any:
        """BM25 by place, of terms with their weights."""
        norms = k1 * (1 - b + b * self._lengths / average)
        scores = self._np.zeros(self.count)
        for weight, (places, frequencies) in weighted:
            scores[places] += weight * frequencies / (frequencies + norms[places])
        return scores

    def shared(self, scores: Any, neighbour: float, session: float) -> Any:
        """Each score that is not nothing, with its shares of the neighbours' and of the session's best."""
        best = self._np.zeros(int(self._sessions.max(initial=-1)) + 1)
        self._np.maximum.at(best, self._sessions, scores)
        padded = self._np.append(scores, 0.0)  # -1, no neighbour, is the last place
        near = self._np.maximum(padded[self._before], padded[self._after])
        return self._np.where(scores > 0, scores + neighbour * near + session * best[self._sessions], 0.0)

    def dense(self, matrix: Any, vector: Any) -> Any:
        """Cosines of rows of unit length. Not by BLAS: its threads would fight the pods for the cores."""
        return self._np.einsum("ij,j->i", matrix, vector)

    def fused(self, lexical: Any, rows: Any, dense: Any) -> Any:
        """Half of each, both from 0 to 1."""
        scores = 0.5 * lexical / (lexical.max(initial=0.0) or 1.0)
        low, high = dense.min(initial=0.0), dense.max(initial=0.0)
        if len(dense):
            low, high = dense.min(), dense.max()
        scores[rows] += 0.5 * (dense - low) / ((high - low) or 1.0)
        return scores

    def best(self, scores: Any, count: int) -> dict[int, float]:
        """The best places with their scores."""
        if count < len(scores):
            places = self._np.argpartition(scores, len(scores) - count)[-count:]
        else:
            places = self._np.arange(len(scores))
        chosen = scores[places]
        return dict(zip(places.tolist(), chosen.tolist(), strict=True))

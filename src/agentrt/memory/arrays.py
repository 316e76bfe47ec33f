"""The same scores as `Index` works out in Python, with numpy where it is installed: twenty times faster. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module, util
from typing import Any, NamedTuple

__all__ = ["Arrays", "Matrix", "Posting", "load"]

_BLOCK = 64


@cache
def load() -> Any:
    """numpy, or None where it is not installed: an extra. Imported on first use: a pod that starts is waited for."""
    return import_module("numpy") if util.find_spec("numpy") is not None else None


class Posting(NamedTuple):
    """Where a term is, and with what weight, by place; each place once, in order."""

    places: array[int]
    weights: array[float]


class Arrays:
    """An index as arrays; brought up to date when it is used."""

    def __init__(self) -> None:
        self._np = load()
        self.count = -1
        """Places that the arrays know."""
        self._norms: Any = None
        self._before: Any = None
        self._after: Any = None
        self._sessions: Any = None
        self._best: Any = None

    def update(self, norms: tuple[float, float], lengths: array[float], links: Sequence[array[int]]) -> None:
        """`norms` are BM25's constant and its factor of a length; `links` the places before and after, -1 for none, and
        the session, by place.
        """
        np = self._np
        self.count = len(lengths)
        self._norms = norms[0] + norms[1] * np.frombuffer(lengths)
        self._before, self._after, self._sessions = (np.frombuffer(one, dtype=np.int64).copy() for one in links)
        self._best = np.zeros(int(self._sessions.max(initial=-1)) + 1)

    def lexical(self, wanted: Sequence[tuple[float, Posting]], neighbour: float, session: float) -> Any:
        """BM25 by place, of terms with their weights; with shares of the neighbours' and of the session's best."""
        np = self._np
        found = np.zeros(self.count)
        if not wanted:
            return found
        at = np.frombuffer(b"".join([posting.places for _, posting in wanted]), dtype=np.int32)
        often = np.frombuffer(b"".join([posting.weights for _, posting in wanted]), dtype=np.float32)
        weights = np.repeat([weight for weight, _ in wanted], [len(posting.places) for _, posting in wanted])
        # One place more, for -1 is no neighbour.
        scores = np.bincount(at, weights * often / (often + self._norms[at]), self.count + 1)
        places = np.flatnonzero(scores)
        own, sessions = scores[places], self._sessions[places]
        self._best.fill(0.0)
        np.maximum.at(self._best, sessions, own)
        near = np.maximum(scores[self._before[places]], scores[self._after[places]])
        found[places] = own + neighbour * near + session * self._best[sessions]
        return found

    def fused(self, lexical: Any, rows: Any, dense: Any) -> Any:
        """Half of each, both from 0 to 1. `rows`: the places of `dense`; None: all."""
        scores = lexical * (0.5 / (lexical.max(initial=0.0) or 1.0))
        low, high = float(dense.min()), float(dense.max())
        scaled = (dense - low) * (0.5 / ((high - low) or 1.0))
        if rows is None:
            scores += scaled
        else:
            scores[rows] += scaled
        return scores

    def best(self, scores: Any, count: int) -> dict[int, float]:
        """The best places with their scores, the best first, the newer first among equals."""
        np = self._np
        places = np.arange(len(scores)) if count >= len(scores) else self._candidates(scores, count)
        chosen = scores[places]
        if count < len(places):
            part = np.argpartition(chosen, len(places) - count)[-count:]
            places, chosen = places[part], chosen[part]
        order = np.lexsort((places, chosen))[::-1]
        return dict(zip(places[order].tolist(), chosen[order].tolist(), strict=True))

    def _candidates(self, scores: Any, count: int) -> Any:
        """Places among which the `count` best are: at least as good as the best of the count-th best block."""
        np = self._np
        blocks = len(scores) // _BLOCK
        if blocks <= 2 * count:
            return np.arange(len(scores))
        tops = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        return np.flatnonzero(scores >= np.partition(tops, blocks - count)[blocks - count])


class Matrix:
    """Embeddings of unit length, a row each; it grows. `rows` are the places of the rows, None: row n is place n."""

    def __init__(self) -> None:
        self._np = load()
        self._room: Any = None
        self._places = array("q")
        self.numbers: set[int] = set()
        """Turns of which there is an embedding."""
        self.mixed = False
        """Embeddings of two models cannot be compared: then there is no dense search."""

    def add(self, found: Mapping[int, bytes], places: Mapping[int, int]) -> None:
        """Take embeddings in, float16 by number, of turns with these places."""
        new = {number: raw for number, raw in found.items() if number in places and number not in self.numbers}
        if not new:
            return
        np, held = self._np, len(self._places)
        sizes = {len(raw) // 2 for raw in new.values()} | ({self._room.shape[1]} if held else set())
        if len(sizes) > 1:
            self.mixed = True
        self.numbers.update(new)
        if self.mixed:
            return
        if self._room is None or held + len(new) > len(self._room):
            room = np.empty((max(64, (held + len(new)) * 5 // 4), sizes.pop()), dtype=np.float32)
            if held:
                room[:held] = self._room[:held]
            self._room = room
        self._room[held : held + len(new)] = np.frombuffer(b"".join(new.values()), dtype=np.float16).reshape(
            len(new), -1
        )
        self._places.extend(places[number] for number in new)

    def cosines(self, vector: Any) -> tuple[Any, Any] | None:
        """(rows, cosines with a vector of unit length); None where they cannot be told."""
        if self.mixed or not self._places or len(vector) != self._room.shape[1]:
            return None
        np = self._np
        rows = np.frombuffer(self._places, dtype=np.int64).copy()
        # Row by row: a product of a matrix is spread over threads, which would fight the pods for the cores.
        return rows, np.vecdot(self._room[: len(rows)], vector)

"""The decoded index of one user's raw turns: BM25 over terms, and exact search over embeddings beside it. Pure.

What it adds to plain BM25, each measured to help on long conversations: a turn is indexed together with the tail of the
two turns before it; it gets a share of the score of its better neighbour and of the best one of its session; the day
that a question names, and the speaker when it names exactly one, count; nothing is filtered and nothing decays by age.
Lexical and dense scores are brought to one scale (min-max) and added, half and half.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentrt.memory.arrays import Arrays, Matrix, Posting, load
from agentrt.memory.dates import Day, day_of, named
from agentrt.memory.lexicon import asked
from agentrt.memory.turns import SUMMARY, Memory

__all__ = ["Hit", "Index", "nothing"]

_K1 = 1.2
_B = 0.6
_TAIL_TERMS = 12
_TAIL_WEIGHT = 0.4
_NEIGHBOUR = 0.3
_SESSION = 0.15
_DATE = 0.35
_SPEAKER = 0.15
_CANDIDATES = 64
"""Beside four times of what is wanted: what speaker and caller may move."""


def nothing(_turn: Memory) -> bool:
    """Leaves no turn out."""
    return False


class Hit(NamedTuple):
    """A turn that was found. `score` is comparable within one search only."""

    number: int
    memory: Memory
    score: float


@dataclass(slots=True)
class _Doc:
    number: int
    memory: Memory
    tail: list[str]


def _posting() -> Posting:
    return Posting(array("i"), array("f"))


@dataclass(slots=True)
class Index:
    """One user's turns in one generation. `upto` is the number of the newest turn that it knows."""

    gen: str
    epoch: int
    upto: int = 0
    _docs: list[_Doc] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)
    _lengths: array[float] = field(default_factory=lambda: array("d"))
    _before: array[int] = field(default_factory=lambda: array("q"))
    _after: array[int] = field(default_factory=lambda: array("q"))
    _in_session: array[int] = field(default_factory=lambda: array("q"))
    _postings: defaultdict[str, Posting] = field(default_factory=lambda: defaultdict(_posting))
    _last: dict[str, int] = field(default_factory=dict)
    _length: float = 0.0
    _speakers: dict[str, str] = field(default_factory=dict)
    _sessions: dict[str, int] = field(default_factory=dict)
    _arrays: Arrays = field(default_factory=Arrays)
    matrix: Matrix = field(default_factory=Matrix)
    """The embeddings that are known of its turns."""

    def __len__(self) -> int:
        return len(self._docs)

    def add(self, number: int, memory: Memory) -> None:
        """Take a turn in; numbers must grow."""
        self.upto = number
        own = memory.terms.split()
        place = len(self._docs)
        weights: dict[str, float] = {}
        for term in own:
            weights[term] = weights.get(term, 0.0) + 1.0
        linked = memory.role != SUMMARY  # it stands beside the turns, not between them
        before = self._last.get(memory.session, -1) if linked else -1
        previous = before
        for _ in range(2):
            if previous < 0:
                break
            for term in self._docs[previous].tail:
                weights[term] = weights.get(term, 0.0) + _TAIL_WEIGHT
            previous = self._before[previous]
        for term, weight in weights.items():
            places, found = self._postings[term]
            places.append(place)
            found.append(weight)
        length = sum(weights.values())
        self._docs.append(_Doc(number, memory, own[-_TAIL_TERMS:]))
        self._places[number] = place
        self._lengths.append(length)
        self._before.append(before)
        self._after.append(-1)
        self._in_session.append(self._sessions.setdefault(memory.session, len(self._sessions)))
        if before >= 0:
            self._after[before] = place
        if linked:
            self._last[memory.session] = place
        self._length += length
        if memory.speaker:
            self._speakers[memory.speaker.casefold()] = memory.speaker

    def add_vectors(self, found: Mapping[int, bytes]) -> None:
        """Take embeddings in, of unit length, as they are stored: float16 by number."""
        self.matrix.add(found, self._places)

    @property
    def numbers(self) -> list[int]:
        """The numbers of all turns."""
        return [doc.number for doc in self._docs]

    def search(
        self, question: str, k: int, *, vector: Any = None, without: Callable[[Memory], bool] = nothing
    ) -> list[Hit]:
        """The `k` best turns, best first. `vector` is the question's embedding; `without` says which to leave out."""
        day = named(question)
        # What a named day moves may be anywhere; else nobody climbs from far below.
        most = len(self._docs) if day is not None else 4 * k + _CANDIDATES
        scores = self._scores(question, vector, most)
        if self._boost(question, day, scores):
            scores = dict(sorted(scores.items(), key=lambda one: (one[1], one[0]), reverse=True))
        found: list[Hit] = []
        for place, score in scores.items():
            if score <= 0 or len(found) == k:
                break
            doc = self._docs[place]
            if not without(doc.memory):
                found.append(Hit(doc.number, doc.memory, round(score, 4)))
        return found

    def _scores(self, question: str, vector: Any, most: int) -> dict[int, float]:
        """The best places with their scores, lexical or of both kinds, the best first."""
        if not self._docs:
            return {}
        found = [posting for term in asked(question) if (posting := self._postings.get(term))]
        average = self._length / len(self._docs) or 1.0
        if load() is None:
            return dict(heapq.nlargest(most, self._lexical(found, average).items(), key=lambda one: (one[1], one[0])))
        arrays = self._arrays
        if arrays.count != len(self._docs):
            norms = _K1 * (1 - _B), _K1 * _B / average
            arrays.update(norms, self._lengths, (self._before, self._after, self._in_session))
        weighted = [(self._weight(posting), posting) for posting in found]
        scores = arrays.lexical(weighted, _NEIGHBOUR, _SESSION)
        dense = None if vector is None else self.matrix.cosines(vector)
        if dense is not None:
            scores = arrays.fused(scores, *dense)
        return arrays.best(scores, most)

    def _weight(self, posting: Posting) -> float:
        count, held = len(self._docs), len(posting.places)
        return math.log(1 + (count - held + 0.5) / (held + 0.5)) * (_K1 + 1)

    def _lexical(self, wanted: Sequence[Posting], average: float) -> dict[int, float]:
        scores: dict[int, float] = defaultdict(float)
        for posting in wanted:
            weight = self._weight(posting)
            for place, frequency in zip(posting.places, posting.weights, strict=True):
                norm = _K1 * (1 - _B + _B * self._lengths[place] / average)
                scores[place] += weight * frequency / (frequency + norm)
        return self._shared(scores)

    def _shared(self, scores: dict[int, float]) -> dict[int, float]:
        """Each score with the shares of its better neighbour and of its session's best."""
        best: dict[int, float] = defaultdict(float)
        for place, score in scores.items():
            session = self._in_session[place]
            best[session] = max(score, best[session])
        found = {}
        for place, score in scores.items():
            near = max(scores.get(self._before[place], 0.0), scores.get(self._after[place], 0.0))
            found[place] = score + _NEIGHBOUR * near + _SESSION * best[self._in_session[place]]
        return found

    def _boost(self, question: str, day: Day | None, scores: dict[int, float]) -> bool:
        """Raise what fits the day or the speaker that a question names; whether anything may have been raised."""
        if not scores:
            return False
        top = max(scores.values())
        if day is not None:
            for place in scores:
                if day.covers(day_of(self._docs[place].memory.at)):
                    scores[place] += _DATE * top
        folded = question.casefold()
        named_speakers = [name for name in self._speakers if name in folded]
        if len(named_speakers) == 1:
            for place in scores:
                if self._docs[place].memory.speaker.casefold() == named_speakers[0]:
                    scores[place] += _SPEAKER * top
        return day is not None or len(named_speakers) == 1

"""The decoded index of one user's raw turns: BM25 over terms, and exact search over embeddings beside it. Pure.

What it adds to plain BM25, each measured to help on long conversations: a turn is indexed together with the tail of the
two turns before it; it gets a share of the score of its better neighbour and of the best one of its session; the day
that a question names, and the speaker when it names exactly one, count; nothing is filtered and nothing decays by age.
Lexical and dense scores are brought to one scale (min-max) and added, half and half.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrt.memory.arrays import Arrays, load
from agentrt.memory.dates import Day, day_of, named
from agentrt.memory.lexicon import terms
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


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that was found. `score` is comparable within one search only."""

    number: int
    memory: Memory
    score: float


@dataclass(slots=True)
class _Doc:
    number: int
    memory: Memory
    length: float
    tail: list[str]
    before: int = -1
    after: int = -1


@dataclass(slots=True)
class Index:
    """One user's turns in one generation. `upto` is the number of the newest turn that it knows."""

    gen: str
    epoch: int
    upto: int = 0
    _docs: list[_Doc] = field(default_factory=list)
    _postings: defaultdict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    _last: dict[str, int] = field(default_factory=dict)
    _length: float = 0.0
    _speakers: dict[str, str] = field(default_factory=dict)
    _sessions: dict[str, int] = field(default_factory=dict)
    _arrays: Arrays = field(default_factory=Arrays)
    _matrix: Any = None
    _rows: Any = None

    def __len__(self) -> int:
        return len(self._docs)

    def add(self, number: int, memory: Memory) -> None:
        """Take a turn in; numbers must grow."""
        self.upto = number
        own = memory.terms.split()
        place = len(self._docs)
        weights: dict[str, float] = defaultdict(float)
        for term in own:
            weights[term] += 1.0
        linked = memory.role != SUMMARY  # it stands beside the turns, not between them
        before = self._last.get(memory.session, -1) if linked else -1
        previous = before
        for _ in range(2):
            if previous < 0:
                break
            for term in self._docs[previous].tail:
                weights[term] += _TAIL_WEIGHT
            previous = self._docs[previous].before
        for term, weight in weights.items():
            self._postings[term][place] = weight
        length = sum(weights.values())
        self._docs.append(_Doc(number, memory, length, own[-_TAIL_TERMS:], before))
        if before >= 0:
            self._docs[before].after = place
        if linked:
            self._last[memory.session] = place
        self._sessions.setdefault(memory.session, len(self._sessions))
        self._length += length
        if memory.speaker:
            self._speakers[memory.speaker.casefold()] = memory.speaker

    def set_vectors(self, vectors: Mapping[int, Any], stack: Any) -> None:
        """The embeddings by number, of unit length; `stack` makes a matrix of a list of them."""
        known = [doc.number for doc in self._docs if doc.number in vectors]
        places = {doc.number: place for place, doc in enumerate(self._docs)}
        self._rows = load().asarray([places[number] for number in known])
        self._matrix = stack([vectors[number] for number in known]) if known else None

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
        self._boost(question, day, scores)
        docs = self._docs
        allowed = ((score, place) for place, score in scores.items() if score > 0 and not without(docs[place].memory))
        best = heapq.nlargest(k, allowed)
        return [Hit(docs[place].number, docs[place].memory, round(score, 4)) for score, place in best]

    def _scores(self, question: str, vector: Any, most: int) -> dict[int, float]:
        """The best places with their scores, lexical or of both kinds."""
        if not self._docs:
            return {}
        asked = [(term, posting) for term in dict.fromkeys(terms(question)) if (posting := self._postings.get(term))]
        average = self._length / len(self._docs) or 1.0
        if load() is None:
            return dict(heapq.nlargest(most, self._lexical(asked, average).items(), key=lambda one: (one[1], one[0])))
        arrays = self._arrays
        if arrays.count != len(self._docs):
            links = [(doc.before, doc.after, self._sessions[doc.memory.session]) for doc in self._docs]
            arrays.update([doc.length for doc in self._docs], links)
        weighted = [(self._weight(posting), arrays.posting(term, posting)) for term, posting in asked]
        scores = arrays.shared(arrays.lexical(weighted, _K1, _B, average), _NEIGHBOUR, _SESSION)
        if vector is not None and self._matrix is not None:
            scores = arrays.fused(scores, self._rows, arrays.dense(self._matrix, vector))
        return arrays.best(scores, most)

    def _weight(self, posting: Mapping[int, float]) -> float:
        count = len(self._docs)
        return math.log(1 + (count - len(posting) + 0.5) / (len(posting) + 0.5)) * (_K1 + 1)

    def _lexical(self, asked: Sequence[tuple[str, dict[int, float]]], average: float) -> dict[int, float]:
        docs = self._docs
        scores: dict[int, float] = defaultdict(float)
        for _, posting in asked:
            weight = self._weight(posting)
            for place, frequency in posting.items():
                norm = _K1 * (1 - _B + _B * docs[place].length / average)
                scores[place] += weight * frequency / (frequency + norm)
        return self._shared(scores)

    def _shared(self, scores: dict[int, float]) -> dict[int, float]:
        """Each score with the shares of its better neighbour and of its session's best."""
        docs = self._docs
        best: dict[str, float] = defaultdict(float)
        for place, score in scores.items():
            session = docs[place].memory.session
            best[session] = max(score, best[session])
        found = {}
        for place, score in scores.items():
            doc = docs[place]
            near = max(scores.get(doc.before, 0.0), scores.get(doc.after, 0.0))
            found[place] = score + _NEIGHBOUR * near + _SESSION * best[doc.memory.session]
        return found

    def _boost(self, question: str, day: Day | None, scores: dict[int, float]) -> None:
        if not scores:
            return
        top = max(scores.values())
        if day is not None:
            for place in scores:
                if day.covers(day_of(self._docs[place].memory.at)):
                    scores[place] += _DATE * top
        asked = question.casefold()
        named_speakers = [name for name in self._speakers if name in asked]
        if len(named_speakers) == 1:
            for place in scores:
                if self._docs[place].memory.speaker.casefold() == named_speakers[0]:
                    scores[place] += _SPEAKER * top

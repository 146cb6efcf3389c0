"""Metrics of the quality and diversity of lines: pure functions of lines of symbols, without a model.

A line is a sequence of hashable symbols, without its end symbol. BLEU depends on how many references there are, so it
is returned with the numbers of candidates and references. Knows no vocabulary, no network and no file.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

Line = Sequence[Hashable]
"""The symbols of a line, without its end symbol."""

EPSILON = 0.1
"""The number of matches that is assumed for an order without any: method 1 of Chen and Cherry 2014, as in NLTK."""


class Bleu(NamedTuple):
    """BLEU, and how many lines it was computed from.

    Args:
        values: BLEU-1 .. BLEU-n, each 0 .. 1; BLEU-k weighs the orders 1 .. k equally.
        candidates: lines that were scored.
        references: lines that each of them was compared with.
    """

    values: tuple[float, ...]
    candidates: int
    references: int


def bleu(candidates: Sequence[Line], references: Sequence[Line], n: int) -> Bleu:
    """Mean BLEU-1 .. BLEU-n of the candidates, each against all references: high if candidates resemble references.

    Per candidate: the brevity penalty of the closest reference's length (of two, the shorter) times the geometric mean
    of the modified n-gram precisions. An order without a match counts as EPSILON matches; a candidate that shares no
    symbol with the references scores 0. Then the mean over candidates, which is the convention of papers on text GANs.

    Raises:
        ValueError: if there are no candidates or no references.
    Source:
        Papineni et al. 2002, ACL P02-1040; Chen and Cherry 2014, ACL W14-3346; Zhu et al. 2018, arXiv:1802.01886.
    """
    if not candidates or not references:
        raise ValueError(
            f"{len(candidates)} candidates and {len(references)} references: at least one of each"
        )
    table = _References(references, n)
    values = _mean_of_columns(table.score(candidate) for candidate in candidates)
    return Bleu(values, len(candidates), len(references))


def self_bleu(samples: Sequence[Line], n: int) -> Bleu:
    """Mean BLEU-1 .. BLEU-n of each sample against ALL other samples: high if samples resemble one another.

    Raises:
        ValueError: if there are fewer than two samples.
    Source:
        Zhu et al. 2018, arXiv:1802.01886; computed exactly, with all other samples as references of each.
    """
    if len(samples) < 2:
        raise ValueError(
            f"{len(samples)} samples: each is compared with the others, so at least two are needed"
        )
    table = _References(samples, n)
    values = _mean_of_columns(table.score(sample, place) for place, sample in enumerate(samples))
    return Bleu(values, len(samples), len(samples) - 1)


def distinct(samples: Iterable[Line], n: int) -> float | None:
    """Distinct n-grams as a share of all n-grams, 0 .. 1; None if no line has n symbols.

    Source: distinct-n of Li et al. 2016, arXiv:1510.03055.
    """
    counts = _counts(samples, n)
    return len(counts) / counts.total() if counts else None


def entropy(samples: Iterable[Line], n: int) -> float | None:
    """Entropy of the distribution of n-grams, in nats, >= 0; None if no line has n symbols.

    Source: Ent-n of Zhang et al. 2018, arXiv:1809.05972.
    """
    counts = _counts(samples, n)
    total = counts.total()
    return (
        math.fsum(count / total * math.log(total / count) for count in counts.values())
        if counts
        else None
    )


def copy_rate(samples: Sequence[Line], training_lines: Iterable[Line]) -> float:
    """Share of samples that equal a whole line of the training text, 0 .. 1."""
    known_lines = {tuple(line) for line in training_lines}
    return sum(tuple(sample) in known_lines for sample in samples) / len(samples)


def length_histogram(samples: Iterable[Line]) -> dict[int, int]:
    """Length in symbols -> number of lines, in ascending order of length."""
    return dict(sorted(Counter(len(sample) for sample in samples).items()))


class _References:
    """The references of BLEU: the largest counts of each n-gram in one line, and the lengths.

    Args:
        lines: the references.
        n: the largest order.
    """

    def __init__(self, lines: Sequence[Line], n: int) -> None:
        self.n = n
        # n-gram -> (its largest count in a line, the second largest, the line of the largest). With these, leaving one
        # line out costs nothing.
        self._largest_counts: dict[tuple[Hashable, ...], tuple[int, int, int]] = {}
        for place, line in enumerate(lines):
            for order in range(1, n + 1):
                for gram, count in Counter(_grams(line, order)).items():
                    first, second, owner = self._largest_counts.get(gram, (0, 0, -1))
                    if count > first:
                        self._largest_counts[gram] = count, first, place
                    elif count > second:
                        self._largest_counts[gram] = first, count, owner
        self._lengths = Counter(map(len, lines))
        self._sorted_lengths = sorted(self._lengths)

    def score(self, candidate: Line, excluded_row: int | None = None) -> list[float]:
        """BLEU-1 .. BLEU-n of one candidate.

        Args:
            excluded_row: the row of a reference that does not count (the candidate itself); None: all count.
        """
        scores, logs = [], 0.0
        penalty = self._penalty(len(candidate), excluded_row is not None)
        for order in range(1, self.n + 1):
            matches, total = 0, max(1, len(candidate) - order + 1)
            for gram, count in Counter(_grams(candidate, order)).items():
                first, second, owner = self._largest_counts.get(gram, (0, 0, -1))
                matches += min(count, second if owner == excluded_row else first)
            if order == 1 and not matches:
                return [0.0] * self.n
            logs += math.log((matches or EPSILON) / total)
            scores.append(penalty * math.exp(logs / order))
        return scores

    def _penalty(self, length: int, is_reference: bool) -> float:
        """Brevity penalty of a candidate.

        Args:
            length: of the candidate.
            is_reference: whether the candidate is itself one of the references; one of its length does not count then.
        """
        place = bisect_left(self._sorted_lengths, length)
        neighbours = self._sorted_lengths[max(0, place - 1) : place + 2]
        lengths = [
            other for other in neighbours if other != length or self._lengths[other] > is_reference
        ]
        closest_length = min(lengths, key=lambda other: (abs(other - length), other))
        return 1.0 if length >= closest_length else math.exp(1 - closest_length / max(1, length))


def _grams(line: Line, order: int) -> Iterator[tuple[Hashable, ...]]:
    """The n-grams of a line; n is the order."""
    return zip(*(line[start:] for start in range(order)), strict=False)


def _counts(lines: Iterable[Line], order: int) -> Counter[tuple[Hashable, ...]]:
    """How often each n-gram occurs in all lines together."""
    return Counter(gram for line in lines for gram in _grams(line, order))


def _mean_of_columns(rows: Iterable[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(column) / len(column) for column in zip(*rows, strict=True))

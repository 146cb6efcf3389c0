"""How good and how varied lines are: pure functions of lines of symbols, without a model.

A line is a sequence of hashable symbols, its end symbol left out. Knows no vocabulary, no network and no file. What is
counted over the whole of a set of lines (BLEU's references and candidates) tells how many there were: the same lines
give other figures against more references.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

Line = Sequence[Hashable]

EPSILON = 0.1
"""What stands for the matches of an order that has none: method 1 of Chen and Cherry 2014, as NLTK has it."""


class Bleu(NamedTuple):
    """BLEU and what it was counted on.

    Args:
        values: BLEU-1 .. BLEU-n, 0 .. 1; BLEU-k weighs the orders 1 .. k alike.
        candidates: lines that were scored.
        references: lines that each of them was compared with.
    """

    values: tuple[float, ...]
    candidates: int
    references: int


def bleu(candidates: Sequence[Line], references: Sequence[Line], n: int) -> Bleu:
    """Mean of the candidates' BLEU-1 .. BLEU-n against all references: high where each candidate looks like the text.

    Per candidate: the brevity penalty of the closest reference's length (of two, the shorter) times the geometric mean
    of the modified precisions of n-grams; an order without a match counts as EPSILON matches, a candidate without one
    known symbol is 0. Then the mean over candidates: the convention of the papers on text GANs.

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
    """Mean BLEU-1 .. BLEU-n of each sample against ALL the others: high where samples look like one another.

    Raises:
        ValueError: if there are fewer than two samples.
    Source:
        Zhu et al. 2018, arXiv:1802.01886, exactly: no sample is its own reference, and none is left out.
    """
    if len(samples) < 2:
        raise ValueError(
            f"{len(samples)} samples: each is compared with the others, so at least two are needed"
        )
    table = _References(samples, n)
    values = _mean_of_columns(table.score(sample, place) for place, sample in enumerate(samples))
    return Bleu(values, len(samples), len(samples) - 1)


def distinct(samples: Iterable[Line], n: int) -> float | None:
    """Different n-grams as a share of all of them, 0 .. 1; None where no line has n symbols.

    Source: distinct-n of Li et al. 2016, arXiv:1510.03055.
    """
    counts = _counts(samples, n)
    return len(counts) / counts.total() if counts else None


def entropy(samples: Iterable[Line], n: int) -> float | None:
    """Entropy of the distribution of n-grams in nats, >= 0; None where no line has n symbols.

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
    """Share of samples that are, as a whole, a line of the training text; 0 .. 1."""
    known = {tuple(line) for line in training_lines}
    return sum(tuple(sample) in known for sample in samples) / len(samples)


def length_histogram(samples: Iterable[Line]) -> dict[int, int]:
    """How many lines there are of each length, by length."""
    return dict(sorted(Counter(len(sample) for sample in samples).items()))


class _References:
    """What BLEU must know of its references: the largest counts of each n-gram, and the lengths.

    Args:
        lines: the references.
        n: the largest order.
    """

    def __init__(self, lines: Sequence[Line], n: int) -> None:
        self.n = n
        # n-gram -> its two largest counts in a line, and whose the largest is: leaving one line out costs nothing then.
        self._most: dict[tuple[Hashable, ...], tuple[int, int, int]] = {}
        for place, line in enumerate(lines):
            for order in range(1, n + 1):
                for gram, count in Counter(_grams(line, order)).items():
                    first, second, owner = self._most.get(gram, (0, 0, -1))
                    if count > first:
                        self._most[gram] = count, first, place
                    elif count > second:
                        self._most[gram] = first, count, owner
        self._lengths = Counter(map(len, lines))
        self._sorted = sorted(self._lengths)

    def score(self, candidate: Line, left_out: int | None = None) -> list[float]:
        """BLEU-1 .. BLEU-n of one candidate.

        Args:
            left_out: the place of the candidate among the references, if it is one; it does not count then.
        """
        scores, logs = [], 0.0
        penalty = self._penalty(len(candidate), left_out is not None)
        for order in range(1, self.n + 1):
            matches, total = 0, max(1, len(candidate) - order + 1)
            for gram, count in Counter(_grams(candidate, order)).items():
                first, second, owner = self._most.get(gram, (0, 0, -1))
                matches += min(count, second if owner == left_out else first)
            if order == 1 and not matches:
                return [0.0] * self.n
            logs += math.log((matches or EPSILON) / total)
            scores.append(penalty * math.exp(logs / order))
        return scores

    def _penalty(self, length: int, leave_out: bool) -> float:
        """Brevity penalty of a candidate that is not empty; with `leave_out`, one reference of its length is gone."""
        place = bisect_left(self._sorted, length)
        around = self._sorted[max(0, place - 1) : place + 2]
        near = [known for known in around if known != length or self._lengths[known] > leave_out]
        closest = min(near, key=lambda known: (abs(known - length), known))
        return 1.0 if length >= closest else math.exp(1 - closest / max(1, length))


def _grams(line: Line, order: int) -> Iterator[tuple[Hashable, ...]]:
    return zip(*(line[start:] for start in range(order)), strict=False)


def _counts(lines: Iterable[Line], order: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(gram for line in lines for gram in _grams(line, order))


def _mean_of_columns(rows: Iterable[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(column) / len(column) for column in zip(*rows, strict=True))

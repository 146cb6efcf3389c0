"""Lines that are drawn by a critic's weights beside their model's temperature curve: are they nearer to real ones?

    python tests/benchmarks/resampling.py MODEL [MODEL ...] --data HELD_OUT [-n 5000 --candidates 4 16 --choose sample
        --temperatures 0.7 0.8 0.9 1.0 1.1 --english]

MODEL: with its critics, or else `--candidates` without a number. HELD_OUT: lines that neither the model nor its critics
have seen; one half trains a judge, the other is what it is compared with. Columns, in nats a word, ends counted:

    judge     samples under a trigram model of the first half: how plausible they are
    reverse   the second half under a trigram model of the samples: how much of the language they have
    english   with --english: samples under pocketsphinx's model of English (`english.py`)

the share of pairs of words that differ, and that of lines with a word that HELD_OUT does not have. What is nearer to
real lines lowers `judge` and `reverse` both; a lower temperature trades one for the other.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import english
import numpy as np

import genkit
from genkit_text.options import Options
from genkit_text.sources import open_source

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
DISCOUNT = 0.75


class Trigrams:
    """An interpolated trigram model with absolute discounting (Ney et al. 1994) of lines of words.

    Args:
        lines: that it counts.
        vocabulary: other words are one unknown word.
    """

    def __init__(self, lines: Sequence[str], vocabulary: set[str]) -> None:
        self.vocabulary = vocabulary
        self.counts: list[dict[tuple[str, ...], Counter[str]]] = [
            defaultdict(Counter) for _ in range(3)
        ]
        for line in lines:
            for history, word in self.steps(line):
                for order, counts in enumerate(self.counts):
                    counts[history[2 - order :]][word] += 1

    def steps(self, line: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """The two words before each word of a line and before its end, and this word."""
        words = [word if word in self.vocabulary else UNKNOWN for word in line.split()]
        padded = [START, START, *words, END]
        for place in range(2, len(padded)):
            yield (padded[place - 2], padded[place - 1]), padded[place]

    def nats(self, lines: Sequence[str]) -> float:
        """Negative log-likelihood of lines for each of their words and ends."""
        values = [-math.log(self.share(*step)) for line in lines for step in self.steps(line)]
        return sum(values) / len(values)

    def share(self, history: tuple[str, ...], word: str) -> float:
        """The probability of a word."""
        share = 1 / (len(self.vocabulary) + 2)
        for order, tables in enumerate(self.counts):
            if counts := tables.get(history[2 - order :]):
                total = counts.total()
                share *= DISCOUNT * len(counts) / total
                share += max(counts[word] - DISCOUNT, 0.0) / total
        return share


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("--candidates", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--choose", default="sample")
    temperatures = [0.7, 0.8, 0.9, 1.0, 1.1]
    parser.add_argument("--temperatures", type=float, nargs="*", default=temperatures)
    parser.add_argument("--english", action="store_true")
    arguments = parser.parse_args()
    real, count = open_source(arguments.data, Options()).lines, arguments.n
    order = np.random.default_rng(0).permutation(len(real))
    halves = [[real[place] for place in half] for half in np.array_split(order, 2)]
    vocabulary = {word for half in halves for line in half for word in line.split()}
    judge = Trigrams(halves[0], vocabulary)
    known = english.judge() if arguments.english else None

    def row(name: str, lines: Sequence[str], others: Sequence[str]) -> None:
        """Print the figures of `lines`; `others`, of the same kind, train the reverse model."""
        reverse = Trigrams(others, vocabulary).nats(halves[1])
        pairs = [pair for line in lines for pair in itertools.pairwise(line.split())]
        told = f"{name:34} judge {judge.nats(lines):.3f}  reverse {reverse:.3f}"
        told += f"  pairs that differ {len(set(pairs)) / len(pairs):.3f}"
        strange = [line for line in lines if not vocabulary.issuperset(line.split())]
        told += f"  lines with other words {len(strange) / len(lines):.3f}"
        if known is not None:
            nats, words, _ = np.array([known(line) for line in lines]).T
            told += f"  english {nats.sum() / words.sum():.3f}"
        print(told, flush=True)

    row("real", halves[1][:count], halves[0][:count])
    for path in arguments.models:
        model = genkit.load(path)
        ways = [
            *({"controls": {"temperature": value}} for value in arguments.temperatures),
            *({"best_of": number, "choose": arguments.choose} for number in arguments.candidates),
            *({"best_of": number} for number in arguments.candidates[-1:]),
        ]
        for way in ways:
            lines = [content.decode() for content in model.generate(count, **way).encode()]
            row(f"{Path(path).name} {' '.join(map(str, way.values()))}", lines, lines)


if __name__ == "__main__":
    main()

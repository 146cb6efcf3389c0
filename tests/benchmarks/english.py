"""Lines of models beside real ones, before a judge that nothing of genkit has made: a trigram model of English.

    pip install pocketsphinx
    python tests/benchmarks/english.py MODEL [MODEL ...] --data HELD_OUT [-n 2000 --best-of 16 --choose sample:1]

The judge is the language model en-us of pocketsphinx (Carnegie Mellon University; 27 MB, in the package). For each
model, and for real lines: nats a word, the ends of lines counted, with a 95 % interval; the share of words that the
judge does not know, which are left out; and the gap to real lines. A model is better the smaller its gap: below real
lines it is too typical, above them it makes less sense.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence

import numpy as np

import genkit
from genkit_text.options import Options
from genkit_text.sources import open_source

NATS = 1e-4
"""Of a unit of pocketsphinx's logarithms, whose base is 1.0001."""
UNKNOWN = -1e6
"""Such units are the logarithm of a word that the judge does not know, or less."""
RESAMPLES = 1000


def judge() -> Callable[[str], tuple[float, int, int]]:
    """A function: line -> (its nats, words and the end that were counted, unknown words)."""
    import pocketsphinx

    path = pocketsphinx.get_model_path("en-us/en-us.lm.bin")
    logarithms = pocketsphinx.LogMath()
    settings = pocketsphinx.Config(lm=path, lw=1.0, wip=1.0)
    trigrams = pocketsphinx.NGramModel(settings, logarithms, path)

    def measure(line: str) -> tuple[float, int, int]:
        words = re.findall(r"[a-z]+(?:'[a-z]+)*", line.lower())
        known = [word for word in words if trigrams.prob([word]) > UNKNOWN]
        total, history = 0.0, ["<s>"]
        for word in [*known, "</s>"]:
            total -= NATS * trigrams.prob([word, *history])  # the newest word comes first
            history = [word, *history][:2]
        return total, len(known) + 1, len(words) - len(known)

    return measure


def row(name: str, lines: Sequence[str], measure: Callable[[str], tuple[float, int, int]]) -> float:
    """Print the figures of some lines; returns their nats a word."""
    nats, words, unknown = np.array([measure(line) for line in lines]).T
    value = nats.sum() / words.sum()
    numbers = np.random.default_rng(0).integers(0, len(lines), (RESAMPLES, len(lines)))
    low, high = np.quantile(nats[numbers].sum(1) / words[numbers].sum(1), [0.025, 0.975])
    share = unknown.sum() / (unknown.sum() + words.sum() - len(lines))
    print(
        f"{name:24} {value:.3f} [{low:.3f}, {high:.3f}] nats a word, {share:.2%} unknown",
        flush=True,
    )
    return float(value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--best-of", type=int, default=1)
    parser.add_argument("--choose", default="best")
    arguments = parser.parse_args()
    measure, count = judge(), arguments.n
    real = open_source(arguments.data, Options()).lines
    order = np.random.default_rng(0).permutation(len(real))[:count]
    value = row("real", [real[place] for place in order], measure)
    for name in arguments.models:
        model = genkit.load(name)
        samples = model.generate(count, best_of=arguments.best_of, choose=arguments.choose)
        lines = [content.decode() for content in samples.encode()]
        print(f"{'':24} {row(name, lines, measure) - value:+.3f} beside real lines")


if __name__ == "__main__":
    main()

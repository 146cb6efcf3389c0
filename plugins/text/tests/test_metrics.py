"""Metrics of lines: each equals its definition written out slowly; the tables of BLEU change nothing."""

import math
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genkit_text.metrics import bleu, copy_rate, distinct, entropy, length_histogram, self_bleu

lines = st.lists(st.integers(0, 3), max_size=7)


def grams(line, order):
    return [tuple(line[start : start + order]) for start in range(len(line) - order + 1)]


def slow_bleu(candidate, references, n):
    """One candidate's BLEU-n, straight from the papers: every n-gram is looked for in every reference."""
    if not set(candidate) & {symbol for reference in references for symbol in reference}:
        return 0.0
    logs = []
    for order in range(1, n + 1):
        mine = grams(candidate, order)
        clipped = [
            min(
                mine.count(gram),
                max(grams(reference, order).count(gram) for reference in references),
            )
            for gram in set(mine)
        ]
        logs.append(math.log((sum(clipped) or 0.1) / max(1, len(mine))))
    closest = min(
        (abs(len(reference) - len(candidate)), len(reference)) for reference in references
    )[1]
    penalty = 1.0 if len(candidate) >= closest else math.exp(1 - closest / len(candidate))
    return penalty * math.exp(sum(logs) / n)


@given(
    st.lists(lines, min_size=1, max_size=6),
    st.lists(lines, min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_bleu_is_its_definition(candidates, references, n):
    result = bleu(candidates, references, n)
    assert result[1:] == (len(candidates), len(references))
    for order, value in enumerate(result.values, 1):
        slow = [slow_bleu(candidate, references, order) for candidate in candidates]
        assert value == pytest.approx(sum(slow) / len(slow), abs=1e-12)


@given(st.lists(lines, min_size=2, max_size=8), st.integers(1, 5))
def test_self_bleu_leaves_exactly_one_out(samples, n):
    result = self_bleu(samples, n)
    assert result[1:] == (len(samples), len(samples) - 1)
    for order, value in enumerate(result.values, 1):
        slow = [
            slow_bleu(sample, samples[:place] + samples[place + 1 :], order)
            for place, sample in enumerate(samples)
        ]
        assert value == pytest.approx(sum(slow) / len(slow), abs=1e-12)


def test_bleu_by_hand():
    """The example of the paper, the penalty of a short line, the smoothing of a line too short for an order."""
    reference = ["the", "cat", "is", "on", "the", "mat"]
    assert bleu([["the"] * 7], [reference], 1).values[0] == pytest.approx(2 / 7)
    assert bleu([["the", "cat"]], [reference], 2).values == pytest.approx([math.exp(1 - 6 / 2)] * 2)
    assert bleu([["cat"]], [["cat"]], 2).values == pytest.approx([1, math.sqrt(0.1)])
    assert bleu([["dog"], []], [reference], 3).values == (0, 0, 0)


def test_two_equal_lines_are_each_others_copy_and_one_line_has_no_other():
    assert self_bleu(["abcde", "abcde"], 5).values == pytest.approx([1] * 5)
    assert self_bleu(["abc", "xyz"], 2).values == (0, 0)
    with pytest.raises(ValueError, match="at least two"):
        self_bleu(["abc"], 2)
    with pytest.raises(ValueError, match="0 references"):
        bleu(["abc"], [], 2)


@given(st.lists(lines, max_size=6), st.integers(1, 4))
def test_distinct_and_entropy_are_their_definitions(samples, n):
    every = [gram for sample in samples for gram in grams(sample, n)]
    if not every:
        assert distinct(samples, n) is None
        assert entropy(samples, n) is None
        return
    shares = [count / len(every) for count in Counter(every).values()]
    assert distinct(samples, n) == len(set(every)) / len(every)
    assert entropy(samples, n) == pytest.approx(
        -sum(share * math.log(share) for share in shares), abs=1e-12
    )


def test_copies_are_whole_lines():
    assert copy_rate(["ab", "abc", "b", "ab"], ["ab", "c"]) == 0.5
    assert copy_rate([[1, 2]], [[1, 2, 3]]) == 0


def test_lengths_are_counted_in_order():
    assert list(length_histogram(["abc", "", "ab", "xy"]).items()) == [(0, 1), (2, 2), (3, 1)]


def test_tables_cost_as_much_as_there_are_n_grams():
    samples = [[(7 * place + step * step) % 101 for step in range(20)] for place in range(2000)]
    started = time.perf_counter()
    self_bleu(samples, 5)  # 4 million pairs of lines, were each compared with each
    assert time.perf_counter() - started < 10

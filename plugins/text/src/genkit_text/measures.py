"""Measures of a set of lines beside real ones: likelihoods, BLEU, diversity, copies, lengths.

A single number cannot rank language GANs: a lower temperature makes the lines of any model better and less varied. So
there are measures of both, and models are compared as curves over temperatures (Caccia et al. 2020, arXiv:1811.02549).
Another model judges strings: it encodes them with its own vocabulary.

Shape letters: B batch, N lines, L steps, P symbols of a prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from genkit.errors import ConfigError
from genkit.plugin import Evidence, Sample
from genkit_text import metrics

if TYPE_CHECKING:
    from genkit_text.plugin import TextPlugin

BATCH = 64
"""Number of lines in a batch."""

ORDERS = (1, 2, 3, 4, 5)
"""Orders of n-grams."""

CURVES = tuple(
    (diversity, quality)
    for quality in ("judge_nll", "bleu_4")
    for diversity in ("self_bleu_4", "held_out_nll")
)
"""Measures of diversity, and of quality, that are plotted against each other."""


def measures(
    plugin: TextPlugin, evidence: Evidence, training: Set[tuple[str, ...]] | None
) -> dict[str, float | None]:
    """Measures of lines beside real ones.

    Args:
        plugin: of the lines' symbols.
        evidence: the lines.
        training: the lines of the training text, in words; None: they are not known.

    Returns:
        `held_out_nll`: negative log-likelihood of the real lines under the generator at the samples' temperature, in
        nats per symbol, the end counted; `held_out_nll_line` in nats per line. The other controls do not change it.
        `judge_nll`, `judge_nll_line`: the same of the samples under the judge, of those that it can represent;
        `unjudged`: the share of the others.
        `bleu_1` .. `bleu_5`: of the samples against all real lines. `self_bleu_1` ..: of each sample against the
        others. `distinct_1` ..: share of n-grams that differ. `entropy_1` ..: of n-grams, in nats.
        `copies`: share of samples that are whole lines of the training text; runs of white space count as one space.
        `length_mean`: in symbols. `length_gap`: total variation distance, 0 to 1, of lengths from those of real lines.
        None for what cannot be computed, or is not finite.
    """
    samples, references = (symbols_of(plugin, lines) for lines in (evidence.samples, evidence.real))
    strings = [plugin.vocabulary.decode(line) for line in samples]
    held_out = _held_out(evidence)
    judgement, share = _judged(plugin, evidence, strings)
    row: dict[str, float | None] = {
        "held_out_nll": held_out and held_out.per_symbol,
        "held_out_nll_line": held_out and held_out.per_line,
        "judge_nll": judgement and judgement.per_symbol,
        "judge_nll_line": judgement and judgement.per_line,
        "unjudged": share,
    }
    bleu = metrics.bleu(samples, references, ORDERS[-1]).values
    self_bleu = metrics.self_bleu(samples, ORDERS[-1]).values
    row |= {f"bleu_{order}": value for order, value in zip(ORDERS, bleu, strict=True)}
    row |= {f"self_bleu_{order}": value for order, value in zip(ORDERS, self_bleu, strict=True)}
    row |= {f"distinct_{order}": metrics.distinct(samples, order) for order in ORDERS}
    row |= {f"entropy_{order}": metrics.entropy(samples, order) for order in ORDERS}
    copies = None
    if training is not None:
        copies = metrics.copy_rate([line.split() for line in strings], training)
    mean = sum(map(len, samples)) / len(samples)
    return row | {
        "copies": copies, "length_mean": mean, "length_gap": _gap(samples, references),
    }  # fmt: skip


def symbols_of(plugin: TextPlugin, lines: Sample) -> list[list[int]]:
    """The symbols of each line, without the end symbol; a prompt that a line continues is part of it."""
    end, rows = plugin.vocabulary.end, lines.x.tolist()
    if lines.mask is not None:
        rows = [row[:count] for row, count in zip(rows, lines.mask.sum(1).tolist(), strict=True)]
    rows = [row[:-1] if end is not None and row[-1:] == [end] else row for row in rows]
    if lines.condition is not None and not plugin.facts["prompt_length"]:
        prompts = prompts_of(lines.condition)
        rows = [prompt + row for prompt, row in zip(prompts, rows, strict=True)]
    return rows


def prompts_of(condition: Tensor) -> list[list[int]]:
    """The symbols of each prompt [B, P], without the padding."""
    return [[symbol for symbol in prompt if symbol >= 0] for prompt in condition.tolist()]


def _gap(samples: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> float:
    """Total variation distance of the distributions of lengths."""
    counts, real_counts = (Counter(map(len, lines)) for lines in (samples, references))
    return 0.5 * sum(
        abs(counts[length] / len(samples) - real_counts[length] / len(references))
        for length in counts.keys() | real_counts.keys()
    )


# Likelihoods ---------------------------------------------------------------------------------------------------------


class Likelihood(NamedTuple):
    """Negative log-likelihood in nats: means over all symbols, end symbols included, and over lines."""

    per_symbol: float
    per_line: float


def nll(
    generator: nn.Module, batches: Iterable[Sample], temperature: float = 1.0
) -> Likelihood | None:
    """Negative log-likelihood of lines under a generator; None if there are no lines, or if it is not finite.

    Args:
        generator: in eval mode, with `log_prob(sample, temperature=...) -> [B, L]` that is 0 at masked steps.
        batches: of lines.
        temperature: by which the logits are divided.
    """
    log_prob = cast(Callable[..., Tensor], generator.log_prob)
    device = next((weight.device for weight in generator.parameters()), torch.device("cpu"))
    total, symbols, lines = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches:
            total -= float(log_prob(batch.to(device), temperature=temperature).double().sum())
            symbols += batch.x.numel() if batch.mask is None else int(batch.mask.sum())
            lines += len(batch)
    if not lines or not math.isfinite(total):
        return None
    return Likelihood(total / symbols, total / lines)


def _held_out(evidence: Evidence) -> Likelihood | None:
    """The likelihood of the real lines under the generator, if there is one that has likelihoods."""
    generator, real = evidence.generator, evidence.real
    if not callable(getattr(generator, "log_prob", None)):
        return None
    batches = (real[start : start + BATCH] for start in range(0, len(real), BATCH))
    temperature = 1.0 if evidence.controls is None else evidence.controls.temperature
    return nll(cast(nn.Module, generator), batches, temperature)


def _judged(
    plugin: TextPlugin, evidence: Evidence, strings: Sequence[str]
) -> tuple[Likelihood | None, float | None]:
    """(the likelihood of the samples under the judge, the share that it cannot represent).

    Args:
        plugin: of the samples.
        evidence: with the judge.
        strings: the samples as text.

    Raises:
        ConfigError: if the judge has no likelihoods, or answers prompts and the samples do not.
    """
    if evidence.judge is None:
        return None, None
    judge, generator = cast(Any, evidence.judge[0]), evidence.judge[1]
    if not callable(getattr(generator, "log_prob", None)):
        raise ConfigError("the judge gives no likelihoods (log_prob): choose a model of preset mle")
    prompts = None
    if judge.facts["prompt_length"]:
        condition = evidence.samples.condition
        if condition is None or not plugin.facts["prompt_length"]:
            raise ConfigError(
                "the judge answers prompts, and the samples answer none: choose a judge without prompts"
            )
        prompts = [plugin.vocabulary.decode(prompt) for prompt in prompts_of(condition)]
    lines = encoded(judge, strings, prompts)
    judgeable = [line for line in lines if line is not None]
    return nll(generator, _batches(judge, judgeable)), 1 - len(judgeable) / len(lines)


def encoded(
    plugin: TextPlugin, strings: Sequence[str], prompts: Sequence[str] | None = None
) -> list[tuple[list[int], list[int]] | None]:
    """(symbols of a line without its end, symbols of its prompt) for each line; None: the model cannot represent it."""
    vocabulary, prompt_length = plugin.vocabulary, plugin.facts["prompt_length"]
    max_length = plugin.facts["length"] - (vocabulary.end is not None)
    min_length = max_length if vocabulary.end is None else 1

    def encode(texts: Sequence[str], low: int, high: int) -> Iterator[list[int] | None]:
        for text, symbols in zip(texts, vocabulary.encode_each(texts), strict=True):
            fits = low <= len(symbols) <= high
            yield symbols if fits and vocabulary.represents(text, symbols) else None

    lines = encode(strings, min_length, max_length)
    if prompts is None:
        return [None if line is None else (line, []) for line in lines]
    pairs = zip(lines, encode(prompts, 0, prompt_length), strict=True)
    return [None if line is None or prompt is None else (line, prompt) for line, prompt in pairs]


def _batches(plugin: TextPlugin, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[Sample]:
    """Lines with their prompts as batches for a generator, each with its end symbol, padded with it to L."""
    facts, end = plugin.facts, plugin.vocabulary.end
    length, width = facts["length"], facts["prompt_length"]
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        rows = [line if end is None else [*line, end] for line, _ in part]
        x = torch.tensor([row + [end] * (length - len(row)) for row in rows])
        mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
        prompts = None
        if width:
            prompts = torch.tensor([prompt + [-1] * (width - len(prompt)) for _, prompt in part])
        yield Sample(x, prompts, mask)

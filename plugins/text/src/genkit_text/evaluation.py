"""What a text model is worth: one report, or its curve of quality against diversity. Knows no way of training.

A language GAN is never one number: sharper sampling makes any model's lines better and less varied, so a model is a
curve over temperatures, to be read beside the curve of maximum likelihood (Caccia et al. 2020, arXiv:1811.02549).
LatentPoint models go strings: each cuts a line into its own symbols, and what it cannot say is counted and left out.

Shape letters: P symbols of a prompt.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from genkit import Model
from genkit.errors import ConfigError, DataError, GenkitError
from genkit.kit.items import check_usable
from genkit.kit.program import controls as checked_controls
from genkit.plugin import Sample
from genkit_text import metrics, modality

BATCH = 64
"""Lines that a network sees at once."""

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Of a curve."""

Tell = Callable[[str], object]
"""Is told what is being done."""


class Likelihood(NamedTuple):
    """Negative log-likelihood in nats, and what it was counted on.

    Args:
        nll_per_symbol: mean over all symbols, end symbols counted.
        nll_per_line: mean over lines.
        symbols, lines: how many.
    """

    nll_per_symbol: float
    nll_per_line: float
    symbols: int
    lines: int


def nll(generator: nn.Module, batches: Iterable[Sample], temperature: float = 1.0) -> Likelihood:
    """Negative log-likelihood of lines under a generator.

    Args:
        generator: has `log_prob(sample, temperature=...) -> [B, L]`, 0 at steps that are masked out; in eval mode.
        batches: on its device.
        temperature: what its logits are divided by.

    Raises:
        GenkitError: if there are no lines, or their likelihood is not a finite number.
    """
    log_prob = cast(Callable[..., Tensor], generator.log_prob)
    total, symbols, lines = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches:
            total -= float(log_prob(batch, temperature=temperature).double().sum())
            symbols += batch.x.numel() if batch.mask is None else int(batch.mask.sum())
            lines += len(batch)
    if not lines or not math.isfinite(total):
        raise GenkitError(
            f"the log-likelihood of {lines:,} lines is {-total}: no model can be judged by it"
        )
    return Likelihood(total / symbols, total / lines, symbols, lines)


def evaluate(
    model: Model,
    data: Any,
    samples: int = 2000,
    references: int | None = None,
    n: int = 5,
    judge: Model | None = None,
    training: Any = None,
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell = lambda doing: None,
) -> dict[str, Any]:
    """All that can be counted about a model and text that it has not seen, as JSON data.

    Args:
        data: held-out text, any source that could be trained on.
        samples: how many are drawn; with prompts, sample i answers the prompt of line i, in turn.
        references: held-out lines, spread evenly, that BLEU compares with at most; None: all.
        n: the largest order of n-grams.
        judge: an independent model, trained on held-out text by maximum likelihood: its NLL of the samples is their
            quality. It may have symbols of its own; one that was trained with options.tokenizer=MODEL/assets has all
            that it needs.
        training: the text that the model was trained on, for the share of samples that are copies; None: not counted.
        controls: of the samples. The model's own NLL is at the same temperature, of the distribution as a whole.
        seed: of the samples.

    Raises:
        ConfigError: for a model or judge of another modality, or a setting that cannot be.
        DataError: if the data hold no line that the model can say.
    """
    _check_modality("the model", model)
    how = _How(samples, references, n, judge, seed, tell)
    text = _read(model, data)
    known = _known([("the model", model)], text)
    if training is not None:
        how = replace(how, training=_read(model, training).lines)
    report = _measure(model, known, how, controls or {})
    _tell_of_unjudged(report["judge"] and report["judge"]["left_out"], samples, tell)
    report["held_out"] |= {
        "title": text.title,
        "left_out": text.skipped + len(text.lines) - len(known.symbols),
    }
    return report


def curve(
    models: Iterable[tuple[str, Model]],
    data: Any,
    judge: Model | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    samples: int = 2000,
    references: int | None = None,
    n: int = 4,
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell = lambda doing: None,
) -> list[dict[str, Any]]:
    """Quality against diversity at several temperatures: a row for each model and temperature, as JSON data.

    Quality is the judge's NLL of the samples, in nats per symbol of its own, and BLEU-n. Diversity is self-BLEU-n, and
    the NLL of the held-out text under the model at that temperature, in nats per symbol. Only lines that every model
    can say count.

    Args:
        models: with their names; models of one name are several seeds of one thing.
        data, judge, samples, references, controls, seed: as those of `evaluate`.
        n: the order of BLEU and self-BLEU.

    Raises:
        ConfigError, DataError: as `evaluate`; also if the models do not cut lines into the same symbols.
    """
    models = list(models)
    if not models or not temperatures:
        raise ConfigError("a curve needs at least one model and one temperature")
    for name, model in models:
        _check_modality(name, model)
    how = _How(samples, references, n, judge, seed)
    text = _read(models[0][1], data)
    known = _known(models, text)
    rows = []
    for place, (name, model) in enumerate(models, 1):
        for temperature in temperatures:
            tell(f"{name} ({place} of {len(models)}) at temperature {temperature}")
            report = _measure(model, known, how, {**(controls or {}), "temperature": temperature})
            judged = report["judge"] or dict.fromkeys(("nll_per_symbol", "lines", "left_out"))
            rows.append(
                {
                    "name": name, "model": report["model"], "temperature": temperature, "samples": samples,
                    "judge_nll": judged["nll_per_symbol"], "judged": judged["lines"], "unjudged": judged["left_out"],
                    "n": n, "bleu": report["bleu"]["values"][-1], "references": report["bleu"]["references"],
                    "self_bleu": report["self_bleu"]["values"][-1],
                    "held_out_nll": report["held_out"]["nll_per_symbol"], "held_out": len(known.symbols),
                    "left_out": text.skipped + len(text.lines) - len(known.symbols),
                }
            )  # fmt: skip
    _tell_of_unjudged(max(row["unjudged"] or 0 for row in rows), samples, tell)
    return rows


# Measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _How:
    """What `evaluate` and `curve` are asked for alike."""

    samples: int
    references: int | None
    n: int
    judge: Model | None
    seed: int
    tell: Tell = lambda doing: None
    training: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.samples < 2 or self.n < 1 or (self.references is not None and self.references < 1):
            asked = f"samples = {self.samples}, n = {self.n}, references = {self.references}"
            raise ConfigError(f"{asked}: at least 2 samples, order 1 and 1 reference are needed")
        if self.judge is not None:
            _check_modality("the judge", self.judge)


@dataclass(frozen=True)
class _Known:
    """Lines that a model can say.

    Args:
        symbols: of each, its end left out.
        prompts: in symbols; None: the model takes none.
        asked: the same as text.
    """

    symbols: list[list[int]]
    prompts: list[list[int]] | None = None
    asked: list[str] | None = None


def _measure(model: Model, known: _Known, how: _How, controls: Mapping[str, Any]) -> dict[str, Any]:
    settings: Any = checked_controls(model.modality, controls)
    how.tell(f"likelihood of {len(known.symbols):,} held-out lines")
    likelihood = nll(model.generator, _batches(model, known), settings.temperature)
    how.tell(f"drawing {how.samples:,} samples")
    drawn = _draw(model, how.samples, how.seed, settings, known.prompts)
    strings = [_vocabulary(model).decode(symbols) for symbols in drawn]
    asked = known.asked and [known.asked[place % len(known.asked)] for place in range(how.samples)]
    how.tell(f"judging {how.samples:,} samples")
    judged = None if how.judge is None else _judged(how.judge, _Text("the samples", strings, asked))
    count = min(how.references or len(known.symbols), len(known.symbols))
    shown = [known.symbols[place * len(known.symbols) // count] for place in range(count)]
    orders = range(1, how.n + 1)
    return {
        "model": None if model.path is None else str(model.path),
        "controls": settings.model_dump(mode="json", exclude_none=True),
        "seed": how.seed,
        "samples": how.samples,
        "held_out": {**likelihood._asdict(), "temperature": settings.temperature},
        "judge": judged,
        "bleu": _plain(metrics.bleu(drawn, shown, how.n)),
        "self_bleu": _plain(metrics.self_bleu(drawn, how.n)),
        "distinct": {str(order): metrics.distinct(drawn, order) for order in orders},
        "entropy": {str(order): metrics.entropy(drawn, order) for order in orders},
        "copies": None if how.training is None else _copies(strings, how.training),
        "lengths": {"samples": _lengths(drawn), "held_out": _lengths(known.symbols)},
    }


def _draw(
    model: Model, samples: int, seed: int, controls: Any, prompts: Sequence[list[int]] | None
) -> list[list[int]]:
    """The symbols of each sample, its end left out."""
    end = _vocabulary(model).end

    def asked(indices: Sequence[int]) -> Tensor:
        assert prompts is not None
        return _prompt_tensor(model, [prompts[index % len(prompts)] for index in indices])

    drawn = []
    for start in range(0, samples, BATCH):
        indices = range(start, min(start + BATCH, samples))
        batch = model.draw(
            indices, seed, controls=controls, conditions=None if prompts is None else asked
        )
        mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
        for row, valid in zip(batch.x, mask, strict=True):
            symbols: list[int] = row[valid].tolist()
            drawn.append(symbols[:-1] if end is not None and symbols[-1:] == [end] else symbols)
    return drawn


def _judged(judge: Model, samples: _Text) -> dict[str, Any]:
    known = _known([("the judge", judge)], samples)
    likelihood = nll(judge.generator, _batches(judge, known))
    path = None if judge.path is None else str(judge.path)
    return {
        "model": path,
        **likelihood._asdict(),
        "left_out": len(samples.lines) - len(known.symbols),
    }


def _tell_of_unjudged(left_out: int | None, samples: int, tell: Tell) -> None:
    if left_out:
        tell(
            f"the judge cannot say {left_out:,} of {samples:,} samples, and judges the others alone; one that is "
            "trained with options.tokenizer=MODEL/assets has all symbols of that model"
        )


def _copies(strings: Sequence[str], training: Sequence[str]) -> dict[str, Any]:
    share = metrics.copy_rate(
        [line.split() for line in strings], (line.split() for line in training)
    )
    return {"share": share, "samples": len(strings), "training_lines": len(training)}


def _plain(score: metrics.Bleu) -> dict[str, Any]:
    return {**score._asdict(), "values": list(score.values)}


def _lengths(lines: Iterable[Sequence[int]]) -> dict[str, int]:
    return {str(length): count for length, count in metrics.length_histogram(lines).items()}


# Text and symbols ------------------------------------------------------------------------------------------------


class _Text(NamedTuple):
    title: str
    lines: Sequence[str]
    prompts: Sequence[str] | None
    skipped: int = 0


def _read(model: Model, data: Any) -> _Text:
    """The lines of a source, read as the model's own data would be.

    Raises:
        DataError: if the source cannot be read, or holds no line.
    """
    source = model.plugin.open(data, model.plugin.options).source
    check_usable(len(source.lines), source.skipped, source.title, strict=False)
    return _Text(source.title, source.lines, source.prompts, len(source.skipped))


def _check_modality(role: str, model: Model) -> None:
    if model.modality.id != modality.id:
        what = role if model.path is None else f"{role} ({model.path})"
        raise ConfigError(
            f"{what} is a model of {model.modality.id}: only models of {modality.id} are judged here"
        )


def _vocabulary(model: Model) -> Any:
    return cast(Any, model.plugin).vocabulary


def _known(models: Sequence[tuple[str, Model]], text: _Text) -> _Known:
    """The lines that all of some models can say, which they must do in the same symbols."""
    first, model = models[0]
    every = []
    for name, other in models:
        every.append(_encoded(other, text))
        if any(a and b and a != b for a, b in zip(every[0], every[-1], strict=True)):
            raise ConfigError(
                f"{first} and {name} cut lines into different symbols, so that neither their n-grams nor their "
                "likelihoods can be compared: train both on the same data with one options.tokenizer"
            )
    places = [place for place, each in enumerate(zip(*every, strict=True)) if all(each)]
    if not places:
        length = min(other.plugin.facts["length"] for _, other in models)
        raise DataError(
            f"{first} can say none of the {len(text.lines):,} lines of {text.title}: they hold symbols that it was "
            f"not trained on, or do not fit its {length} symbols"
        )
    pairs = [pair for place in places if (pair := every[0][place])]
    symbols = [line for line, _ in pairs]
    if text.prompts is None or not model.plugin.facts["prompt_length"]:
        return _Known(symbols)
    return _Known(
        symbols, [prompt for _, prompt in pairs], [text.prompts[place] for place in places]
    )


def _encoded(model: Model, text: _Text) -> list[tuple[list[int], list[int]] | None]:
    """The symbols of each line, without its end, and of its prompt; None: the model cannot say it."""
    vocabulary, most = _vocabulary(model), model.plugin.facts["prompt_length"]
    longest = model.plugin.facts["length"] - (vocabulary.end is not None)
    shortest = longest if vocabulary.end is None else 1

    def encode(strings: Sequence[str], least: int, most: int) -> Iterator[list[int] | None]:
        for string, symbols in zip(strings, vocabulary.encode_each(strings), strict=True):
            whole = least <= len(symbols) <= most and not {
                vocabulary.unknown,
                vocabulary.end,
            } & set(symbols)
            yield (
                symbols
                if whole and _spelling(vocabulary.decode(symbols)) == _spelling(string)
                else None
            )

    lines = encode(text.lines, shortest, longest)
    if not most:
        return [None if line is None else (line, []) for line in lines]
    if text.prompts is None:
        raise DataError(
            f"{model.path or 'the model'} answers prompts, but {text.title} has none: JSONL may hold them"
        )
    pairs = zip(lines, encode(text.prompts, 0, most), strict=True)
    return [None if line is None or prompt is None else (line, prompt) for line, prompt in pairs]


def _spelling(string: str) -> str:
    """A string without what a tokenizer may change (case, spaces, forms of Unicode): one that it cuts is noticed."""
    return "".join(unicodedata.normalize("NFKC", string).casefold().split())


def _batches(model: Model, known: _Known) -> Iterator[Sample]:
    """Lines as the generator takes them, each with its end."""
    length, end = model.plugin.facts["length"], _vocabulary(model).end
    for start in range(0, len(known.symbols), BATCH):
        rows = [
            line if end is None else [*line, end] for line in known.symbols[start : start + BATCH]
        ]
        x = torch.tensor([row + [end] * (length - len(row)) for row in rows])
        mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
        prompts = (
            None
            if known.prompts is None
            else _prompt_tensor(model, known.prompts[start : start + BATCH])
        )
        yield Sample(x, prompts, mask).to(model.device)


def _prompt_tensor(model: Model, prompts: Iterable[list[int]]) -> Tensor:
    """[B, P], -1 behind a prompt's end."""
    length = model.plugin.facts["prompt_length"]
    return torch.tensor([prompt + [-1] * (length - len(prompt)) for prompt in prompts])

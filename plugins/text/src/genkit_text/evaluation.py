"""Evaluation of text models: a report of one model, or curves of quality against diversity of several.

A single number cannot rank language GANs: a lower temperature makes the lines of any model better and less varied. So a
model is evaluated as a curve over temperatures, next to the curve of maximum likelihood (Caccia et al. 2020,
arXiv:1811.02549). Models exchange lines as strings: each encodes them with its own vocabulary, and lines that it cannot
represent are counted and left out. Knows nothing about training.

Shape letters: B batch, L steps, P symbols of a prompt.
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
"""Number of lines in a batch."""

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Temperatures of a curve where the caller names none."""

Report = Callable[[str], object]
"""Called with a line of text at every step of the work."""


class Likelihood(NamedTuple):
    """Negative log-likelihood in nats, and how much text it was computed from.

    Args:
        nll_per_symbol: mean over all symbols, end symbols included.
        nll_per_line: mean over lines.
        symbols, lines: how many there were.
    """

    nll_per_symbol: float
    nll_per_line: float
    symbols: int
    lines: int


def nll(generator: nn.Module, batches: Iterable[Sample], temperature: float = 1.0) -> Likelihood:
    """Negative log-likelihood of lines under a generator.

    Args:
        generator: in eval mode, with `log_prob(sample, temperature=...) -> [B, L]` that is 0 at masked steps.
        batches: of lines, on the generator's device.
        temperature: by which the logits are divided.

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
    tell: Report = lambda line: None,
) -> dict[str, Any]:
    """A report of one model on held-out text, as JSON data: likelihood, BLEU, diversity, copies, lengths.

    Args:
        data: held-out text: any source that the model could be trained on.
        samples: how many are drawn; with prompts, sample i answers the prompt of line i modulo the number of lines.
        references: how many held-out lines, spread evenly, are the references of BLEU at most; None: all.
        n: the largest order of n-grams.
        judge: an independent model, trained on held-out text by maximum likelihood, whose NLL of the samples measures
            their quality. It may have another vocabulary; if it was trained with options.tokenizer=MODEL/assets, it
            has all symbols of the model.
        training: the text that the model was trained on, for the share of samples that are copies; None: not counted.
        controls: of the samples. The NLL of held-out text is that of the whole distribution at the same temperature;
            the other controls do not change it.
        seed: of the samples.
        tell: called with a line of text at every step.

    Raises:
        ConfigError: for a model or a judge of another modality, or an impossible setting.
        DataError: if the model can represent no line of the data, or the judge no sample.
    """
    _check_modality("the model", model)
    settings = _Settings(samples, references, n, judge, seed, tell)
    text = _read(model, data)
    lines = _representable([("the model", model)], text)
    if training is not None:
        settings = replace(settings, training=_read(model, training).lines)
    report = _measure(model, lines, settings, controls or {})
    _tell_of_unjudged(report["judge"] and report["judge"]["left_out"], samples, tell)
    report["held_out"] |= {
        "title": text.title,
        "left_out": text.skipped + len(text.lines) - len(lines.symbols),
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
    tell: Report = lambda line: None,
) -> list[dict[str, Any]]:
    """Quality against diversity: a row for each model and temperature, as JSON data.

    Quality is the judge's NLL of the samples, in nats per symbol of the judge, and BLEU-n. Diversity is self-BLEU-n,
    and the NLL of the held-out text under the model at that temperature, in nats per symbol. Only lines that every
    model can represent count.

    Args:
        models: (name, model) pairs; models of the same name are several seeds of one configuration.
        temperatures: at which each model is evaluated.
        n: the order of BLEU and self-BLEU.
        data, judge, samples, references, controls, seed, tell: see `evaluate`.

    Raises:
        ConfigError, DataError: see `evaluate`; also ConfigError if there are no models or no temperatures, or if the
            models encode a line as different symbols.
    """
    models = list(models)
    if not models or not temperatures:
        raise ConfigError("a curve needs at least one model and one temperature")
    for name, model in models:
        _check_modality(name, model)
    settings = _Settings(samples, references, n, judge, seed)
    text = _read(models[0][1], data)
    lines = _representable(models, text)
    rows = []
    for place, (name, model) in enumerate(models, 1):
        for temperature in temperatures:
            tell(f"{name} ({place} of {len(models)}) at temperature {temperature}")
            report = _measure(
                model, lines, settings, {**(controls or {}), "temperature": temperature}
            )
            quality = report["judge"] or dict.fromkeys(("nll_per_symbol", "lines", "left_out"))
            rows.append(
                {
                    "name": name, "model": report["model"], "temperature": temperature, "samples": samples,
                    "judge_nll": quality["nll_per_symbol"], "judged": quality["lines"], "unjudged": quality["left_out"],
                    "n": n, "bleu": report["bleu"]["values"][-1], "references": report["bleu"]["references"],
                    "self_bleu": report["self_bleu"]["values"][-1],
                    "held_out_nll": report["held_out"]["nll_per_symbol"], "held_out": len(lines.symbols),
                    "left_out": text.skipped + len(text.lines) - len(lines.symbols),
                }
            )  # fmt: skip
    _tell_of_unjudged(max(row["unjudged"] or 0 for row in rows), samples, tell)
    return rows


# Measuring -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    """The arguments that `evaluate` and `curve` have in common; see `evaluate`.

    Raises:
        ConfigError: for a number that is too small, or a judge of another modality.
    """

    samples: int
    references: int | None
    n: int
    judge: Model | None
    seed: int
    tell: Report = lambda line: None
    training: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.samples < 2 or self.n < 1 or (self.references is not None and self.references < 1):
            values = f"samples = {self.samples}, n = {self.n}, references = {self.references}"
            raise ConfigError(f"{values}: at least 2 samples, order 1 and 1 reference are needed")
        if self.judge is not None:
            _check_modality("the judge", self.judge)


@dataclass(frozen=True)
class _Lines:
    """Lines that a model can represent.

    Args:
        symbols: of each line, without the end symbol.
        prompts: the symbols of each prompt; None: the model takes no prompts.
        prompt_texts: the prompts as strings; None: the model takes no prompts.
    """

    symbols: list[list[int]]
    prompts: list[list[int]] | None = None
    prompt_texts: list[str] | None = None


def _measure(
    model: Model, lines: _Lines, settings: _Settings, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The report of a model, without what concerns the source of the lines.

    Args:
        values: of the controls.
    """
    controls: Any = checked_controls(model.modality, values)
    settings.tell(f"likelihood of {len(lines.symbols):,} held-out lines")
    likelihood = nll(model.generator, _batches(model, lines), controls.temperature)
    settings.tell(f"drawing {settings.samples:,} samples")
    samples = _draw(model, settings.samples, settings.seed, controls, lines.prompts)
    strings = [_vocabulary(model).decode(symbols) for symbols in samples]
    prompts = None
    if lines.prompt_texts is not None:
        places = range(settings.samples)
        prompts = [lines.prompt_texts[place % len(lines.prompt_texts)] for place in places]
    settings.tell(f"judging {settings.samples:,} samples")
    quality = None
    if settings.judge is not None:
        quality = _quality(settings.judge, _Text("the samples", strings, prompts))
    count = min(settings.references or len(lines.symbols), len(lines.symbols))
    references = [lines.symbols[place * len(lines.symbols) // count] for place in range(count)]
    orders = range(1, settings.n + 1)
    return {
        "model": None if model.path is None else str(model.path),
        "controls": controls.model_dump(mode="json", exclude_none=True),
        "seed": settings.seed,
        "samples": settings.samples,
        "held_out": {**likelihood._asdict(), "temperature": controls.temperature},
        "judge": quality,
        "bleu": _plain(metrics.bleu(samples, references, settings.n)),
        "self_bleu": _plain(metrics.self_bleu(samples, settings.n)),
        "distinct": {str(order): metrics.distinct(samples, order) for order in orders},
        "entropy": {str(order): metrics.entropy(samples, order) for order in orders},
        "copies": None if settings.training is None else _copies(strings, settings.training),
        "lengths": {"samples": _lengths(samples), "held_out": _lengths(lines.symbols)},
    }


def _draw(
    model: Model, count: int, seed: int, controls: Any, prompts: Sequence[list[int]] | None
) -> list[list[int]]:
    """The symbols of each of `count` samples, without the end symbol; sample i answers prompt i modulo their number."""
    end = _vocabulary(model).end

    def conditions(indices: Sequence[int]) -> Tensor:
        assert prompts is not None
        return _prompt_tensor(model, [prompts[index % len(prompts)] for index in indices])

    samples = []
    for start in range(0, count, BATCH):
        batch = model.draw(
            range(start, min(start + BATCH, count)),
            seed,
            controls=controls,
            conditions=None if prompts is None else conditions,
        )
        mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
        for row, valid in zip(batch.x, mask, strict=True):
            symbols: list[int] = row[valid].tolist()
            samples.append(symbols[:-1] if end is not None and symbols[-1:] == [end] else symbols)
    return samples


def _quality(judge: Model, samples: _Text) -> dict[str, Any]:
    """The judge's likelihood of the samples, and how many it cannot represent, as JSON data."""
    lines = _representable([("the judge", judge)], samples)
    likelihood = nll(judge.generator, _batches(judge, lines))
    path = None if judge.path is None else str(judge.path)
    return {
        "model": path,
        **likelihood._asdict(),
        "left_out": len(samples.lines) - len(lines.symbols),
    }


def _tell_of_unjudged(count: int | None, samples: int, tell: Report) -> None:
    """Report how many samples the judge cannot represent, if any."""
    if count:
        tell(
            f"the judge cannot say {count:,} of {samples:,} samples, and judges the others alone; one that is "
            "trained with options.tokenizer=MODEL/assets has all symbols of that model"
        )


def _copies(strings: Sequence[str], training: Sequence[str]) -> dict[str, Any]:
    """The share of samples that are lines of the training text; runs of white space count as one space."""
    share = metrics.copy_rate(
        [line.split() for line in strings], (line.split() for line in training)
    )
    return {"share": share, "samples": len(strings), "training_lines": len(training)}


def _plain(score: metrics.Bleu) -> dict[str, Any]:
    """BLEU as JSON data."""
    return {**score._asdict(), "values": list(score.values)}


def _lengths(lines: Iterable[Sequence[int]]) -> dict[str, int]:
    """How many lines there are of each length, as JSON data."""
    return {str(length): count for length, count in metrics.length_histogram(lines).items()}


# Text and symbols ----------------------------------------------------------------------------------------------------


class _Text(NamedTuple):
    """Text as strings.

    Args:
        title: what messages call it.
        lines: the lines.
        prompts: of each line; None: there are none.
        skipped: how many items of the source are no lines.
    """

    title: str
    lines: Sequence[str]
    prompts: Sequence[str] | None
    skipped: int = 0


def _read(model: Model, data: Any) -> _Text:
    """The lines of a source, read with the options of the model.

    Raises:
        DataError: if the source cannot be read, or holds no line.
    """
    source = model.plugin.open(data, model.plugin.options).source
    check_usable(len(source.lines), source.skipped, source.title, strict=False)
    return _Text(source.title, source.lines, source.prompts, len(source.skipped))


def _check_modality(role: str, model: Model) -> None:
    """Raise a ConfigError if a model is no text model; `role` is what the message calls it."""
    if model.modality.id != modality.id:
        name = role if model.path is None else f"{role} ({model.path})"
        raise ConfigError(
            f"{name} is a model of {model.modality.id}: only models of {modality.id} are judged here"
        )


def _vocabulary(model: Model) -> Any:
    """The `genkit_text.vocabulary.Vocabulary` of a model."""
    return cast(Any, model.plugin).vocabulary


def _representable(models: Sequence[tuple[str, Model]], text: _Text) -> _Lines:
    """The lines that all models can represent.

    Args:
        models: (name, model) pairs; the names are for messages.

    Raises:
        ConfigError: if two models encode a line as different symbols.
        DataError: if there is no such line.
    """
    first_name, first = models[0]
    encodings: list[list[tuple[list[int], list[int]] | None]] = []
    for name, model in models:
        encodings.append(_encode(model, text))
        if any(a and b and a != b for a, b in zip(encodings[0], encodings[-1], strict=True)):
            raise ConfigError(
                f"{first_name} and {name} cut lines into different symbols, so that neither their n-grams nor their "
                "likelihoods can be compared: train both on the same data with one options.tokenizer"
            )
    places = [place for place, pairs in enumerate(zip(*encodings, strict=True)) if all(pairs)]
    if not places:
        length = min(model.plugin.facts["length"] for _, model in models)
        raise DataError(
            f"{first_name} can say none of the {len(text.lines):,} lines of {text.title}: they hold symbols that it "
            f"was not trained on, or do not fit its {length} symbols"
        )
    lines = [pair for place in places if (pair := encodings[0][place])]
    symbols = [line for line, _ in lines]
    if text.prompts is None or not first.plugin.facts["prompt_length"]:
        return _Lines(symbols)
    prompts = [prompt for _, prompt in lines]
    return _Lines(symbols, prompts, [text.prompts[place] for place in places])


def _encode(model: Model, text: _Text) -> list[tuple[list[int], list[int]] | None]:
    """(symbols of a line without its end, symbols of its prompt) for each line; None: the model cannot represent it.

    Raises:
        DataError: if the model answers prompts and the text has none.
    """
    vocabulary, prompt_length = _vocabulary(model), model.plugin.facts["prompt_length"]
    max_length = model.plugin.facts["length"] - (vocabulary.end is not None)
    min_length = max_length if vocabulary.end is None else 1
    foreign_symbols = {vocabulary.unknown, vocabulary.end}

    def encode(strings: Sequence[str], low: int, high: int) -> Iterator[list[int] | None]:
        for string, symbols in zip(strings, vocabulary.encode_each(strings), strict=True):
            fits = low <= len(symbols) <= high and not foreign_symbols & set(symbols)
            is_same = fits and _spelling(vocabulary.decode(symbols)) == _spelling(string)
            yield symbols if is_same else None

    lines = encode(text.lines, min_length, max_length)
    if not prompt_length:
        return [None if line is None else (line, []) for line in lines]
    if text.prompts is None:
        raise DataError(
            f"{model.path or 'the model'} answers prompts, but {text.title} has none: JSONL may hold them"
        )
    pairs = zip(lines, encode(text.prompts, 0, prompt_length), strict=True)
    return [None if line is None or prompt is None else (line, prompt) for line, prompt in pairs]


def _spelling(string: str) -> str:
    """A string without what a tokenizer may change: case, white space and forms of Unicode.

    A line whose decoded symbols have another spelling has lost characters, so the model cannot represent it.
    """
    return "".join(unicodedata.normalize("NFKC", string).casefold().split())


def _batches(model: Model, lines: _Lines) -> Iterator[Sample]:
    """Lines as batches for the generator, each with its end symbol, padded with it to L."""
    length, end = model.plugin.facts["length"], _vocabulary(model).end
    for start in range(0, len(lines.symbols), BATCH):
        rows = [
            line if end is None else [*line, end] for line in lines.symbols[start : start + BATCH]
        ]
        x = torch.tensor([row + [end] * (length - len(row)) for row in rows])
        mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
        prompts = None
        if lines.prompts is not None:
            prompts = _prompt_tensor(model, lines.prompts[start : start + BATCH])
        yield Sample(x, prompts, mask).to(model.device)


def _prompt_tensor(model: Model, prompts: Iterable[list[int]]) -> Tensor:
    """[B, P]: prompts, padded on the right with -1."""
    length = model.plugin.facts["prompt_length"]
    return torch.tensor([prompt + [-1] * (length - len(prompt)) for prompt in prompts])

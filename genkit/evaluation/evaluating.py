"""Models evaluated on real data: opened, drawn from, compared.

Knows models, their controls and their sources; what figures mean is the plugin's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from genkit import config as configuration
from genkit.discovery import registry
from genkit.errors import ConfigError
from genkit.evaluation import scores
from genkit.evaluation.comparing import Comparison, Request
from genkit.evaluation.real import RealItems, real_items, source_name
from genkit.evaluation.results import Evaluation, Row
from genkit.kit.items import name_skipped
from genkit.plugin import Sample, capabilities_of
from genkit.sampling.model import Model
from genkit.sampling.opening import open_model
from genkit.sampling.reranking import Choice
from genkit.sampling.samples import Samples, describe_model
from genkit.system.files import user_path
from genkit.system.runtime import waiting

MOST_SHOWN = 16
"""Samples of each row that the page shows."""

Openable = Model | str | Path
"""A model, or its folder, or that of its run."""

Feature = str | Callable[..., Any]
"""A name of a feature network, or a function of the user's."""


def evaluate(
    models: Openable | Sequence[Openable] | Mapping[str, Openable | Sequence[Openable]],
    data: Any = None,
    n: int = 2000,
    *,
    features: Feature | Sequence[Feature] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    controls: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    best_of: int = 1,
    choose: str = "best",
    judge: Openable | None = None,
    training: Any = None,
    label: str | None = None,
    attack: bool = False,
    seed: int = 0,
    device: str = "auto",
    cache: bool = True,
    user_objects: Sequence[str] = (),
    progress: Callable[[str], object] | None = None,
) -> Evaluation:
    """Compare models of one modality with real items.

    Args:
        models: one or several; in a mapping by the names that they have in the evaluation. Several of one name are
            seeds of one configuration.
        data: real items, best those that no model was trained on: any source that could be trained on; None: the
            modality's default.
        n: samples of each model, and real items on either side, at most; half of the real items are the reference.
        features: networks by whose features samples are compared: names of the plugin's, and functions
            (x [B, *event], facts) -> [B, F] of the user's, as such or as `module:function`. None: all of the plugin's
            that are there; an empty list: none.
        weights: files of weights by name, for networks that the plugin does not bring along.
        controls: of the samples.
        vary: one control with several values: each model is evaluated at each.
        best_of, choose: candidates for each sample, and which is taken; as for `Model.generate`.
        judge: another model of the modality, for the plugin's measures that need one.
        training: the source that the models were trained on: samples that lie at its items count as memorised. None:
            those that lie at the reference do.
        label: only samples and real items of this condition; None: all, and samples have the conditions of real items.
        attack: also say how far small perturbations of continuous samples move the models' critics.
        seed: of the samples, of the order of the real items, and of the resampling.
        device: auto, cpu, cuda, mps ...; of models that are opened here.
        cache: whether features of real items are kept in the user's cache folder.
        user_objects: as for `genkit.load`.
        progress: is told what is done, in short messages.

    Raises:
        ConfigError: for models of several modalities, for unknown controls, networks and labels.
        DataError: if too few real items can be used.
        ModelError: if a model cannot be opened.
    """
    Choice.of(best_of, choose)
    if n < 2:
        raise ConfigError(f"n = {n}: at least 2 samples are needed")

    def open_one(model: Openable) -> Model:
        if isinstance(model, Model):
            return model
        return open_model(model, device, user_objects=user_objects)

    pairs = [(name, open_one(model)) for name, model in names_of(models)]
    judging = None if judge is None else open_one(judge)
    modality = pairs[0][1].modality
    for name, model in [*pairs, *([("the judge", judging)] if judging else [])]:
        if model.modality.id != modality.id:
            raise ConfigError(
                f"{name} is a model of {model.modality.id}, and {pairs[0][0]} one of {modality.id}: only models of "
                "one modality are compared"
            )
    if data is None and modality.data is None:
        raise ConfigError("data: name the real items that samples are compared with")
    if isinstance(features, str) or callable(features):
        features = [features]
    rows = [
        (name, model, value, settings)
        for name, model in pairs
        for value, settings in _settings(model, controls or {}, vary or {})
    ]
    request = Request(
        configuration.with_home(modality.data if data is None else data), n, features,
        {name: user_path(path) for name, path in (weights or {}).items()}, judging, configuration.with_home(training),
        label, seed, cache, progress or (lambda message: None), best_of, choose, attack,
    )  # fmt: skip
    work = _Work(request)
    for row in rows:
        work.add_model(*row)
    return work.result(next(iter(vary)) if vary else "")


def names_of(models: Any) -> list[tuple[str, Openable]]:
    """(name, model) of each model that is to be evaluated.

    Raises:
        ConfigError: if there are none.
    """
    if isinstance(models, Mapping):
        pairs = [
            (str(name), one)
            for name, several in models.items()
            for one in ([several] if isinstance(several, Model | str | Path) else several)
        ]
    else:
        each = [models] if isinstance(models, Model | str | Path) else list(models)
        short = [_short_name(one) for one in each]
        # Names that are not enough to tell models apart give way to paths.
        pairs = [
            (name if short.count(name) == 1 else _long_name(one, number), one)
            for number, (name, one) in enumerate(zip(short, each, strict=True), 1)
        ]
    if not pairs:
        raise ConfigError("no model was given: name at least one model or run folder")
    return pairs


def _short_name(model: Openable) -> str:
    """The name of a model's folder, or of its run's."""
    path = model.path if isinstance(model, Model) else Path(model)
    if path is None:
        return "model"
    return path.resolve().parent.name if path.name == "model" else path.name or str(path)


def _long_name(model: Openable, number: int) -> str:
    path = model.path if isinstance(model, Model) else model
    return f"model {number}" if path is None else str(path)


def _settings(
    model: Model, controls: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]
) -> list[tuple[Any, Any]]:
    """(value of the varied control, all controls) of each row of a model.

    Raises:
        ConfigError: for unknown controls and invalid values; if more than one control is varied, or by no value.
    """
    if not vary:
        return [(None, model.settings(controls))]
    if len(vary) > 1:
        raise ConfigError(f"vary = {', '.join(vary)}: one control is varied at a time")
    ((name, values),) = vary.items()
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"vary {name} = {values!r}: a list of values is needed")
    if name in controls:
        raise ConfigError(
            f"{name} is varied, and is {controls[name]!r} among the controls: leave one out"
        )
    return [(value, model.settings({**controls, name: value})) for value in values]


@dataclass
class _Work:
    """An evaluation in work: comparisons by the content of their real items, and the rows so far."""

    request: Request
    comparisons: dict[Any, Comparison] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sources: dict[Any, Any] = field(default_factory=dict)
    real: dict[Any, RealItems] = field(default_factory=dict)

    def add_model(self, name: str, model: Model, value: Any, controls: Any) -> None:
        """Draw from a model, and compare the samples with real items."""
        real = self._real(model, controls)
        key = real.sha256, _facts(model)
        if key not in self.comparisons:
            training = None
            if self.request.training is not None:
                training = self._source(model, self.request.training)
            comparison = Comparison(self.request, real, model, controls, training)
            self.comparisons[key] = comparison
            number = len(self.comparisons)
            for title, (kind, sample) in comparison.scale().items():
                title = title if number == 1 else f"{title} ({number})"
                self._add(comparison, title, kind, sample, None, None, controls)
        comparison = self.comparisons[key]
        self.request.tell(f"drawing {comparison.count:,} samples of {name}")
        sample = comparison.draw(name, model, controls)
        self._add(comparison, name, "model", sample, model, value, controls)

    def _add(
        self, comparison: Comparison, name: str, kind: str, sample: Sample, model: Model | None, value: Any,
        controls: Any,
    ) -> None:  # fmt: skip
        """The row of a set of samples."""
        number = list(self.comparisons.values()).index(comparison)
        plain = {} if controls is None else controls.model_dump(mode="json")
        row = Row(name, kind, {}, value, plain, number)
        self.request.tell(f"comparing {row.title} with real items")
        figures, near = comparison.figures(sample, kind, model, controls)

        def shown(few: Sample) -> Samples:
            places = tuple(range(len(few)))
            source = model or comparison.model
            return Samples(few, self.request.seed, places, self.request.label, source, controls)

        row = Row(
            name, kind, figures, value, plain, number, shown(sample[:MOST_SHOWN]),
            None if near is None else shown(near[:MOST_SHOWN]), None if model is None else describe_model(model),
        )  # fmt: skip
        self.rows.append(row)

    def result(self, varied: str) -> Evaluation:
        """The evaluation."""
        comparisons = list(self.comparisons.values())
        notes = [*self.notes, *(note for one in comparisons for note in one.notes)]
        if len(comparisons) > 1:
            notes.append(
                "not all models are compared with the same real items, since data, controls or the models' facts give "
                "others: compare each with the row “real” of its own"
            )
        pairs = [(x, y) for x, y in comparisons[0].model.plugin.curves] if varied else []
        if varied and not pairs:
            pairs = [(varied, name) for name in self.rows[0].figures][:2]
        return Evaluation(
            sorted(self.rows, key=lambda row: row.real),
            self._protocol(comparisons[0].model),
            [comparison.about for comparison in comparisons],
            varied,
            pairs,
            list(dict.fromkeys(notes)),
        )

    # Real items --------------------------------------------------------------------------------------------------

    def _source(self, model: Model, source: Any) -> Any:
        """A source as a model's plugin opens it, once for all models of the same options."""
        name, plugin = source_name(source), model.plugin
        key = type(plugin), repr(plugin.options), name if isinstance(source, str) else id(source)
        if key not in self.sources:
            self.request.tell(f"reading {name}")
            with (
                waiting(f"reading {name}", self.request.tell),
                registry.asking(model.modality, "open"),
            ):
                self.sources[key] = plugin.open(source, plugin.options)
        return self.sources[key]

    def _real(self, model: Model, controls: Any) -> RealItems:
        """Real items for a model: read once for all models and controls that get the same."""
        request, source = self.request, self._source(model, self.request.data)
        has_references = "references" in capabilities_of(model.plugin, model.generator)
        key = id(source), _facts(model), repr(controls) if has_references else None
        if key in self.real:
            return self.real[key]
        name = source_name(request.data)
        with waiting(f"reading real items of {name}", request.tell):
            real = real_items(model, source, name, controls, request.n, request.seed, request.label)
        if len(real.reference) < request.n:
            self.notes.append(
                f"{name} gives two halves of {len(real.reference):,} of its {real.items:,} items: as many samples are "
                "drawn"
            )
        if real.skipped:
            self.notes.append(
                f"{name}: {len(real.skipped):,} items cannot be used and are left out: {name_skipped(real.skipped)}"
            )
        self.real[key] = real
        return real

    def _protocol(self, model: Model) -> dict[str, Any]:
        """What all figures have in common, as JSON data."""
        request = self.request
        return {
            "genkit": registry.core_version(),
            "torch": torch.__version__,
            "modality": model.modality.id,
            "plugin": registry.origin(model.modality),
            "samples": request.n,
            "data": source_name(request.data),
            "training": None if request.training is None else source_name(request.training),
            "best_of": request.best_of,
            "choose": request.choose,
            "judge": None if request.judge is None else describe_model(request.judge),
            "label": request.label,
            "attack": request.attack,
            "split": "two disjoint halves of the items in an order by the seed",
            "seed": request.seed,
            "neighbours": scores.NEIGHBOURS,
            "memorised": scores.MEMORISED,
            "interval": scores.LEVEL,
            "resamples": scores.RESAMPLES,
        }


def _facts(model: Model) -> str:
    """All facts of a model in a form that can be compared."""
    facts = model.plugin.facts
    return repr((sorted(facts.values.items()), sorted(facts.files.items())))

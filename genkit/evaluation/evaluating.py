"""Models evaluated on real data: opened, drawn from, compared.

Knows models, real items, feature networks and figures; what they mean is the plugin's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genkit import config as configuration
from genkit.discovery import registry
from genkit.errors import ConfigError, DataError, GenkitError
from genkit.evaluation import scores
from genkit.evaluation.features import VALUES, Extractor, chosen_networks, network_hash
from genkit.evaluation.real import (
    STREAM,
    RealItems,
    all_items,
    noise,
    real_items,
)
from genkit.evaluation.results import Evaluation, Row
from genkit.evaluation.scores import Figure
from genkit.kit.distances import nearest
from genkit.kit.items import name_skipped
from genkit.plugin import Evidence, Sample, capabilities_of
from genkit.sampling.batching import join
from genkit.sampling.drawing import CHUNK
from genkit.sampling.model import Model, open_model
from genkit.sampling.samples import Samples, describe_model
from genkit.system.files import user_path
from genkit.system.runtime import waiting
from genkit.system.seeding import global_seeds

SHOWN = 16
"""Samples of each row that the page shows."""

ORIGINALS = 20_000
"""Training items, at most, that samples are compared with to find memorised ones."""

Openable = Model | str | Path
"""A model, or its folder, or that of its run."""


def evaluate(
    models: Openable | Sequence[Openable] | Mapping[str, Openable | Sequence[Openable]],
    data: Any = None,
    n: int = 2000,
    *,
    features: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    controls: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    judge: Openable | None = None,
    training: Any = None,
    label: str | None = None,
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
            that are there.
        weights: files of weights by name, for networks that the plugin does not bring along.
        controls: of the samples.
        vary: one control with several values: each model is evaluated at each.
        judge: another model of the modality, for the plugin's measures that need one.
        training: the source that the models were trained on: samples that lie at its items count as memorised. None:
            those that lie at the reference do.
        label: only samples and real items of this condition; None: all, and samples have the conditions of real items.
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
    tell = progress or (lambda message: None)
    if n < 2:
        raise ConfigError(f"n = {n}: at least 2 samples are needed")

    def open_one(model: Openable) -> Model:
        return (
            model
            if isinstance(model, Model)
            else open_model(model, device, user_objects=user_objects)
        )

    named = [(name, open_one(model)) for name, model in names_of(models)]
    opened_judge = None if judge is None else open_one(judge)
    modality = named[0][1].modality
    for name, model in [*named, *([("the judge", opened_judge)] if opened_judge else [])]:
        if model.modality.id != modality.id:
            raise ConfigError(
                f"{name} is a model of {model.modality.id}, and {named[0][0]} one of {modality.id}: only models of "
                "one modality are compared"
            )
    if data is None and modality.data is None:
        raise ConfigError("data: name the real items that samples are compared with")
    work = _Work(
        modality.data if data is None else configuration.with_home(data), n, features,
        {name: user_path(path) for name, path in (weights or {}).items()}, opened_judge,
        configuration.with_home(training), label, seed, cache, tell,
    )  # fmt: skip
    settings = _settings(modality, controls or {}, vary or {})
    for name, model in named:
        for value, values in settings:
            work.add_model(name, model, value, values)
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
    modality: Any, controls: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]
) -> list[tuple[Any, Any]]:
    """(value of the varied control, all controls) of each row of a model.

    Raises:
        ConfigError: for unknown controls and invalid values; if more than one control is varied, or by no value.
    """
    if not vary:
        return [(None, configuration.controls(modality, controls))]
    if len(vary) > 1:
        raise ConfigError(f"vary = {', '.join(vary)}: one control is varied at a time")
    ((name, values),) = vary.items()
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"vary {name} = {values!r}: a list of values is needed")
    if name in controls:
        raise ConfigError(
            f"{name} is varied, and is {controls[name]!r} among the controls: leave one out"
        )
    return [
        (value, configuration.controls(modality, {**controls, name: value})) for value in values
    ]


class _Group(NamedTuple):
    """Real items that rows are compared with, and how.

    Args:
        real: the items.
        model: the first that is compared with them; its plugin gives networks and measures.
        controls: of the real items.
        extractors: of features.
        originals: what samples may have memorised.
        about: what was used, as JSON data.
    """

    real: RealItems
    model: Model
    controls: Any
    extractors: list[Extractor]
    originals: Sample
    about: dict[str, Any]


@dataclass
class _Work:
    """An evaluation in work; arguments as of `evaluate`, opened."""

    data: Any
    n: int
    features: Any
    weights: Mapping[str, Path]
    judge: Model | None
    training: Any
    label: str | None
    seed: int
    is_kept: bool
    tell: Callable[[str], object]
    groups: dict[Any, _Group] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    sources: dict[tuple[int, str], Any] = field(default_factory=dict)

    def add_model(self, name: str, model: Model, value: Any, controls: Any) -> None:
        """Draw from a model, and compare the samples with real items."""
        real = self._real(model, controls)
        facts = model.plugin.facts
        key = real.sha256, repr(sorted(facts.values.items())), tuple(sorted(facts.files.items()))
        if key not in self.groups:
            self.groups[key] = self._group(real, model, controls)
            self._add_scale(list(self.groups).index(key), self.groups[key])
        number, group = list(self.groups).index(key), self.groups[key]
        sample = self._drawn(name, model, controls, group.real)
        self._add(number, group, name, "model", sample, model, value, controls)

    def result(self, varied: str) -> Evaluation:
        """The evaluation."""
        (first, *_), rows = self.groups.values(), self.rows
        plugin = first.model.plugin
        pairs = [(x, y) for x, y in plugin.curves]
        numbers = [row.value for row in rows if row.kind == "model"]
        if varied and not pairs and all(isinstance(number, int | float) for number in numbers):
            names = [
                name
                for row in rows
                for name, figure in row.figures.items()
                if figure.value is not None
            ]
            pairs = [(varied, name) for name in dict.fromkeys(names)][:2]
        return Evaluation(
            sorted(rows, key=lambda row: row.real),
            self._protocol(first),
            [group.about for group in self.groups.values()],
            varied,
            pairs if varied else (),
            tuple(self.notes),
        )

    # Real items ------------------------------------------------------------------------------------------------

    def _opened(self, model: Model, source: Any) -> Any:
        """A source as a model's plugin opens it, once."""
        key = id(model), source_name(source)
        if key not in self.sources:
            self.tell(f"reading {key[1]}")
            with waiting(f"reading {key[1]}", self.tell), registry.asking(model.modality, "open"):
                self.sources[key] = model.plugin.open(source, model.plugin.options)
        return self.sources[key]

    def _real(self, model: Model, controls: Any) -> RealItems:
        source = source_name(self.data)
        opened = self._opened(model, self.data)
        with waiting(f"reading real items of {source}", self.tell):
            real = real_items(model, opened, source, controls, self.n, self.seed, self.label)
        if len(real.reference) < self.n:
            self.notes[
                f"{source} gives two halves of {len(real.reference):,} of its {real.items:,} items: as many samples "
                "are drawn"
            ] = None
        if real.skipped:
            self.notes[
                f"{source}: {len(real.skipped):,} items cannot be used and are left out: {name_skipped(real.skipped)}"
            ] = None
        return real

    def _group(self, real: RealItems, model: Model, controls: Any) -> _Group:
        """Networks for new real items, and what samples may have memorised."""
        extractors = chosen_networks(
            model, self.features, self.weights, real.more, real.reference, self.is_kept
        )
        originals, items = real.reference, len(real.reference)
        if self.training is not None:
            source, opened = source_name(self.training), self._opened(model, self.training)
            with waiting(f"reading {source}", self.tell):
                originals, items = all_items(model, opened, source, controls, ORIGINALS, self.seed)
        capabilities = capabilities_of(model.plugin, model.generator)
        if not extractors:
            self.notes[
                f"{model.modality.id} has no feature networks: samples are compared by its measures alone, or by a "
                "function of your own (--features module:function)"
            ] = None
        elif extractors[0].name == VALUES and "feature_networks" not in capabilities:
            self.notes[
                f"{model.modality.id} has no feature networks: samples are compared by their values as they are"
            ] = None
        if not extractors and "measures" not in capabilities:
            raise ConfigError(
                f"{model.modality.id} has neither feature networks nor measures: compare samples by a function of your "
                "own, --features module:function"
            )
        about = {
            "items": real.items, "skipped": len(real.skipped), "reference": len(real.reference),
            "other": len(real.other), "sha256": real.sha256, "originals": len(originals), "training_items": items,
            "networks": [],
        }  # fmt: skip
        return _Group(real, model, controls, extractors, originals, about)

    def _add_scale(self, number: int, group: _Group) -> None:
        """The rows that show the scale: other real items, noise, and what the plugin makes of real items."""
        other, model = group.real.other, group.model
        sets = {"real": ("real", other), "noise": ("noise", noise(other, self.seed))}
        if "corruptions" in capabilities_of(model.plugin, model.generator):
            with (
                registry.asking(model.modality, "corruptions"),
                global_seeds(STREAM, "corruptions", self.seed),
            ):
                corruptions = model.plugin.corruptions(other)
            sets |= {name: ("corruption", sample) for name, sample in corruptions.items()}
        for name, (kind, sample) in sets.items():
            title = f"{name} ({number + 1})" if number else name
            self._add(number, group, title, kind, sample, None, None, group.controls)

    # Samples ---------------------------------------------------------------------------------------------------

    def _drawn(self, name: str, model: Model, controls: Any, real: RealItems) -> Sample:
        """Samples of a model: as many as there are real items in a half, under their conditions."""
        condition, conditions = real.other.condition, None
        if condition is not None and self.label is None:

            def conditions(indices: Sequence[int]) -> torch.Tensor:
                return condition[[index % len(condition) for index in indices]]

        count = len(real.reference)
        pieces: list[Sample] = []
        self.tell(f"drawing {count:,} samples of {name}")
        with waiting(
            lambda: f"{CHUNK * len(pieces):,} of {count:,} samples of {name} are drawn", self.tell
        ):
            for start in range(0, count, CHUNK):
                indices = range(start, min(count, start + CHUNK))
                pieces.append(model.draw(indices, self.seed, self.label, controls, conditions))
        sample = join(pieces)
        shape, real_shape = (list(one.x.shape[1:]) for one in (sample, real.reference))
        if shape != real_shape:
            raise DataError(
                f"samples of {name} are {shape}, and real items {real_shape}: choose controls under which samples "
                "are as long as real items"
            )
        if sample.x.is_floating_point() and not bool(sample.x.isfinite().all()):
            raise GenkitError(
                f"{name} made values that are not finite: such samples are compared with nothing"
            )
        return sample

    def _add(
        self, number: int, group: _Group, name: str, kind: str, sample: Sample, model: Model | None, value: Any,
        controls: Any,
    ) -> None:  # fmt: skip
        """The row of a set of samples."""
        title = name if value is None else f"{name} @ {value}"
        self.tell(f"comparing {title} with real items")
        figures: dict[str, Figure] = {}
        places = None
        for extractor in group.extractors:
            with waiting(f"features {extractor.name} of {title}", self.tell):
                features = extractor.of_real(sample) if kind == "real" else extractor.of(sample)
                reference = extractor.of_real(group.real.reference)
                originals = extractor.of_real(group.originals)
            self._check_width(group, extractor, features)
            computed = scores.figures(
                features,
                reference,
                originals,
                extractor.name,
                extractor.network.distance,
                self.seed,
            )
            protocol = self._figure_protocol(group, extractor)
            figures |= {key: one._replace(protocol=protocol) for key, one in computed.items()}
            if places is None and kind == "model":
                places = nearest(features[:SHOWN], originals)[:, 0].tolist()
        figures |= self._measures(group, sample, model, controls)
        shown_model = model or group.model
        few = self._shown(sample[:SHOWN], shown_model, controls)
        near = (
            None if places is None else self._shown(group.originals[places], shown_model, controls)
        )
        plain = {} if controls is None else controls.model_dump(mode="json")
        about = None if model is None else describe_model(model)
        self.rows.append(Row(name, kind, figures, value, plain, number, few, near, about))

    def _shown(self, sample: Sample, model: Model, controls: Any) -> Samples:
        return Samples(sample, self.seed, tuple(range(len(sample))), self.label, model, controls)

    def _measures(
        self, group: _Group, sample: Sample, model: Model | None, controls: Any
    ) -> dict[str, Figure]:
        """The measures of the plugin, of a model or of a row that shows the scale."""
        asked = model or group.model
        if "measures" not in capabilities_of(asked.plugin, asked.generator):
            return {}
        judge = None if self.judge is None else (self.judge.plugin, self.judge.generator)
        evidence = Evidence(
            sample, group.real.reference, controls, self.data, None if model is None else model.generator, judge,
            self.training,
        )  # fmt: skip
        with (
            registry.asking(asked.modality, "measures") as fault,
            global_seeds(STREAM, "measures", self.seed),
            torch.no_grad(),
        ):
            measures = asked.plugin.measures(evidence)
            if reason := measures_fault(measures):
                raise fault(reason)
        protocol = self._figure_protocol(group, None)
        return {
            name: Figure(None if value is None else float(value), protocol=protocol)
            for name, value in measures.items()
        }

    # Protocol --------------------------------------------------------------------------------------------------

    def _check_width(self, group: _Group, extractor: Extractor, features: scores.Features) -> None:
        """Note what is known of a network only when it has been asked: its width, and whether the samples suffice."""
        width, count = features.shape[1], len(group.real.reference)
        names = [network["name"] for network in group.about["networks"]]
        if extractor.name not in names:
            network = extractor.network
            group.about["networks"].append(
                {
                    "name": extractor.name, "distance": network.distance, "sha256": network_hash(network),
                    "width": width, "protocol": dict(network.protocol),
                    "resamples": scores.frechet_resamples(count, count, width),
                }
            )  # fmt: skip
        if not scores.fits_covariance(len(features), count, width):
            self.notes[
                f"{extractor.network.distance} has no value: a covariance of {width:,} features needs more than "
                f"{width:,} samples and as many real items in each half, and there are {count:,}"
            ] = None

    def _figure_protocol(self, group: _Group, extractor: Extractor | None) -> str:
        """What a figure was computed from, in one line."""
        count = len(group.real.reference)
        network = registry.origin(group.model.modality)
        if extractor is not None:
            network = f"{extractor.name}@{network_hash(extractor.network)[:8]}"
        label = "" if self.label is None else f", label {self.label}"
        return (
            f"{network}, {count} samples, {count} real of {source_name(self.data)}@{group.real.sha256[:8]}{label}, "
            f"halves by seed {self.seed}, float32, genkit {registry.core_version()}"
        )

    def _protocol(self, group: _Group) -> dict[str, Any]:
        """What all figures have in common."""
        return {
            "genkit": registry.core_version(),
            "torch": torch.__version__,
            "modality": group.model.modality.id,
            "plugin": registry.origin(group.model.modality),
            "samples": self.n,
            "data": source_name(self.data),
            "training": None if self.training is None else source_name(self.training),
            "judge": None if self.judge is None else describe_model(self.judge),
            "label": self.label,
            "split": "two disjoint halves of the items in an order by the seed",
            "seed": self.seed,
            "dtype": "float32",
            "neighbours": scores.NEIGHBOURS,
            "memorised": scores.MEMORISED,
            "interval": scores.LEVEL,
            "resamples": scores.RESAMPLES,
        }


def source_name(source: Any) -> str:
    """A source as the user wrote it; `<type>` for a Python object."""
    return str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"


def measures_fault(measures: Any) -> str:
    """Why an answer is no plugin's measures; empty if it is."""
    if not isinstance(measures, Mapping):
        return (
            f"it returned a {type(measures).__name__}; a mapping of names to numbers was expected"
        )
    for name, value in measures.items():
        if value is not None and not (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            return f"measure {name!r} = {value!r}; a finite number or None was expected"
    return ""

"""One set of real items, and the networks and measures by which samples are compared with them.

Knows a model's plugin, real items, features and figures; not which models are compared, and no page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkit.discovery import registry
from genkit.errors import ConfigError, DataError, GenkitError, UserError, first_line
from genkit.evaluation import gains, robustness, scores
from genkit.evaluation.features import VALUES, Extractor, choose_networks, network_hash
from genkit.evaluation.real import RealItems, all_items, noise, source_name
from genkit.evaluation.scores import Features, Figure
from genkit.kit.distances import nearest, spacing
from genkit.plugin import Evidence, Sample, capabilities_of
from genkit.sampling.batching import join
from genkit.sampling.drawing import CHUNK, DTYPES
from genkit.sampling.model import Model
from genkit.sampling.model_folder import has_critics
from genkit.sampling.reading import STREAM
from genkit.system.runtime import waiting
from genkit.system.seeding import global_seeds
from genkit.system.streams import stream_key

ORIGINALS = 10_000
"""Training items, at most, that samples are compared with to find memorised ones."""


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation; arguments as of `genkit.evaluate`.

    Args:
        data: the source of the real items.
        n: samples, and real items in each half, at most.
        features: networks; None: all of the plugin's.
        weights: files by the name of a network.
        judge: another model.
        training: the source that the models were trained on.
        label: only samples and real items of this condition.
        seed: of everything random.
        is_kept: whether features of real items are kept on disk.
        tell: is told what is done.
        best_of, choose: candidates for each sample, and which is taken.
        attack: whether the critics are asked about perturbed samples.
    """

    data: Any
    n: int
    features: Sequence[str | Callable[..., Any]] | None = None
    weights: Mapping[str, Path] | None = None
    judge: Model | None = None
    training: Any = None
    label: str | None = None
    seed: int = 0
    is_kept: bool = True
    tell: Callable[[str], object] = lambda message: None
    best_of: int = 1
    choose: str = "best"
    attack: bool = False


class Comparison:
    """Real items that samples are compared with.

    Args:
        request: what is asked.
        real: the items.
        model: the first whose samples are compared with them: its plugin gives networks, and makes the rows that show
            the scale.
        controls: of the real items.
        training: the source that the models were trained on, as the plugin opened it; None: it is unknown.

    Attributes:
        notes: what the reader should know, in sentences.

    Raises:
        ConfigError: if there is nothing by which samples could be compared, and as `choose_networks`.
    """

    def __init__(
        self, request: Request, real: RealItems, model: Model, controls: Any, training: Any = None
    ) -> None:
        self.request, self.real, self.model, self.controls = request, real, model, controls
        self.capabilities = capabilities_of(model.plugin, model.generator)
        self.extractors = choose_networks(
            model,
            request.features,
            request.weights or {},
            real.more,
            real.reference,
            request.is_kept,
        )
        self.notes: list[str] = []
        self.originals, self.training_items = real.reference, len(real.reference)
        if training is not None:
            name = source_name(request.training)
            with waiting(f"reading {name}", request.tell):
                self.originals, self.training_items = all_items(
                    model, training, name, controls, ORIGINALS, request.seed
                )
        self._features: dict[tuple[str, str], Features] = {}
        self._thresholds: dict[str, float] = {}
        self._note_what_is_missing()

    def _note_what_is_missing(self) -> None:
        modality = self.model.modality.id
        own = "a function of your own (--features module:function)"
        if not self.extractors and "measures" not in self.capabilities:
            raise ConfigError(
                f"{modality} has neither feature networks nor measures: compare samples by {own}"
            )
        if "feature_networks" not in self.capabilities and not self.extractors:
            self.notes.append(
                f"{modality} has no feature networks: samples are compared by its measures alone, or by {own}"
            )
        elif [extractor.name for extractor in self.extractors] == [VALUES]:
            self.notes.append(
                f"{modality} has no feature networks: samples are compared by their values as they are"
            )

    @property
    def count(self) -> int:
        """The number of samples, and of the real items on either side."""
        return len(self.real.reference)

    # Samples -----------------------------------------------------------------------------------------------------

    def scale(self) -> dict[str, tuple[str, Sample]]:
        """Sets of samples that show the scale, by name, with their kinds: other real items, noise, corruptions."""
        other = self.real.other
        sets = {"real": ("real", other), "noise": ("noise", noise(other, self.request.seed))}
        if "corruptions" in self.capabilities:
            with (
                registry.asking(self.model.modality, "corruptions"),
                global_seeds(STREAM, "corruptions", self.request.seed),
            ):
                corruptions = self.model.plugin.corruptions(other)
            sets |= {name: ("corruption", sample) for name, sample in corruptions.items()}
        return sets

    def draw(self, name: str, model: Model, controls: Any) -> Sample:
        """Samples of a model: as many as there are real items in a half, and under their conditions, if they have any.

        Args:
            name: of the model, for messages.
            model: to draw from.
            controls: of the samples.

        Raises:
            DataError: if they have another shape than real items.
            GenkitError: if they have values that are not finite.
        """
        request, condition = self.request, self.real.other.condition
        if request.label is not None:
            condition = None
        pieces: list[Sample] = []

        def conditions(indices: Sequence[int]) -> Tensor:
            assert condition is not None
            return condition[[index % len(condition) for index in indices]]

        def progress() -> str:
            return f"{CHUNK * len(pieces):,} of {self.count:,} samples of {name} are drawn"

        with waiting(progress, request.tell):
            for start in range(0, self.count, CHUNK):
                indices = range(start, min(self.count, start + CHUNK))
                pieces.append(
                    model.draw(
                        indices, request.seed, request.label, controls, None if condition is None else conditions,
                        request.best_of, request.choose,
                    )
                )  # fmt: skip
        sample = join(pieces)
        shape, real_shape = (list(one.x.shape[1:]) for one in (sample, self.real.reference))
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

    # Figures -----------------------------------------------------------------------------------------------------

    def figures(
        self, sample: Sample, kind: str, model: Model | None, controls: Any
    ) -> tuple[dict[str, Figure], Sample | None]:
        """(all figures of a set of samples by name; for each of the first, the nearest original).

        The second is None if there are no features.

        Args:
            sample: the set.
            kind: of its row.
            model: that drew it; None for the rows that show the scale.
            controls: of the samples.
        """
        figures: dict[str, Figure] = {}
        near = None
        for extractor in self.extractors:
            features = self._of_real(extractor, "other") if kind == "real" else extractor.of(sample)
            originals = self._of_real(extractor, "originals")
            protocol = self.protocol(extractor, model)
            figures |= {
                name: figure._replace(protocol=protocol)
                for name, figure in scores.figures(
                    features, self._of_real(extractor, "reference"), originals, extractor.name,
                    extractor.network.distance, self.request.seed, self._threshold(extractor),
                ).items()
            }  # fmt: skip
            if near is None:
                near = self.originals[nearest(features[:CHUNK], originals)[:, 0].tolist()]
            self._check_width(extractor, len(features))
        figures |= self._measures(sample, model, controls)
        if model is not None and has_critics(model.path):
            figures |= self._gains(sample, model)
        if model is not None and self.request.attack:
            figures |= self._attacked(sample, model)
        return figures, near

    def distance(self, sample: Sample) -> tuple[str, float]:
        """(the name of the first distance that such sets have, its value); the Frechet distance, if there are enough.

        Raises:
            ConfigError: if there are no features.
        """
        if not self.extractors:
            raise ConfigError(f"{self.model.modality.id} has no feature networks to compare by")
        extractor = self.extractors[0]
        features, reference = extractor.of(sample), self._of_real(extractor, "reference")
        return scores.first_distance(features, reference, extractor.network.distance)

    def _of_real(self, extractor: Extractor, part: str) -> Features:
        """Features of a part of the real items: reference, other or originals."""
        key = extractor.name, part
        if part == "originals" and self.originals is self.real.reference:
            return self._of_real(extractor, "reference")
        if key not in self._features:
            items = self.originals if part == "originals" else getattr(self.real, part)
            with waiting(
                f"features {extractor.name} of {len(items):,} real items", self.request.tell
            ):
                self._features[key] = extractor.of_real(items)
        return self._features[key]

    def _threshold(self, extractor: Extractor) -> float:
        """How near to an original a sample is memorised; computed once."""
        if extractor.name not in self._thresholds:
            originals = self._of_real(extractor, "originals")
            self._thresholds[extractor.name] = spacing(originals, scores.MEMORISED)
        return self._thresholds[extractor.name]

    def _measures(self, sample: Sample, model: Model | None, controls: Any) -> dict[str, Figure]:
        """The measures of the plugin, of a model's samples or of a row that shows the scale."""
        request, speaker = self.request, model or self.model
        if "measures" not in capabilities_of(speaker.plugin, speaker.generator):
            return {}
        judge = None if request.judge is None else (request.judge.plugin, request.judge.generator)
        generator = None if model is None else model.generator
        evidence = Evidence(
            sample, self.real.reference, controls, request.data, generator, judge, request.training
        )  # fmt: skip
        with (
            registry.asking(speaker.modality, "measures") as fault,
            global_seeds(STREAM, "measures", request.seed),
            torch.no_grad(),
        ):
            measures = speaker.plugin.measures(evidence)
            if reason := measures_fault(measures):
                raise fault(reason)
        protocol = self.protocol(None, model)
        return {
            name: Figure(None if value is None else float(value), protocol=protocol)
            for name, value in measures.items()
        }

    def _gains(self, sample: Sample, model: Model) -> dict[str, Figure]:
        """What resampling by the scores of a model's critics gains; none if they are for samples of another shape."""
        sets = self.real.other, self.real.reference, sample[0::2], sample[1::2]
        with waiting("the critics score samples and real items", self.request.tell):
            try:
                values = [self._scores(model, one) for one in sets]
            except (RuntimeError, UserError) as error:
                self.notes.append(
                    f"the critics cannot score these samples or items: {first_line(error)}"
                )
                return {}
        mask = self.real.reference.mask
        steps = None if mask is None else float(mask.sum(1).float().mean())
        generator = np.random.Generator(np.random.Philox(key=stream_key("gain", self.request.seed)))
        protocol = f"the model's critics, {self.protocol(None, model)}"
        real, fakes = (values[0], values[1]), (values[2], values[3])
        return {
            name: figure._replace(protocol=protocol)
            for name, figure in gains.figures(real, fakes, steps, generator).items()
        }

    def _attacked(self, sample: Sample, model: Model) -> dict[str, Figure]:
        """How far perturbations move the scores of a model's critics; none if it has none, or samples are discrete."""
        kind = str(sample.x.dtype).removeprefix("torch.")
        fault = ""
        if not sample.x.is_floating_point():
            fault = f"only continuous samples can be perturbed, and these are {kind}"
        elif not has_critics(model.path):
            fault = "a model has no critics that could be attacked"
        if not fault:
            some = slice(robustness.ITEMS)
            real, fakes = (one[some].to(model.device) for one in (self.real.reference, sample))
            random = np.random.Philox(key=stream_key("attack", self.request.seed))
            with waiting("the critics are attacked", self.request.tell):
                try:
                    values = robustness.figures(
                        model.reranker.scores, real, fakes, np.random.Generator(random)
                    )
                except (RuntimeError, UserError) as error:
                    fault = first_line(error)
        if fault:
            note = f"attack: {fault}"
            self.notes += [note] * (note not in self.notes)
            return {}
        protocol = (
            f"the model's critics, {min(self.count, robustness.ITEMS)} of each, {robustness.STEPS} steps, "
            f"{self.protocol(None, model)}"
        )
        return {name: figure._replace(protocol=protocol) for name, figure in values.items()}

    def _scores(self, model: Model, items: Sample) -> gains.Scores:
        """[N]: the scores of a model's critics."""
        pieces = [
            model.reranker.scores(items[start : start + CHUNK].to(model.device))
            for start in range(0, len(items), CHUNK)
        ]
        return torch.cat(pieces).cpu().double().numpy()

    # Protocol ----------------------------------------------------------------------------------------------------

    def _check_width(self, extractor: Extractor, count: int) -> None:
        """Note that there are too few samples for the covariance of a network's features."""
        width = self._of_real(extractor, "reference").shape[1]
        note = (
            f"{extractor.network.distance} has no value: a covariance of {width:,} features needs more than {width:,} "
            f"samples and as many real items in each half, and there are {self.count:,}"
        )
        if not scores.fits_covariance(count, self.count, width) and note not in self.notes:
            self.notes.append(note)

    def protocol(self, extractor: Extractor | None, model: Model | None = None) -> str:
        """What a figure over a network's features, or a measure of the plugin, was computed from, in one line."""
        request, network = self.request, self._plugin
        if extractor is not None:
            network = f"{extractor.name}@{network_hash(extractor.network)[:8]}"
        label = "" if request.label is None else f", label {request.label}"
        candidates = request.best_of if model is not None else 1
        choice = "" if candidates == 1 else f" ({request.choose} of {candidates})"
        dtype = DTYPES[0] if model is None else model.dtype
        return (
            f"{network}, {self.count} samples{choice}, {self.count} real of {source_name(request.data)}@"
            f"{self.real.sha256[:8]}{label}, halves by seed {request.seed}, {dtype}, genkit {registry.core_version()}"
        )

    @cached_property
    def _plugin(self) -> str:
        return registry.origin(self.model.modality)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What was used of the real items, and the networks, as JSON data."""
        networks = [
            {
                "name": extractor.name,
                "distance": extractor.network.distance,
                "sha256": network_hash(extractor.network),
                "width": (width := self._of_real(extractor, "reference").shape[1]),
                "resamples": scores.frechet_resamples(self.count, self.count, width),
                "protocol": dict(extractor.network.protocol),
            }
            for extractor in self.extractors
        ]
        return {
            "items": self.real.items,
            "skipped": len(self.real.skipped),
            "reference": self.count,
            "other": len(self.real.other),
            "sha256": self.real.sha256,
            "originals": len(self.originals),
            "training_items": self.training_items,
            "networks": networks,
        }


def measures_fault(measures: Any) -> str:
    """Why an answer is no plugin's measures; empty if it is."""
    if not isinstance(measures, Mapping):
        return (
            f"it returned a {type(measures).__name__}; a mapping of names to numbers was expected"
        )
    for name, value in measures.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):
            return f"it gives {name} = {value!r}; a finite number or None was expected"
    return ""

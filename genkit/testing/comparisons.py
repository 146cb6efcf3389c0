"""The checks of what a plugin adds to evaluation; they work like those of `genkit.testing.checks`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.engine.views import model_of
from genkit.errors import ConfigError
from genkit.evaluation.comparing import measures_fault
from genkit.evaluation.features import features_fault
from genkit.evaluation.real import noise
from genkit.plugin import Evidence, FeatureNetwork, Sample
from genkit.sampling.model import Model
from genkit.sampling.reading import Reader, references_of
from genkit.system.seeding import global_seeds
from genkit.testing.findings import describe, differing, expect, listed, parts_of, well_formed
from genkit.testing.subject import Subject

ITEMS = 16
"""Real items that the checks use at most."""

TOLERANCE = 1e-3
"""By which features may depend on the batch, relative to their size: sums are rounded in another order."""


def references_are_like_samples(subject: Subject) -> None:
    """`references` is a data set of items that have the shape, dtype and parts of samples."""
    real, sample = _references(subject), subject.draw(range(2), model=_model(subject)).sample
    well_formed(real, len(real), "a batch of references")
    for name in ("x", "mask"):
        kinds = [
            None if part is None else describe(part.shape[1:], part.dtype)
            for part in (getattr(real, name), getattr(sample, name))
        ]
        expect(
            kinds[0] == kinds[1],
            f"references have {name} {kinds[0]}, samples {kinds[1]}: make them alike under the same controls",
        )


def corruptions_are_faults(subject: Subject) -> None:
    """`corruptions` gives other samples of the same kind, the same ones under one seed."""
    plugin, real = _model(subject).plugin, _references(subject)
    original = {name: part.clone() for name, part in parts_of(real).items()}

    def corruptions() -> Mapping[str, Sample]:
        with global_seeds("corruptions"):
            samples = plugin.corruptions(real)
        _expect_unchanged("corruptions", real, original)
        return samples

    one, other = corruptions(), corruptions()
    expect(one, "corruptions returned nothing: leave the method out if there are none")
    for name, sample in one.items():
        subject_name = f"the corruption {name!r}"
        expect(name not in ("real", "noise"), f"{subject_name} has the name of another row")
        well_formed(sample, len(real), subject_name)
        kinds = [describe(batch.x.shape, batch.x.dtype) for batch in (sample, real)]
        expect(kinds[0] == kinds[1], f"{subject_name} is {kinds[0]}; {kinds[1]} was expected")
        expect(not torch.equal(sample.x, real.x), f"{subject_name} changes nothing")
        expect(
            name in other and not differing(parts_of(sample), parts_of(other[name])),
            f"{subject_name} differed under one seed: draw from the global generators",
        )


def feature_networks_are_functions(subject: Subject) -> None:
    """`feature_networks` gives functions: equal samples have equal finite features, in whatever batch they are."""
    plugin, real = _model(subject).plugin, _references(subject)
    training = _training(subject)
    networks = plugin.feature_networks({}, training)
    expect(
        isinstance(networks, Mapping)
        and all(isinstance(network, FeatureNetwork) for network in networks.values()),
        "feature_networks did not return a mapping of names to genkit.plugin.FeatureNetwork",
    )
    for name, network in networks.items():
        title = f"the feature network {name!r}"
        expect(network.distance, f"{title} does not name its distance: fd-{name}, say")
        original = {part: tensor.clone() for part, tensor in parts_of(real).items()}
        features = _features(network, real, title)
        _expect_unchanged(title, real, original)
        expect(
            torch.equal(features, _features(network, real, title)),
            f"{title} gives other features for the same samples: make it a pure function",
        )
        single = torch.cat([_features(network, real[[row]], title) for row in range(len(real))])
        scale = float(features.abs().max())
        expect(
            torch.allclose(features, single, rtol=TOLERANCE, atol=TOLERANCE * scale),
            f"{title}: the features of a sample depend on the other rows of their batch",
        )
        try:
            json.dumps(dict(network.protocol), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{title}: its protocol is no plain data ({error})") from error
        if network.maps is not None:
            _expect_gradient(network.maps, real, title)
    try:
        plugin.feature_networks({"no such network": Path("weights.pt")}, training)
    except ConfigError:
        return
    raise AssertionError(
        "feature_networks took weights for 'no such network': raise a ConfigError that names those that take weights"
    )


def measures_are_numbers(subject: Subject) -> None:
    """`measures` gives the same names for each row, and finite numbers or None, the same ones each time."""
    model, real = _model(subject), _references(subject)
    plugin, generator = model.plugin, model.generator
    half = max(1, len(real) // 2)
    reference, other = real[half:] if len(real) > half else real, real[:half]
    drawn_samples = subject.draw(range(half), model=model).sample
    rows: dict[str, Evidence] = {
        "the model's samples": _evidence(subject, drawn_samples, reference, generator),
        "real items": _evidence(subject, other, reference, None),
        "noise": _evidence(subject, noise(other, 0), reference, None),
        "the model's samples, with a judge": _evidence(
            subject, drawn_samples, reference, generator, (plugin, generator)
        ),
    }
    first_names: list[str] = []
    for title, evidence in rows.items():
        measures, repeated = _measures(subject, evidence), _measures(subject, evidence)
        fault = measures_fault(measures)
        expect(not fault, f"measures of {title}: {fault}")
        first_names = first_names or list(measures)
        expect(
            list(measures) == first_names,
            f"measures of {title} are {listed(measures)}, of the model's samples {listed(first_names)}: give the same "
            "names, and None for what cannot be computed",
        )
        expect(measures == repeated, f"measures of {title} differed when they were asked again")
    networks = {}
    if "feature_networks" in subject.capabilities:
        networks = dict(plugin.feature_networks({}, _training(subject)))
    names = {*first_names, *(network.distance for network in networks.values())}
    unknown = {name for pair in plugin.curves for name in pair} - names
    expect(
        not unknown,
        f"curves names {listed(unknown)}, but measures and distances are {listed(names)}",
    )


def _model(subject: Subject) -> Model:
    """The model of the played game."""
    return model_of(subject.played.game)


def _references(subject: Subject) -> Sample:
    """A few real items, as an evaluation reads them."""
    model = _model(subject)
    source = model.plugin.open(subject.config.data, subject.config.options)
    reader = Reader(
        references_of(model.modality, model.plugin, source, subject.controls), subject.modality, 0
    )
    items, _ = reader.take(0, len(reader), ITEMS)
    if items is None:
        raise AssertionError("none of the real items can be used")
    return items


def _training(subject: Subject) -> Any:
    """What a plugin is given to train a feature network on: a few real items."""
    real = _references(subject)
    return lambda count: real[: max(1, count)]


def _features(network: FeatureNetwork, sample: Sample, title: str) -> Tensor:
    """The features of some samples, which must be features."""
    with torch.no_grad():
        features = network.features(sample)
    fault = features_fault(features, len(sample))
    expect(not fault, f"{title} {fault}")
    expect(features.dtype is torch.float32, f"{title} gives {features.dtype}; float32 was expected")
    return features


def _evidence(
    subject: Subject, sample: Sample, reference: Sample, generator: Any, judge: Any = None
) -> Evidence:
    return Evidence(sample, reference, subject.controls, subject.config.data, generator, judge)


def _measures(subject: Subject, evidence: Evidence) -> Any:
    """What a plugin answers, with the samples left as they were."""
    original = {name: part.clone() for name, part in parts_of(evidence.samples).items()}
    with global_seeds("measures"), torch.no_grad():
        measures = subject.played.game.plugin.measures(evidence)
    _expect_unchanged("measures", evidence.samples, original)
    return measures


def _expect_gradient(
    maps: Callable[[Sample], Sequence[Tensor]], sample: Sample, title: str
) -> None:
    """That maps are tensors [B, ...] through which a gradient comes back to the samples."""
    expect(sample.x.is_floating_point(), f"{title} has maps, and these samples are discrete")
    point = sample.x.clone().requires_grad_()
    answer = list(maps(sample.with_x(point)))
    expect(
        answer and all(isinstance(each, Tensor) and len(each) == len(sample) for each in answer),
        f"{title}: maps must be tensors with a row for each of {len(sample)} samples",
    )
    total = torch.stack([each.float().square().sum() for each in answer]).sum()
    (slope,) = (
        torch.autograd.grad(total, point, allow_unused=True) if total.requires_grad else [None]
    )
    expect(
        slope is not None and bool(slope.isfinite().all()) and bool(slope.any()),
        f"{title}: no finite gradient comes back from its maps to the samples",
    )


def _expect_unchanged(title: str, sample: Sample, original: Mapping[str, Tensor]) -> None:
    names = differing(parts_of(sample), original)
    expect(not names, f"{title} wrote into its input ({listed(names)})")

"""Given samples, found again in a model: read by its plugin, their noise inferred or searched for, and drawn from it.

Knows a model and its data; `inversion` finds the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from genkit.discovery import registry
from genkit.errors import ConfigError, DataError
from genkit.plugin import Sample, capabilities_of
from genkit.sampling import inversion
from genkit.sampling.batching import join
from genkit.sampling.drawing import CHUNK, noise_of
from genkit.sampling.model_folder import has_critics
from genkit.sampling.noise import Latents
from genkit.sampling.reading import Reader, references_of
from genkit.sampling.samples import Samples, Source, save
from genkit.system.files import user_path, write_json

NOISE = "noise.safetensors"
"""The file of the noise that was found."""


class Invertible(Source, Protocol):
    """The parts of a model that are used here; `genkit.sampling.model.Model` has them."""

    @property
    def generator(self) -> nn.Module: ...

    def conditions_for(self, label: str | None) -> Callable[[Sequence[int]], Tensor | None]: ...

    def draw(
        self, indices: Sequence[int], seed: Latents, label: None, controls: Any,
        conditions: Callable[[Sequence[int]], Tensor | None], /,
    ) -> Sample: ...  # fmt: skip


@dataclass(frozen=True)
class Projection:
    """Given samples, and the nearest ones that a model draws.

    Args:
        samples: the model's.
        noise: that they are drawn from.
        targets: the given ones.
        distances: [N]: the mean squared difference of the values, divided by the variance of the model's samples. Two
            samples that have nothing to do with each other are at about 2, equal ones at 0. Of discrete samples: the
            share of steps that differ.
        log_probs: [N], in nats: the log-probability of each target, where the generator knows it; else None.
    """

    samples: Samples
    noise: Latents
    targets: Sample
    distances: Tensor
    log_probs: Tensor | None = None

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def __repr__(self) -> str:
        return f"<projection of {len(self)}, mean distance {self.distances.mean():.3f}>"

    def save(self, path: str | Path) -> Path:
        """Write a folder: the samples as files with their samples.json, `noise.safetensors` and `distances.json`.

        Raises:
            ConfigError: if the folder holds what the samples must not replace, or lie among.
            StorageError: if it cannot be written.
        """
        folder = user_path(path)
        save([self.samples], f"{folder}/", count=len(self))
        self.noise.save(folder / NOISE)
        rows = [round(value, 6) for value in self.distances.tolist()]
        content = {"schema": 1, "noise": self.noise.sha256, "distances": rows}
        if self.log_probs is not None:
            content["log_probs"] = [round(value, 4) for value in self.log_probs.tolist()]
        write_json(folder / "distances.json", content)
        return folder


def read(model: Invertible, source: Any, label: str | None = None) -> Sample:
    """Given samples as a model's are; see `Model.infer` for the arguments and errors."""
    if isinstance(source, Sample):
        sample = source
    elif isinstance(source, Tensor | np.ndarray):
        sample = Sample(torch.as_tensor(source))
    elif isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        sample = join([_items(model, one) for one in source])
    else:
        sample = _items(model, source)
    if not len(sample):
        raise DataError("there are no items that could be found: at least one is needed")
    if label is not None:
        return replace(sample, condition=model.conditions_for(label)(range(len(sample))))
    if not model.info.get("conditional"):
        return replace(sample, condition=None)
    if sample.condition is None:
        raise ConfigError(
            "this model is conditional, and these items have no condition: name one as their label"
        )
    return sample


def _items(model: Invertible, source: Any) -> Sample:
    """All items of a source, in their order."""
    with registry.asking(model.modality, "open"):
        items = model.plugin.open(source, model.plugin.options)
    controls = model.settings()
    dataset = references_of(model.modality, model.plugin, items, controls)
    reader = Reader(dataset, model.modality, 0)
    reader.order.sort()
    sample, _ = reader.take(0, len(reader), len(reader))
    if sample is None or reader.skipped:
        faults = "; ".join(f"{name}: {text}" for name, text in reader.skipped[:3])
        raise DataError(f"{source}: {faults or 'there is nothing that can be read'}")
    return sample


def infer(model: Invertible, targets: Sample) -> Latents:
    """The most likely noise of given samples, by the model's generator.

    Raises:
        ConfigError: if it cannot tell.
    """
    if "infer" not in capabilities_of(model.plugin, model.generator):
        cure = "train a preset whose generator has an encoder"
        if targets.x.is_floating_point():
            cure = "project() searches for it"
        raise ConfigError(f"the generator of this model cannot infer noise: {cure}")
    with registry.asking(model.modality, "infer"):
        return inversion.infer(model.generator, targets, model.settings())


def project(
    model: Invertible,
    targets: Sample,
    settings: inversion.Search,
    progress: Callable[[int, int], object] | None = None,
) -> Projection:
    """The nearest samples that a model draws to given ones; see `Model.project`."""
    if not noise_of(model.generator):
        raise ConfigError(
            "this model draws from conditions alone: there is no noise that could be searched for"
        )
    if not targets.x.is_floating_point():
        noise = infer(model, targets)
        samples = redraw(model, targets, noise)
        differs = samples.x != targets.x
        distances = differs.flatten(1).float().mean(1)
        return Projection(samples, noise, targets, distances, _log_probs(model, targets))
    views = _views(model, targets) if settings.features else _nothing
    controls = model.settings()
    with registry.asking(model.modality, "the generator"):
        noise, variance = inversion.search(
            model.generator, targets, views, settings, controls, progress
        )
    samples = redraw(model, targets, noise)
    differences = (samples.x - targets.x).square().flatten(1).mean(1)
    return Projection(samples, noise, targets, differences / variance)


def _nothing(sample: Sample) -> list[Tensor]:
    """No features."""
    return []


def _views(model: Invertible, targets: Sample) -> inversion.Views:
    """Differentiable features of samples: the maps of the modality's feature networks, and what the critics see."""
    maps: list[inversion.Views] = []
    if "feature_networks" in capabilities_of(model.plugin, model.generator):
        with registry.asking(model.modality, "feature_networks"):
            networks = model.plugin.feature_networks({}, lambda count: targets[:count])
        maps = [network.maps for network in networks.values() if network.maps is not None]
    critics = model.reranker.critics if has_critics(model.path) else {}

    def views(sample: Sample) -> list[Tensor]:
        features = [each for critic in critics.values() for each in critic(sample).features]
        with registry.asking(model.modality, "feature_networks"):
            return features + [each for network_maps in maps for each in network_maps(sample)]

    return views


def _log_probs(model: Invertible, targets: Sample) -> Tensor | None:
    """[N], in nats: the log-probability of each of some samples, by a generator with the capability `log_prob`."""
    if "log_prob" not in capabilities_of(model.plugin, model.generator):
        return None
    device = next(model.generator.parameters()).device
    pieces = []
    with registry.asking(model.modality, "log_prob"), torch.no_grad():
        for start in range(0, len(targets), CHUNK):
            part = targets[start : start + CHUNK].to(device)
            pieces.append(cast(Any, model.generator).log_prob(part).double().sum(1).cpu())
    return torch.cat(pieces)


def redraw(model: Invertible, targets: Sample, noise: Latents) -> Samples:
    """The samples of noise that was found, each under the condition of its target."""

    def conditions(indices: Sequence[int]) -> Tensor | None:
        if targets.condition is None:
            return None
        return targets.condition[[min(index, len(targets) - 1) for index in indices]]

    places, controls = range(len(noise)), model.settings()
    sample = model.draw(places, noise, None, controls, conditions)
    return Samples(sample, noise, tuple(places), None, model, controls)

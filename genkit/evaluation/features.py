"""Feature networks: those of a plugin that are chosen, the user's own, and features that are computed once.

Features of real items are kept in the user's cache folder. Knows samples and networks; no figures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkit.discovery import registry
from genkit.errors import ConfigError, ModelError, StorageError, did_you_mean
from genkit.evaluation.real import content_hash
from genkit.evaluation.scores import Features
from genkit.plugin import FeatureNetwork, Modality, Sample, capabilities_of
from genkit.sampling.model import Model
from genkit.system.files import cache_folder, make_folder
from genkit.system.tensors import read_tensors, write_tensors
from genkit.user_objects import admit, name_of

BATCH = 256
"""Samples that a network sees at a time."""

VALUES = "values"
"""The network that stands in where a plugin has none: the values of a sample, unchanged."""

MOST_VALUES = 1024
"""Values of a sample at most, for `VALUES`."""

CACHE_BYTES = 2**30
"""Size of the cache at most; what was not used for the longest time goes first."""


def choose_networks(
    model: Model,
    features: Sequence[str | Callable[..., Any]] | None,
    weights: Mapping[str, Path],
    training: Callable[[int], Sample],
    real: Sample,
    is_kept: bool,
) -> list[Extractor]:
    """The networks that an evaluation compares samples by.

    Args:
        model: gives the plugin.
        features: names of networks, `module:function` and functions of the user's; None: all of the plugin's, or
            `VALUES` if it has none.
        weights: files of weights by the name of a network.
        training: gives real items to train a network on.
        real: a few real items, on which the user's functions are tried.
        is_kept: whether features of real items are kept on disk.

    Raises:
        ConfigError: for an unknown name, a file of weights that no network needs, or a function that does not work.
    """
    plugin = model.plugin
    networks: dict[str, FeatureNetwork] = {}
    if "feature_networks" in capabilities_of(plugin, model.generator):
        with registry.asking(model.modality, "feature_networks") as fault:
            answer: Any = plugin.feature_networks(weights, training)
            if not isinstance(answer, Mapping) or not all(
                isinstance(network, FeatureNetwork) for network in answer.values()
            ):
                raise fault("it did not return a mapping of names to genkit.plugin.FeatureNetwork")
            networks = dict(answer)
    elif weights:
        raise ConfigError(
            f"weights for {', '.join(weights)}: {model.modality.id} has no feature networks; compare by one of your "
            "own, --features module:function"
        )
    if not networks and is_plain(real):
        networks = {
            VALUES: FeatureNetwork(_values, f"fd-{VALUES}", {"features": "the values of a sample"})
        }
    modality = model.modality
    if features is None:
        return [Extractor(modality, name, network, is_kept) for name, network in networks.items()]
    extractors = []
    for feature in features:
        name = _name(feature)
        if ":" in name:
            short = name.rpartition(":")[2].rpartition(".")[2]
            network = own_network(name, short, model, real)
            extractors.append(Extractor(modality, short, network, own=f"features = {name!r}"))
        elif name in networks:
            extractors.append(Extractor(modality, name, networks[name], is_kept))
        else:
            raise ConfigError(
                f"features {name!r}: no such network.{did_you_mean(name, networks)} There is: "
                f"{', '.join(networks) or 'none'}, and your own as module:function; a network that needs a file of "
                "weights is there if it is given, --weights NAME=FILE"
            )
    return extractors


def is_plain(real: Sample) -> bool:
    """Whether samples are so few numbers that they can be compared as they are."""
    size = math.prod(real.x.shape[1:])
    return real.x.is_floating_point() and real.mask is None and size <= MOST_VALUES


def _values(sample: Sample) -> Tensor:
    return sample.x.flatten(1).float()


def _name(feature: str | Callable[..., Any]) -> str:
    """The name of a network, or of a function of the user's.

    Raises:
        ConfigError: for a function that no module has under a name.
    """
    if isinstance(feature, str):
        return feature
    try:
        return name_of(feature)
    except ValueError as error:
        raise ConfigError(f"features: {error}") from error


def own_network(name: str, short: str, model: Model, real: Sample) -> FeatureNetwork:
    """The network that a function of the user's is: (x [B, *event], facts) -> features [B, F].

    Args:
        name: its `module:attribute`.
        short: its own name.
        model: gives facts.
        real: some real items to try it on.

    Raises:
        ConfigError: if it cannot be imported, or does not work.
    """
    facts = dict(model.plugin.facts.values)

    def fault(function: Any) -> str:
        if not callable(function):
            return f"is a {type(function).__name__}; a function (x [B, *event], facts) -> [B, F] was expected"
        with torch.no_grad():
            return features_fault(function(real.x[:2], facts), 2)

    function = admit("features", name, fault)
    return FeatureNetwork(
        lambda sample: function(sample.x, facts), f"fd-{short}", {"function": name}
    )


def features_fault(features: Any, count: int) -> str:
    """Why an answer is not the features [count, F] of so many samples; empty if it is."""
    if not isinstance(features, Tensor):
        return f"gives a {type(features).__name__} for {count} samples; a tensor [{count}, F] was expected"
    if features.ndim != 2 or len(features) != count or not features.shape[1]:
        return f"gives {list(features.shape)} for {count} samples; [{count}, F] was expected"
    if not features.is_floating_point():
        return f"gives values of {features.dtype}; float32 was expected"
    return "" if bool(features.isfinite().all()) else "gives values that are not finite"


def network_hash(network: FeatureNetwork) -> str:
    """SHA-256 of a network's protocol, in hexadecimal."""
    text = json.dumps(dict(network.protocol), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Extractor:
    """Features of samples by one network.

    Args:
        modality: whose plugin the network is of.
        name: of the network.
        network: to be asked.
        is_kept: whether features of real items are kept on disk; not those of the user's code, which may change unseen.
        own: the setting that names it, if it is the user's; empty: it is the plugin's.
    """

    def __init__(
        self, modality: Modality, name: str, network: FeatureNetwork, is_kept: bool = False, own: str = ""
    ) -> None:  # fmt: skip
        self.modality, self.name, self.network = modality, name, network
        self.is_kept, self.own = is_kept, own
        self.origin = registry.origin(modality)
        self.memory: dict[str, Features] = {}

    def of(self, sample: Sample) -> Features:
        """Features [N, F] of samples, computed anew."""
        pieces = []
        for start in range(0, len(sample), BATCH):
            batch = sample[start : start + BATCH]
            with (
                registry.asking(self.modality, f"feature network {self.name}", self.own) as fault,
                torch.no_grad(),
            ):
                features = self.network.features(batch)
                if reason := features_fault(features, len(batch)):
                    raise fault(f"it {reason}")
                pieces.append(features.float().cpu().numpy())
        return np.concatenate(pieces)

    def of_real(self, real: Sample) -> Features:
        """Features [N, F] of real items: remembered in this evaluation, and on disk."""
        key = content_hash(real)
        if key not in self.memory:
            self.memory[key] = self._kept(key, real) if self.is_kept else self.of(real)
        return self.memory[key]

    def _kept(self, key: str, real: Sample) -> Features:
        parts = (key, self.origin, self.name, network_hash(self.network))
        path = (
            cache_folder()
            / "features"
            / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"
        )
        with contextlib.suppress(ModelError, OSError, KeyError):
            features = read_tensors(path)["features"].numpy()
            if features.ndim == 2 and len(features) == len(real) and features.dtype == np.float32:
                os.utime(path)
                return features
        features = self.of(real)
        with contextlib.suppress(StorageError, OSError):  # the cache is for speed only
            make_folder(path.parent)
            write_tensors(path, {"features": torch.from_numpy(features)})
            _shrink(path.parent)
        return features


def _shrink(folder: Path) -> None:
    """Delete the files of a cache that were not used for the longest time, until it is no larger than CACHE_BYTES."""
    entries = sorted(
        ((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(folder)),
        reverse=True,
    )
    size = 0
    for _, entry_size, path in entries:
        size += entry_size
        if size > CACHE_BYTES:
            os.unlink(path)

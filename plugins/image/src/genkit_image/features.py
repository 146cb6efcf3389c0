"""Feature networks of pictures, by which evaluation compares them.

All of them see pictures as their files hold them: whole numbers from 0 to 255, in colour, alpha laid on white. A
distance is called FID for the network that FID is defined by, Inception, and for no other.

Shape letters: B batch, N pictures, C channels, H W pixels, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from genkit.errors import ConfigError, first_line
from genkit.kit import compat
from genkit.kit.features import check_weights, file_hash, in_batches, torchscript
from genkit.plugin import FeatureNetwork, Sample
from genkit_image import lite0
from genkit_image.pictures import to_pixels, with_channels

BATCH = 32
"""Pictures that a network sees at a time: on a CPU twice as fast as 250, whose maps do not fit into its caches."""

SIDE = 64
"""Smaller pictures are scaled up to this side for EfficientNet-lite0, which halves them five times."""

MAPS = (0, 2, 4)
"""Numbers of the blocks of EfficientNet-lite0 whose maps say where pictures differ: 16, 24 and 40 maps at 1/2, 1/4 and
1/8 of the resolution."""

WIDTHS, SEED = (32, 64, 128), 123
"""Of the network with random weights: its feature maps, and the seed of the weights."""

STANDARD = ("inception", "dinov2")
"""Networks whose weights a user has to bring."""

DINOV2_SIDE, MEAN, DEVIATION = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What DINOv2 takes: the side of a picture, and mean and deviation of each colour, where white is 1."""

Pixels = Callable[[Tensor], Tensor]
"""A network: pictures [B, C, H, W], uint8 -> features [B, F]."""


def networks(weights: Mapping[str, Path]) -> dict[str, FeatureNetwork]:
    """Feature networks of pictures by name: `lite0`, `random`, and those whose weights are given.

    `lite0` is EfficientNet-lite0, which the plugin brings along. `random` has fixed random weights: it knows nothing,
    so that no model can have been fitted to it. `inception` takes the weights of FID, as a state dict or TorchScript;
    `dinov2` the folder of a model.

    Args:
        weights: files by name.

    Raises:
        ConfigError: for weights that cannot be read, or of a network that takes none.
    """
    check_weights(weights, STANDARD)
    built_in = {"lite0": _lite0(), "random": _random()}
    makers = {"inception": _inception, "dinov2": _dinov2}
    return built_in | {name: makers[name](path) for name, path in weights.items()}


def lite0_features(pixels: Tensor) -> Tensor:
    """Pictures [B, 3, H, W], uint8 -> features [B, 320] of EfficientNet-lite0.

    Pictures with a side below `SIDE` are scaled up, bilinearly, until the smaller one has it.
    """
    x = pixels.float() / 127.5 - 1
    height, width = x.shape[2:]
    scale = max(1.0, SIDE / min(height, width))
    size = (round(scale * height), round(scale * width))
    resized = interpolate(x, size=size, mode="bilinear", align_corners=False)
    return _lite0_network("cpu")(resized)


@cache
def _lite0_network(device: str) -> lite0.Lite0:
    network = lite0.pretrained()
    return network.trunk(len(network._blocks)).to(device)


def lite0_maps(samples: Sample) -> list[Tensor]:
    """Pictures [B, C, H, W] in [-1, 1] -> the maps [B, c, h, w] of EfficientNet-lite0 behind the blocks of MAPS.

    Gradients reach the pictures. What `Lite0.maps_of_any` says of transparent and small ones holds here.
    """
    return _lite0_network(str(samples.x.device)).maps_of_any(samples.x, MAPS)


def _lite0() -> FeatureNetwork:
    resize = f"bilinear, smaller side at least {SIDE}"
    protocol = {"weights": file_hash(lite0.weights_file()), "resize": resize}
    return replace(_network(lite0_features, "fd-lite0", protocol), maps=lite0_maps)


def random_features(pixels: Tensor) -> Tensor:
    """Pictures [B, 1 | 3, H, W], uint8 -> [B, 192]: means of maps of convolutions with weights N(0, 2 / fan in)."""
    x, means = pixels.float() / 127.5 - 1, []
    for weight in _random_weights(x.shape[1]):
        x = torch.relu(conv2d(x, weight, padding=1))
        means.append(x.mean((2, 3)))
        x = avg_pool2d(x, 2)
    return torch.cat(means[1:], 1)


@cache
def _random_weights(channels: int) -> tuple[Tensor, ...]:
    """The weights of each layer of the network with random weights."""
    generator = torch.Generator().manual_seed(SEED)
    weights, inputs = [], channels
    for outputs in WIDTHS:
        scale = math.sqrt(2 / (9 * inputs))
        weights.append(scale * torch.randn(outputs, inputs, 3, 3, generator=generator))
        inputs = outputs
    return tuple(weights)


def _random() -> FeatureNetwork:
    protocol = {"maps": list(WIDTHS), "seed": SEED, "channels": "grey or colour, as the model's"}
    return _network(random_features, "fd-random", protocol, is_colour=False)


def _inception(path: Path) -> FeatureNetwork:
    """FID's network: torch-fidelity's file, a state dict, or a TorchScript file that takes return_features.

    torch-fidelity's code makes of the first what TensorFlow made of it, its odd resizing included.
    """
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except (
        Exception
    ):  # no state dict, or a pickle that holds more than tensors, which is never opened
        network = torchscript(
            "inception", path, "pictures [B, 3, H, W], uint8, with return_features"
        )
        features: Pixels = partial(network, return_features=True)
    else:
        features = _of_torch_fidelity(path)
    return _network(features, "FID", {"weights": file_hash(path), "resize": "by the network"})


def _of_torch_fidelity(path: Path) -> Pixels:
    compat.torchvision()
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ConfigError(
            f"weights for 'inception': {path} is read by torch-fidelity: pip install 'genkit-gan-image[standard]'"
        ) from error
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    except RuntimeError as error:
        raise ConfigError(
            f"weights for 'inception': {path} holds those of another network ({first_line(error)})"
        ) from error
    return lambda pixels: network(pixels)[0]


def _dinov2(folder: Path) -> FeatureNetwork:
    """DINOv2's class token; pictures are scaled to 224 x 224, bicubically, as in dgm-eval (Stein et al. 2023)."""
    compat.prepare()
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ConfigError(
            "weights for 'dinov2' are read by transformers: pip install 'genkit-gan-image[standard]'"
        ) from error
    try:
        network: Any = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True
        ).eval()
        file = folder / "model.safetensors"
        protocol = {"weights": file_hash(file), "resize": f"bicubic, {DINOV2_SIDE} x {DINOV2_SIDE}"}
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"weights for 'dinov2': {folder} is no folder of such a model, with config.json and model.safetensors "
            f"({first_line(error)})"
        ) from error
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))

    def features(pixels: Tensor) -> Tensor:
        size = (DINOV2_SIDE, DINOV2_SIDE)
        resized = interpolate(pixels.float() / 255, size=size, mode="bicubic", antialias=True)
        return network(pixel_values=(resized.clamp(0, 1) - mean) / deviation).last_hidden_state[
            :, 0
        ]

    return _network(features, "fd-dinov2", protocol)


def _network(
    features: Pixels, distance: str, protocol: Mapping[str, Any], is_colour: bool = True
) -> FeatureNetwork:
    """A feature network of Samples x [N, C, H, W] in [-1, 1].

    Args:
        is_colour: whether grey pictures are turned into colour for it.
    """

    def of_values(x: Tensor) -> Tensor:
        channels = 3 if is_colour else min(x.shape[1], 3)
        return features(torch.from_numpy(with_channels(to_pixels(x).numpy(), channels)))

    return FeatureNetwork(
        lambda samples: in_batches(of_values, samples.x, BATCH), distance, protocol
    )

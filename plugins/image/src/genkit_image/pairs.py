"""Pairs of pictures: one that is given, the input, and one that is to be made from it.

The input lies beside the picture (in a folder of inputs of equal names, or in one half of the same file), or is made of
it. Knows pictures and their sources; no network.

Shape letters: B batch, C channels of the picture, c channels of the input, H W pixels, h w pixels of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from genkit.errors import ConfigError, DataError
from genkit.plugin import Sample, Skipped
from genkit_image.colours import Content
from genkit_image.options import HALVES, OWN_INPUTS, Options
from genkit_image.pictures import (
    CheckedPictures,
    Pictures,
    augmented,
    quiet,
    scaled,
    to_values,
    white_of,
    with_channels,
)
from genkit_image.sources import Picture, Source, decode, open_source, reason
from genkit_image.windows import windows

FORMATS = ("png", "jpg", "jpeg", "webp", "bmp")
"""Endings of files that a model takes as inputs."""

NOISE = 25 / 127.5
"""Standard deviation of the noise of `noisy` inputs: 25 of 255 levels, as in Zhang et al. 2017, arXiv:1608.03981."""
EDGE_GAIN = 4.0
"""An edge is drawn in full black if the luma changes by 1 / EDGE_GAIN of its range from pixel to pixel."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


class Pairing(NamedTuple):
    """A source of pictures, and that of their inputs, item by item; None: they are made of the pictures."""

    pictures: Source
    inputs: Source | None


def paired(source: Source, options: Options) -> Pairing:
    """The pictures of a source and their inputs, as `options.input` says; windows of them if `options.windows` is set.

    Raises:
        ConfigError: if the folder of the inputs cannot be read.
        DataError: if no picture has an input of its name.
    """
    if options.input is None or options.input in OWN_INPUTS:
        return Pairing(_cut([source], options)[0], None)
    if options.input in HALVES:
        is_right = options.input == "right"
        halves = _cut([_half(source, right) for right in (not is_right, is_right)], options)
        return Pairing(halves[0], halves[1])
    try:
        inputs = open_source(options.input)
    except DataError as error:
        raise ConfigError(
            f"options.input: {error}; it is a folder of pictures, or one of {', '.join([*HALVES, *OWN_INPUTS])}"
        ) from error
    if options.architecture == "cycle":
        return Pairing(_cut([source], options)[0], _cut([inputs], options)[0])
    places = {_stem(name): place for place, name in enumerate(inputs.items)}
    rows = [row for row, name in enumerate(source.items) if _stem(name) in places]
    if not rows:
        raise DataError(
            f"{source.title}: no picture has an input of its name in {inputs.title} ({source.items[0]}, for one, and "
            f"{inputs.items[0]}): the names before the endings must be equal"
        )
    lone = [
        Skipped(name, f"no picture of its name in {inputs.title}")
        for name in source.items
        if _stem(name) not in places
    ]
    pictures = _rows(source, rows)
    pictures = replace(pictures, skipped=(*pictures.skipped, *lone))
    inputs = _rows(inputs, [places[_stem(source.items[row])] for row in rows])
    pictures, inputs = _cut([pictures, inputs], options)
    return Pairing(pictures, inputs)


def _cut(sources: Sequence[Source], options: Options) -> list[Source]:
    """Sources whose pictures belong together, or the windows of these pictures at the same places."""
    return windows(sources, options.shape) if options.windows else list(sources)


def _stem(name: str) -> str:
    """The name of a picture without its ending."""
    return str(PurePosixPath(Path(name).as_posix()).with_suffix(""))


def _rows(source: Source, rows: Sequence[int]) -> Source:
    """Some pictures of a source."""
    names = [source.items[row] for row in rows]
    return replace(source, items=names, read=lambda index: source.read(rows[index]))


def _half(source: Source, right: bool) -> Source:
    """The left or right half of each picture of a source."""

    def read(index: int) -> Picture:
        picture = source.read(index)
        return picture._replace(content=_halved(picture.content, right))

    return replace(source, read=read)


def _halved(content: Content, right: bool) -> Content:
    """One half of a picture.

    Raises:
        ValueError: if its width is odd.
    """
    if isinstance(content, Image.Image):
        width, height = content.size
        if not width % 2:
            return content.crop(
                (width // 2, 0, width, height) if right else (0, 0, width // 2, height)
            )
    else:
        width = content.shape[1]
        if not width % 2:
            return content[:, width // 2 :] if right else content[:, : width // 2]
    raise ValueError(f"its width of {width} pixels cannot be halved")


class PairedPictures(Pictures):
    """Pictures as a map-style data set of Samples in [-1, 1], whose conditions are their inputs [B, c, h, w].

    Args:
        pictures: with their inputs, if these are not made.
        options: input, scale, and the random changes of `random_batch`, which are the same for both of a pair.
        channels: C.
        input_channels: c.
    """

    def __init__(
        self, pictures: CheckedPictures, options: Options, channels: int, input_channels: int
    ) -> None:
        super().__init__(pictures, options, channels)
        self.input_channels = input_channels

    def __getitems__(self, indices: list[int]) -> Sample:
        """Pairs without random changes; what is random about an input that is made depends on its index alone."""
        words = np.array(indices, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        options = self.options.model_copy(update={"flip": False, "crop": 0})
        return self._pairs(indices, words, options)

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Pairs, each flipped and cropped as its 64 random bits `words` [B] say."""
        return self._pairs(indices, words, self.options)

    def _pairs(self, indices: list[int], words: NDArray[np.uint64], options: Options) -> Sample:
        pixels = self.pictures.pixels(indices, self.channels)
        x = to_values(augmented(pixels, words, options.flip, options.crop))
        if self.pictures.inputs is None:
            return Sample(x, made(str(options.input), x, words, options.scale))
        pixels = self.pictures.inputs.pixels(indices, self.input_channels)
        return Sample(x, to_values(augmented(pixels, words, options.flip, options.crop)))


class UnpairedPictures(PairedPictures):
    """Pictures of two sets as a map-style data set of Samples in [-1, 1], for models that learn both ways.

    An item is a picture of one set, and its condition [C + 1, H, W] one of the other with the way from there: the last
    channel is 1 where x is one of the pictures, and -1 where it is one of the inputs. Without random changes x is
    always one of the pictures.
    """

    def _pairs(self, indices: list[int], words: NDArray[np.uint64], options: Options) -> Sample:
        assert self.pictures.inputs is not None
        is_plain = options is not self.options
        count = len(self.pictures.inputs.usable)
        others = [
            index % count if is_plain else int(word >> np.uint64(40)) % count
            for index, word in zip(indices, words, strict=True)
        ]
        one, other = (
            to_values(augmented(pixels, words, options.flip, options.crop))
            for pixels in (
                self.pictures.pixels(indices, self.channels),
                self.pictures.inputs.pixels(others, self.channels),
            )
        )
        is_there = [is_plain or bool(int(word) >> 1 & 1) for word in words]
        way = torch.tensor(is_there)[:, None, None, None]
        x, source = torch.where(way, one, other), torch.where(way, other, one)
        flag = (way * 2.0 - 1).expand(-1, 1, *x.shape[2:])
        return Sample(x, torch.cat([source, flag], 1))


def channels_of(pictures: CheckedPictures, channels: int, options: Options) -> int:
    """c, the channels of the inputs of pictures of `channels`."""
    if options.architecture == "cycle":
        return channels + 1
    if pictures.inputs is not None:
        return pictures.inputs.channels
    return {"grey": 1, "edges": 1, "masked": channels + 1}.get(str(options.input), channels)


def made(kind: str, x: Tensor, words: NDArray[np.uint64], scale: int) -> Tensor:
    """[B, c, h, w] in [-1, 1]: inputs made of pictures.

    Args:
        kind: grey; edges, black on white; noisy; small, by a factor; masked: a rectangle of each is 0, and the last
            channel is 1 there and -1 elsewhere.
        x: [B, C, H, W] in [-1, 1].
        words: [B], 64 random bits for each picture.
        scale: the factor of `small`.
    """
    if kind == "small":
        size = [side // scale for side in x.shape[2:]]
        return _as_bytes(interpolate(x, size=size, mode="bicubic", antialias=True))
    if kind == "noisy":
        generators = [np.random.Generator(np.random.Philox(key=int(word))) for word in words]
        noise = [one.standard_normal(x.shape[1:], np.float32) for one in generators]
        return _as_bytes(x + NOISE * torch.from_numpy(np.stack(noise)))
    if kind == "masked":
        hole = _holes(words, *x.shape[2:])
        return torch.cat([torch.where(hole, torch.zeros(()), x), hole * 2.0 - 1], 1)
    luma = x if x.shape[1] == 1 else (x[:, :3] * torch.tensor(LUMA)[:, None, None]).sum(1, True)
    return luma if kind == "grey" else edges(luma)


def edges(luma: Tensor) -> Tensor:
    """[B, 1, H, W]: the edges of grey pictures in [-1, 1], black (-1) on white (1), by Sobel's filters."""
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None] / 8
    frame = torch.nn.functional.pad(luma, (1, 1, 1, 1), mode="replicate")
    steepness = torch.nn.functional.conv2d(frame, kernels).square().sum(1, True).sqrt()
    return 1 - (EDGE_GAIN * steepness).clamp(max=2)


def _holes(words: NDArray[np.uint64], height: int, width: int) -> Tensor:
    """[B, 1, H, W] bool: a rectangle for each, whose sides are a quarter to a half of the picture's."""
    holes = np.zeros((len(words), 1, height, width), np.bool_)
    for row, word in enumerate(words.tolist()):
        shares = [(word >> shift & 0xFFFF) / 0x10000 for shift in (0, 16, 32, 48)]
        rows, columns = (
            round(side * (1 + share) / 4)
            for side, share in zip((height, width), shares[:2], strict=True)
        )
        top, column = int(shares[2] * (height - rows + 1)), int(shares[3] * (width - columns + 1))
        holes[row, :, top : top + rows, column : column + columns] = True
    return torch.from_numpy(holes)


def _as_bytes(x: Tensor) -> Tensor:
    """Values in [-1, 1], rounded to those that a byte can have, as in a file."""
    return (((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5) - 1


def file_input(path: str, options: Options, channels: int, input_channels: int) -> Tensor:
    """[1, c, h, w] in [-1, 1]: the input in a file, of any size.

    Args:
        path: of the file. For `masked`, the pixels that are to be filled in are transparent.
        options: input.
        channels, input_channels: C and c.

    Raises:
        ConfigError: if it cannot be read, or shows no hole where one is needed.
    """
    try:
        if not Path(path).is_file():
            raise DataError("there is no such file")
        with quiet(), open(path, "rb") as file:
            content, _ = decode(file)
        height, width = np.asarray(content).shape[:2]
        whites = [int(content.max())] if isinstance(content, np.ndarray) else []
        bands = scaled(content, (height, width), white_of(whites))[None]
        if options.architecture == "cycle":
            x = to_values(with_channels(bands, channels))
            return torch.cat([x, torch.ones_like(x[:, :1])], 1)
        if options.input != "masked":
            return to_values(with_channels(bands, input_channels))
        if bands.shape[1] != 4:
            raise DataError("it has no transparent pixels, which are the hole to be filled in")
    except Exception as error:  # whatever decoders raise at damage
        fault = str(error) if isinstance(error, DataError) else reason(error)
        raise ConfigError(f"condition {path!r}: {fault}; give the path of one picture") from error
    hole = torch.from_numpy(bands[:, 3:] < 128)
    colours = bands[:, :3] if channels > 1 else with_channels(bands[:, :3], 1)
    x = to_values(with_channels(colours, channels))
    return torch.cat([torch.where(hole, torch.zeros(()), x), hole * 2.0 - 1], 1)


def beside(inputs: Tensor, pictures: Tensor) -> Tensor:
    """[N, 3, H, 2 W] uint8: pictures [N, C, H, W] with their inputs [N, c, h, w], enlarged, on their left."""
    size, tiles = list(pictures.shape[2:]), []
    enlarged = interpolate(inputs.float(), size=size, mode="nearest").to(torch.uint8)
    for pixels in (enlarged, pictures):
        colours = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
        tiles.append(colours)
    return torch.cat(tiles, 3)

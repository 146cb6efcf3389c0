"""Where sounds come from: files, folders, zip files, arrays. Knows what is heard when, at any rate.

A file is opened once for its header; any part is then read by seeking, with just the context that resampling needs, so
memory grows neither with a file's size nor with its length. Chooses no window.

Shape letters: N sounds, C channels, n values of one channel.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from importlib.resources import as_file, files
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import compat
from genkit.kit import files as tree
from genkit.kit.files import THREADS, Opened, ordinary
from genkit.plugin import Skipped

ENDINGS = frozenset(
    {
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
    }
)

BUILTIN = {"drums": "drums.zip"}

PARTS = ("train", "held-out")
HELD_OUT_EVERY = 8
"""Every so-many-th sound of a built-in set, by name, is in its part held-out, the others are in train."""

LABELS = ("folders", "prefix")
"""Where classes are read off: the first level of sub-folders; the start of file names up to a `_`, `-` or digit."""

SYSTEM = 2
"""libsndfile's number for what the operating system refuses; its other words for damage are often wrong."""

Values = NDArray[np.float32]
"""In [-1, 1], unless a file of floats holds others."""


@dataclass(frozen=True, eq=False)
class Sound:
    """One sound.

    Args:
        name: as the user knows it.
        rate: in Hz; None: it has none, and is taken as it is at any rate.
        frames: values of each channel.
        channels: C.
        part: [stop - start, C], what lies between two places. May raise anything at what is damaged.
        label: of its class; None: it has none.
    """

    name: str
    rate: int | None
    frames: int
    channels: int
    part: Callable[[int, int], Values]
    label: str | None = None

    def count(self, rate: Fraction | int | None = None) -> int:
        """How many values it has at a rate; None: at its own."""
        return math.ceil(self.frames * self._ratio(rate))

    def read(self, start: int, count: int, rate: Fraction | int | None = None) -> Values:
        """[count]: the mean of its channels from value `start` on, counted at a rate; equal whatever is read beside it.

        Args:
            rate: in Hz; None: its own. Ratios of rates are taken as the nearest fraction whose denominator is at most
                2,000: all usual ones are exact, others within a few parts in ten millions.

        Raises:
            DataError: if the sound is shorter.
            Exception: nearly any, where it is damaged.
        """
        if not 0 <= start <= start + count <= self.count(rate):
            raise DataError(
                f"{self.name} has {self.count(rate)} values; {start} to {start + count} were asked for"
            )
        ratio = self._ratio(rate)
        if ratio == 1 or not count:
            return self._mono(start, start + count)
        up, down = ratio.as_integer_ratio()  # so many values are made of so many: a block
        near = _reach(up, down) // down + 1
        first, last = max(0, start // up - near), (start + count - 1) // up + 1 + near
        given = torch.from_numpy(self._mono(first * down, min(last * down, self.frames)))
        with torch.no_grad():
            made: Values = _resampler(down, up)(given).numpy()
        return made[start - first * up :][:count]

    def _mono(self, start: int, stop: int) -> Values:
        rows = self.part(start, stop)
        if len(rows) != stop - start:
            raise ValueError(f"it ends after {start + len(rows):,} of {self.frames:,} values")
        return rows[:, 0] if rows.shape[1] == 1 else rows.mean(1, dtype=np.float32)

    def _ratio(self, rate: Fraction | int | None) -> Fraction:
        if rate is None or self.rate is None:
            return Fraction(1)
        return (Fraction(rate) / self.rate).limit_denominator(2000)


def held(sound: Sound, values: Values, rate: int) -> Sound:
    """The same sound as values [n] in memory, 16 bits each."""
    kept = to_int16(values)

    def part(start: int, stop: int) -> Values:
        return kept[start:stop, None].astype(np.float32) / np.float32(32768)

    return replace(sound, rate=rate, frames=len(kept), channels=1, part=part)


def to_int16(values: NDArray[Any]) -> NDArray[np.int16]:
    """[-1, 1] -> 16 bits: the nearest of the numbers k / 32768, which is what reading them gives.

    So what was read is written again bit for bit. 1 itself is one step too large, and becomes 32767.
    """
    return np.rint(values * np.float32(32768)).clip(-32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class Sounds:
    """What a source holds.

    Args:
        title: of the source, for messages.
        items: its sounds.
        skipped: what cannot be opened.
    """

    title: str
    items: Sequence[Sound]
    skipped: tuple[Skipped, ...] = ()


def open_sounds(source: Any, labels: str = "folders") -> Sounds:
    """Sounds from a path, a name or an object; the header of each file is read.

    Args:
        source: a sound file (whatever libsndfile reads: wav, flac, ogg, opus, mp3, aiff ...); a folder or a zip file
            of these; `builtin:drums`, and its parts `builtin:drums/train` and `builtin:drums/held-out`; a list of
            paths; an array or tensor [N, n] or [N, C, n], floats in [-1, 1] or int16, which has no rate.
        labels: one of `LABELS`. Sub-folders are classes unless sounds lie beside them.

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if there is nothing of the kind.
    """
    if isinstance(source, np.ndarray | Tensor):
        array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
        return Sounds("the array", _from_array(array))
    if isinstance(source, list | tuple):
        sounds = _from_files(
            "the list", {str(path): partial(ordinary, Path(path)) for path in source}
        )
        return _labelled(sounds, labels) if labels == "prefix" else sounds
    if not isinstance(source, str | Path):
        raise DataError(
            f"sounds cannot be read from a {type(source).__name__}: pass a path, a list of paths, "
            f"builtin:{' or builtin:'.join(BUILTIN)}, or an array"
        )
    text = str(source)
    if text.startswith("builtin:"):
        return _labelled(_from_builtin(text), labels)
    path = Path(source)
    if not path.exists():
        raise DataError(f"data = {text!r}: there is no such file or folder")
    if path.is_dir() or zipfile.is_zipfile(path):
        return _labelled(_from_tree(path, text), labels)
    return _labelled(_from_files(text, {path.name: partial(ordinary, path)}), labels)


def reason(error: BaseException) -> str:
    """Why a sound could not be read, in a few words."""
    if isinstance(error, soundfile.LibsndfileError):
        return (
            "it cannot be opened"
            if error.code == SYSTEM
            else "no sound, or damaged at its beginning"
        )
    return tree.reason(error)


# Files -----------------------------------------------------------------------------------------------------------


def _from_builtin(title: str) -> Sounds:
    name, _, part = title.removeprefix("builtin:").partition("/")
    if name not in BUILTIN or title.endswith("/") or (part and part not in PARTS):
        every = [*BUILTIN, *(f"{known}/{part}" for known in BUILTIN for part in PARTS)]
        hint = did_you_mean(title.removeprefix("builtin:"), every)
        raise ConfigError(f"data = {title!r}: no such built-in set.{hint}")
    with as_file(files("genkit_audio") / "data" / BUILTIN[name]) as path:
        source = _from_tree(path.read_bytes(), title)
    chosen = [
        item
        for number, item in enumerate(source.items)
        if not part or (number % HELD_OUT_EVERY == 0) == (part == "held-out")
    ]
    return replace(source, items=chosen)


def _from_tree(source: Path | bytes, title: str) -> Sounds:
    found = tree.open_tree(source, ENDINGS, "sounds", title)
    sounds = _from_files(title, found.files)
    return replace(sounds, skipped=(*found.skipped, *sounds.skipped))


def _from_files(title: str, named: Mapping[str, Opened]) -> Sounds:
    """Each header read; several at once, for that is mostly waiting."""

    def found(name: str) -> Sound | Skipped:
        try:
            return _from_file(name, named[name])
        except Exception as error:  # whatever parsers raise at damaged files
            return Skipped(name, reason(error))

    with ThreadPoolExecutor(THREADS) as pool:
        every = list(pool.map(found, named))
    items = [one for one in every if isinstance(one, Sound)]
    return Sounds(title, items, tuple(one for one in every if isinstance(one, Skipped)))


def _from_file(name: str, opened: Opened) -> Sound:
    def part(start: int, stop: int) -> Values:
        with soundfile.SoundFile(opened()) as file:
            file.seek(start)
            rows: Values = file.read(stop - start, dtype="float32", always_2d=True)
            return rows

    with soundfile.SoundFile(opened()) as file:
        if not file.frames:
            raise ValueError("it has no length")
        return Sound(name, file.samplerate, file.frames, file.channels, part)


def _labelled(source: Sounds, labels: str) -> Sounds:
    if labels == "prefix":
        found = [
            re.split(r"[_\-\d]", PurePosixPath(item.name).stem)[0] or None for item in source.items
        ]
    else:
        found = tree.labels([item.name for item in source.items])
    items = [replace(item, label=label) for item, label in zip(source.items, found, strict=True)]
    return replace(source, items=items)


# Arrays and resampling -------------------------------------------------------------------------------------------


def _from_array(array: NDArray[Any]) -> list[Sound]:
    if array.ndim not in (2, 3) or not (array.dtype == np.int16 or array.dtype.kind == "f"):
        raise DataError(
            f"an array of type {array.dtype} and shape {array.shape}; sounds are [N, n] or [N, C, n], floats in "
            "[-1, 1] or int16"
        )
    if 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} holds no sound")

    def sound(number: int) -> Sound:
        rows = array[number].reshape(-1, array.shape[-1])

        def part(start: int, stop: int) -> Values:
            values = rows[:, start:stop].T.astype(np.float32)
            return values / np.float32(32768) if array.dtype == np.int16 else values

        return Sound(f"item {number}", None, rows.shape[1], rows.shape[0], part)

    return [sound(number) for number in range(len(array))]


WIDTH, ROLLOFF = 6, 0.99
"""Zeros of the sinc on each side, and the share of the lower band that is kept."""


def _reach(up: int, down: int) -> int:
    """How many values before and behind one are looked at to resample it."""
    return math.ceil(WIDTH * down / (min(up, down) * ROLLOFF))


@lru_cache(maxsize=64)
def _resampler(down: int, up: int) -> nn.Module:
    """Band-limited resampling with a windowed sinc. Source: Smith 2002, Digital Audio Resampling Home Page."""
    compat.torchaudio()
    from torchaudio.transforms import Resample

    resampler: nn.Module = Resample(down, up, lowpass_filter_width=WIDTH, rolloff=ROLLOFF)
    return resampler

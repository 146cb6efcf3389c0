"""Sources of sounds: files, folders, zip files and arrays; any stretch of a sound can be read at any rate.

A file is opened once for its header. A stretch is then read by seeking, with just the context that resampling needs, so
memory does not grow with the length of a file.

Shape letters: N sounds, C channels, n values of one channel.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from importlib.resources import as_file, files
from io import BytesIO
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
from genkit.kit.files import Opener
from genkit.kit.items import Readers, as_array, as_source, as_stream, paired
from genkit.kit.sources import Items, check_no_label, items_of_tree, items_of_values, open_items
from genkit.plugin import Remark, Skipped
from genkit_audio.compressed import MPEG_PADDING, decoded, mpeg_length, silenced_if

ENDINGS = frozenset({
    *(f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"), ".wave", ".bwf", ".oga", ".opus",
    ".mp2", ".mp1", ".aif", ".aifc", ".snd", ".sph", ".iff", ".sf", ".mat", ".m4a", ".m4b", ".aac", ".wma", ".mka",
    ".weba", ".spx", ".ac3", ".eac3", ".amr", ".ape", ".wv", ".tta", ".mp4", ".m4v", ".m4s", ".mov", ".mkv", ".webm",
    ".3gp", ".3g2", ".avi", ".flv", ".f4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".ogv", ".wmv", ".asf",
    ".mxf", ".rm", ".ra", ".m4r", ".awb", ".mpc", ".dts", ".oma", ".aa3", ".gsm", ".dsf", ".dff", ".tak", ".shn",
    ".qcp", ".mlp", ".thd",
})  # fmt: skip
"""File endings that are taken as sounds. What libsndfile cannot open, FFmpeg decodes; of videos, the sound."""

COLUMNS = ("audio", "sound", "wav", "wave", "waveform", "flac", "mp3", "speech")
"""Columns that are taken for sounds in rows of a data set."""

RATE_COLUMNS = ("sampling_rate", "sample_rate", "samplerate", "sr")
"""Columns that are taken for the rates of arrays of sounds."""

BUILTIN = {"drums": "drums.zip"}
"""Built-in sets and the files that hold them."""

PARTS = ("train", "held-out")
"""Parts of a built-in set."""

HELD_OUT_EVERY = 8
"""In the order of names, sounds 0, 8, 16 ... of a built-in set are its part held-out, the others its part train."""

LABELS = ("folders", "prefix")
"""Where class labels come from: the first level of sub-folders; the start of file names up to a `_`, `-` or digit."""

SYSTEM = 2
"""libsndfile's error code for errors of the operating system. Its other messages often misname the damage."""

UNKNOWN = (1, 4)
"""libsndfile's error codes for formats and encodings that it does not know. Its other errors are of damage."""

RATES = range(1, 10**7 + 1)
"""Rates, in Hz, that a sound may have."""

Values = NDArray[np.float32]
"""Values of a wave, in [-1, 1] unless a file of floats holds others."""


@dataclass(frozen=True, eq=False)
class Sound:
    """One sound, read on demand.

    Args:
        name: as the user knows it.
        rate: in Hz; None: it has none, and is never resampled.
        frames: values of each channel.
        channels: C.
        part: (start, stop) -> values [stop - start, C]; raises any exception where the sound is damaged.
        label: of its class; None: it has none.
        channel: the only channel to be used; None: the mean of all.
        remark: gives what of the sound is not used; empty: all is. It may read the whole file.
    """

    name: str
    rate: int | None
    frames: int
    channels: int
    part: Callable[[int, int], Values]
    label: str | None = None
    channel: int | None = None
    remark: Callable[[], str] = str

    def count(self, rate: Fraction | int | None = None) -> int:
        """Number of values at a rate in Hz; None: at the sound's own rate."""
        return math.ceil(self.frames * self._ratio(rate))

    def read(self, start: int, count: int, rate: Fraction | int | None = None) -> Values:
        """Values [count] of the mean of the channels at a rate; a value does not depend on which others are read.

        Args:
            start: first value, counted at that rate.
            count: number of values.
            rate: in Hz; None: the sound's own rate. The ratio of two rates is taken as the nearest fraction with a
                denominator of at most 2,000: exact for all usual rates, else within a few parts in ten million.

        Raises:
            DataError: if the sound is shorter.
            Exception: whatever the decoder raises where the sound is damaged.
        """
        if not 0 <= start <= start + count <= self.count(rate):
            raise DataError(
                f"{self.name} has {self.count(rate)} values; {start} to {start + count} were asked for"
            )
        ratio = self._ratio(rate)
        if ratio == 1 or not count:
            return self._mono(start, start + count)
        up, down = ratio.as_integer_ratio()  # a block of `down` values becomes `up` values
        margin = _reach(up, down) // down + 1  # blocks of context on each side
        first, last = max(0, start // up - margin), (start + count - 1) // up + 1 + margin
        original = torch.from_numpy(self._mono(first * down, min(last * down, self.frames)))
        with torch.no_grad():
            values: Values = _resampler(down, up)(original).numpy()
        return values[start - first * up :][:count]

    def _mono(self, start: int, stop: int) -> Values:
        rows = self.part(start, stop)
        if len(rows) != stop - start:
            raise ValueError(f"it ends after {start + len(rows):,} of {self.frames:,} values")
        return self.mixed(rows)

    def mixed(self, rows: Values) -> Values:
        """Values [n] of one channel from those of all [n, C]."""
        if rows.shape[1] == 1 or self.channel is not None:
            return rows[:, self.channel or 0]
        return rows.mean(1, dtype=np.float32)

    def _ratio(self, rate: Fraction | int | None) -> Fraction:
        if rate is None or self.rate is None:
            return Fraction(1)
        return (Fraction(rate) / self.rate).limit_denominator(2000)


def cached(sound: Sound, values: Values, rate: int) -> Sound:
    """A copy of a sound that reads from memory: values [n] of one channel at a rate, stored with 16 bits."""
    memory = to_int16(values)

    def part(start: int, stop: int) -> Values:
        return memory[start:stop, None].astype(np.float32) / np.float32(32768)

    return replace(sound, rate=rate, frames=len(memory), channels=1, part=part, channel=None)


def to_int16(values: NDArray[Any]) -> NDArray[np.int16]:
    """Values in [-1, 1] as the 16-bit integers k with the nearest k / 32768.

    Reading a 16-bit file gives k / 32768, so values that were read are written back bit for bit. 1.0 becomes 32767.
    """
    return np.rint(values * np.float32(32768)).clip(-32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class Sounds:
    """The sounds of a source.

    Args:
        title: of the source, for messages.
        items: the sounds that can be opened.
        skipped: the files that cannot be opened, with reasons.
        remarks: what else of the source is not used, or is used otherwise than it lies there.
    """

    title: str
    items: Sequence[Sound]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()


def open_sounds(source: Any, labels: str = "folders", label: str | None = None) -> Sounds:
    """Sounds from a path, the name of a built-in set, or an array; of each file only the header is read.

    Args:
        source: a sound file (whatever libsndfile or FFmpeg reads: wav, flac, ogg, opus, mp3, m4a, aiff ...); whatever
            else `genkit.kit.sources.open_items` takes: a folder, a zip or tar file of these, a list of paths, Parquet,
            `hub:NAME`, rows with a column `audio` ...; `builtin:drums`, and its parts `builtin:drums/train` and
            `builtin:drums/held-out`; an array or tensor [N, n], [N, C, n] or [N, n, C] with n > C, or a `.npy` file of
            one, floats in [-1, 1] or int16, which has no rate; a list or map-style data set of sounds: arrays, (array,
            rate), {"array", "sampling_rate"}, files in bytes, or pairs of one of these and its label.
        labels: one of `LABELS`. Sub-folders are classes unless sounds lie beside them.
        label: the column that holds the classes, as for `open_items`.

    Raises:
        ConfigError: for an unknown built-in set, or a column that there is not.
        DataError: if the source does not exist, holds no sound files, or has another type or shape.
    """
    source = as_source(source)
    if isinstance(source, np.ndarray | Tensor):
        check_no_label(label, "the array")
        return Sounds("the array", _from_array(as_array(source)))
    text = str(source) if isinstance(source, str | Path) else ""
    if text.startswith("builtin:"):
        check_no_label(label, text)
        return _from_builtin(text, labels)
    rated = _with_rates(source)
    items = open_items(rated, ENDINGS, "sounds", COLUMNS, label)
    if items is not None and rated is not source:
        items = replace(items, title=f"the {type(source).__name__}")
    if items is None and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        check_no_label(label, f"the {type(source).__name__}")
        items = items_of_values(source)
    if items is None:
        raise DataError(
            f"sounds cannot be read from a {type(source).__name__}: pass a path, a list of paths, "
            f"builtin:{' or builtin:'.join(BUILTIN)}, or an array"
        )
    return _from_items(items, "folders" if label is not None else labels)


@dataclass(frozen=True)
class _Rated:
    """A list or map-style data set of dicts whose fields with the sound and its rate are one value, called `audio`."""

    source: Any
    column: str
    rate: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        row = dict(self.source[index])
        rate = row.pop(self.rate, None)
        return {**row, "audio": {"array": row.pop(self.column), "sampling_rate": rate}}


def _with_rates(source: Any) -> Any:
    """A source whose rows have sounds, and their rates in one of `RATE_COLUMNS`, with both in one; or as it is."""
    if not hasattr(source, "__getitem__") or hasattr(source, "column_names"):
        return source
    try:
        first = source[0]
    except Exception:  # a damaged item, or no list: whoever reads the items one by one says so
        return source
    if not isinstance(first, Mapping):
        return source
    rate = next((name for name in RATE_COLUMNS if name in first), "")
    column = next((name for name in ("array", *COLUMNS) if name in first), "")
    # A file tells its rate itself.
    is_array = isinstance(first.get(column), list | np.ndarray | Tensor)
    return _Rated(source, column, rate) if is_array and rate else source


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


def _from_builtin(title: str, labels: str) -> Sounds:
    name, _, part = title.removeprefix("builtin:").partition("/")
    if name not in BUILTIN or title.endswith("/") or (part and part not in PARTS):
        names = [*BUILTIN, *(f"{key}/{half}" for key in BUILTIN for half in PARTS)]
        hint = did_you_mean(title.removeprefix("builtin:"), names)
        raise ConfigError(f"data = {title!r}: no such built-in set.{hint}")
    with as_file(files("genkit_audio") / "data" / BUILTIN[name]) as path:
        archive = tree.open_tree(path.read_bytes(), ENDINGS, "sounds", title)
    source = _from_items(items_of_tree(archive, "sounds"), labels)
    items = [
        item
        for number, item in enumerate(source.items)
        if not part or (number % HELD_OUT_EVERY == 0) == (part == "held-out")
    ]
    return replace(source, items=items)


def _from_items(items: Items, labels: str) -> Sounds:
    """Sounds of files or values. Headers are read in several threads, since that is mostly waiting."""

    def opened(place: int) -> Sound | Skipped:
        name = items.names[place]

        def opened_again() -> Any:
            return _content(_paired(items.read(place))[0])

        try:
            item, label = _paired(items.read(place))
            content = _content(item)
            is_file = isinstance(content, Path | BytesIO)
            sound = _from_file(name, opened_again) if is_file else _from_value(name, content)
            if sound.rate is not None and sound.rate not in RATES:
                raise ValueError(f"a rate of {sound.rate:,} Hz: 1 to {RATES[-1]:,} can be")
        except Exception as error:  # whatever parsers raise at damaged files
            return Skipped(name, reason(error))
        prefix = re.split(r"[_\-\d]", PurePosixPath(name).stem)[0] or None
        label = label or items.labels[place]
        return replace(sound, label=prefix if labels == "prefix" else label)

    places = range(len(items.names))
    readers = Readers("genkit-headers")
    results = readers.each(opened, places) if items.is_parallel else list(map(opened, places))
    faults = tuple(result for result in results if isinstance(result, Skipped))
    return Sounds(
        items.title,
        [result for result in results if isinstance(result, Sound)],
        (*items.skipped, *faults),
        items.remarks,
    )


def _content(item: Any) -> Any:
    """What a parser can open: the path or content of a file; any other value as it is."""
    return tree.ordinary(item) if isinstance(item, Path) else as_stream(item)


def _paired(value: Any) -> tuple[Any, str | None]:
    """(a sound, its label) of a value: a sound alone, (sound, label, ...), or (array, rate, label, ...).

    Arrays in a tuple are channels.
    """
    if not isinstance(value, tuple) or len(value) < 2 or isinstance(value[0], str | Path | bytes):
        return paired(value)
    if isinstance(value[1], int | np.integer):
        return value[:2], paired(value[1:])[1]
    return (value, None) if np.ndim(value[1]) else paired(value)


def _from_file(name: str, opener: Opener) -> Sound:
    """A sound by the header of its file; of a compressed one whose header does not tell its length, by all of it.

    Raises:
        ValueError: if it has no length.
        Exception: whatever the parser raises where the header is damaged.
    """

    def part(start: int, stop: int) -> Values:
        with silenced_if(is_mpeg), soundfile.SoundFile(opener()) as file:
            if start:  # some formats (XI) can only be read from the beginning
                file.seek(start)
            rows: Values = file.read(stop - start, dtype="float32", always_2d=True)
            return rows

    is_mpeg = True  # until the header says otherwise
    try:
        with silenced_if(is_mpeg), soundfile.SoundFile(opener()) as file:
            sound = Sound(name, file.samplerate, file.frames, file.channels, part)
            is_mpeg, log = "MPEG" in file.subtype, file.extra_info
    except soundfile.LibsndfileError as error:
        if error.code == SYSTEM:
            raise
        return _decoded(name, opener, error)
    if is_mpeg and sound.frames < (length := mpeg_length(opener())) - MPEG_PADDING:
        return _decoded(name, opener, ValueError(f"{length:,} values"))
    if not sound.frames:
        raise ValueError("it has no length")
    return sound if is_mpeg else replace(sound, remark=lambda: _cut_off(log) or _followed(opener))


def _decoded(name: str, opener: Opener, error: Exception) -> Sound:
    """A sound that FFmpeg decodes as a whole; it is kept with 16 bits.

    Raises:
        Exception: `error`, if FFmpeg cannot decode it either; ValueError, if it is too long.
    """
    rows, rate, is_whole = decoded(opener(), error)
    is_odd = isinstance(error, soundfile.LibsndfileError) and error.code not in UNKNOWN

    def part(start: int, stop: int) -> Values:
        return rows[start:stop].astype(np.float32) / np.float32(32768)

    def remark() -> str:
        if is_odd or not is_whole:
            return (
                _followed(opener)
                or f"damaged: {len(rows):,} frames of it can be decoded, which are used"
            )
        return ""

    return Sound(name, rate, len(rows), rows.shape[1], part, remark=remark)


def _cut_off(log: str) -> str:
    """What libsndfile's log of an opened file says of its end; empty: nothing.

    Sizes that are unknown when a header is written are given as the largest ones, or as 0.
    """
    log = re.sub(r"^File : .*", "", log)  # a name may hold anything
    for size, true_size in re.findall(r"(\d+) \(should be (\d+)\)", log):
        if int(true_size) + SLACK < int(size) < STREAMED:
            return (
                f"cut off: its header tells of {int(size):,} bytes, and it has {int(true_size):,}"
            )
    if "Seems to be a truncated file" in log or "Junk after the last page" in log:
        return "cut off, or something follows its last whole part"
    if match := re.search(r"(?:Unknown chunk|0) marker .*at position (\d+)", log):
        return f"what follows byte {int(match[1]):,} is not read"
    return ""


SLACK, STREAMED = 64, 2**31 - 2**16
"""Bytes by which writers misstate a size that is right, and the least size that stands for an unknown one."""


SIGNATURES = (
    b"RIFF",
    b"RF64",
    b"FORM",
    b"fLaC",
    b"OggS",
    b".snd",
    b"caff",
    b"riff",
    b"Creative",
    b"NIST_1A",
)
"""Beginnings of files in which another beginning can only be that of another file."""


def _followed(opener: Opener) -> str:
    """Whether the beginning of a file occurs in it once more, in words; empty: it does not, or is gone."""
    try:
        content = opener()
        with content.open("rb") if isinstance(content, Path) else content as file:
            head = file.read(16)
            if not head.startswith(SIGNATURES):
                return ""
            # In headers of these formats the size of the file comes first, and may differ.
            signature = head[8:] if head[:4] in (b"RIFF", b"RF64", b"FORM") else head[:8]
            if isinstance(file, BytesIO):
                place = file.getvalue().find(signature, 16)
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                    place = whole.find(signature, 16)
    except (OSError, ValueError):
        return ""
    return f"another file follows at byte {place:,}, which is not read" if place > 0 else ""


# Arrays and resampling -------------------------------------------------------------------------------------------


def _from_value(name: str, value: Any) -> Sound:
    """A sound from a value.

    Args:
        value: an array [n], [C, n], or [n, C] with n > C; (array, rate, ...), as the data sets of torchaudio give it;
            {"array": ..., "sampling_rate": ...}.

    Raises:
        ValueError: for anything else.
    """
    rate = None
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= set(value):
        value, rate = value["array"], value["sampling_rate"]
    elif isinstance(value, tuple) and len(value) > 1 and isinstance(value[1], int | np.integer):
        value, rate = value[:2]
    array = as_array(value)
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"a {type(value).__name__} of shape {array.shape} is no sound")
    try:
        (sound,) = _from_array(array[None])
    except DataError as error:
        raise ValueError(str(error)) from error
    return replace(sound, name=name, rate=None if rate is None else int(rate))


def _from_array(array: NDArray[Any]) -> list[Sound]:
    if array.ndim not in (2, 3) or not (array.dtype == np.int16 or array.dtype.kind == "f"):
        raise DataError(
            f"an array of type {array.dtype} and shape {array.shape}; sounds are [N, n] or [N, C, n], floats in "
            "[-1, 1] or int16"
        )
    if 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} holds no sound")
    if array.ndim == 3 and array.shape[1] > array.shape[2]:  # channels last, as soundfile reads
        array = array.swapaxes(1, 2)

    def sound(number: int) -> Sound:
        rows = array[number].reshape(-1, array.shape[-1])

        def part(start: int, stop: int) -> Values:
            with np.errstate(over="ignore"):  # checked with the others
                values = rows[:, start:stop].T.astype(np.float32)
            return values / np.float32(32768) if array.dtype == np.int16 else values

        return Sound(f"item {number}", None, rows.shape[1], rows.shape[0], part)

    return [sound(number) for number in range(len(array))]


WIDTH, ROLLOFF = 6, 0.99
"""Zero crossings of the sinc on each side, and its cut-off as a share of the lower Nyquist frequency."""


def _reach(up: int, down: int) -> int:
    """Values of the original on each side of a position that its resampled value depends on."""
    return math.ceil(WIDTH * down / (min(up, down) * ROLLOFF))


@lru_cache(maxsize=64)
def _resampler(down: int, up: int) -> nn.Module:
    """Band-limited resampling of `down` values to `up` with a windowed sinc.

    Source: Smith 2002, Digital Audio Resampling Home Page.
    """
    compat.torchaudio()
    from torchaudio.transforms import Resample

    resampler: nn.Module = Resample(down, up, lowpass_filter_width=WIDTH, rolloff=ROLLOFF)
    return resampler

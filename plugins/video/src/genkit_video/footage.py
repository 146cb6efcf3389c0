"""Where clips come from: video files, animations, folders of frames, arrays. Knows what is shown when.

A file is indexed once, without decoding; a clip is then decoded from the keyframe before it, and nothing else is. So
memory grows neither with a file's size nor with its length, but for 16 bytes a frame of index. Chooses no clip.

Shape letters: N videos, T frames, C channels, H W pixels.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import files as tree
from genkit.kit.files import THREADS
from genkit.plugin import Skipped
from genkit_image import sources as pictures
from genkit_image.pictures import Pixels, quiet, scaled, with_channels
from genkit_image.sources import Content
from genkit_video.decoding import Decoders
from genkit_video.moving import Moving
from genkit_video.strokes import Strokes

VIDEOS = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".flv",
        ".wmv",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".m2ts",
        ".3gp",
    }
    | {".ogv", ".y4m", ".mxf", ".h264", ".hevc"}
)
ANIMATIONS = frozenset({".gif", ".webp", ".apng"})
"""These may hold one frame of a folder of frames instead; what they hold decides."""

BUILTIN: dict[str, type[Moving] | type[Strokes]] = {"moving": Moving, "strokes": Strokes}

CROP = re.compile(r"genkit: (\d+)x(\d+)")
"""What a file says whose frames were padded to even sides when it was written (width, height)."""

STILL_SECONDS = 0.1
"""How long a frame of an animation is shown that asks for no time: as browsers do it."""


@dataclass(frozen=True, eq=False)
class Footage:
    """One video.

    Args:
        name: as the user knows it.
        times: [T] seconds, when each frame appears, ascending from 0.
        duration: in seconds, the last frame's included.
        rate: frames per second, on average; None: its frames have no time, and are taken one by one at any rate.
        shape: (height, width) of the first frame.
        frames: those at some places, which ascend. May raise anything at what is damaged.
        probes: places of a few frames that tell most for little work; none where nothing can be wrong, and all is grey.
        label: of its class; None: it has none.
    """

    name: str
    times: NDArray[np.float64]
    duration: float
    rate: float | None
    shape: tuple[int, int]
    frames: Callable[[Sequence[int]], Iterator[Content]]
    probes: tuple[int, ...] = (0,)
    label: str | None = None

    def count(self, fps: float | None = None) -> int:
        """How many frames it has at a rate; None: at its own."""
        return (
            len(self.times)
            if self.rate is None or fps is None
            else max(1, round(self.duration * fps))
        )

    def read(
        self,
        start: int,
        count: int,
        fps: float | None = None,
        shape: tuple[int, int] | None = None,
        channels: int = 3,
    ) -> Pixels:
        """[count, H, W, C]: frames from place `start` on, counted at a rate; each the one nearest in time.

        Args:
            fps: frames per second. Slower footage repeats its frames; None: as it is.
            shape: (height, width) to scale and crop to; None: that of the first frame.
            channels: 1 or 3; what is transparent is on white.

        Raises:
            DataError: if the footage is shorter.
            Exception: nearly any, where it is damaged.
        """
        if not 0 <= start <= start + count <= self.count(fps):
            raise DataError(
                f"{self.name} has {self.count(fps)} frames; {start} to {start + count} were asked for"
            )
        wanted = np.arange(start, start + count)
        if self.rate is not None and fps is not None:
            middles = (self.times[1:] + self.times[:-1]) / 2
            wanted = np.searchsorted(
                middles, wanted / fps + 1e-6
            )  # halfway is the later one, whatever the rounding
        places, back = np.unique(wanted, return_inverse=True)
        decoded = [
            with_channels(scaled(content, shape or self.shape)[None], channels)
            for content in self.frames(places.tolist())
        ]
        return np.concatenate(decoded)[back].transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Footages:
    """Videos that can be read from.

    Args:
        title: what to call them in messages.
        items: in order.
        skipped: what cannot be used.
        ready: reading costs next to nothing, so keeping clips in memory would gain nothing.
    """

    title: str
    items: Sequence[Footage]
    skipped: tuple[Skipped, ...] = ()
    ready: bool = False


def open_footage(source: Any, frames: int = 16, shape: tuple[int, int] = (64, 64)) -> Footages:
    """Videos from a path, a name or an object; each file is indexed.

    Args:
        source: a video file, an animation (GIF, WebP, APNG), a `.npy` file; a folder of these, or of folders of
            pictures, which are the frames of one video each (sub-folders are classes); a zip file of frames;
            `builtin:moving`, `builtin:strokes`; a list of paths; a uint8 array or tensor [N, T, H, W],
            [N, T, H, W, C] or [T, H, W, C] with C in 1, 3, 4, or [T, H, W].
        frames, shape: length and (height, width) that built-in sets are drawn with.

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if there is nothing of the kind.
    """
    if isinstance(source, np.ndarray | Tensor):
        array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
        return Footages("the array", _from_array(array, "clip"), ready=True)
    if isinstance(source, list | tuple):
        return _from_files("the list", {str(path): Path(path) for path in source})
    if not isinstance(source, str | Path):
        raise DataError(
            f"videos cannot be read from a {type(source).__name__}: pass a path, a list of paths, "
            f"builtin:{' or builtin:'.join(BUILTIN)}, or an array"
        )
    text = str(source)
    if text.startswith("builtin:"):
        name = text.removeprefix("builtin:")
        if name not in BUILTIN:
            raise ConfigError(
                f"data = {text!r}: no such built-in set.{did_you_mean(name, BUILTIN)}"
            )
        return _from_drawn(text, BUILTIN[name](shape, frames))
    path = Path(source)
    if not path.exists():
        raise DataError(f"data = {text!r}: there is no such file or folder")
    if path.is_dir():
        return _from_folder(path)
    if zipfile.is_zipfile(path) and path.suffix.lower() != ".npy":
        return _from_frames(text, pictures.open_source(path))
    return _from_files(text, {path.name: path})


# Files -----------------------------------------------------------------------------------------------------------


def _from_folder(path: Path) -> Footages:
    """Videos of a folder and those below it; the first level of sub-folders are classes unless videos lie beside."""
    endings = {*VIDEOS, *ANIMATIONS, *pictures.ENDINGS, ".npy"}
    found = tree.open_tree(path, endings, "videos and no folders of frames")
    films = {name: path / name for name in found.files if _is_film(path / name)}
    stills = {name: opened for name, opened in found.files.items() if name not in films}
    moving, drawn = (
        _from_files(str(path), films),
        _from_frames(str(path), pictures.of_tree(replace(found, files=stills))),
    )
    items = [*moving.items, *drawn.items]
    names = tree.labels([item.name for item in items])
    items = [replace(item, label=label) for item, label in zip(items, names, strict=True)]
    return Footages(str(path), items, (*moving.skipped, *drawn.skipped))


def _is_film(file: Path) -> bool:
    """Whether a file holds a video by its ending; of one that may be a single picture, by what it holds."""
    ending = file.suffix.lower()
    if ending not in ANIMATIONS:
        return ending in VIDEOS or ending == ".npy"
    try:
        with quiet(), Image.open(tree.ordinary(file)) as picture:
            return ending == ".apng" or getattr(picture, "is_animated", False)
    except Exception:  # damaged: it will be named when it is read
        return True


def _from_files(title: str, files: Mapping[str, Path]) -> Footages:
    """Each file indexed; several at once, for that is mostly waiting."""

    def opened(named: tuple[str, Path]) -> list[Footage] | Skipped:
        name, path = named
        try:
            if tree.ordinary(path).suffix.lower() == ".npy":
                return _from_array(np.load(path, mmap_mode="r", allow_pickle=False), name)
            return [_animation(path, name) if _is_animation(path) else _film(path, name, decoders)]
        except Exception as error:  # whatever parsers raise at damaged files
            return Skipped(name, reason(error))

    decoders = Decoders()
    with quiet(), ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(opened, files.items()))
    skipped = tuple(one for one in found if isinstance(one, Skipped))
    return Footages(
        title, [one for some in found if not isinstance(some, Skipped) for one in some], skipped
    )


def reason(error: BaseException) -> str:
    """Why a video could not be read, in a few words."""
    if isinstance(error, av.error.InvalidDataError):
        return "no video, or damaged at its beginning"
    return (
        error.strerror or repr(error)
        if isinstance(error, av.FFmpegError)
        else pictures.reason(error)
    )


def _is_animation(path: Path) -> bool:
    """By content: what Pillow reads, and FFmpeg reads less well."""
    with path.open("rb") as file:
        start = file.read(16)
    return (
        start[:4] == b"GIF8"
        or start[:8] == b"\x89PNG\r\n\x1a\n"
        or start[:4] + start[8:12] == b"RIFFWEBP"
    )


def _animation(path: Path, name: str) -> Footage:
    def frames(places: Sequence[int]) -> Iterator[Content]:
        with Image.open(path, formats=("GIF", "PNG", "WEBP")) as picture:
            for place in places:
                picture.seek(place)
                yield pictures.eight_bits(picture)

    seconds: list[float] = []
    with Image.open(path, formats=("GIF", "PNG", "WEBP")) as picture:
        try:
            for place in range(getattr(picture, "n_frames", 1)):
                picture.seek(place)
                picture.load()  # only now are times and damages known
                seconds.append(picture.info.get("duration", 0) / 1000 or STILL_SECONDS)
        except Exception:  # what comes before the damage can be used
            if not seconds:
                raise
        shape, tick = (picture.height, picture.width), _TICKS[str(picture.format)]
    starts = np.cumsum([0.0, *seconds]) / tick
    rates = [count for count in [round(len(seconds) / (starts[-1] * tick))] if count]
    times, duration, rate = _timed(starts[:-1], tick, starts[-1] - starts[-2], rates)
    return Footage(name, times, duration, rate, shape, frames, _thirds(len(seconds)))


_TICKS = {"GIF": 0.01, "WEBP": 0.001, "PNG": 1e-6}
"""Seconds that the times of animations are rounded to; those of APNG are fractions."""


def _film(path: Path, name: str, decoders: Decoders) -> Footage:
    """A video file by the times of its packets, none of which is decoded."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        context, tick = stream.codec_context, float(stream.time_base or 0)
        if context.width * context.height > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(
                f"it claims {context.width} x {context.height} pixels a frame (a decompression bomb?)"
            )
        times: list[int | None] = []
        keys, last = [], 0
        for packet in _whole_packets(container, stream):
            times.append(packet.pts)
            keys += [packet.pts] if packet.is_keyframe else []
            last = packet.duration or 0
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        # AVI knows no order of showing, and raw streams no times: their frames are counted from the beginning.
        counted = None in times or (container.format.name == "avi" and context.has_b_frames)
        noted = CROP.search(
            container.metadata.get("comment", container.metadata.get("COMMENT", ""))
        )
    if not times:
        raise ValueError("it holds no frame")
    stamps = np.arange(len(times)) if counted else np.unique(np.array(times, np.int64))
    marks = np.array([0]) if counted else np.unique(np.array(keys or stamps[:1], np.int64))
    seconds, duration, rate = _timed(stamps - stamps[0], tick, last, rates, counted)

    def frames(places: Sequence[int]) -> Iterator[Content]:
        wanted = stamps[places].tolist()
        key = marks[max(0, np.searchsorted(marks, wanted[0], "right") - 1)]
        with decoders.of(path, counted) as decoder:
            for frame in decoder.frames(wanted, int(key)):
                yield frame[: int(noted[2]), : int(noted[1])] if noted else frame

    near = np.searchsorted(stamps, marks) if len(marks) > 2 else np.arange(len(stamps))
    probes = tuple(int(near[place]) for place in _thirds(len(near)))
    (first,) = frames([0])
    return Footage(
        name, seconds, duration, rate, cast(NDArray[np.uint8], first).shape[:2], frames, probes
    )


def _thirds(count: int) -> tuple[int, ...]:
    return tuple(sorted({0, count // 2, count - 1}))


def _whole_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator[av.Packet[VideoStream]]:
    """Packets that are shown, up to where the file is cut off."""
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                return
            if packet.size and not packet.is_discard:
                yield packet
    except av.FFmpegError:
        return


def _timed(
    stamps: NDArray[Any], tick: float, last: float, rates: Sequence[float], counted: bool = False
) -> tuple[NDArray[np.float64], float, float]:
    """Seconds of each frame, of them all, and frames per second.

    Containers round times to ticks (Matroska's are milliseconds); where all are those of a constant rate but for that,
    the rate is believed, and the times are exact.
    """
    seconds, count = stamps * tick, len(stamps)
    for rate in rates:
        even = np.arange(count) / rate
        if counted or np.abs(even - seconds).max() <= tick:
            return even, count / rate, rate
    usual = float(np.median(np.diff(seconds))) if count > 1 else STILL_SECONDS
    duration = float(seconds[-1]) + (last * tick or usual)
    return seconds, duration, count / duration


# Frames and arrays -----------------------------------------------------------------------------------------------


def _from_frames(title: str, source: pictures.Source) -> Footages:
    """One video for each folder of pictures, in the order of the numbers in their names."""
    folders: dict[str, list[int]] = {}
    for number in sorted(
        range(len(source.items)), key=lambda number: _natural(source.items[number])
    ):
        folders.setdefault(posixpath.dirname(source.items[number]) or ".", []).append(number)

    def footage(folder: str, numbers: list[int]) -> Footage:
        def frames(places: Sequence[int]) -> Iterator[Content]:
            return (source.read(numbers[place])[0] for place in places)

        (first,) = frames([0])
        width, height = first.size if isinstance(first, Image.Image) else first.shape[1::-1]
        return _untimed(folder, len(numbers), (height, width), frames)

    items, skipped = [], [*source.skipped]
    for folder, numbers in folders.items():
        try:
            items.append(footage(folder, numbers))
        except Exception as error:  # whatever parsers raise at damaged pictures
            skipped.append(Skipped(folder, f"its first frame: {reason(error)}"))
    return Footages(title, items, tuple(skipped))


def _natural(name: str) -> list[tuple[int, str]]:
    """What sorts 2.png before 10.png."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _from_array(array: NDArray[Any], name: str) -> list[Footage]:
    coloured = array.ndim == 5 or (array.ndim == 4 and array.shape[-1] in (1, 3, 4))
    if (
        array.dtype != np.uint8
        or array.ndim not in (3, 4, 5)
        or (array.ndim == 5 and array.shape[-1] not in (1, 3, 4))
    ):
        raise DataError(
            f"{name}: an array of type {array.dtype} and shape {array.shape}; videos are uint8 [N, T, H, W], "
            "[N, T, H, W, C] or [T, H, W, C] with C = 1, 3 or 4, or [T, H, W]"
        )
    if 0 in array.shape:
        raise DataError(f"{name}: an array of shape {array.shape} holds no frame")
    several = array.ndim == (5 if coloured else 4)

    def footage(number: int | None) -> Footage:
        rows = array if number is None else array[number]
        called = name if number is None else f"{name} {number}"
        return _untimed(
            called,
            len(rows),
            rows.shape[1:3],
            lambda places: (np.asarray(rows[place]) for place in places),
        )

    return [footage(number) for number in range(len(array))] if several else [footage(None)]


def _from_drawn(title: str, drawn: Moving | Strokes) -> Footages:
    def footage(number: int) -> Footage:
        def frames(places: Sequence[int]) -> Iterator[Content]:
            clip = drawn.clip(number)
            return (clip[place] for place in places)

        return replace(_untimed(f"clip {number}", drawn.frames, drawn.shape, frames), probes=())

    return Footages(
        title, [footage(number) for number in range(len(drawn))], ready=isinstance(drawn, Moving)
    )


def _untimed(
    name: str,
    count: int,
    shape: tuple[int, int],
    frames: Callable[[Sequence[int]], Iterator[Content]],
) -> Footage:
    return Footage(name, np.arange(float(count)), float(count), None, shape, frames, _thirds(count))

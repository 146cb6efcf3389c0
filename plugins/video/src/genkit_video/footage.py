"""Sources of video: video files, animations, folders of frames and arrays; frames can be read at any frame rate.

A video file is indexed once by its packets, and only its first frame is decoded. A clip is then decoded from the
keyframe before it. So memory does not grow with the length of a file, but for an index of 16 bytes per frame.

Shape letters: N videos, T frames, C channels, H W pixels.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import files as tree
from genkit.kit.files import Opener
from genkit.kit.items import Readers
from genkit.kit.sources import Items, open_items, select
from genkit.plugin import Remark, Skipped
from genkit_image import sources as pictures
from genkit_image.pictures import (
    Pixels,
    is_deep,
    quiet,
    scaled,
    shallow,
    white_of,
    with_channels,
)
from genkit_image.sources import Content
from genkit_video.decoding import Decoders, playable
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
    | {".ogv", ".ogm", ".y4m", ".mxf", ".h264", ".hevc", ".264", ".265", ".ivf", ".obu", ".nut"}
    | {
        ".vob",
        ".f4v",
        ".asf",
        ".m2v",
        ".m1v",
        ".mpv",
        ".mpe",
        ".m2t",
        ".3g2",
        ".qt",
        ".divx",
        ".rm",
        ".rmvb",
    }
    | {".dv", ".wtv", ".mjpeg", ".mjpg", ".gxf", ".mod", ".tod"}
)
"""File endings that are taken as videos."""

ANIMATIONS = frozenset({".gif", ".webp", ".apng"})
"""File endings of animations. A GIF or WebP file with a single frame is taken as a frame of its folder."""

ENDINGS = frozenset({*VIDEOS, *ANIMATIONS, *pictures.ENDINGS, ".npy"})
"""File endings that are read in a folder or an archive."""

COLUMNS = ("video", "clip", "mp4", "webm", "frames")
"""Columns that are taken for videos in rows of a data set."""

BUILTIN: dict[str, type[Moving] | type[Strokes]] = {"moving": Moving, "strokes": Strokes}
"""Built-in sets by name."""

CROP = re.compile(r"genkit: (\d+)x(\d+)")
"""Comment in a file whose frames were padded to even sides when it was written: (width, height) without padding."""

STILL_SECONDS = 0.1
"""Seconds that a frame of an animation without a duration is shown, as in browsers."""


@dataclass(frozen=True, eq=False)
class Footage:
    """One video, read on demand.

    Args:
        name: as the user knows it.
        times: [T] seconds at which frames appear, ascending from 0.
        duration: in seconds, with that of the last frame.
        rate: mean frames per second; None: frames have no times, and are taken one by one at any rate.
        shape: (height, width) of the first frame.
        frames: maps ascending places to their frames; raises any exception where the video is damaged.
        probes: places of a few frames that reveal most faults at little cost; empty: it cannot be faulty, and is grey.
        label: of its class; None: it has none.
        remark: what of the video is not used, or is used otherwise than it says; empty: all is used.
    """

    name: str
    times: NDArray[np.float64]
    duration: float
    rate: float | None
    shape: tuple[int, int]
    frames: Callable[[Sequence[int]], Iterator[Content]]
    probes: tuple[int, ...] = (0,)
    label: str | None = None
    remark: str = ""

    def count(self, fps: float | None = None) -> int:
        """Number of frames at a rate in frames per second; None: of all frames, as they are."""
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
        """Pixels [count, H, W, C] of successive frames at a rate; each is the frame nearest in time.

        Args:
            start: place of the first frame, counted at that rate.
            count: number of frames.
            fps: frames per second, by which slower footage repeats frames; None: all frames, as they are.
            shape: (height, width) to scale and crop to; None: that of the first frame.
            channels: C, 1 or 3; transparent pixels are laid on white.

        Raises:
            DataError: if the footage is shorter.
            Exception: whatever the decoder raises where it is damaged.
        """
        if not 0 <= start <= start + count <= self.count(fps):
            raise DataError(
                f"{self.name} has {self.count(fps)} frames; {start} to {start + count} were asked for"
            )
        numbers = np.arange(start, start + count)
        if self.rate is not None and fps is not None:
            middles = (self.times[1:] + self.times[:-1]) / 2
            # Of two frames at equal distance the later one is taken, whatever the rounding.
            numbers = np.searchsorted(middles, numbers / fps + 1e-6)
        places, inverse = np.unique(numbers, return_inverse=True)
        frames = [
            with_channels(scaled(content, shape or self.shape)[None], channels)
            for content in self.frames(places.tolist())
        ]
        return np.concatenate(frames)[inverse].transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Footages:
    """The videos of a source.

    Args:
        title: of the source, for messages.
        items: the videos that can be opened, in order.
        skipped: the files and folders that cannot be opened, with reasons.
        remarks: what else of the source is not used, or is used otherwise than it lies there.
        is_cheap: reading costs next to nothing, so that caching clips in memory would gain nothing.
    """

    title: str
    items: Sequence[Footage]
    skipped: tuple[Skipped, ...] = ()
    is_cheap: bool = False
    remarks: tuple[Remark, ...] = ()


def open_footage(
    source: Any, frames: int = 16, shape: tuple[int, int] = (64, 64), label: str | None = None
) -> Footages:
    """Videos from a path, the name of a built-in set, or an array; each file is indexed.

    Args:
        source: a video file, an animation (GIF, WebP, APNG), a `.npy` file; a folder of these, or of folders of
            pictures, which are the frames of one video each (sub-folders are classes); whatever else
            `genkit.kit.sources.open_items` takes: a zip or tar file of these, Parquet, `hub:NAME`, rows with a column
            `video` ...; `builtin:moving`, `builtin:strokes`; a list of paths; a uint8 array or tensor [N, T, H, W],
            [N, T, H, W, C] or [T, H, W, C] with C in 1, 3, 4, or [T, H, W].
        frames: length of the clips of built-in sets; `builtin:moving` has at least 20.
        shape: (height, width) of the clips of built-in sets.
        label: the column that holds the classes, as for `open_items`.

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if the source does not exist, holds no videos, or has another type or shape.
    """
    if isinstance(source, np.ndarray | Tensor):
        array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
        return Footages("the array", _from_array(array, "clip"), is_cheap=True)
    text = str(source) if isinstance(source, str | Path) else ""
    if text.startswith("builtin:"):
        name = text.removeprefix("builtin:")
        if name not in BUILTIN:
            raise ConfigError(
                f"data = {text!r}: no such built-in set.{did_you_mean(name, BUILTIN)}"
            )
        return _from_builtin(text, BUILTIN[name](shape, frames))
    items = open_items(source, ENDINGS, "videos and no folders of frames", COLUMNS, label)
    if items is None:
        raise DataError(
            f"videos cannot be read from a {type(source).__name__}: pass a path, a list of paths, "
            f"builtin:{' or builtin:'.join(BUILTIN)}, or an array"
        )
    is_folder = bool(text) and (Path(text).is_dir() or tree.is_archive(Path(text)))
    return _from_items(items, is_folder)


# Files -----------------------------------------------------------------------------------------------------------


def _from_items(items: Items, is_folder: bool) -> Footages:
    """Videos, and folders of frames, which are one video each; their folders are classes if no column says more.

    Args:
        items: files or values.
        is_folder: they come from a folder or an archive; elsewhere no picture is a frame of several.
    """
    is_film = [
        not is_folder or _is_film(name, partial(items.read, place))
        for place, name in enumerate(items.names)
    ]
    films = [place for place, is_one in enumerate(is_film) if is_one]
    stills = [place for place, is_one in enumerate(is_film) if not is_one]
    film_footage = _from_films(items, films)
    still_footage = _from_frames(items.title, pictures.of_items(select(items, stills)), stills)
    results = [*film_footage, *still_footage]
    names = [one.name for _, one in results if not isinstance(one, Skipped)]
    labels = dict(zip(names, tree.labels(names), strict=True))
    footages = [
        replace(one, label=items.labels[place] if items.column else labels[one.name])
        for place, one in results
        if not isinstance(one, Skipped)
    ]
    faults = tuple(one for _, one in results if isinstance(one, Skipped))
    return Footages(items.title, footages, (*items.skipped, *faults), remarks=items.remarks)


def _is_film(name: str, opener: Callable[[], Any]) -> bool:
    """Whether an item is a video, by its ending; for endings of animations, whether it has more than one frame."""
    ending = Path(name).suffix.lower()
    if ending not in ANIMATIONS:
        return ending not in pictures.ENDINGS
    try:
        with quiet(), Image.open(opener()) as picture:
            return ending == ".apng" or getattr(picture, "is_animated", False)
    except Exception:  # a damaged file: reading it later gives the reason
        return True


def _from_films(items: Items, places: Sequence[int]) -> list[tuple[int, Footage | Skipped]]:
    """The videos at some places, by their places. They are indexed in several threads, since that is mostly waiting."""

    def index(place: int) -> list[Footage] | Skipped:
        name, opener = items.names[place], partial(items.read, place)
        try:
            content = opener()
            if isinstance(content, list):
                content = np.asarray(content)
                content = content.astype(np.uint8) if content.dtype.kind in "iu" else content
            if isinstance(content, Tensor | np.ndarray):
                return _from_array(np.asarray(content), name)
            if Path(name).suffix.lower() == ".npy":
                rows = np.load(content, "r" if isinstance(content, Path) else None)
                return _from_array(rows, name)
            film = _animation if _is_animation(content) else partial(_film, decoders=decoders)
            return [film(opener, name)]
        except Exception as error:  # whatever parsers raise at damaged files
            return Skipped(name, reason(error))

    decoders = Decoders()
    with quiet():
        readers = Readers("genkit-index")
        results = readers.each(index, places) if items.is_parallel else list(map(index, places))
    return [
        (place, one)
        for place, result in zip(places, results, strict=True)
        for one in ([result] if isinstance(result, Skipped) else result)
    ]


def reason(error: BaseException) -> str:
    """Why a video could not be read, in a few words."""
    if isinstance(error, av.error.InvalidDataError):
        return "no video, or damaged at its beginning"
    return (
        error.strerror or repr(error)
        if isinstance(error, av.FFmpegError)
        else pictures.reason(error)
    )


def _is_animation(content: Path | BytesIO) -> bool:
    """Whether a file is GIF, PNG or WebP by its content; Pillow reads these better than FFmpeg does."""
    with content.open("rb") if isinstance(content, Path) else content as file:
        header = file.read(16)
    return (
        header[:4] == b"GIF8"
        or header[:8] == b"\x89PNG\r\n\x1a\n"
        or header[:4] + header[8:12] == b"RIFFWEBP"
    )


def _animation(opener: Opener, name: str) -> Footage:
    """A GIF, APNG or WebP file as a video, up to its first damage.

    Raises:
        Exception: whatever Pillow raises where the first frame is damaged.
    """

    def frames(places: Sequence[int]) -> Iterator[Content]:
        with Image.open(opener(), formats=("GIF", "PNG", "WEBP")) as picture:
            for place in places:
                picture.seek(place)
                yield pictures.eight_bits(picture)

    seconds: list[float] = []
    remark = ""
    with Image.open(opener(), formats=("GIF", "PNG", "WEBP")) as picture:
        try:
            for place in range(getattr(picture, "n_frames", 1)):
                picture.seek(place)
                picture.load()  # durations and damage show only when a frame is decoded
                seconds.append(picture.info.get("duration", 0) / 1000 or STILL_SECONDS)
        except Exception:  # frames before the damage can be used
            if not seconds:
                raise
            remark = f"damaged after {len(seconds):,} frames, which are used"
        shape, tick = (picture.height, picture.width), _TICKS[str(picture.format)]
    starts = np.cumsum([0.0, *seconds]) / tick
    rates = [count for count in [round(len(seconds) / (starts[-1] * tick))] if count]
    times, duration, rate = _timed(starts[:-1], tick, starts[-1] - starts[-2], rates)
    probes = _three_places(len(seconds))
    return Footage(name, times, duration, rate, shape, frames, probes, remark=remark)


_TICKS = {"GIF": 0.01, "WEBP": 0.001, "PNG": 1e-6}
"""Seconds to which a format rounds the times of frames; APNG has fractions instead."""


def _film(opener: Opener, name: str, decoders: Decoders) -> Footage:
    """A video file, indexed by the times of its packets; of its frames only the first is decoded.

    Raises:
        ValueError: if it holds no video or no frame, or its frames are too large.
        Exception: whatever FFmpeg raises where its beginning is damaged.
    """
    remarks = []
    with cast(InputContainer, av.open(playable(opener()))) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        context, tick = stream.codec_context, float(stream.time_base or 0)
        width = round(context.width * (stream.sample_aspect_ratio or 1))
        if max(context.width, width) * context.height > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(
                f"it claims {width} x {context.height} pixels a frame (a decompression bomb?)"
            )
        streams = [
            one for one in container.streams.video if not one.disposition & Disposition.attached_pic
        ]
        if len(streams) > 1:
            remarks.append(f"only the first of its {len(streams)} video streams is read")
        if transfer := HDR.get(int(context.color_trc or 0)):
            remarks.append(f"its colours are HDR ({transfer}) and are taken as if they were not")
        times: list[int | None] = []
        keys, last = [], 0
        is_whole = [True]
        for packet in _whole_packets(container, stream, is_whole):
            times.append(packet.pts)
            keys += [packet.pts] if packet.is_keyframe else []
            last = packet.duration or 0
        if not is_whole[0]:
            remarks.append(f"damaged after {len(times):,} frames, which are used")
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        # AVI stores no display order, and raw streams no times: their frames are numbered from the beginning.
        is_numbered = None in times or (container.format.name == "avi" and context.has_b_frames)
        crop = CROP.search(container.metadata.get("comment", container.metadata.get("COMMENT", "")))
    if not times:
        raise ValueError("it holds no frame")
    stamps = np.arange(len(times)) if is_numbered else np.unique(np.array(times, np.int64))
    key_stamps = np.array([0]) if is_numbered else np.unique(np.array(keys or stamps[:1], np.int64))
    seconds, duration, rate = _timed(stamps - stamps[0], tick, last, rates, is_numbered)

    def frames(places: Sequence[int]) -> Iterator[Content]:
        frame_stamps = stamps[places].tolist()
        key = key_stamps[max(0, np.searchsorted(key_stamps, frame_stamps[0], "right") - 1)]
        with decoders.open(name, opener, is_numbered) as decoder:
            for frame in decoder.frames(frame_stamps, int(key)):
                yield frame[: int(crop[2]), : int(crop[1])] if crop else frame

    # Keyframes are cheap to decode; where there are only one or two, any frame must do.
    candidates = (
        np.searchsorted(stamps, key_stamps) if len(key_stamps) > 2 else np.arange(len(stamps))
    )
    probes = tuple(int(candidates[place]) for place in _three_places(len(candidates)))
    (first,) = frames([0])
    shape = cast(NDArray[np.uint8], first).shape[:2]
    return Footage(name, seconds, duration, rate, shape, frames, probes, remark="; ".join(remarks))


HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of HDR by their numbers in ITU-T H.273."""


def _three_places(count: int) -> tuple[int, ...]:
    """The first, the middle and the last of `count` places; fewer where these are the same."""
    return tuple(sorted({0, count // 2, count - 1}))


def _whole_packets(
    container: InputContainer, stream: VideoStream, is_whole: list[bool]
) -> Iterator[av.Packet[VideoStream]]:
    """Packets with frames to be shown, up to the end of the file or the first damage, which `is_whole[0]` tells."""
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                is_whole[0] = False
                return
            if packet.size and not packet.is_discard:
                yield packet
    except av.FFmpegError:
        is_whole[0] = False


def _timed(
    stamps: NDArray[Any],
    tick: float,
    last: float,
    rates: Sequence[float],
    is_numbered: bool = False,
) -> tuple[NDArray[np.float64], float, float]:
    """Times of frames in seconds, their total duration, and frames per second.

    Containers round times to ticks (Matroska's are milliseconds). Where all times are those of a constant rate up to
    this rounding, the exact times of that rate are returned.

    Args:
        stamps: [T], ascending from 0, in ticks.
        tick: in seconds.
        last: duration of the last frame in ticks; 0: unknown.
        rates: frames per second that the file states; the first that fits is taken.
        is_numbered: stamps are numbers of frames, so that the first rate fits.
    """
    seconds, count = stamps * tick, len(stamps)
    for rate in rates:
        regular_times = np.arange(count) / rate
        if is_numbered or np.abs(regular_times - seconds).max() <= tick:
            return regular_times, count / rate, rate
    step = float(np.median(np.diff(seconds))) if count > 1 else STILL_SECONDS
    duration = float(seconds[-1]) + (last * tick or step)
    return seconds, duration, count / duration


# Frames and arrays -----------------------------------------------------------------------------------------------


def _from_frames(
    title: str, source: pictures.Source, places: Sequence[int]
) -> list[tuple[int, Footage | Skipped]]:
    """One video for each folder of pictures, whose frames are in the order of the numbers in their names.

    Args:
        title: of the source.
        source: the pictures.
        places: [N], of the pictures within the whole source; each video is returned with that of its first frame.
    """
    folders: dict[str, list[int]] = {}
    for number in sorted(
        range(len(source.items)), key=lambda number: _natural(source.items[number])
    ):
        folders.setdefault(posixpath.dirname(source.items[number]) or ".", []).append(number)
    firsts: dict[str, Content | Exception] = {}
    for folder, numbers in folders.items():
        try:
            firsts[folder] = source.read(numbers[0]).content
        except Exception as error:  # whatever parsers raise at damaged pictures
            firsts[folder] = error
    white = white_of(
        int(first.max())
        for first in firsts.values()
        if not isinstance(first, Exception) and is_deep(first)
    )

    def footage(folder: str, numbers: list[int], first: Content) -> Footage:
        def frames(places: Sequence[int]) -> Iterator[Content]:
            return (shallow(source.read(numbers[place]).content, white) for place in places)

        width, height = first.size if isinstance(first, Image.Image) else first.shape[1::-1]
        return _untimed(folder, len(numbers), (height, width), frames)

    return [
        (
            places[numbers[0]],
            Skipped(folder, f"its first frame: {reason(first)}")
            if isinstance(first := firsts[folder], Exception)
            else footage(folder, numbers, first),
        )
        for folder, numbers in folders.items()
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which 2.png comes before 10.png."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _from_array(array: NDArray[Any], name: str) -> list[Footage]:
    """The videos of an array, with names that begin with `name`.

    Raises:
        DataError: for another type or shape, or no frames.
    """
    has_channels = array.ndim == 5 or (array.ndim == 4 and array.shape[-1] in (1, 3, 4))
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
    has_clips = array.ndim == (5 if has_channels else 4)

    def footage(number: int | None) -> Footage:
        rows = array if number is None else array[number]
        return _untimed(
            name if number is None else f"{name} {number}",
            len(rows),
            rows.shape[1:3],
            lambda places: (np.asarray(rows[place]) for place in places),
        )

    return [footage(number) for number in range(len(array))] if has_clips else [footage(None)]


def _from_builtin(title: str, clips: Moving | Strokes) -> Footages:
    """The clips of a built-in set, which are computed whenever they are read."""

    def footage(number: int) -> Footage:
        def frames(places: Sequence[int]) -> Iterator[Content]:
            clip = clips.clip(number)
            return (clip[place] for place in places)

        return replace(_untimed(f"clip {number}", clips.frames, clips.shape, frames), probes=())

    return Footages(
        title,
        [footage(number) for number in range(len(clips))],
        is_cheap=isinstance(clips, Moving),
    )


def _untimed(
    name: str,
    count: int,
    shape: tuple[int, int],
    frames: Callable[[Sequence[int]], Iterator[Content]],
) -> Footage:
    """A video whose frames have no times; its rate is None."""
    return Footage(
        name, np.arange(float(count)), float(count), None, shape, frames, _three_places(count)
    )

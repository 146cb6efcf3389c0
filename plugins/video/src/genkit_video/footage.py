"""Sources of video: video files, animations, folders of frames, and arrays.

Shape letters: N videos, T frames, C channels, H W pixels.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import files as tree
from genkit.kit.items import Readers, as_array, as_source, as_stream, paired
from genkit.kit.sources import Items, check_no_label, items_of_values, open_items, select
from genkit.plugin import Remark, Skipped
from genkit_image import sources as pictures
from genkit_image.colours import Content
from genkit_image.pictures import is_deep, quiet, shallow, white_of
from genkit_image.sources import UNIT, as_bytes, channels_first
from genkit_video.decoding import Decoders
from genkit_video.films import Footage, has_moving, open_film, reason, untimed
from genkit_video.moving import Moving
from genkit_video.strokes import Strokes

VIDEOS = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv", ".ogm", ".y4m", ".mxf", ".h264", ".hevc", ".264", ".265", ".ivf", ".obu", ".nut", ".vob", ".f4v", ".asf",
    ".m2v", ".m1v", ".mpv", ".mpe", ".m2t", ".3g2", ".qt", ".divx", ".rm", ".rmvb", ".dv", ".wtv", ".mjpeg", ".mjpg",
    ".gxf", ".mod", ".tod", ".mj2", ".m4s", ".gifv", ".ismv", ".insv", ".lrv", ".swf",
})  # fmt: skip
"""File endings that are taken as videos."""

ENDINGS = frozenset({*VIDEOS, *pictures.ENDINGS, ".npy"})
"""File endings that are read in a folder or an archive."""

COLUMNS = ("video", "clip", "mp4", "webm", "frames")
"""Columns that are taken for videos in rows of a data set."""

BUILTIN: dict[str, type[Moving] | type[Strokes]] = {"moving": Moving, "strokes": Strokes}
"""Built-in sets by name."""


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
        source: a video file, an animation (any picture file with several frames), a `.npy` file; a folder of these,
            or of folders of pictures, which are the frames of one video each (sub-folders are classes); whatever else
            `genkit.kit.sources.open_items` takes: a zip or tar file of these, Parquet, `hub:NAME`, rows with a column
            `video` ...; `builtin:moving`, `builtin:strokes`; a list of paths; an array or tensor, or a list or
            map-style data set of these; `_from_array` says of what types and shapes.
        frames: length of the clips of built-in sets; `builtin:moving` has at least 20.
        shape: (height, width) of the clips of built-in sets.
        label: the column that holds the classes, as for `open_items`.

    Raises:
        ConfigError: for an unknown built-in set, or a column that there is not.
        DataError: if the source does not exist, holds no videos, or has another type or shape.
    """
    source = source if isinstance(source, str | Path) else as_source(source)
    if isinstance(source, np.ndarray | Tensor):
        check_no_label(label, "the array")
        clips, remark = _from_array(source, "clip")
        remarks = (Remark("the array", remark),) if remark else ()
        return Footages("the array", clips, is_cheap=True, remarks=remarks)
    text = str(source) if isinstance(source, str | Path) else ""
    if text.startswith("builtin:"):
        name = text.removeprefix("builtin:")
        if name not in BUILTIN:
            raise ConfigError(
                f"data = {text!r}: no such built-in set.{did_you_mean(name, BUILTIN)}"
            )
        check_no_label(label, text)
        return _from_builtin(text, BUILTIN[name](shape, frames))
    items = open_items(source, ENDINGS, "videos or frames", COLUMNS, label)
    if items is None and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        check_no_label(label, f"the {type(source).__name__}")
        items = items_of_values(source)
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

    Files are asked and indexed in several threads, since that is mostly waiting.

    Args:
        items: files or values.
        is_folder: they come from a folder or an archive; elsewhere no picture is a frame of several.
    """
    readers, places = Readers("genkit-index"), range(len(items.names))
    each = readers.each if items.is_parallel else lambda *arguments: list(map(*arguments))
    with quiet():
        kinds = each(partial(_kind, items), places) if is_folder else ["film"] * len(places)
        films = [place for place in places if kinds[place] == "film"]
        stills = [place for place in places if kinds[place] != "film"]
        film_footage = each(partial(_from_item, items, Decoders()), films)
        still_footage = _from_frames(pictures.of_items(select(items, stills)), stills)
    results = [
        (place, one) for place, some in zip(films, film_footage, strict=True) for one in some
    ]
    results += still_footage
    names = [one.name for _, one in results if not isinstance(one, Skipped)]
    labels = dict(zip(names, tree.labels(names), strict=True))
    footages = [
        replace(one, label=one.label or (items.labels[place] if items.column else labels[one.name]))
        for place, one in results
        if not isinstance(one, Skipped)
    ]
    faults = tuple(one for _, one in results if isinstance(one, Skipped))
    remarks = list(items.remarks)
    if views := [items.names[place] for place in stills if kinds[place] == "views"]:
        remarks.append(Remark(tree.group(views), "only the first of several pictures is a frame"))
    return Footages(items.title, footages, (*items.skipped, *faults), remarks=tuple(remarks))


def _kind(items: Items, place: int) -> str:
    """What a file of a folder is: `film`, `still` (a frame of its folder), or `views`, a still with other pictures."""
    ending = Path(items.names[place]).suffix.lower()
    if ending not in pictures.ENDINGS:
        return "film"
    try:
        with Image.open(items.read(place), formats=tuple(pictures.FORMATS)) as picture:
            if ending == ".apng" or has_moving(picture):
                return "film"
            return "views" if pictures.count_frames(picture) > 1 else "still"
    except Exception:  # a damaged file: reading it later gives the reason
        return "film" if ending in (".gif", ".apng") else "still"


def _from_item(items: Items, decoders: Decoders, place: int) -> Sequence[Footage | Skipped]:
    """The videos of one item."""
    name = items.names[place]

    def content_of(item: Any) -> Any:
        return tree.ordinary(item) if isinstance(item, Path) else as_stream(item)

    def opener() -> Any:
        return content_of(paired(items.read(place))[0])

    try:
        item, label = paired(items.read(place))
        content = content_of(item)
        if isinstance(content, list):
            content = pictures.of_list(content)
        if isinstance(content, Path | BytesIO) and Path(name).suffix.lower() == ".npy":
            content = np.load(content, "r" if isinstance(content, Path) else None)
        if isinstance(content, Tensor | np.ndarray):
            clips, remark = _from_array(content, name)
            return [replace(clip, remark=remark, label=label) for clip in clips]
        if not isinstance(content, Path | BytesIO):
            raise ValueError(f"a {type(content).__name__} is no video")
        return [replace(open_film(opener, name, decoders), label=label)]
    except Exception as error:  # whatever parsers raise at damaged files
        return [Skipped(name, reason(error))]


# Frames and arrays -----------------------------------------------------------------------------------------------


def _from_frames(
    source: pictures.Source, places: Sequence[int]
) -> list[tuple[int, Footage | Skipped]]:
    """One video for each folder of pictures, whose frames are in the order of the numbers in their names.

    Args:
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
        return untimed(folder, len(numbers), (height, width), frames)

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


def _from_array(values: NDArray[Any] | Tensor, name: str) -> tuple[list[Footage], str]:
    """(the videos of an array, with names that begin with `name`; what was changed).

    Args:
        values: uint8, or floats in [0, 1]: [N, T, H, W, C], [N, T, C, H, W], [T, H, W, C] or [T, C, H, W] with C in
            1, 3, 4, [N, T, H, W] or [T, H, W]. Four axes of which only the second could be channels are
            [T, C, H, W] if it has 3.

    Raises:
        DataError: for another type or shape, or no frames.
    """
    array = as_array(values)
    has_channels = array.ndim == 5 or (
        array.ndim == 4 and (array.shape[-1] in (1, 3, 4) or array.shape[1] == 3)
    )
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        raise DataError(
            f"an array of shape {array.shape} is a picture, and no clip: stack frames to [T, H, W, C]"
        )
    is_first = channels_first(values) if has_channels else False
    is_unit = array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1
    if is_first is None or array.ndim not in (3, 4, 5) or not (is_unit or array.dtype == np.uint8):
        raise DataError(
            f"an array of type {array.dtype} and shape {array.shape}; videos are uint8, or floats in [0, 1], "
            "[N, T, H, W], [N, T, H, W, C] or [T, H, W, C] with C = 1, 3 or 4, or [T, H, W]"
        )
    if 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} holds no frame")
    array = np.moveaxis(array, -3, -1) if is_first else array
    has_clips = array.ndim == (5 if has_channels else 4)

    def footage(number: int | None) -> Footage:
        rows = array if number is None else array[number]
        return untimed(
            name if number is None else f"{name} {number}",
            len(rows),
            rows.shape[1:3],
            lambda places: (as_bytes(np.asarray(rows[place]))[0] for place in places),
        )

    clips = [footage(number) for number in range(len(array))] if has_clips else [footage(None)]
    return clips, UNIT if is_unit else ""


def _from_builtin(title: str, clips: Moving | Strokes) -> Footages:
    """The clips of a built-in set, which are computed whenever they are read."""

    def footage(number: int) -> Footage:
        def frames(places: Sequence[int]) -> Iterator[Content]:
            clip = clips.clip(number)
            return (clip[place] for place in places)

        return replace(untimed(f"clip {number}", clips.frames, clips.shape, frames), probes=())

    return Footages(
        title,
        [footage(number) for number in range(len(clips))],
        is_cheap=isinstance(clips, Moving),
    )

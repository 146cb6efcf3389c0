"""Windows of pictures at their own resolution: each picture of a source becomes as many as fit into it.

Shape letters: H W pixels of a window.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

from PIL import Image

from genkit.kit.items import Readers
from genkit.plugin import Skipped
from genkit_image.colours import Content
from genkit_image.pictures import quiet
from genkit_image.sources import Picture, Source, reason


class _Window(NamedTuple):
    """A part of the picture with this number, from a row and a column of pixels on."""

    picture: int
    row: int
    column: int
    name: str
    is_first: bool


def windows(sources: Sequence[Source], shape: tuple[int, int]) -> list[Source]:
    """The windows of each picture of some sources, row by row, around its middle; they do not overlap.

    Every picture is read once to know its size. A window is called `name[row,column]` and the ending of its picture.

    Args:
        sources: whose pictures at an index belong together, and are cut alike. Those that are smaller than a window, or
            differ in size, are skipped.
        shape: (H, W).
    """
    with quiet():
        sizes = [_sizes(source) for source in sources]
    places: list[_Window] = []
    omissions: list[list[Skipped]] = [list(source.skipped) for source in sources]
    for index, several in enumerate(zip(*sizes, strict=True)):
        faults = [_fault(size, several[0], shape) for size in several]
        if any(faults):
            for source, fault, skipped in zip(sources, faults, omissions, strict=True):
                if fault:
                    skipped.append(Skipped(source.items[index], fault))
            continue
        places += _places(index, sources[0].items[index], several[0], shape)
    return [
        _cut(source, places, shape, tuple(skipped))
        for source, skipped in zip(sources, omissions, strict=True)
    ]


def _sizes(source: Source) -> list[tuple[int, int] | str]:
    """(height, width) of each picture, or why it cannot be read."""

    def size(index: int) -> tuple[int, int] | str:
        try:
            content = source.read(index).content
        except Exception as error:  # parsers and users' data sets raise anything at damage
            return reason(error)
        if isinstance(content, Image.Image):
            return content.height, content.width
        height, width = content.shape[:2]
        return height, width

    numbers = range(len(source.items))
    if source.is_parallel:
        return Readers("genkit-windows").each(size, numbers)
    return [size(index) for index in numbers]


def _fault(
    size: tuple[int, int] | str, first: tuple[int, int] | str, shape: tuple[int, int]
) -> str:
    """Why a picture has no windows; empty if it has some.

    Args:
        size: (height, width) of it, or why it cannot be read.
        first: that of the picture that it belongs to.
        shape: (H, W).
    """
    if isinstance(size, str):
        return size
    if size[0] < shape[0] or size[1] < shape[1]:
        return f"{size[1]} x {size[0]} pixels are less than a window of {shape[1]} x {shape[0]}"
    if not isinstance(first, str) and size != first:
        return f"{size[1]} x {size[0]} pixels, and the picture that it belongs to has {first[1]} x {first[0]}"
    return ""


def _places(
    index: int, name: str, size: tuple[int, int] | str, shape: tuple[int, int]
) -> list[_Window]:
    """The windows of one picture."""
    assert not isinstance(size, str)
    rows, columns = size[0] // shape[0], size[1] // shape[1]
    top, side = (size[0] - rows * shape[0]) // 2, (size[1] - columns * shape[1]) // 2
    path = PurePath(name)
    return [
        _Window(
            index,
            top + row * shape[0],
            side + column * shape[1],
            str(path.with_name(f"{path.stem}[{row},{column}]{path.suffix}")),
            not row and not column,
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _cut(
    source: Source, places: Sequence[_Window], shape: tuple[int, int], skipped: tuple[Skipped, ...]
) -> Source:
    """The source of these windows."""
    # The last picture that each thread has read: windows follow each other.
    memory = threading.local()

    def read(number: int) -> Picture:
        window = places[number]
        if getattr(memory, "number", None) != window.picture:
            memory.picture, memory.number = source.read(window.picture), window.picture
        picture: Picture = memory.picture
        return picture._replace(
            content=_part(picture.content, window, shape),
            remark=picture.remark if window.is_first else "",
        )

    names = [window.name for window in places]
    return replace(source, items=names, read=read, skipped=skipped)


def _part(content: Content, window: _Window, shape: tuple[int, int]) -> Content:
    """What of a picture lies in a window."""
    row, column, height, width = window.row, window.column, *shape
    if isinstance(content, Image.Image):
        return content.crop((column, row, column + width, row + height))
    return content[row : row + height, column : column + width]

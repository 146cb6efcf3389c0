"""Windows of pictures at their own resolution: each picture of a source becomes as many as fit into it.

Shape letters: H W pixels of a window.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import PurePath

from PIL import Image

from genkit.kit.items import Readers
from genkit.plugin import Skipped
from genkit_image.colours import Content
from genkit_image.pictures import quiet
from genkit_image.sources import Picture, Source, reason


def windows(source: Source, shape: tuple[int, int]) -> Source:
    """The windows of each picture of a source, row by row, around its middle; they do not overlap.

    Every picture is read once to know its size. A window is called `name[row,column]` and the ending of its picture.

    Args:
        source: of pictures; those that are smaller than a window are skipped.
        shape: (H, W).
    """
    with quiet():
        numbers = range(len(source.items))
        if source.is_parallel:
            sizes = Readers("genkit-windows").each(lambda index: _size(source, index), numbers)
        else:
            sizes = [_size(source, index) for index in numbers]
    names, corners, omissions = [], [], list(source.skipped)
    for index, (name, size) in enumerate(zip(source.items, sizes, strict=True)):
        if isinstance(size, str):
            omissions.append(Skipped(name, size))
            continue
        counts = [side // length for side, length in zip(size, shape, strict=True)]
        if not all(counts):
            fault = (
                f"{size[1]} x {size[0]} pixels are less than a window of {shape[1]} x {shape[0]}"
            )
            omissions.append(Skipped(name, fault))
        first = [
            (side - count * length) // 2
            for side, count, length in zip(size, counts, shape, strict=True)
        ]
        path = PurePath(name)
        for row in range(counts[0]):
            for column in range(counts[1]):
                names.append(str(path.with_name(f"{path.stem}[{row},{column}]{path.suffix}")))
                corner = first[0] + row * shape[0], first[1] + column * shape[1]
                corners.append((index, corner))
    memory = (
        threading.local()
    )  # the last picture that each thread has read: windows follow each other

    def read(number: int) -> Picture:
        index, corner = corners[number]
        if getattr(memory, "index", None) != index:
            memory.picture, memory.index = source.read(index), index
        picture: Picture = memory.picture
        return picture._replace(content=_window(picture.content, corner, shape))

    return replace(source, items=names, read=read, skipped=tuple(omissions))


def _size(source: Source, index: int) -> tuple[int, int] | str:
    """(height, width) of a picture, or why it cannot be read."""
    try:
        content = source.read(index).content
    except Exception as error:  # parsers and users' data sets raise anything at damage
        return reason(error)
    if isinstance(content, Image.Image):
        return content.height, content.width
    height, width = content.shape[:2]
    return height, width


def _window(content: Content, corner: tuple[int, int], shape: tuple[int, int]) -> Content:
    """The part of a picture that begins at (row, column)."""
    (row, column), (height, width) = corner, shape
    if isinstance(content, Image.Image):
        return content.crop((column, row, column + width, row + height))
    return content[row : row + height, column : column + width]

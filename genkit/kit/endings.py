"""Files that are cut off: what can be read of compressed ones, and what containers of streams lack.

FFmpeg decodes what there is of a container without a word; use `cut_off` in a plugin that reads files by it. Raw
streams and MPEG program streams do not tell their length, nor can it be told that a transport stream ends between two
packets. Imports no torch.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

__all__ = ["cut_off", "unpacked"]

PACKERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""Functions that unpack files, by the bytes that these begin with."""

UNKNOWN = 2**32 - 1
"""The size of a chunk that a writer could not go back to."""


def unpacked(raw: bytes, limit: int) -> tuple[bytes, str]:
    """(the content of a compressed file, why it is not whole: empty, it is); other bytes as they are.

    Args:
        raw: bytes of the file.
        limit: of the content in bytes.

    Raises:
        ValueError: if it is damaged at its beginning, or holds more.
    """
    unpack = next((one for start, one in PACKERS.items() if raw.startswith(start)), None)
    if unpack is None:
        return raw, ""
    parts: list[bytes] = []
    size, fault = 0, ""
    try:
        with unpack(BytesIO(raw)) as file:
            while size <= limit and (part := file.read1(2**20)):
                parts.append(part)
                size += len(part)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        fault = str(error)
        if not parts:
            raise ValueError(f"it cannot be read ({error})") from error
    if size > limit:
        raise ValueError(f"it holds more than {limit:,} bytes: unpack it")
    return b"".join(parts), fault


def cut_off(file: Path | BytesIO, format: str, end: int | None) -> str:
    """What is missing at the end of a file, in a few words; empty: nothing, or that cannot be told.

    Args:
        file: its path or content.
        format: FFmpeg's name of its format (`container.format.name` of PyAV); of others than AVI, ASF, Matroska,
            RealMedia, FLV, Ogg, YUV4MPEG and transport streams nothing is told.
        end: of its last packet, in bytes from its beginning; None: unknown.
    """
    with file.open("rb") if isinstance(file, Path) else BytesIO(file.getvalue()) as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        try:
            if format in _SIZES and (length := _SIZES[format](content)) > size:
                return f"cut off: its header tells of {length:,} bytes, and it has {size:,}"
            is_cut = (
                (format == "mpegts" and _packet_is_cut(content, size))
                or (format == "flv" and _tag_is_cut(content, size))
                or (format == "ogg" and _page_is_cut(content, size))
                or (format == "yuv4mpegpipe" and end is not None and size > end)
            )
        except struct.error:  # the file ends within a header
            is_cut = True
    return "cut off: its last part is not whole" if is_cut else ""


def _riff(content: IO[bytes]) -> int:
    """Bytes of an AVI file by its RIFF chunks; large files have several. 0: unknown."""
    end = 0
    while len(head := content.read(8)) == 8 and head[:4] == b"RIFF":
        (size,) = struct.unpack("<I", head[4:])
        if size in (0, UNKNOWN):
            return 0
        end = content.seek(end + 8 + size + size % 2)
    return end


def _asf(content: IO[bytes]) -> int:
    """Bytes of an ASF file by its file properties object (Microsoft's specification, 3.2); 0: unknown."""
    head = content.read(2**16)
    place = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if place < 0:
        return 0
    size, flags = struct.unpack("<40xQ40xI", head[place : place + 92])
    is_broadcast = flags & 1
    return 0 if is_broadcast else int(size)


def _matroska(content: IO[bytes]) -> int:
    """Bytes of a Matroska file up to the end of its segment (RFC 9559, 5.1); 0: unknown."""
    while len(head := content.read(5)) == 5 and head[4]:
        width = 9 - head[4].bit_length()  # of the size, whose first bits tell it
        first = head[4] - 2 ** (8 - width)
        size = int.from_bytes(bytes([first]) + content.read(width - 1), "big")
        if head[:4] == b"\x18\x53\x80\x67":
            return 0 if size == 2 ** (7 * width) - 1 else content.tell() + size
        content.seek(size, os.SEEK_CUR)
    return 0


def _real(content: IO[bytes]) -> int:
    """Bytes of a RealMedia file by its chunks, in the last of which FFmpeg counts 10 too many; 0: unknown."""
    end = 0
    while len(head := content.read(8)) == 8 and head[:4] in (
        b".RMF",
        b"PROP",
        b"CONT",
        b"MDPR",
        b"DATA",
    ):
        (size,) = struct.unpack(">I", head[4:])
        if size < 8:
            return 0
        end = content.seek(end + size)
    return end - 10


_SIZES: dict[str, Callable[[IO[bytes]], int]] = {
    "avi": _riff,
    "asf": _asf,
    "matroska,webm": _matroska,
    "rm": _real,
}


def _packet_is_cut(content: IO[bytes], size: int) -> bool:
    """Whether a transport stream ends within a packet (ISO/IEC 13818-1, 2.4.3): of 188 bytes, or with more around."""
    head = content.read(5 * 204)
    for width, sync in ((188, 0), (192, 4), (204, 0)):
        marks = head[sync : sync + 5 * width : width]
        if len(marks) > 1 and set(marks) == {0x47}:
            return size % width > 0
    return False


def _tag_is_cut(content: IO[bytes], size: int) -> bool:
    """Whether an FLV file does not end with a whole tag and the size of it (Adobe's specification, E.3)."""
    content.seek(-4, os.SEEK_END)
    (tag_size,) = struct.unpack(">I", content.read(4))
    if not tag_size:  # of writers that leave it out
        return False
    if tag_size > size - 13:
        return True
    content.seek(-4 - tag_size, os.SEEK_END)
    kind, *data_size = struct.unpack("4B", content.read(4))
    return kind not in (8, 9, 18) or int.from_bytes(bytes(data_size), "big") != tag_size - 11


def _page_is_cut(content: IO[bytes], size: int) -> bool:
    """Whether the last page of an Ogg file is not whole (RFC 3533, 6)."""
    content.seek(-min(size, 2**17), os.SEEK_END)
    tail = content.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])

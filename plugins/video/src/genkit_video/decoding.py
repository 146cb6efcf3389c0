"""Decoding of video files at given frames: from the keyframe before them, or on from where a decoder stands.

Times are time stamps in the units of the file.

Shape letters: H W pixels, C channels.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from genkit.kit.files import Opener

POOL = 8
"""Largest number of idle decoders, whose files stay open."""

START = -(2**63)
"""Time stamp of a decoder that has decoded no frame yet."""


class Decoders:
    """A pool of open decoders: one that is used again goes on where it stands. The longest unused ones are closed."""

    def __init__(self) -> None:
        self._idle: list[tuple[str, Decoder]] = []
        self._lock = threading.Lock()

    @contextmanager
    def open(self, name: str, opener: Opener, is_numbered: bool) -> Iterator[Decoder]:
        """A decoder of a file, for the use of one thread. It returns to the pool, or is closed after an exception.

        Args:
            name: of the file, within its source.
            opener, is_numbered: as for `Decoder`.
        """
        with self._lock:
            names = [idle_name for idle_name, _ in self._idle]
            decoder = self._idle.pop(names.index(name))[1] if name in names else None
        decoder = decoder or Decoder(opener, is_numbered)
        try:
            yield decoder
        except BaseException:  # also GeneratorExit, where a caller stops before the last frame
            decoder.close()
            raise
        with self._lock:
            self._idle.append((name, decoder))
            excess = max(0, len(self._idle) - POOL)
            surplus, self._idle = self._idle[:excess], self._idle[excess:]
        for _, surplus_decoder in surplus:
            surplus_decoder.close()


class Decoder:
    """One open video file, decoded forwards from where it stands.

    Args:
        opener: of the file.
        is_numbered: time stamps of frames are their numbers from the beginning, not those of the file.
    """

    def __init__(self, opener: Opener, is_numbered: bool) -> None:
        self._opener, self._is_numbered = opener, is_numbered
        self._reformatter = VideoReformatter()
        self._container: InputContainer | None = None
        self._frame: av.VideoFrame | None = None
        self._first = 0
        self._restart()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()

    def frames(self, stamps: Sequence[int], key: int) -> Iterator[NDArray[np.uint8]]:
        """The frames [H, W, C] at ascending time stamps.

        Args:
            stamps: of the frames.
            key: time stamp of the keyframe to seek, unless the decoder stands between it and the first frame.

        Raises:
            ValueError: if a frame is damaged.
        """
        self._first = stamps[0]
        if not key <= self._stamp < stamps[0]:
            self._seek(key)
        for stamp in stamps:
            while self._stamp < stamp and self._advance():
                pass
            if self._frame is None or self._frame.is_corrupt:
                raise ValueError(f"its frame at time stamp {stamp} is damaged")
            yield self._picture(self._frame)

    def _restart(self) -> None:
        """Open the file, again if it is open, at its beginning."""
        self.close()
        self._container = cast(InputContainer, av.open(playable(self._opener())))
        self._stream = self._container.streams.video[0]
        self._context = _context(self._stream)
        self._stream_frames, self._stamp, self._frame = self._decode(), START, None

    def _seek(self, key: int) -> None:
        """Go to a keyframe; to the beginning if frames are numbered or the container finds only later keyframes."""
        assert self._container is not None
        if not self._is_numbered:
            self._container.seek(key, stream=self._stream)
            self._context.flush_buffers()
            self._stream_frames, self._stamp, self._frame = self._decode(), START, None
            if self._advance() and self._stamp <= self._first:
                return
        self._restart()

    def _advance(self) -> bool:
        """Decode one frame; False at the end of the file."""
        successor = next(self._stream_frames, None)
        if successor is not None:
            self._stamp, self._frame = successor
        return successor is not None

    def _decode(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Time stamps and frames from the container's position on."""
        assert self._container is not None
        number = 0
        for packet in self._container.demux(self._stream):
            # Before the first frame asked for, frames that no other frame refers to are not decoded.
            is_early = not self._is_numbered and packet.pts is not None and packet.pts < self._first
            self._context.skip_frame = "NONREF" if is_early else "DEFAULT"
            for frame in self._context.decode(packet if packet.size else None):
                yield number if self._is_numbered or frame.pts is None else frame.pts, frame
                number += 1

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """A frame as it is shown, upright and with square pixels, [H, W, C], C = 4 if it has transparency, else 3."""
        has_alpha = frame.format.has_palette or any(
            component.is_alpha for component in frame.format.components
        )
        width = round(frame.width * (self._stream.sample_aspect_ratio or 1))
        picture = self._reformatter.reformat(
            frame,
            width,
            frame.height,
            format="rgba" if has_alpha else "rgb24",
            interpolation="BILINEAR",
        )
        return upright(cast(NDArray[np.uint8], picture.to_ndarray()), _matrix(frame))


def playable(file: Path | BytesIO) -> str | BytesIO:
    """What PyAV opens."""
    return str(file) if isinstance(file, Path) else file


def upright(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Pixels [H, W, C] turned and mirrored as a display matrix says, by the nearest multiple of 90 degrees.

    Args:
        pixels: as they are stored.
        matrix: (a, b, c, d): a stored place (x, y) is shown at (a x + c y, b x + d y) (ISO/IEC 14496-12, 6.2.2).
    """
    a, b, c, d = matrix
    if abs(b) > abs(a):  # rows become columns
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The display matrix of a frame, without the parts that move and tilt."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is not None:
        a, b, _, c, d = struct.unpack("=5i", bytes(cast(Any, data))[:20])
        return a, b, c, d
    return 1, 0, 0, 1


def _context(stream: VideoStream) -> VideoCodecContext:
    """A decoder for the packets of a stream; where these have transparency, one that sees it."""
    context = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.name)
    if stream.metadata.get("alpha_mode") == "1" and name in av.codecs_available:
        context = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    context.thread_count = 1  # other threads decode other files
    return context

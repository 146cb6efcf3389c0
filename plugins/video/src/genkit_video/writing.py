"""Writes clips to files, with exact numbers of frames, exact durations and reproducible bytes.

H.264, VP9 and GIF are encoded by PyAV frame by frame, in constant memory; Pillow makes the palettes of GIF. APNG and
animated WebP are assembled here from single pictures, because Pillow merges equal frames.

Shape letters: B clips, T frames, H W pixels, C channels (1 grey, 3 colour).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from PIL import Image

from genkit.errors import ConfigError, did_you_mean
from genkit_image.pictures import Pixels, grid, png_chunk, to_picture, to_png

FORMATS = ("mp4", "webp", "gif", "zip", "webm", "png")
"""File endings. zip: a PNG file for each frame, without times; png: animated PNG (APNG)."""

SHEET_ROWS, SHEET_WIDTH = 8, 1600
"""Clips up to which a contact sheet has a single column of clips; and its largest width in pixels if it has more."""

FrameWriter = Callable[[Pixels], None]
"""Writes the next frames [T, H, W, C] of a clip."""


@contextmanager
def write(
    file: str | Path | IO[bytes], format: str, fps: float | Fraction
) -> Iterator[FrameWriter]:
    """Writes one clip in any number of parts; the file is complete when the context is left.

    Args:
        file: a path, or a file open for writing; it need not be seekable.
        format: one of `FORMATS`.
        fps: frames per second, rounded to the nearest fraction with a denominator of at most 1001.

    Raises:
        ConfigError: for an unknown format, a rate it cannot hold, or a clip without frames.
    """
    if format not in _WRITERS:
        raise ConfigError(
            f"format {format!r}: no such format of clips.{did_you_mean(format, FORMATS)}"
        )
    rate, limit = Fraction(fps).limit_denominator(1001), _FPS_LIMITS.get(format, 1000)
    if not 0 < rate <= limit:
        raise ConfigError(
            f"fps = {float(fps):g}: .{format} holds more than 0 and at most {limit} frames per second"
        )
    with open(file, "wb") if isinstance(file, str | Path) else nullcontext(file) as stream:
        writer = _WRITERS[format](stream, rate)

        def put(frames: Pixels) -> None:
            for frame in frames:
                writer.put(frame)
                writer.count += 1

        try:
            yield put
            if not writer.count:
                raise ConfigError("a clip without frames is no file: give it at least one")
            writer.finish()
        finally:
            writer.close()


def encode(frames: Pixels, format: str, fps: float | Fraction) -> bytes:
    """A clip [T, H, W, C] as the bytes of a file; equal clips give equal bytes.

    Raises:
        ConfigError: for an unknown format, a rate it cannot hold, or a clip without frames.
    """
    buffer = io.BytesIO()
    with write(buffer, format, fps) as write_part:
        write_part(frames)
    return buffer.getvalue()


def contact_sheet(clips: Pixels, columns: int = 8) -> Image.Image:
    """A contact sheet of clips [B, T, H, W, C]: one picture with a row of evenly spread frames for each clip.

    More than SHEET_ROWS clips are laid out in several columns of clips, so that the picture is about square and at most
    SHEET_WIDTH pixels wide (or one column wide); the last column may have fewer clips.

    Args:
        clips: uint8.
        columns: largest number of frames of each clip.
    """
    count, length, height, width = clips.shape[:4]
    places = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
    row = len(places) * (width + 2)  # `grid` puts 2 pixels between frames
    blocks = 1
    if count > SHEET_ROWS:
        blocks = max(1, min(round(math.sqrt(count * (height + 2) / row)), SHEET_WIDTH // row))
    rows = -(-count // blocks)
    cells = np.zeros((blocks * rows, len(places), *clips.shape[2:]), np.uint8)
    cells[:count] = clips[:, places]
    frames = cells.reshape(blocks, rows, *cells.shape[1:]).swapaxes(0, 1)
    return grid(_channels_first(frames.reshape(-1, *clips.shape[2:])), blocks * len(places))


def animated_grid(clips: Pixels, columns: int, fps: float | Fraction) -> bytes:
    """A grid of moving clips [B, T, H, W, C] as the bytes of an animated WebP.

    Args:
        clips: uint8.
        columns: clips per row.
        fps: frames per second.
    """
    buffer = io.BytesIO()
    with write(buffer, "webp", fps) as write_part:
        for frames in clips.swapaxes(0, 1):
            picture = np.asarray(grid(_channels_first(frames), columns))
            write_part(picture.reshape(1, *picture.shape[:2], -1))
    return buffer.getvalue()


def _channels_first(frames: Pixels) -> torch.Tensor:
    """Frames [B, H, W, C] as a tensor [B, C, H, W]."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)


# Writers, which take one frame [H, W, C] after the other ----------------------------------------------------------


class _Writer:
    """Base of the writers of a clip.

    Args:
        file: open for writing.
        rate: frames per second.

    Attributes:
        count: frames so far; the caller counts them.
    """

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        self.file, self.rate, self.count = file, rate, 0

    def put(self, frame: Pixels) -> None:
        """Write the next frame [H, W, C]."""
        raise NotImplementedError

    def finish(self) -> None:
        """Complete the file after the last frame."""
        raise NotImplementedError

    def close(self) -> None:
        """Release resources; called last, also after an error."""


class _Encoder(_Writer):
    """Base of writers that encode one stream with FFmpeg, in constant memory."""

    container: ClassVar[str]
    codec: ClassVar[str]
    pixels: ClassVar[str] = "yuv420p"
    ticks: ClassVar[Fraction | None] = None  # per second; None: one for each frame
    options: Mapping[str, str] = {}
    container_options: Mapping[str, str] = {}

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._stream: VideoStream | None = None
        self._output = av.open(
            file, "w", format=self.container, container_options=dict(self.container_options)
        )

    def put(self, frame: Pixels) -> None:
        if self._stream is None:
            self._stream = self._make_stream(*frame.shape[:2])
        picture = self._picture(frame)
        ticks = self.ticks or self.rate
        picture.pts, stop = (
            round(number * ticks / self.rate) for number in (self.count, self.count + 1)
        )
        picture.time_base, picture.duration = 1 / ticks, stop - picture.pts
        self._output.mux(self._stream.encode(picture))

    def finish(self) -> None:
        assert self._stream is not None
        self._output.mux(self._stream.encode(None))

    def close(self) -> None:
        self._output.close()

    def _make_stream(self, height: int, width: int) -> VideoStream:
        """The encoder of frames of a size."""
        stream = self._output.add_stream(self.codec, rate=self.rate, options=dict(self.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = self.pixels
        stream.codec_context.time_base = 1 / (self.ticks or self.rate)
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        return stream

    def _picture(self, frame: Pixels) -> av.VideoFrame:
        """A frame [H, W, C] in the encoder's form."""
        colour = frame.repeat(3, 2) if frame.shape[2] == 1 else frame
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format="rgb24")


class _Mp4(_Encoder):
    """Writes H.264 in MP4; frames are padded to even sides, which the format needs."""

    container: ClassVar[str] = "mp4"
    codec: ClassVar[str] = "libx264"

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        if not file.seekable():  # an ordinary MP4 file gets its index inserted at the end
            self.container_options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        super().__init__(file, rate)

    def _make_stream(self, height: int, width: int) -> VideoStream:
        if height % 2 or width % 2:
            # `footage.CROP` reads this comment.
            self._output.metadata["comment"] = f"genkit: {width}x{height}"
        # Where blocks extend beyond a plane, or beyond the half-size plane of the lookahead, x264's assembly code reads
        # uninitialised memory, and bytes differ from run to run; this was seen at 16 x 16.
        self.options = (
            {"crf": "18"}
            if height % 64 == width % 64 == 0
            else {"crf": "18", "x264-params": "asm=0"}
        )
        return super()._make_stream(height + height % 2, width + width % 2)

    def _picture(self, frame: Pixels) -> av.VideoFrame:
        edges = (0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)
        return super()._picture(np.pad(frame, edges, "edge"))


class _WebM(_Encoder):
    """Writes VP9 in WebM."""

    container: ClassVar[str] = "webm"
    codec: ClassVar[str] = "libvpx-vp9"
    options: Mapping[str, str] = {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4"}
    container_options: Mapping[str, str] = {"fflags": "+bitexact"}  # without random identifiers


class _Gif(_Encoder):
    """Writes GIF, whose times are hundredths of a second.

    Each frame begins at the nearest one, so that durations of frames differ by rounding and the total is right.
    """

    container: ClassVar[str] = "gif"
    codec: ClassVar[str] = "gif"
    pixels: ClassVar[str] = "pal8"
    ticks: ClassVar[Fraction | None] = Fraction(100)

    def _picture(self, frame: Pixels) -> av.VideoFrame:
        """A frame with a palette of its own of 256 colours, by median cut; grey frames stay exact."""
        if frame.shape[2] == 1:
            numbers, colours = frame[..., 0], np.arange(256)[:, None].repeat(3, 1)
        else:
            picture = Image.fromarray(frame).quantize(
                256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
            )
            numbers = np.asarray(picture)
            colours = np.array(picture.getpalette()).reshape(-1, 3)
        palette = np.full((256, 4), 255, np.uint8)
        palette[: len(colours), 1:] = colours
        return av.VideoFrame.from_ndarray(cast(Any, (numbers, palette)), format="pal8")


class _Zip(_Writer):
    """Writes a zip file of one PNG file per frame, without further compression and with a fixed date."""

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._archive = zipfile.ZipFile(file, "w")

    def put(self, frame: Pixels) -> None:
        self._archive.writestr(zipfile.ZipInfo(f"{self.count:06d}.png"), _png(frame))

    def finish(self) -> None:
        self._archive.close()


class _Apng(_Writer):
    """Writes APNG: each frame complete, with a rational duration.

    Source: PNG Specification (Third Edition), W3C 2023, section 11.3.5.
    """

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._chunks: list[bytes] = []
        self._header = b""

    def put(self, frame: Pixels) -> None:
        png, number = _png(frame), len(self._chunks)
        self._header = png[:33]  # signature and IHDR; then comes IDAT, and IEND of 12 bytes
        seconds = 1 / self.rate
        rectangle = frame.shape[1], frame.shape[0], 0, 0
        control = struct.pack(
            ">5I2H2B",
            max(0, 2 * number - 1),
            *rectangle,
            seconds.numerator,
            seconds.denominator,
            0,
            0,
        )
        data = (
            png_chunk(b"fdAT", struct.pack(">I", 2 * number) + png[41:-16])
            if number
            else png[33:-12]
        )
        self._chunks += [png_chunk(b"fcTL", control) + data]

    def finish(self) -> None:
        control = png_chunk(b"acTL", struct.pack(">2I", self.count, 0))
        self.file.writelines([self._header, control, *self._chunks, png_chunk(b"IEND", b"")])


class _WebP(_Writer):
    """Writes animated WebP: each frame complete and lossless, beginning at the nearest millisecond.

    Source: RFC 9649, section 2.7.
    """

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._chunks: list[bytes] = []
        self._shape = (0, 0)

    def put(self, frame: Pixels) -> None:
        height, width = self._shape = frame.shape[:2]
        buffer = io.BytesIO()
        to_picture(_channels_first(frame[None])[0]).save(buffer, "WEBP", lossless=True)
        start, stop = (round(1000 * number / self.rate) for number in (self.count, self.count + 1))
        numbers = 0, 0, width - 1, height - 1, stop - start
        # Flag 2: the frame replaces the one before and is not blended with it.
        header = b"".join(number.to_bytes(3, "little") for number in numbers) + b"\2"
        self._chunks.append(_riff(b"ANMF", header + buffer.getvalue()[12:]))

    def finish(self) -> None:
        canvas = b"\2\0\0\0" + b"".join(
            (side - 1).to_bytes(3, "little") for side in self._shape[::-1]
        )
        parts = [b"WEBP", _riff(b"VP8X", canvas), _riff(b"ANIM", bytes(6)), *self._chunks]
        self.file.write(_riff(b"RIFF", b"".join(parts)))


def _riff(name: bytes, data: bytes) -> bytes:
    """A RIFF chunk: name, length, data, and padding to an even length."""
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _png(frame: Pixels) -> bytes:
    """A frame [H, W, C] as the bytes of a PNG file."""
    return to_png(_channels_first(frame[None]))[0]


_WRITERS: dict[str, type[_Writer]] = {
    "mp4": _Mp4,
    "webp": _WebP,
    "gif": _Gif,
    "zip": _Zip,
    "webm": _WebM,
    "png": _Apng,
}
_FPS_LIMITS = {"gif": 100}
"""Largest frame rate of formats whose limit is not 1000."""

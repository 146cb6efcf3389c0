"""Clips as files: exactly so many frames, exactly so long, the same bytes every time. Knows no network and no source.

H.264 and VP9 go through PyAV, frame by frame, in constant memory. GIF goes there too, with palettes by Pillow. APNG and
animated WebP are put together here from single pictures, because Pillow merges frames that are equal.

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
"""File endings. zip: a PNG file for each frame, which says nothing of time; png: animated (APNG)."""

LISTED, WIDEST = 8, 1600
"""Clips that a contact sheet lists one below the other at most, and its pixels across if there are more."""

Sink = Callable[[Pixels], None]
"""Takes the next frames [T, H, W, C] of a clip."""


@contextmanager
def write(file: str | Path | IO[bytes], format: str, fps: float | Fraction) -> Iterator[Sink]:
    """A clip that is written as its frames come, in as many parts as one likes; whole when the context is left.

    Args:
        file: a path, or a file open for writing; it need not be seekable.
        format: one of `FORMATS`.
        fps: frames per second; taken as the nearest fraction with a denominator of at most 1001.

    Raises:
        ConfigError: for an unknown format, a rate it cannot hold, or a clip without frames.
    """
    if format not in _WRITERS:
        raise ConfigError(
            f"format {format!r}: no such format of clips.{did_you_mean(format, FORMATS)}"
        )
    rate, most = Fraction(fps).limit_denominator(1001), _MOST_FPS.get(format, 1000)
    if not 0 < rate <= most:
        raise ConfigError(
            f"fps = {float(fps):g}: .{format} holds more than 0 and at most {most} frames per second"
        )
    with open(file, "wb") if isinstance(file, str | Path) else nullcontext(file) as opened:
        writer = _WRITERS[format](opened, rate)

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
        ConfigError: as `write` does.
    """
    buffer = io.BytesIO()
    with write(buffer, format, fps) as put:
        put(frames)
    return buffer.getvalue()


def contact_sheet(clips: Pixels, columns: int = 8) -> Image.Image:
    """Clips [B, T, H, W, C] as one picture: a row for each, with up to so many of its frames, evenly spread.

    More than `LISTED` clips stand in blocks side by side, so many that the picture is about square and not wider than
    `WIDEST` pixels; the clips of a block are below one another, and the last block may have fewer.
    """
    count, length, height, width = clips.shape[:4]
    places = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
    row = len(places) * (width + 2)  # `grid` puts 2 pixels between frames
    blocks = 1
    if count > LISTED:
        blocks = max(1, min(round(math.sqrt(count * (height + 2) / row)), WIDEST // row))
    rows = -(-count // blocks)
    shown = np.zeros((blocks * rows, len(places), *clips.shape[2:]), np.uint8)
    shown[:count] = clips[:, places]
    frames = shown.reshape(blocks, rows, *shown.shape[1:]).swapaxes(0, 1)
    return grid(_channels_first(frames.reshape(-1, *clips.shape[2:])), blocks * len(places))


def animated_grid(clips: Pixels, columns: int, fps: float | Fraction) -> bytes:
    """Clips [B, T, H, W, C] side by side, all moving, as animated WebP."""
    buffer = io.BytesIO()
    with write(buffer, "webp", fps) as put:
        for frames in clips.swapaxes(0, 1):
            joint = np.asarray(grid(_channels_first(frames), columns))
            put(joint.reshape(1, *joint.shape[:2], -1))
    return buffer.getvalue()


def _channels_first(frames: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)


# What takes one frame [H, W, C] after the other -------------------------------------------------------------------


class _Writer:
    """A file that grows by frames; `put` gets them, `finish` makes it whole, `close` comes last, whatever happened."""

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        self.file, self.rate, self.count = file, rate, 0

    def put(self, frame: Pixels) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _Encoded(_Writer):
    """What FFmpeg encodes and packs, as one stream in constant memory."""

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
            self._stream = self._begin(*frame.shape[:2])
        picture = self._picture(frame)
        ticks = self.ticks or self.rate
        picture.pts, ends = (
            round(number * ticks / self.rate) for number in (self.count, self.count + 1)
        )
        picture.time_base, picture.duration = 1 / ticks, ends - picture.pts
        self._output.mux(self._stream.encode(picture))

    def finish(self) -> None:
        assert self._stream is not None
        self._output.mux(self._stream.encode(None))

    def close(self) -> None:
        self._output.close()

    def _begin(self, height: int, width: int) -> VideoStream:
        stream = self._output.add_stream(self.codec, rate=self.rate, options=dict(self.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = self.pixels
        stream.codec_context.time_base = 1 / (self.ticks or self.rate)
        stream.codec_context.thread_count = 1  # the number of threads would show in the bytes
        return stream

    def _picture(self, frame: Pixels) -> av.VideoFrame:
        colour = frame.repeat(3, 2) if frame.shape[2] == 1 else frame
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format="rgb24")


class _Mp4(_Encoded):
    """H.264, padded to even sides, as it must be."""

    container: ClassVar[str] = "mp4"
    codec: ClassVar[str] = "libx264"

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        if not file.seekable():  # its index would come last and be written first
            self.container_options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        super().__init__(file, rate)

    def _begin(self, height: int, width: int) -> VideoStream:
        if height % 2 or width % 2:
            self._output.metadata["comment"] = (
                f"genkit: {width}x{height}"  # `footage.CROP` reads it
            )
        # Where blocks stick out of a plane, or of the halved one for looking ahead, x264's quick parts read memory that
        # nobody has filled, and bytes differ; once they did at 16 x 16.
        self.options = (
            {"crf": "18"}
            if height % 64 == width % 64 == 0
            else {"crf": "18", "x264-params": "asm=0"}
        )
        return super()._begin(height + height % 2, width + width % 2)

    def _picture(self, frame: Pixels) -> av.VideoFrame:
        edges = (0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)
        return super()._picture(np.pad(frame, edges, "edge"))


class _WebM(_Encoded):
    """VP9."""

    container: ClassVar[str] = "webm"
    codec: ClassVar[str] = "libvpx-vp9"
    options: Mapping[str, str] = {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4"}
    container_options: Mapping[str, str] = {"fflags": "+bitexact"}  # else it holds a random number


class _Gif(_Encoded):
    """Hundredths of a second: each frame begins at the nearest one. So their lengths differ, and their sum is right."""

    container: ClassVar[str] = "gif"
    codec: ClassVar[str] = "gif"
    pixels: ClassVar[str] = "pal8"
    ticks: ClassVar[Fraction | None] = Fraction(100)

    def _picture(self, frame: Pixels) -> av.VideoFrame:
        """With the 256 colours that suit it best; grey stays as it is."""
        if frame.shape[2] == 1:
            places, colours = frame[..., 0], np.arange(256)[:, None].repeat(3, 1)
        else:
            chosen = Image.fromarray(frame).quantize(
                256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
            )
            places = np.asarray(chosen)
            colours = np.array(chosen.getpalette()).reshape(-1, 3)
        palette = np.full((256, 4), 255, np.uint8)
        palette[: len(colours), 1:] = colours
        return av.VideoFrame.from_ndarray(cast(Any, (places, palette)), format="pal8")


class _Zip(_Writer):
    """PNG files, not compressed again, dated alike."""

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._archive = zipfile.ZipFile(file, "w")

    def put(self, frame: Pixels) -> None:
        self._archive.writestr(zipfile.ZipInfo(f"{self.count:06d}.png"), _png(frame))

    def finish(self) -> None:
        self._archive.close()


class _Apng(_Writer):
    """Each frame whole, for a rational time. Source: PNG Specification (Third Edition), W3C 2023, section 11.3.5."""

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._chunks: list[bytes] = []
        self._header = b""

    def put(self, frame: Pixels) -> None:
        png, number = (
            _png(frame),
            len(self._chunks),
        )  # signature and IHDR of 33 bytes, IDAT, IEND of 12
        self._header = png[:33]
        seconds = 1 / self.rate
        size = frame.shape[1], frame.shape[0], 0, 0
        place = struct.pack(
            ">5I2H2B", max(0, 2 * number - 1), *size, seconds.numerator, seconds.denominator, 0, 0
        )
        data = (
            png_chunk(b"fdAT", struct.pack(">I", 2 * number) + png[41:-16])
            if number
            else png[33:-12]
        )
        self._chunks += [png_chunk(b"fcTL", place) + data]

    def finish(self) -> None:
        control = png_chunk(b"acTL", struct.pack(">2I", self.count, 0))
        self.file.writelines([self._header, control, *self._chunks, png_chunk(b"IEND", b"")])


class _WebP(_Writer):
    """Each frame whole and lossless, beginning at the nearest millisecond. Source: RFC 9649, section 2.7."""

    def __init__(self, file: IO[bytes], rate: Fraction) -> None:
        super().__init__(file, rate)
        self._chunks: list[bytes] = []
        self._shape = (0, 0)

    def put(self, frame: Pixels) -> None:
        height, width = self._shape = frame.shape[:2]
        buffer = io.BytesIO()
        to_picture(_channels_first(frame[None])[0]).save(buffer, "WEBP", lossless=True)
        begins, ends = (round(1000 * number / self.rate) for number in (self.count, self.count + 1))
        numbers = 0, 0, width - 1, height - 1, ends - begins
        place = (
            b"".join(number.to_bytes(3, "little") for number in numbers) + b"\2"
        )  # 2: it covers what was there
        self._chunks.append(_riff(b"ANMF", place + buffer.getvalue()[12:]))

    def finish(self) -> None:
        canvas = b"\2\0\0\0" + b"".join(
            (side - 1).to_bytes(3, "little") for side in self._shape[::-1]
        )
        parts = [b"WEBP", _riff(b"VP8X", canvas), _riff(b"ANIM", bytes(6)), *self._chunks]
        self.file.write(_riff(b"RIFF", b"".join(parts)))


def _riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _png(frame: Pixels) -> bytes:
    return to_png(_channels_first(frame[None]))[0]


_WRITERS: dict[str, type[_Writer]] = {
    "mp4": _Mp4,
    "webp": _WebP,
    "gif": _Gif,
    "zip": _Zip,
    "webm": _WebM,
    "png": _Apng,
}
_MOST_FPS = {"gif": 100}

"""Films: video files and animations, of which any frames can be read at any rate.

A video file is indexed once by its packets, and only its first frame is decoded. A clip is then decoded from the
keyframe before it. So memory does not grow with the length of a file, but for an index of 16 bytes per frame.

Shape letters: T frames, C channels, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from genkit.errors import DataError
from genkit.kit.endings import cut_off
from genkit.kit.files import Opener
from genkit.kit.items import silenced
from genkit_image.colours import Content, shown
from genkit_image.pictures import Pixels, scaled, shallow, white_of, with_channels
from genkit_image.sources import FORMATS, count_frames
from genkit_image.sources import reason as picture_reason
from genkit_video.decoding import Decoders, playable

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


def open_film(opener: Opener, name: str, decoders: Decoders) -> Footage:
    """The video in a file, by its content: an animation, which Pillow reads better than FFmpeg does, or a film.

    Raises:
        Exception: whatever Pillow or FFmpeg raises where its beginning is damaged.
    """
    try:
        with Image.open(opener(), formats=tuple(FORMATS)) as picture:
            is_animation = picture.format in ("GIF", "PNG", "WEBP") or has_moving(picture)
    except Exception:  # no picture, or a damaged one
        is_animation = False
    return _animation(opener, name) if is_animation else _film(opener, name, decoders)


def has_moving(picture: Image.Image) -> bool:
    """Whether the pictures of an open file are frames; those of a camera's file (MPO) are views of one scene."""
    return picture.format != "MPO" and count_frames(picture) > 1


def reason(error: BaseException) -> str:
    """Why a video could not be read, in a few words."""
    if isinstance(error, av.error.InvalidDataError):
        return "no video, or damaged at its beginning"
    return (
        error.strerror or repr(error)
        if isinstance(error, av.FFmpegError)
        else picture_reason(error)
    )


def _animation(opener: Opener, name: str) -> Footage:
    """An animation as a video, up to its first damage; of a format without times (TIFF) its frames have none.

    Raises:
        Exception: whatever Pillow raises where the first frame is damaged.
    """

    def frames(places: Sequence[int]) -> Iterator[Content]:
        with Image.open(opener(), formats=tuple(FORMATS)) as picture:
            for place in places:
                with silenced():
                    picture.seek(place)
                    picture.load()
                yield shallow(shown(picture), white)

    seconds: list[float] = []
    remark, white, deepest = "", 0, 0
    with Image.open(opener(), formats=tuple(FORMATS)) as picture:
        try:
            for place in range(count_frames(picture)):
                with silenced():
                    picture.seek(place)
                    picture.load()  # durations and damage show only when a frame is decoded
                seconds.append(picture.info.get("duration", 0) / 1000 or STILL_SECONDS)
                if picture.mode.startswith("I"):
                    deepest = max(deepest, int(np.asarray(picture).max()))
        except Exception:  # frames before the damage can be used
            if not seconds:
                raise
            remark = f"damaged after {len(seconds):,} frames, which are used"
        tick = _TICKS.get(str(picture.format))
    white = white_of([deepest])
    (first,) = frames([0])
    shape = first.size[::-1] if isinstance(first, Image.Image) else first.shape[:2]
    if tick is None:
        return replace(untimed(name, len(seconds), shape, frames), remark=remark)
    starts = np.cumsum([0.0, *seconds]) / tick
    rates = [count for count in [round(len(seconds) / (starts[-1] * tick))] if count]
    times, duration, rate = _timed(starts[:-1], tick, starts[-1] - starts[-2], rates)
    probes = _three_places(len(seconds))
    return Footage(name, times, duration, rate, shape, frames, probes, remark=remark)


_TICKS = {"GIF": 0.01, "WEBP": 0.001, "AVIF": 0.001, "FLI": 0.001, "PNG": 1e-6}
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
        keys, last, end = [], 0, None
        is_whole = [True]
        for packet in _whole_packets(container, stream, is_whole):
            times.append(packet.pts)
            keys += [packet.pts] if packet.is_keyframe else []
            last = packet.duration or 0
            end = None if packet.pos is None else packet.pos + packet.size
        if not is_whole[0]:
            remarks.append(f"damaged after {len(times):,} frames, which are used")
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        # AVI stores no display order, and raw streams no times: their frames are numbered from the beginning.
        is_numbered = None in times or (container.format.name == "avi" and context.has_b_frames)
        format = container.format.name
        is_told = format == "mxf" or ("matroska" in format and len(container.streams) == 1)
        header_seconds = (container.duration or 0) / av.time_base if is_told else 0.0
        crop = CROP.search(container.metadata.get("comment", container.metadata.get("COMMENT", "")))
    if not times:
        raise ValueError("it holds no frame")
    stamps = np.arange(len(times)) if is_numbered else np.unique(np.array(times, np.int64))
    key_stamps = np.array([0]) if is_numbered else np.unique(np.array(keys or stamps[:1], np.int64))
    seconds, duration, rate = _timed(stamps - stamps[0], tick, last, rates, is_numbered)
    # FFmpeg says nothing where such files are cut off.
    if duration < 0.95 * header_seconds and not remarks:
        remarks.append(f"cut off after {duration:.3g} of {header_seconds:.3g} seconds")
    elif text := cut_off(opener(), format, end):
        remarks.append(text)

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


def untimed(
    name: str,
    count: int,
    shape: tuple[int, int],
    frames: Callable[[Sequence[int]], Iterator[Content]],
) -> Footage:
    """A video whose frames have no times; its rate is None."""
    return Footage(
        name, np.arange(float(count)), float(count), None, shape, frames, _three_places(count)
    )

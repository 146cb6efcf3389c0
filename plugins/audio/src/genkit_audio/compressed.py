"""Compressed sounds that libsndfile does not open, or whose length it only estimates: decoded by FFmpeg, as a whole.

Shape letters: C channels, n values of one channel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from genkit.kit.endings import cut_off
from genkit.kit.files import CACHE_BYTES
from genkit.kit.items import silenced

MPEG_PADDING = 4 * 1152
"""Values by which an MPEG file may be longer than its sound: encoders pad the beginning and the end."""

av.logging.set_level(None)


def decoded(content: Path | BytesIO, error: Exception) -> tuple[NDArray[np.int16], int, bool]:
    """(values [n, C], rate in Hz, whether that is all) of the first sound in a file, up to the first damage.

    Args:
        content: of the file.
        error: raised if FFmpeg finds no sound.

    Raises:
        ValueError: if it does not fit into `CACHE_BYTES`.
        Exception: `error`.
    """
    parts: list[NDArray[np.int16]] = []
    size, rate, is_whole = 0, 0, True
    try:
        with _opened(content) as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler("s16", rate=stream.rate)
            rate = stream.rate
            for frame in container.decode(stream):
                for whole in resampler.resample(frame):
                    rows = cast(NDArray[np.int16], whole.to_ndarray())
                    parts.append(rows.reshape(-1, len(whole.layout.channels)))
                    size += parts[-1].nbytes
                if size > CACHE_BYTES:
                    break
            # FFmpeg says nothing where a file is cut off.
            format = container.format.name
            is_told = len(container.streams) == 1 and "matroska" in format
            length = (container.duration or 0) / av.time_base if is_told else 0
            is_whole = sum(map(len, parts)) > 0.95 * length * rate
            is_whole = is_whole and not cut_off(content, format, None)
    except Exception:  # of FFmpeg, or of streams whose codec it does not know
        if not parts:
            raise error from None
        is_whole = False
    if not parts:
        raise error
    if size > CACHE_BYTES:
        raise ValueError(
            f"it holds more than {CACHE_BYTES // 2**20} MB of sound, and can only be decoded as a whole: convert it to "
            "FLAC or WAV"
        )
    return np.concatenate(parts), rate, is_whole


def mpeg_length(content: Path | BytesIO) -> int:
    """Number of values of each channel in the packets of an MPEG file; 0: FFmpeg cannot tell."""
    try:
        with _opened(content) as container:
            stream = container.streams.audio[0]
            ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            return round(ticks * float(stream.time_base or 0) * stream.rate)
    except Exception:  # of FFmpeg, or of streams whose codec it does not know
        return 0


def _opened(content: Path | BytesIO) -> InputContainer:
    return cast(InputContainer, av.open(str(content) if isinstance(content, Path) else content))


def silenced_if(is_noisy: bool) -> AbstractContextManager[None]:
    """A context in which a library that prints what it finds odd (mpg123) cannot."""
    return silenced() if is_noisy else nullcontext()

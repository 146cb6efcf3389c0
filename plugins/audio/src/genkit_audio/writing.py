"""Writes sounds to audio files, of exact length and with reproducible bytes, and draws previews of them.

Every format is encoded from the same 16-bit values, so wav and flac files give them back bit for bit.

Shape letters: B sounds, C channels, n values of one channel.
"""

from __future__ import annotations

import io
import math
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from genkit.errors import ConfigError, GenkitError, did_you_mean
from genkit_audio.sources import to_int16
from genkit_audio.spectra import log_mel

FORMATS = ("wav", "flac", "ogg", "mp3")
"""File endings. wav: 16 bits, uncompressed; flac: 16 bits, lossless; ogg: Vorbis; mp3: MP3."""

BLOCK = 2**14
"""Frames that are encoded at a time. libvorbis copies its input to the stack, so it must be small."""

Waves = NDArray[Any] | torch.Tensor
"""Floats; a tensor is on the CPU."""

WaveWriter = Callable[[Waves], None]
"""Writes the next values [C, n] of a sound."""


class Clipped(UserWarning):
    """Values beyond full scale were written as full scale."""


@contextmanager
def write(
    file: str | Path | IO[bytes],
    format: str,
    rate: int,
    channels: int = 1,
    length: int | None = None,
) -> Iterator[WaveWriter]:
    """Writes one sound in any number of parts; the file is complete when the context is left.

    Values are in [-1, 1]; each becomes the nearest k / 32768 (see `sources.to_int16`). Values beyond are clipped, and a
    warning (`Clipped`) counts them.

    Args:
        file: a path, or a file open for writing. A file that is not seekable, and any ogg, is written at the end, but
            for a wav of known length, which is written as it grows.
        format: one of `FORMATS`.
        rate: in Hz.
        channels: C.
        length: values of each channel, if that is known.

    Raises:
        ConfigError: for an unknown format, a rate or number of channels it cannot hold, or a sound without length.
        GenkitError: if a value is not finite, or the sound has another length than was said.
    """
    if format not in FORMATS:
        raise ConfigError(
            f"format {format!r}: no such format of sounds.{did_you_mean(format, FORMATS)}"
        )
    container, subtype = _ENCODINGS[format]
    with open(file, "wb") if isinstance(file, str | Path) else nullcontext(file) as target:
        is_direct = format != "ogg" and target.seekable()
        if format == "wav" and length is not None and not is_direct:
            blocks = _Blocks(_GrowingWave(target, rate, channels, length), is_exact=True)
            yield blocks.put
            blocks.finish()
            if blocks.count != length * channels:
                raise GenkitError(
                    f"{length} values were announced, {blocks.count // channels} came"
                )
            _warn_of_clipping(blocks)
            return
        with nullcontext(target) if is_direct else cast(Any, tempfile.TemporaryFile()) as stream:
            try:
                encoder = soundfile.SoundFile(
                    stream, "w", rate, channels, subtype, format=container
                )
            except soundfile.LibsndfileError as error:
                layout = f"{rate} Hz with {channels} channels"
                raise ConfigError(
                    f".{format} cannot hold {layout} ({error.error_string.strip()})"
                ) from error
            with encoder:
                blocks = _Blocks(encoder, is_exact=subtype == "PCM_16")
                yield blocks.put
                blocks.finish()
            if not is_direct:
                stream.seek(0)
                _copy_ogg(stream, target) if format == "ogg" else shutil.copyfileobj(stream, target)
    _warn_of_clipping(blocks)


def encode(x: Waves, format: str, rate: int) -> bytes:
    """A sound [C, n] as the bytes of a file; equal sounds give equal bytes.

    Raises:
        ConfigError: for an unknown format, a rate or number of channels it cannot hold, or a sound without length.
        GenkitError: if a value is not finite.
    """
    buffer = io.BytesIO()
    with write(buffer, format, rate, len(x)) as write_part:
        write_part(x)
    return buffer.getvalue()


class _Blocks:
    """Passes values to an encoder in blocks of `BLOCK` frames, since its bytes depend on their length; counts values.

    Args:
        encoder: an open `soundfile.SoundFile`.
        is_exact: whether it takes 16-bit integers instead of floats.

    Attributes:
        count: values so far.
        clip_count: values beyond full scale so far.
    """

    def __init__(self, encoder: Any, is_exact: bool) -> None:
        self.encoder, self.is_exact, self.count, self.clip_count = encoder, is_exact, 0, 0
        self._rest: list[NDArray[np.int16]] = []

    def put(self, waves: Waves) -> None:
        """Encode the next values [C, n], but for those that do not fill a block.

        Raises:
            GenkitError: if a value is not finite.
        """
        x = np.asarray(waves, np.float32)
        if not np.isfinite(x).all():
            raise GenkitError(
                "the model made values that are not finite; no sound is written from them"
            )
        self.count += x.size
        self.clip_count += int((np.abs(x) > 1).sum())
        rows = np.concatenate([*self._rest, to_int16(x).T])
        stop = len(rows) // BLOCK * BLOCK
        for start in range(0, stop, BLOCK):
            self._encode(rows[start : start + BLOCK])
        self._rest = [rows[stop:]]

    def finish(self) -> None:
        """Encode the last, shorter block.

        Raises:
            ConfigError: if there were no values.
        """
        if not self.count:
            raise ConfigError("a sound without length is no file: give it at least one value")
        self._encode(self._rest[0])

    def _encode(self, rows: NDArray[np.int16]) -> None:
        # From two channels of integers libsndfile 1.2.2 writes mp3 files of noise, different each time.
        values = rows if self.is_exact else rows.astype(np.float32) / np.float32(32768)
        self.encoder.write(np.ascontiguousarray(values))


class _GrowingWave:
    """Writes a wav file of 16 bits from its beginning to its end, as libsndfile does.

    Args:
        file: open for writing; it need not be seekable.
        rate: in Hz.
        channels: C.
        length: values of each channel, which the header tells.
    """

    def __init__(self, file: IO[bytes], rate: int, channels: int, length: int) -> None:
        self.file, frame, size = file, 2 * channels, 2 * channels * length
        if size > 2**32 - 37:
            raise ConfigError(f"a .wav holds less than 4 GB: {length} values are too many")
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame, frame, 16)
        header = struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE") + form
        self.file.write(header + struct.pack("<4sI", b"data", size))

    def write(self, values: NDArray[np.int16]) -> None:
        """Write frames [n, C]."""
        self.file.write(values.astype("<i2").tobytes())


def _warn_of_clipping(blocks: _Blocks) -> None:
    if blocks.clip_count:
        excess = f"{blocks.clip_count:,} of {blocks.count:,} values"
        warnings.warn(
            f"{excess} lay beyond full scale and were clipped to [-1, 1]", Clipped, stacklevel=4
        )


_ENCODINGS = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip


def _copy_ogg(source: IO[bytes], target: IO[bytes]) -> None:
    """Copies an Ogg stream with serial number 1 in place of a random one, and checksums to match.

    Source: RFC 3533, section 6, for pages and their checksums.
    """
    while header := source.read(27):
        table = source.read(header[26])
        page = header[:14] + struct.pack("<I", 1) + header[18:22] + bytes(4) + header[26:] + table
        page += source.read(sum(table))
        # Ogg's checksum has the polynomial of zlib's, but the opposite bit order, and zeros for its initial value and
        # final XOR, where zlib has ones.
        mirror_crc = zlib.crc32(page.translate(_BIT_REVERSAL), 0xFFFFFFFF) ^ 0xFFFFFFFF
        checksum = int(f"{mirror_crc:032b}"[::-1], 2)
        target.write(page[:22] + struct.pack("<I", checksum) + page[26:])


_BIT_REVERSAL = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


# Previews --------------------------------------------------------------------------------------------------------

WIDTH, WAVE, BANDS, GAP = 192, 48, 80, 4
"""Pixels of one sound in a preview: its width, the heights of waveform and spectrogram, and the gap between sounds."""

RANGE = 80.0
"""Decibels from the darkest colour to the brightest, which is the loudest point of the preview."""

PAPER, INK = (255, 255, 255), (31, 63, 107)
"""Colours (red, green, blue) of a waveform's background and of the waveform."""

_HEAT = np.array([(0, 0, 12), (66, 16, 104), (180, 54, 80), (248, 142, 38), (252, 250, 190)])


def preview(sounds: Waves, rate: int, columns: int | None = None) -> Image.Image:
    """A grid of sounds [B, 1, n] as one picture: of each the waveform, full scale high, above its log-mel spectrogram.

    Colours show decibels below the loudest point of the preview, down to -RANGE; time goes to the right.

    Args:
        sounds: floats in [-1, 1].
        rate: in Hz.
        columns: sounds per row of the grid; None: a grid that is about square.

    Raises:
        GenkitError: if a value is not finite.
    """
    x = torch.as_tensor(sounds).detach().float().cpu()[:, 0]
    if not bool(x.isfinite().all()):
        raise GenkitError("the model made values that are not finite; no picture is drawn of them")
    columns = min(columns or math.ceil(math.sqrt(len(x))), len(x))
    mel = log_mel(x, rate, BANDS).numpy() * (20 / math.log(10))
    heat = ((mel - mel.max()) / RANGE + 1).clip(0, 1)
    cells = [
        np.concatenate([_waveform(values), _coloured(levels)])
        for values, levels in zip(x.numpy(), heat, strict=True)
    ]
    height, rows = WAVE + BANDS, math.ceil(len(x) / columns)
    canvas = np.full((rows * (height + GAP) + GAP, columns * (WIDTH + GAP) + GAP, 3), 200, np.uint8)
    for place, cell in enumerate(cells):
        y_start, x_start = (
            GAP + place // columns * (height + GAP),
            GAP + place % columns * (WIDTH + GAP),
        )
        canvas[y_start : y_start + height, x_start : x_start + WIDTH] = cell
    return Image.fromarray(canvas)


def _waveform(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A waveform [WAVE, WIDTH, 3] of values [n]: each column shows the range of the values in it."""
    starts = np.arange(WIDTH) * len(values) // WIDTH
    low, high = (np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts))
    rows = np.linspace(1, -1, WAVE)[:, None]
    mask = (rows <= high + 1 / WAVE) & (rows >= low - 1 / WAVE)
    return np.where(mask[..., None], INK, PAPER).astype(np.uint8)


def _coloured(levels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Levels [BANDS, frames] in [0, 1] as colours [BANDS, WIDTH, 3], with the lowest band at the bottom."""
    columns = levels[::-1, np.arange(WIDTH) * levels.shape[1] // WIDTH]
    stops = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(columns, stops, channel) for channel in _HEAT.T]
    return np.stack(channels, -1).round().astype(np.uint8)

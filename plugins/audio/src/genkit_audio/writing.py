"""Sounds as files, exactly so long and the same bytes every time; and as pictures. Knows no network and no source.

Every format is given the same 16-bit numbers, so wav and flac are read again bit for bit.

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
"""File endings: 16 bits, uncompressed and lossless; Vorbis; MP3."""

BLOCK = 2**14
"""Frames that are encoded at a time: libvorbis keeps what it is given on the stack."""

Waves = NDArray[Any] | torch.Tensor
"""Floats; a tensor is on the CPU."""

Sink = Callable[[Waves], None]
"""Takes the next values [C, n] of a sound."""


class Clipped(UserWarning):
    """Values beyond full scale were written as full scale."""


@contextmanager
def write(
    file: str | Path | IO[bytes], format: str, rate: int, channels: int = 1
) -> Iterator[Sink]:
    """A sound that is written as it comes, in as many parts as one likes; whole when the context is left.

    Values are in [-1, 1]; each becomes the nearest k / 32768, as `sources.to_int16` says. What lies beyond is clipped,
    and said in a warning (`Clipped`).

    Args:
        file: a path, or a file open for writing; one that is not seekable gets everything at the end.
        format: one of `FORMATS`.
        rate: in Hz.
        channels: C.

    Raises:
        ConfigError: for an unknown format, a rate or channels it cannot hold, or a sound without length.
        GenkitError: if a value is not finite.
    """
    if format not in FORMATS:
        raise ConfigError(
            f"format {format!r}: no such format of sounds.{did_you_mean(format, FORMATS)}"
        )
    kind, subtype = _KINDS[format]
    with open(file, "wb") if isinstance(file, str | Path) else nullcontext(file) as given:
        direct = format != "ogg" and given.seekable()
        with nullcontext(given) if direct else cast(Any, tempfile.TemporaryFile()) as opened:
            try:
                encoder = soundfile.SoundFile(opened, "w", rate, channels, subtype, format=kind)
            except soundfile.LibsndfileError as error:
                what = f"{rate} Hz with {channels} channels"
                raise ConfigError(
                    f".{format} cannot hold {what} ({error.error_string.strip()})"
                ) from error
            with encoder:
                blocks = _Blocks(encoder, exact=subtype == "PCM_16")
                yield blocks.put
                blocks.finish()
            if not direct:
                opened.seek(0)
                _copy_ogg(opened, given) if format == "ogg" else shutil.copyfileobj(opened, given)
    if blocks.clipped:
        beyond = f"{blocks.clipped:,} of {blocks.values:,} values"
        warnings.warn(
            f"{beyond} lay beyond full scale and were clipped to [-1, 1]", Clipped, stacklevel=3
        )


def encode(x: Waves, format: str, rate: int) -> bytes:
    """A sound [C, n] as the bytes of a file; equal sounds give equal bytes.

    Raises:
        ConfigError, GenkitError: as `write` does.
    """
    buffer = io.BytesIO()
    with write(buffer, format, rate, len(x)) as put:
        put(x)
    return buffer.getvalue()


class _Blocks:
    """Hands values to an encoder in blocks of one length, for its bytes depend on them; and counts."""

    def __init__(self, encoder: Any, exact: bool) -> None:
        self.encoder, self.exact, self.values, self.clipped = encoder, exact, 0, 0
        self._left: list[NDArray[np.int16]] = []

    def put(self, waves: Waves) -> None:
        x = np.asarray(waves, np.float32)
        if not np.isfinite(x).all():
            raise GenkitError(
                "the model made values that are not finite; no sound is written from them"
            )
        self.values += x.size
        self.clipped += int((np.abs(x) > 1).sum())
        rows = np.concatenate([*self._left, to_int16(x).T])
        whole = len(rows) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._encode(rows[start : start + BLOCK])
        self._left = [rows[whole:]]

    def finish(self) -> None:
        if not self.values:
            raise ConfigError("a sound without length is no file: give it at least one value")
        self._encode(self._left[0])

    def _encode(self, rows: NDArray[np.int16]) -> None:
        # libsndfile 1.2.2 makes noise of two channels of integers in mp3, another one each time.
        given = rows if self.exact else rows.astype(np.float32) / np.float32(32768)
        self.encoder.write(np.ascontiguousarray(given))


_KINDS = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip


def _copy_ogg(source: IO[bytes], target: IO[bytes]) -> None:
    """A stream with number 1 instead of a random one. Source: RFC 3533, section 6: pages and their checksums."""
    while header := source.read(27):
        table = source.read(header[26])
        page = header[:14] + struct.pack("<I", 1) + header[18:22] + bytes(4) + header[26:] + table
        page += source.read(sum(table))
        # zlib's checksum is the same one with the bits of each byte turned round, begun and ended with ones.
        turned = zlib.crc32(page.translate(_TURNED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        checksum = int(f"{turned:032b}"[::-1], 2)
        target.write(page[:22] + struct.pack("<I", checksum) + page[26:])


_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


# Pictures --------------------------------------------------------------------------------------------------------

WIDTH, WAVE, BANDS, GAP = 192, 48, 80, 4
"""Pixels of one sound on a preview: its width, the heights of waveform and spectrogram, and what is between."""

RANGE = 80.0
"""Decibels from the darkest colour to the brightest, which is the loudest of the preview."""

PAPER, INK = (255, 255, 255), (31, 63, 107)
_HEAT = np.array([(0, 0, 12), (66, 16, 104), (180, 54, 80), (248, 142, 38), (252, 250, 190)])


def preview(sounds: Waves, rate: int, columns: int | None = None) -> Image.Image:
    """Sounds [B, 1, n] as one picture: each as its waveform, full scale high, above its log-mel spectrogram.

    Colours are decibels below the loudest of the preview, `RANGE` in all; time goes to the right.

    Args:
        columns: how many sounds are side by side; None: as many as below one another.

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
    joint = np.full((rows * (height + GAP) + GAP, columns * (WIDTH + GAP) + GAP, 3), 200, np.uint8)
    for place, cell in enumerate(cells):
        top, left = GAP + place // columns * (height + GAP), GAP + place % columns * (WIDTH + GAP)
        joint[top : top + height, left : left + WIDTH] = cell
    return Image.fromarray(joint)


def _waveform(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[WAVE, WIDTH, 3]: for each column the range of the values in it."""
    starts = np.arange(WIDTH) * len(values) // WIDTH
    low, high = (np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts))
    rows = np.linspace(1, -1, WAVE)[:, None]
    inside = (rows <= high + 1 / WAVE) & (rows >= low - 1 / WAVE)
    return np.where(inside[..., None], INK, PAPER).astype(np.uint8)


def _coloured(levels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """[BANDS, WIDTH, 3]: levels [BANDS, frames] of 0 to 1 as colours, low bands below."""
    shown = levels[::-1, np.arange(WIDTH) * levels.shape[1] // WIDTH]
    stops = np.linspace(0, 1, len(_HEAT))
    return (
        np.stack([np.interp(shown, stops, band) for band in _HEAT.T], -1).round().astype(np.uint8)
    )

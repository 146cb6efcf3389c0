"""Write then read gives the sound back, exactly as long; and always the same bytes."""

import io
import warnings

import numpy as np
import pytest
import soundfile
import torch

from genkit.errors import ConfigError, GenkitError
from genkit_audio.sources import open_sounds, to_int16
from genkit_audio.spectra import FLOOR, hop_of, log_mel
from genkit_audio.writing import (
    BANDS,
    BLOCK,
    FORMATS,
    GAP,
    WAVE,
    WIDTH,
    Clipped,
    encode,
    preview,
    write,
)

RATES = [8000, 16000, 22050, 44100]
NEAR = {"wav": 2**-16, "flac": 2**-16, "ogg": 0.1, "mp3": 0.15}
"""Largest difference of a soft wave."""


def wave(count, channels=1, rate=16000):
    seconds = np.arange(count) / rate
    tones = [np.sin(2 * np.pi * (220 + 110 * channel) * seconds) for channel in range(channels)]
    return (0.5 * np.array(tones)).astype(np.float32)


def opened(folder, content, format):
    path = folder / f"sound.{format}"
    path.write_bytes(content)
    return open_sounds(path).items[0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_sound_comes_back_exactly_as_long(tmp_path, format, rate):
    for count in (1, 2, 7, 575, 1152, 8191, 12_345):
        for channels in (1, 2):
            x = wave(count, channels, rate)
            sound = opened(tmp_path, encode(x, format, rate), format)
            assert (sound.frames, sound.rate, sound.channels) == (count, rate, channels)
            back = sound.part(0, count).T
            assert back.shape == x.shape
            assert count < 1000 or np.abs(back - x).max() <= NEAR[format]


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_sixteen_bits_come_back_bit_for_bit(tmp_path, format):
    every = (np.arange(-32768, 32768) / 32768).astype(np.float32)[None]
    first = encode(every, format, 16000)
    back = opened(tmp_path, first, format).part(0, 65536).T
    assert (back == every).all()
    assert encode(back, format, 16000) == first
    assert (soundfile.read(io.BytesIO(first), dtype="int16")[0] == np.arange(-32768, 32768)).all()


def test_the_nearest_of_sixteen_bits_is_taken():
    assert to_int16(np.array([-1, 0, 1, 0.4 / 32768, 0.6 / 32768, -0.6 / 32768])).tolist() == [
        -32768,
        0,
        32767,
        0,
        1,
        -1,
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_are_the_same_every_time_and_in_any_parts(format):
    x = wave(50_000, 2)
    whole = encode(x, format, 16000)
    for number in (1, 17_000):
        buffer = io.BytesIO()
        with write(buffer, format, 16000, 2) as put:
            put(x[:, :number])
            put(x[:, number:number])
            put(x[:, number:])
        assert buffer.getvalue() == whole == encode(torch.from_numpy(x), format, 16000)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_finite_is_never_written(format):
    for broken in (np.nan, np.inf, -np.inf):
        with pytest.raises(GenkitError, match="not finite; no sound"):
            encode(np.where(np.arange(9) == 4, broken, wave(9)), format, 16000)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_too_loud_is_clipped_and_counted(tmp_path, format):
    x = wave(4000)
    x[0, 100:150] = 1.5
    with pytest.warns(Clipped, match="50 of 4,000 values lay beyond full scale"):
        loud = encode(x, format, 16000)
    assert loud == encode(x.clip(-1, 1), format, 16000)  # full scale itself is no warning


def test_what_cannot_be_written_is_refused():
    with pytest.raises(ConfigError, match=r"no such format of sounds\. Did you mean 'mp3'\?"):
        encode(wave(5), "mp4", 16000)
    with pytest.raises(ConfigError, match=r"\.mp3 cannot hold 12345 Hz with 1 channels"):
        encode(wave(5), "mp3", 12345)
    for format in FORMATS:
        with pytest.raises(ConfigError, match="without length"):
            encode(wave(5)[:, :0], format, 16000)


class Pipe(io.RawIOBase):
    """Takes bytes, and cannot go back."""

    def __init__(self):
        self.got = b""

    def writable(self):
        return True

    def write(self, data):
        self.got += bytes(data)
        return len(data)


@pytest.mark.parametrize("format", FORMATS)
def test_a_pipe_is_enough(format):
    pipe = Pipe()
    with write(pipe, format, 16000) as put:
        put(wave(5000))
    assert pipe.got == encode(wave(5000), format, 16000)


def test_a_wav_of_known_length_grows_in_a_pipe():
    x, pipe = wave(50_000, 2), Pipe()
    with write(pipe, "wav", 16000, 2, length=50_000) as put:
        put(x[:, :40_000])
        assert len(pipe.got) == 44 + 4 * 2 * BLOCK
        put(x[:, 40_000:])
    assert pipe.got == encode(x, "wav", 16000)


@pytest.mark.parametrize("length", [8, 10])
def test_a_wav_of_another_length_than_was_said_is_an_error(length):
    with (
        pytest.raises(GenkitError, match="were announced, 9 came"),
        write(Pipe(), "wav", 16000, length=length) as put,
    ):
        put(wave(9))


def interrupted(format):
    with write(io.BytesIO(), format, 16000) as put:
        put(wave(2000))
        raise ZeroDivisionError


@pytest.mark.parametrize("format", FORMATS)
def test_an_error_while_writing_is_the_one_that_is_seen(format):
    with pytest.raises(ZeroDivisionError):
        interrupted(format)


def test_a_path_is_written(tmp_path):
    with write(tmp_path / "a.ogg", "ogg", 16000) as put:
        for _ in range(40):
            put(wave(16000))
    assert soundfile.info(tmp_path / "a.ogg").frames == 640_000


# Spectra and pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 16000, 22050, 24000, 44100, 48000])
def test_a_frame_is_a_hop_at_every_rate(rate):
    hop = hop_of(rate)
    assert log_mel(torch.zeros(2, 8192), rate).shape == (2, 80, 8192 // hop)
    assert log_mel(torch.zeros(2, 8191), rate).shape == (2, 80, 8192 // hop)
    assert float(log_mel(torch.zeros(1, 4096), rate).unique()) == pytest.approx(np.log(FLOOR))


def test_a_higher_tone_is_in_a_higher_band():
    tones = torch.stack(
        [torch.sin(2 * torch.pi * hertz * torch.arange(8192) / 16000) for hertz in (200, 800, 3200)]
    )
    bands = log_mel(tones, 16000).mean(2).argmax(1)
    assert bands[0] < bands[1] < bands[2]
    x = tones.clone().requires_grad_()
    log_mel(x, 16000, mels=40, hop=128).sum().backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("count", [1, 50, 8192])
def test_a_preview_shows_each_sound(count):
    sounds = torch.from_numpy(wave(5 * count)).view(5, 1, count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = preview(sounds, 16000, 3)
    assert picture.size == (GAP + 3 * (WIDTH + GAP), GAP + 2 * (WAVE + BANDS + GAP))
    assert preview(sounds, 16000).size == picture.size
    with pytest.raises(GenkitError, match="not finite"):
        preview(sounds / 0, 16000)


def test_on_a_preview_low_is_below_and_loud_is_high():
    tone = torch.sin(2 * torch.pi * 300 * torch.arange(8192) / 16000)
    pixels = np.asarray(preview(torch.stack([tone, 0.1 * tone])[:, None], 16000, 1)).astype(int)
    top = GAP + WAVE
    brightness = pixels[top : top + BANDS, GAP : GAP + WIDTH].sum((1, 2))
    assert brightness.argmax() > BANDS / 2
    inked = (pixels[..., 0] < 100).sum(1)
    assert inked[GAP] > 0  # full scale is high
    assert inked[top + BANDS + GAP + 5] == 0

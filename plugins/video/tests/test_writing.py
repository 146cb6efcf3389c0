"""Write then read gives the clip back: so many frames, so long, so large; and always the same bytes."""

import io
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from genkit.errors import ConfigError
from genkit_video.footage import open_footage
from genkit_video.writing import FORMATS, animated_grid, contact_sheet, encode, write

SIZES = [(64, 64), (63, 65), (33, 64), (17, 17)]
RATES = [5, 8, 12, 23.976, 25, 29.97, 60]
WITHIN = {"mp4": 1e-6, "webm": 1e-6, "png": 1e-5, "webp": 0.001, "gif": 0.01}
"""Seconds."""
NEAR = {
    "mp4": (3, 12),
    "webm": (3, 12),
    "gif": (0, 6),
    "webp": (0, 0),
    "png": (0, 0),
    "zip": (0, 0),
}
"""Mean difference of pixels, of 255: grey, and colours as strong as these."""


def waves(frames, height, width, channels=3):
    y, x = np.mgrid[:height, :width]
    bands = [
        [127 + 90 * np.sin((x + y * (band + 1) + 3 * t) / 9) for band in range(channels)]
        for t in range(frames)
    ]
    return np.array(bands).transpose(0, 2, 3, 1).astype(np.uint8)


def opened(folder, content, format):
    path = folder / f"clip.{format}"
    path.write_bytes(content)
    return open_footage(path).items[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_clip_comes_back_with_its_frames_and_its_duration(tmp_path, format, size):
    for rate in RATES:
        for channels in (1, 3):
            clip = waves(7, *size, channels)
            footage = opened(tmp_path, encode(clip, format, rate), format)
            assert len(footage.times) == footage.count(rate) == 7
            assert footage.shape == size
            if format != "zip":  # pictures have no time
                assert abs(footage.duration - 7 / rate) <= WITHIN[format]
            back = footage.read(0, 7, rate, channels=channels)
            assert back.shape == clip.shape
            assert np.abs(back.astype(int) - clip).mean() <= NEAR[format][channels == 3]


@pytest.mark.parametrize("format", sorted(WITHIN))
def test_other_programs_count_the_same_frames(tmp_path, format):
    (tmp_path / f"clip.{format}").write_bytes(encode(waves(9, 32, 48), format, 25))
    if format in ("webp", "gif", "png"):
        with Image.open(tmp_path / f"clip.{format}") as picture:
            assert picture.n_frames == 9
            assert picture.size == (48, 32)
    else:
        with av.open(str(tmp_path / f"clip.{format}")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 9
            assert container.duration == 360_000  # microseconds
            assert container.streams.video[0].average_rate == 25


@pytest.mark.parametrize("format", FORMATS)
def test_frames_that_are_equal_are_kept(tmp_path, format):
    still = np.full((8, 32, 32, 3), 90, np.uint8)
    footage = opened(tmp_path, encode(still, format, 8), format)
    assert len(footage.times) == 8
    assert format == "zip" or abs(footage.duration - 1) <= WITHIN[format]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [*SIZES, (20, 36), (64, 66)])
def test_bytes_are_the_same_every_time_and_in_any_parts(format, size):
    clip = waves(5, *size)
    whole, junk = encode(clip, format, 12), []
    for number in range(4):
        junk.append(bytes([number * 70]) * 50_000)  # memory is never the same twice
        buffer = io.BytesIO()
        with write(buffer, format, 12) as put:
            put(clip[:1])
            put(clip[1:number])
            put(clip[max(1, number) :])
        assert buffer.getvalue() == whole


def test_rates_are_kept_as_fractions(tmp_path):
    for format in ("mp4", "webm"):
        for rate in (Fraction(30000, 1001), Fraction(24000, 1001), Fraction(1, 2), Fraction(100)):
            path = tmp_path / f"clip.{format}"
            path.write_bytes(encode(waves(4, 16, 16), format, rate))
            with av.open(str(path)) as container:
                assert container.streams.video[0].average_rate == rate


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
def test_a_pipe_is_enough(tmp_path, format):
    pipe = Pipe()
    with write(pipe, format, 25) as put:
        put(waves(6, 32, 32))
    assert len(opened(tmp_path, pipe.got, format).times) == 6


def test_what_cannot_be_written_is_refused():
    with pytest.raises(ConfigError, match=r"no such format of clips\. Did you mean 'mp4'\?"):
        encode(waves(2, 16, 16), "mp5", 25)
    with pytest.raises(ConfigError, match=r"\.gif holds more than 0 and at most 100"):
        encode(waves(2, 16, 16), "gif", 120)
    for format in FORMATS:
        with pytest.raises(ConfigError, match="without frames"):
            encode(waves(2, 16, 16)[:0], format, 25)


def interrupted(format):
    with write(io.BytesIO(), format, 25) as put:
        put(waves(2, 16, 16))
        raise ZeroDivisionError


@pytest.mark.parametrize("format", FORMATS)
def test_an_error_while_writing_is_the_one_that_is_seen(format):
    with pytest.raises(ZeroDivisionError):
        interrupted(format)


def test_frames_in_a_zip_are_numbered_pictures():
    clip = waves(3, 16, 20)
    with zipfile.ZipFile(io.BytesIO(encode(clip, "zip", 25))) as archive:
        assert archive.namelist() == ["000000.png", "000001.png", "000002.png"]
        assert (np.asarray(Image.open(archive.open("000002.png"))) == clip[2]).all()


def test_a_preview_has_a_row_for_each_clip_and_a_grid_moves():
    clips = np.stack([waves(16, 32, 32, 1) for _ in range(3)])
    assert contact_sheet(clips, 8).size == (2 + 8 * 34, 2 + 3 * 34)
    assert contact_sheet(clips[:, :5], 8).size == (2 + 5 * 34, 2 + 3 * 34)
    first = np.asarray(contact_sheet(clips, 8))[2:34, 2:34]
    assert (first == clips[0, 0, ..., 0]).all()
    with Image.open(io.BytesIO(animated_grid(clips, 2, 12))) as moving:
        assert moving.n_frames == 16
        assert moving.size == (2 + 2 * 34, 2 + 2 * 34)


def test_a_preview_of_many_clips_has_blocks_side_by_side():
    clips = (
        np.arange(50, dtype=np.uint8)[:, None, None, None, None]
        .repeat(9, 1)
        .repeat(32, 2)
        .repeat(32, 3)
    )
    clips = clips * 5 + np.arange(9, dtype=np.uint8)[:, None, None, None]
    preview = contact_sheet(clips, 8)
    assert preview.size == (2 + 2 * 8 * 34, 2 + 25 * 34)
    pixels = np.asarray(preview)
    assert [pixels[2, 2], pixels[2 + 34, 2], pixels[2, 2 + 8 * 34], pixels[2, 2 + 7 * 34]] == [
        0,
        5,
        125,
        8,
    ]
    assert contact_sheet(clips.repeat(4, 3), 8).width <= 1600
    assert contact_sheet(clips[:49], 8).size == preview.size


def grown(frames):
    """Bytes of resident memory that writing so many frames has left behind, beyond the first ones."""

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    part, steps = waves(100, 64, 64), []
    with open("/dev/null", "wb") as writer, write(writer, "mp4", 25) as put:
        for _ in range(frames // 100):
            put(part)
            steps.append(resident())
    return steps[-1] - steps[4]


def test_memory_does_not_grow_with_the_length_of_an_mp4():
    assert grown(2_000) < 6 * 2**20


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_thousand_frames():
    assert grown(10_000) < 8 * 2**20

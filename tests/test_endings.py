"""Containers that are cut off: what is whole is not told to be cut, and nothing in a header raises."""

import random
import struct
from io import BytesIO

import pytest

from genkit.kit.endings import cut_off


def matroska(size, content=b"x" * 100):
    return b"\x1a\x45\xdf\xa3\x81\0" + b"\x18\x53\x80\x67" + size + content


SIZE = bytes([0x40, 100])
"""100, in two bytes."""
RIFF = b"RIFF" + struct.pack("<I", 93) + bytes(93) + b"\0"  # padded to even
ASF = (
    bytes(30)
    + bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
    + struct.pack("<Q16xQ40xI", 104, 142, 2)
    + bytes(20)
)
TAG = b"\x09" + (50).to_bytes(3, "big") + bytes(7) + b"x" * 50 + struct.pack(">I", 61)
PACKET = b"\x47" + bytes(187)
PAGE = b"OggS" + bytes(22) + b"\x02\x05\x07" + bytes(12)


@pytest.mark.parametrize(
    ("format", "content", "words"),
    [
        ("matroska,webm", matroska(SIZE), "its header tells of 112 bytes, and it has 111"),
        ("avi", RIFF + RIFF, "its header tells of 204 bytes, and it has 203"),
        ("asf", ASF, "its header tells of 142 bytes, and it has 141"),
        ("flv", b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + TAG + TAG, "its last part is not whole"),
        ("mpegts", PACKET * 6, "its last part is not whole"),
        ("mpegts", (bytes(4) + PACKET) * 6, "its last part is not whole"),
        ("ogg", PAGE + PAGE, "its last part is not whole"),
    ],
)
def test_one_byte_less_is_told(format, content, words, tmp_path):
    assert cut_off(BytesIO(content), format, None) == ""
    assert cut_off(BytesIO(content[:-1]), format, None) == f"cut off: {words}"
    (tmp_path / "a").write_bytes(content[:-1])
    assert cut_off(tmp_path / "a", format, None) == f"cut off: {words}"
    for seed in range(60):
        draw, damaged = random.Random(seed), bytearray(content[: seed * 7])
        for _ in range(min(3, len(damaged))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        assert isinstance(cut_off(BytesIO(damaged), format, None), str)


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("matroska,webm", matroska(b"\xff")),  # written to a pipe
        ("matroska,webm", matroska(b"\x01" + b"\xff" * 7)),
        ("avi", b"RIFF" + bytes(4) + bytes(90)),
        ("asf", ASF.replace(struct.pack("<I", 2), struct.pack("<I", 3))),  # a broadcast
        ("flv", b"FLV" + bytes(20)),
        ("mp4", b"x"),
    ],
)
def test_of_a_length_that_is_unknown_nothing_is_told(format, content):
    assert cut_off(BytesIO(content[:-1]), format, None) == ""


def test_frames_without_sizes_end_with_the_file():
    assert cut_off(BytesIO(bytes(100)), "yuv4mpegpipe", 100) == ""
    assert cut_off(BytesIO(bytes(100)), "yuv4mpegpipe", 90) == "cut off: its last part is not whole"

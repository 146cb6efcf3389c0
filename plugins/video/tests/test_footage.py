"""Footage and clips: what is read is what is there; what is damaged is named, and stops nothing."""

import shutil
import struct
import tracemalloc
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from genkit.engine.data import Batches
from genkit.errors import ConfigError, DataError
from genkit_video.clips import CheckedVideos, Clips
from genkit_video.footage import open_footage
from genkit_video.writing import encode


@dataclass
class Cut:
    """What clips need of the options."""

    shape: tuple[int, int] = (32, 32)
    frames: int = 8
    fps: float | None = None
    cut: str = "random"
    channels: int | str = "auto"
    label: str | None = None


def counted(frames, height=32, width=32, colour=False):
    """Frames that tell their number by how bright they are, 5 levels apart, in turns."""
    rows = np.full((frames, height, width, 3 if colour else 1), 20, np.uint8)
    rows += (np.arange(frames) * 5 % 205).astype(np.uint8)[:, None, None, None]
    if colour:
        rows[..., 2] = 20
    return rows


def numbers(clip):
    """The numbers modulo 41 of such frames."""
    return ((clip[..., 0].mean((1, 2)) - 20) / 5).round().astype(int).tolist()


def film(path, frames=120, rate=25, codec="libx264", times=None, has_sound=False, **options):
    """A video file by PyAV; keyframes every 250 frames, as encoders do it."""
    ticks = Fraction(rate) if times is None else Fraction(1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}
    ) as container:
        stream = container.add_stream(codec, rate=ticks, options={"g": "250", **options})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / ticks
        stream.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=16000) if has_sound else None
        for number, frame in enumerate(counted(frames).repeat(3, 3)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number if times is None else times[number], 1 / ticks
            container.mux(stream.encode(picture))
            if audio is not None:
                heard = noise(number, 16000 // rate)
                heard.sample_rate, heard.pts = 16000, number * (16000 // rate)
                container.mux(audio.encode(heard))
        container.mux(stream.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def noise(seed, count):
    values = np.random.default_rng(seed).normal(0, 0.1, (1, count)).astype(np.float32)
    return av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def reasons(found):
    return {one.name: one.reason for one in found.skipped}


# Reading ---------------------------------------------------------------------------------------------------------

FILMS = [
    ("mp4", "libx264"),
    ("mkv", "libx264"),
    ("mov", "libx264"),
    ("ts", "libx264"),
    ("flv", "libx264"),
]
FILMS += [
    ("avi", "libx264"),
    ("avi", "mpeg4"),
    ("h264", "libx264"),
    ("webm", "libvpx"),
    ("wmv", "wmv2"),
]


@pytest.mark.parametrize(("ending", "codec"), FILMS)
def test_seeking_gives_what_decoding_from_the_start_gives(tmp_path, ending, codec):
    path = film(tmp_path / f"film.{ending}", 90, 25, codec, g="30")
    footage = open_footage(path).items[0]
    with av.open(str(path)) as container:
        straight = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(footage.times) == len(straight) == 90
    for start in (60, 3, 89, 0, 29, 30, 31, 59, 57, 60, 61, 62, 70):  # back, on, across keyframes
        clip = footage.read(start, min(4, 90 - start))
        assert (clip == np.stack(straight[start : start + 4])).all()


def test_a_rate_picks_the_nearest_frames(tmp_path):
    footage = open_footage(film(tmp_path / "film.mp4", 50, 25)).items[0]
    assert footage.rate == 25
    assert footage.duration == 2
    assert footage.count(5) == 10
    assert numbers(footage.read(0, 6, 5)) == [0, 5, 10, 15, 20, 25]
    assert footage.count(50) == 100
    assert numbers(footage.read(0, 6, 50)) == [0, 1, 1, 2, 2, 3]  # repeated where it is too slow
    with pytest.raises(DataError, match="has 100 frames; 96 to 104"):
        footage.read(96, 8, 50)


def test_what_a_phone_filmed_sideways_is_shown_upright(tmp_path):
    rows = counted(4, 32, 48)
    rows[:, :16, :16] = 250  # upper left
    straight = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # clockwise
    content = encode(rows, "mp4", 25)
    place = content.index(straight, content.index(b"tkhd"))
    (tmp_path / "film.mp4").write_bytes(content[:place] + turned + content[place + 36 :])
    footage = open_footage(tmp_path / "film.mp4").items[0]
    assert footage.shape == (48, 32)
    corner = footage.read(0, 1)[0, :16, 16:]  # upper right
    assert corner.mean() > 240


def test_a_variable_rate_goes_by_the_times_of_frames(tmp_path):
    times = [0, 40, 80, 500, 540, 580, 620, 1500]
    footage = open_footage(film(tmp_path / "film.mkv", 8, 25, times=times)).items[0]
    assert footage.times.tolist() == pytest.approx([0, 0.04, 0.08, 0.5, 0.54, 0.58, 0.62, 1.5])
    assert numbers(footage.read(0, 15, 10)) == [0, 2, 2, 3, 3, 3, 6, 6, 6, 6, 6, 7, 7, 7, 7]


def test_frames_of_an_animation_have_their_own_times(tmp_path):
    pictures = [Image.fromarray(row[..., 0]) for row in counted(4)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 100, 500]
    )
    footage = open_footage(tmp_path / "a.gif").items[0]
    assert footage.times.tolist() == pytest.approx([0, 0.1, 0.4, 0.5])
    assert footage.duration == pytest.approx(1)
    assert numbers(footage.read(0, 10, 10)) == [0, 1, 1, 2, 2, 3, 3, 3, 3, 3]


def test_arrays_are_read_with_and_without_channels(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 24, 3), np.uint8)
    np.save(tmp_path / "rows.npy", rows)
    for source in (rows, torch.from_numpy(rows), tmp_path / "rows.npy", str(tmp_path / "rows.npy")):
        found = open_footage(source)
        assert len(found.items) == 3
        assert (found.items[1].read(2, 5) == rows[1, 2:7]).all()
        assert (found.items[1].read(2, 5, 99.0) == rows[1, 2:7]).all()  # they have no rate
    assert len(open_footage(rows[..., 0]).items) == 3
    assert len(open_footage(rows[0]).items) == 1
    assert len(open_footage(rows[0, ..., 0]).items) == 1
    with pytest.raises(
        DataError, match=r"type float64 and shape \(3, 12, 20, 24, 3\); videos are uint8"
    ):
        open_footage(rows / 100)


CLIPS = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 20, 3), np.uint8)


@pytest.mark.parametrize(
    "source",
    [
        CLIPS / np.float32(255),
        CLIPS.transpose(0, 1, 4, 2, 3),
        torch.from_numpy(CLIPS).permute(0, 1, 4, 2, 3),
        torch.from_numpy(CLIPS).to_sparse(),
        list(CLIPS),
        [clip.transpose(0, 3, 1, 2) for clip in CLIPS],
        [{"video": clip / 255} for clip in CLIPS],
        [{"video": clip.tolist()} for clip in CLIPS],
    ],
    ids=["floats", "channels first", "tensor", "sparse", "list", "firsts", "dicts", "numbers"],
)
def test_objects_of_python_are_the_same_clips(source):
    checked = CheckedVideos(source, Cut((16, 20)))
    assert not checked.skipped
    assert len(checked.videos) == 3
    assert (checked.videos[1].read(2, 5) == CLIPS[1, 2:7]).all()
    said = {text for _, text in checked.remarks}
    is_float = "float" in repr(source)[:400] or "0." in repr(source)[:400]
    assert said == ({"floats in [0, 1], taken for 0 to 255"} if is_float else set())


def test_numbers_that_are_no_bytes_are_refused():
    for value in (300, -1, 2.5):
        found = open_footage([{"video": np.full((20, 8, 8, 3), value).tolist()}] * 2)
        assert (len(found.items), len(found.skipped)) == (0, 2)
    found = open_footage([{"video": "gone.mp4"}, None, 5, {}, CLIPS[0]])
    assert len(found.items) + len(found.skipped) == 5
    with pytest.raises(DataError, match="cannot be read: pass one with its values in memory"):
        open_footage(torch.empty(2, 8, 3, 16, 16, device="meta"))


def test_films_may_lie_in_memory():
    content = encode(counted(30), "gif", 25)
    for source in ([content], [{"video": BytesIO(content)}], [{"video": bytearray(content)}]):
        found = open_footage(source)
        assert not found.skipped
        for _ in range(2):
            assert numbers(found.items[0].read(3, 4)) == [3, 4, 5, 6]


def test_folders_of_frames_are_videos_in_the_order_of_their_numbers(tmp_path):
    for kind, name in (("cats", "one"), ("cats", "two"), ("dogs", "three")):
        (tmp_path / kind / name).mkdir(parents=True)
        for number, row in enumerate(counted(12)):
            Image.fromarray(row[..., 0]).save(tmp_path / kind / name / f"{number}.png")
    found = open_footage(tmp_path)
    assert [item.name for item in found.items] == ["cats/one", "cats/two", "dogs/three"]
    assert [item.label for item in found.items] == ["cats", "cats", "dogs"]
    assert numbers(found.items[1].read(0, 12)) == list(range(12))
    checked = CheckedVideos(tmp_path, Cut())
    assert checked.classes.names == ("cats", "dogs")
    assert checked.rate == 12
    batch = Clips(checked, Cut(), 1, ["dogs", "cats"]).random_batch(
        [0, 1, 2], np.arange(3, dtype=np.uint64)
    )
    assert batch.condition.tolist() == [1, 1, 0]


def test_a_damaged_frame_costs_what_needs_it(tmp_path):
    for name, damaged in (("whole", None), ("first", 0), ("later", 20)):
        (tmp_path / name).mkdir()
        for number, row in enumerate(counted(24)):
            path = tmp_path / name / f"{number}.png"
            Image.fromarray(row[..., 0]).save(path)
            if number == damaged:
                path.write_bytes(path.read_bytes()[:40])
    checked = CheckedVideos(tmp_path, Cut())
    assert [item.name for item in checked.videos] == ["later", "whole"]
    assert reasons(checked)["first"].startswith("its first frame: ")
    assert (checked.count(0), checked.count(1)) == (20, 24)


def test_a_folder_may_hold_everything(tmp_path):
    film(tmp_path / "a.mp4", 30)
    (tmp_path / "b.gif").write_bytes(encode(counted(30), "gif", 25))
    (tmp_path / "c.webp").write_bytes(encode(counted(30), "webp", 25))
    (tmp_path / "d.apng").write_bytes(encode(counted(30), "png", 25))
    np.save(tmp_path / "e.npy", counted(30)[..., 0])
    (tmp_path / "f").mkdir()
    for number, row in enumerate(counted(30)):
        Image.fromarray(row[..., 0]).save(tmp_path / "f" / f"{number}.webp", lossless=True)
    (tmp_path / ".hidden.mp4").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("nothing to see")
    checked = CheckedVideos(tmp_path, Cut())
    assert not checked.skipped
    assert [item.name for item in checked.videos] == [
        "a.mp4",
        "b.gif",
        "c.webp",
        "d.apng",
        "e.npy",
        "f",
    ]
    assert (checked.rate, checked.channels, checked.classes.names) == (25, 1, ())
    for place in range(6):
        assert numbers(checked.read(place, 10, 1)) == list(range(10, 18))


def animated(path, format, count=12, **keywords):
    frames = [Image.fromarray(row) for row in counted(count, colour=True)]
    frames[0].save(path, format, save_all=True, append_images=frames[1:], **keywords)


@pytest.mark.parametrize(
    ("ending", "format", "settings"),
    [
        ("png", "PNG", {"duration": 80}),
        ("avif", "AVIF", {"duration": 80, "quality": 100, "subsampling": "4:4:4"}),
        ("webp", "WEBP", {"duration": 80, "lossless": True}),
        ("tif", "TIFF", {}),
    ],
)
def test_a_picture_file_with_several_frames_is_a_film(tmp_path, ending, format, settings):
    for name in "ab":
        animated(tmp_path / f"{name}.{ending}", format, **settings)
    found = open_footage(tmp_path)
    assert (found.skipped, found.remarks) == ((), ())
    assert [item.name for item in found.items] == [f"a.{ending}", f"b.{ending}"]
    assert found.items[1].rate == (pytest.approx(12.5) if settings else None)
    assert numbers(found.items[0].read(2, 5)) == [2, 3, 4, 5, 6]


def test_deep_pages_of_a_film_have_one_range(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), number * 80, np.uint16)) for number in range(12)]
    pages[0].save(tmp_path / "a.tif", "TIFF", save_all=True, append_images=pages[1:])
    (item,) = open_footage(tmp_path).items
    assert (item.read(0, 12)[:, 0, 0, 0] == np.arange(12) * 80 * 255 // 1023).all()


def test_other_views_in_a_frame_are_named(tmp_path):
    frames = [Image.fromarray(row) for row in counted(12, colour=True)]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.jpg", "MPO", save_all=True, append_images=frames[:1])
    found = open_footage(tmp_path)
    assert [len(item.times) for item in found.items] == [12]
    ((name, text),) = found.remarks
    assert name.startswith("12 files (")
    assert text == "only the first of several pictures is a frame"


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_animations_are_upright_and_in_srgb(tmp_path, format):
    raw = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raw = raw.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    swapped = raw.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    turned_by = Image.Exif()
    turned_by[0x0112] = 6
    frames = [Image.new("RGB", (16, 8), (255, number, 0)) for number in range(4)]
    file, lossless = tmp_path / "a", {"lossless": True} if format == "WEBP" else {}
    settings = {"icc_profile": swapped, "exif": turned_by.tobytes(), **lossless}
    frames[0].save(file, format, save_all=True, append_images=frames[1:], duration=80, **settings)
    (item,) = open_footage(file).items
    assert item.shape == (16, 8)
    for frame in item.read(0, 4):
        red, green, _ = frame[0, 0].tolist()
        assert green > 230 > 100 > red


# Damage ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path):
    whole = film(tmp_path / "whole.mp4", 60).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "zeros.mp4").write_bytes(bytes(5000))
    (tmp_path / "text.mp4").write_text("I am a film, believe me. " * 50)
    (tmp_path / "head.mp4").write_bytes(whole[:300])
    (tmp_path / "short.mp4").write_bytes(encode(counted(5), "mp4", 25))
    (tmp_path / "one.mkv").write_bytes(encode(counted(1), "webm", 25))
    Image.fromarray(counted(1)[0, ..., 0]).save(tmp_path / "picture.png")
    shutil.move(tmp_path / "picture.png", tmp_path / "picture.mp4")
    np.save(tmp_path / "floats.npy", np.full((12, 8, 8), 2.0))
    (tmp_path / "broken.gif").write_bytes(encode(counted(20), "gif", 25)[:30])
    sound(tmp_path / "sound.mp4")
    checked = CheckedVideos(tmp_path, Cut())
    assert [item.name for item in checked.videos] == ["whole.mp4"]
    said = reasons(checked)
    assert len(said) == 10
    assert said["sound.mp4"] == "it holds no video"
    assert said["text.mp4"] == "no video, or damaged at its beginning"
    assert said["short.mp4"] == "too short: 5 frames at 25 per second; a clip has 8"
    assert said["one.mkv"].startswith("too short: 1 frame")
    assert said["picture.mp4"].startswith("too short")


@pytest.mark.parametrize("format", ["MPO", "TIFF"])
def test_libraries_below_are_silent(tmp_path, capfd, format):
    settings = {"compression": "tiff_lzw"} if format == "TIFF" else {}
    animated(tmp_path / "whole", format, 3, **settings)
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    for number in range(20):
        damaged = bytearray(content)
        start = 8 + number * (len(content) - 50) // 20
        damaged[start : start + 30] = bytes(30)
        (tmp_path / f"{number}.{'jpg' if format == 'MPO' else 'tif'}").write_bytes(damaged)
    CheckedVideos(tmp_path, Cut())
    assert capfd.readouterr() == ("", "")


def test_sizes_that_would_fill_memory_are_refused(tmp_path, monkeypatch):
    film(tmp_path / "film.mp4", 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = open_footage(tmp_path)
    assert not found.items
    assert "claims 32 x 32 pixels" in found.skipped[0].reason


@pytest.mark.parametrize("ending", ["mp4", "mkv", "gif", "webp", "png"])
def test_of_a_file_that_is_cut_off_the_whole_frames_are_used(tmp_path, ending):
    if ending in ("mp4", "mkv"):
        whole = film(tmp_path / f"whole.{ending}", 80).read_bytes()
        (tmp_path / f"whole.{ending}").unlink()
    else:
        whole = encode(counted(80), ending, 25)
    for part in (0.5, 0.8, 0.95):
        (tmp_path / f"part{part}.{ending}").write_bytes(whole[: int(part * len(whole))])
    checked = CheckedVideos([str(path) for path in sorted(tmp_path.iterdir())], Cut())
    assert len(checked.videos) + len(checked.skipped) == 3
    for place, item in enumerate(checked.videos):
        count = checked.count(place)
        assert count <= 80
        assert numbers(checked.read(place, count - 8, 1)) == [
            number % 41 for number in range(count - 8, count)
        ], item
    assert checked.videos or ending == "webp"  # of which Pillow takes all or nothing
    assert {item.name for item in checked.videos} <= {name for name, _ in checked.remarks}


CUTS = [
    ("mkv", "libx264", True), ("avi", "mpeg4", False), ("wmv", "wmv2", False), ("wmv", "wmv2", True),
    ("rm", "rv20", False), ("flv", "flv", True), ("ts", "libx264", True), ("ts", "mpeg2video", False),
    ("ogv", "libvpx", False), ("y4m", "wrapped_avframe", False), ("mxf", "mpeg2video", False),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "codec", "has_sound"), CUTS)
def test_what_a_file_lacks_at_its_end_is_named(tmp_path, ending, codec, has_sound):
    path = film(tmp_path / f"a.{ending}", 60, codec=codec, has_sound=has_sound)
    whole = path.read_bytes()
    for source in (path, [{"video": whole}]):
        (item,) = open_footage(source).items
        assert (len(item.times), item.remark) == (60, "")
    for share in (0.4, 0.85):
        path.write_bytes(whole[: int(share * len(whole)) // 188 * 188 + 57])
        checked = CheckedVideos(path, Cut())
        said = [text for _, text in (*checked.skipped, *checked.remarks)]
        assert checked.skipped or "cut off" in " ".join(said) or ending == "mxf", share
        assert said


def test_a_file_that_breaks_in_the_middle_is_cut_elsewhere_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("genkit_video.clips.CACHE_BYTES", 0)
    monkeypatch.setattr("genkit_video.decoding.POOL", 0)
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name, 200, g="20")
    checked = CheckedVideos(tmp_path, Cut())
    clips = Clips(checked, Cut(), 1)
    with (tmp_path / "a.mp4").open("r+b") as file:
        file.truncate(2000)
    batches = Batches(clips, 0)
    assert all(
        batches.take(position, 4).x.shape == (4, 1, 8, 32, 32) for position in range(0, 40, 4)
    )
    assert clips.damaged > 0
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"8 clips in a row of .* could not be read"):
        [Batches(clips, 1).take(position, 4) for position in range(0, 400, 4)]


# Clips -----------------------------------------------------------------------------------------------------------


def test_the_rate_that_most_videos_have_is_taken_and_said(tmp_path):
    for name, rate in (("a", 5), ("b", 10), ("c", 10), ("d", 5)):
        film(tmp_path / f"{name}.mp4", 20, rate=rate)
    clips = Clips(CheckedVideos(tmp_path, Cut()), Cut(), 1)
    assert clips.checked.rate == 10  # of equally many the highest, by which no frame is lost
    (note,) = clips.notes
    assert note.startswith("fps: 10, which 2 of 4 videos have; ")
    assert CheckedVideos(tmp_path, Cut(fps=5)).notes == ()
    assert CheckedVideos(tmp_path / "a.mp4", Cut()).notes == ()


def test_a_list_of_frames_is_no_list_of_clips():
    found = CheckedVideos(list(counted(9, colour=True)), Cut())
    assert not found.videos
    assert set(reasons(found).values()) == {
        "an array of shape (32, 32, 3) is a picture, and no clip: stack frames to [T, H, W, C]"
    }


def test_clips_are_cut_from_anywhere_or_one_after_the_other(tmp_path):
    film(tmp_path / "long.mp4", 41)
    film(tmp_path / "short.mp4", 20)
    ordered = Clips(CheckedVideos(tmp_path, Cut()), Cut(cut="ordered"), 1)
    assert len(ordered) == 5 + 2
    starts = [
        numbers(((ordered[i].x + 1) * 127.5).permute(1, 2, 3, 0).numpy())[0] for i in range(7)
    ]
    assert starts == [0, 8, 16, 24, 32, 0, 8]
    first = Clips(CheckedVideos(tmp_path, Cut()), Cut(cut="start"), 1)
    assert [numbers(((clip.x + 1) * 127.5).permute(1, 2, 3, 0).numpy())[0] for clip in first] == [
        0,
        0,
    ]
    clips = Clips(CheckedVideos(tmp_path, Cut()), Cut(), 1)
    torch.manual_seed(0)
    begun = {numbers(((clips[0].x + 1) * 127.5).permute(1, 2, 3, 0).numpy())[0] for _ in range(200)}
    assert begun == set(range(34))
    with pytest.raises(IndexError):
        clips[7]


@pytest.mark.parametrize("channels", [1, 3])
def test_clips_in_memory_are_those_that_are_decoded(tmp_path, monkeypatch, channels):
    (tmp_path / "a.mp4").write_bytes(encode(counted(60, 40, 48, colour=True), "mp4", 30))
    (tmp_path / "b.webm").write_bytes(encode(counted(50, 40, 32, colour=True), "webm", 25))
    cut, words = Cut(fps=12), np.arange(5, dtype=np.uint64) * 77
    kept = CheckedVideos(tmp_path, cut)
    monkeypatch.setattr("genkit_video.clips.CACHE_BYTES", 0)
    decoded = CheckedVideos(tmp_path, cut)
    assert kept.channels == decoded.channels == 3
    one, other = (
        Clips(checked, cut, channels).random_batch([0, 1, 2, 3, 4], words)
        for checked in (kept, decoded)
    )
    assert one.x.shape == (5, channels, 8, 32, 32)
    assert one.x.min() >= -1
    assert one.x.max() <= 1
    assert torch.equal(one.x, other.x)


def test_batches_are_the_same_wherever_a_run_goes_on(tmp_path):
    film(tmp_path / "a.mp4", 90)
    clips = Clips(CheckedVideos(tmp_path, Cut()), Cut(), 1)
    straight = Batches(clips, 3)
    batches = [straight.take(position, 4).x for position in range(0, 24, 4)]
    assert torch.equal(Batches(clips, 3).take(16, 4).x, batches[4])


def test_nothing_usable_is_an_empty_set_with_reasons(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    clips = Clips(CheckedVideos(tmp_path, Cut()), Cut(), 1)
    assert len(clips) == 0
    assert len(clips.skipped) == 1


def test_a_source_that_is_none_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no videos or frames .*found: 1 \.txt"):
        open_footage(tmp_path)
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_footage(tmp_path / "nowhere")
    with pytest.raises(DataError, match="videos cannot be read from a int"):
        open_footage(7)
    with pytest.raises(ConfigError, match="no such built-in set"):
        open_footage("builtin:mnist")


def test_reading_takes_no_more_memory_for_a_longer_file(tmp_path):
    peaks = []
    for frames in (200, 2000):
        footage = open_footage(film(tmp_path / f"{frames}.mp4", frames, preset="ultrafast")).items[
            0
        ]
        tracemalloc.start()
        for start in range(0, frames - 16, frames // 10):
            footage.read(start, 16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000


# What a container says of its pictures -------------------------------------------------------------------------------


def shaped(path, codec="mpeg4", pix_fmt="yuv420p", size=(64, 32), streams=1, **settings):
    """A film of one bright corner: red above, green on the left."""
    width, height = size
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[: height // 4, :, 0] = pixels[:, : width // 8, 1] = 255
    pixels[..., 3] = 255
    pixels[height // 2 :, width // 2 :, 3] = 0
    with av.open(str(path), "w") as container:
        added = [container.add_stream(codec, rate=10) for _ in range(streams)]
        for stream in added:
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            for name, value in settings.items():
                setattr(stream.codec_context, name, value)
        for stream in added:
            for _ in range(8):
                frame = av.VideoFrame.from_ndarray(pixels, "rgba")
                container.mux(stream.encode(frame.reformat(format=pix_fmt)))
            container.mux(stream.encode(None))
    return path


def corners(footage):
    """Red and green of the four corners, from the top left in lines."""
    frame = footage.read(0, 1)[0]
    return [tuple((frame[y, x, :2] > 128).tolist()) for y in (1, -2) for x in (1, -2)]


BOTH, RED, GREEN, NONE = (True, True), (True, False), (False, True), (False, False)


def turned(path, *matrix):
    """The film with another display matrix."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), [BOTH, RED, GREEN, NONE]),
        ((0, 1, -1, 0), [GREEN, BOTH, NONE, RED]),
        ((-1, 0, 0, -1), [NONE, GREEN, RED, BOTH]),
        ((0, -1, 1, 0), [RED, NONE, BOTH, GREEN]),
        ((-1, 0, 0, 1), [RED, BOTH, NONE, GREEN]),
        ((1, 0, 0, -1), [GREEN, NONE, BOTH, RED]),
        ((0, 1, 1, 0), [BOTH, GREEN, RED, NONE]),
    ],
)
def test_films_are_turned_and_mirrored_as_players_show_them(tmp_path, matrix, expected):
    (footage,) = open_footage(turned(shaped(tmp_path / "a.mp4"), *matrix)).items
    assert corners(footage) == expected
    assert footage.shape == ((64, 32) if matrix[0] == 0 else (32, 64))


def test_pixels_become_square(tmp_path):
    shaped(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(2, 1))
    shaped(tmp_path / "b.mkv", sample_aspect_ratio=Fraction(1, 2))
    shapes = [footage.shape for footage in open_footage(tmp_path).items]
    assert shapes == [(32, 128), (32, 32)]


def test_transparency_of_webm_is_seen(tmp_path):
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("no libvpx")
    (footage,) = open_footage(shaped(tmp_path / "a.webm", "libvpx-vp9", "yuva420p", (64, 64))).items
    frame = footage.read(0, 1)[0]
    assert frame[48, 48].min() > 240  # transparent pixels are laid on white
    assert frame[48, 20].max() < 40


def test_what_of_a_film_is_not_used_is_said(tmp_path):
    shaped(tmp_path / "two.mkv", streams=2)
    shaped(tmp_path / "hdr.mkv", color_trc=16)
    whole = film(tmp_path / "cut.mkv", 200).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.srt").write_text("x")
    checked = CheckedVideos(tmp_path, Cut())
    remarks = dict(checked.remarks)
    assert remarks["two.mkv"] == "only the first of its 2 video streams is read"
    assert remarks["hdr.mkv"] == "its colours are HDR (PQ) and are taken as if they were not"
    assert remarks["notes.srt"].startswith("not read")
    assert Clips(checked, Cut(), 3).remarks == checked.remarks


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_films_in_an_archive_are_those_of_its_folder(tmp_path, ending):
    for name in ("a/1.mp4", "b/2.mkv"):
        film(tmp_path / "set" / name, 40)
    encode_gif = Image.fromarray(counted(12)[0, ..., 0])
    rest = [Image.fromarray(row[..., 0]) for row in counted(12)[1:]]
    encode_gif.save(tmp_path / "set" / "b" / "3.gif", save_all=True, append_images=rest)
    archive = shutil.make_archive(str(tmp_path / "set"), ending, tmp_path / "set")
    batches = []
    for source in (tmp_path / "set", archive):
        checked = CheckedVideos(source, Cut())
        assert not checked.skipped
        assert checked.classes.names == ("a", "b")
        data = Clips(checked, Cut(), 1, ["a", "b"])
        batches.append(Batches(data, 0).take(0, 16))
    assert torch.equal(batches[0].x, batches[1].x)
    assert torch.equal(batches[0].condition, batches[1].condition)

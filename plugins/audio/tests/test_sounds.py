"""Sounds and windows: what is read is what is there; what cannot be used is named, and stops nothing."""

import io
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
import soundfile
import torch

from genkit.engine.data import Batches
from genkit.errors import ConfigError, DataError
from genkit.kit import compat
from genkit_audio import sounds
from genkit_audio.sounds import CheckedSounds, SoundWindows
from genkit_audio.sources import ENDINGS, open_sounds, to_int16

KINDS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


@dataclass
class Cut:
    """What windows need of the options."""

    rate: int | None = None
    samples: int = 1024
    pad: str = "end"
    cut: str = "random"
    labels: str = "folders"
    label: str | None = None
    normalize: str = "none"
    augment: float = 0.0


def tone(count, channels=1, seed=0):
    """Noise under a slow wave: no two windows of it are alike."""
    noise = np.random.default_rng(seed).normal(size=(channels, count)).cumsum(1)
    return (0.8 * noise / np.abs(noise).max()).astype(np.float32)


def put(path, values, rate=16000, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values.T, rate, subtype or KINDS[path.suffix[1:]])
    return path


def reasons(found):
    return dict(found)


WORDS = np.arange(40, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


# Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", KINDS)
def test_a_part_is_a_cut_of_the_whole(tmp_path, ending):
    sound = open_sounds(put(tmp_path / f"a.{ending}", tone(50_001, 2), 22050)).items[0]
    assert (sound.rate, sound.channels, sound.frames) == (22050, 2, 50_001)
    straight = soundfile.read(tmp_path / f"a.{ending}", dtype="float32")[0].mean(1)
    for start in (0, 1, 30_000, 1151, 40_001, 20_000):
        assert np.abs(sound.read(start, 10_000) - straight[start : start + 10_000]).max() <= 1e-6


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(44100, 16000), (16000, 44100), (48000, 44100), (8000, 16000), (11025, 8000)],
)
def test_a_resampled_window_is_a_cut_of_the_resampled_whole(tmp_path, given, wanted):
    compat.torchaudio()
    from torchaudio.functional import resample

    sound = open_sounds(put(tmp_path / "a.wav", tone(30_011), given)).items[0]
    whole = resample(torch.from_numpy(sound.read(0, sound.frames)), given, wanted).numpy()
    assert sound.count(wanted) == len(whole)
    for start in (0, 1, 17, 440, 441, 3000, len(whole) - 700):
        assert np.abs(sound.read(start, 700, wanted) - whole[start : start + 700]).max() < 1e-5


def test_odd_rates_are_resampled_by_a_small_filter(tmp_path):
    sound = open_sounds(put(tmp_path / "a.wav", tone(44101), 44101)).items[0]
    assert abs(sound.count(16000) - 16000) <= 1
    assert len(sound.read(0, 15_000, 16000)) == 15_000


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_sixteen_bits_are_kept(tmp_path, ending):
    every = np.arange(-32768, 32768, dtype=np.int16)
    put(tmp_path / f"a.{ending}", every[None])
    sound = open_sounds(tmp_path).items[0]
    assert (to_int16(sound.read(0, 65536)) == every).all()
    kept = CheckedSounds(tmp_path, Cut()).sounds[0]
    assert (kept.read(0, 65536) == sound.read(0, 65536)).all()


def test_more_than_there_is_cannot_be_read(tmp_path):
    sound = open_sounds(put(tmp_path / "a.wav", tone(1000), 8000)).items[0]
    with pytest.raises(DataError, match="has 2000 values; 1500 to 2500"):
        sound.read(1500, 1000, 16000)


# Sources ---------------------------------------------------------------------------------------------------------


def test_folders_zips_lists_and_files_hold_the_same_sounds(tmp_path):
    for name in ("kick/a.wav", "kick/b.flac", "snare/c.ogg"):
        put(tmp_path / "drums" / name, tone(2000))
    (tmp_path / "drums/kick/.hidden.wav").write_text("x")
    (tmp_path / "drums/notes.txt").write_text("x")
    with zipfile.ZipFile(tmp_path / "drums.zip", "w") as archive:
        for file in (tmp_path / "drums").rglob("*.*"):
            archive.write(file, f"drums/{file.relative_to(tmp_path / 'drums')}")
    for source in (tmp_path / "drums", tmp_path / "drums.zip"):
        found = open_sounds(source)
        assert [item.name for item in found.items] == ["kick/a.wav", "kick/b.flac", "snare/c.ogg"]
        assert [item.label for item in found.items] == ["kick", "kick", "snare"]
        assert len(found.items[0].read(5, 100)) == 100
    paths = [tmp_path / "drums/kick/a.wav", str(tmp_path / "missing.wav")]
    listed = open_sounds(paths)
    assert [item.label for item in listed.items] == [None]
    assert reasons(listed.skipped) == {str(tmp_path / "missing.wav"): "No such file or directory"}
    assert open_sounds(str(paths[0])).items[0].name == "a.wav"


def test_a_zip_of_one_folder_of_classes_is_those_classes(tmp_path):
    put(tmp_path / "kick/a.wav", tone(2000))
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.write(tmp_path / "kick/a.wav", "pack/kick/a.wav")
        archive.write(tmp_path / "kick/a.wav", "pack/snare/a.wav")
    assert [item.label for item in open_sounds(tmp_path / "one.zip").items] == ["kick", "snare"]


def test_labels_are_read_off_file_names(tmp_path):
    for name in ("kick_1.wav", "kick-hard.wav", "snare02.wav", "x/tom.wav"):
        put(tmp_path / name, tone(2000))
    found = open_sounds(tmp_path, "prefix")
    assert {item.name: item.label for item in found.items} == {
        "kick_1.wav": "kick", "kick-hard.wav": "kick", "snare02.wav": "snare", "x/tom.wav": "tom",
    }  # fmt: skip
    assert {item.label for item in open_sounds(tmp_path).items} == {None}
    checked = CheckedSounds(tmp_path, Cut(labels="prefix"))
    assert checked.classes.names == ("kick", "snare", "tom")
    batch = SoundWindows(checked, Cut(), ("kick", "snare", "tom")).random_batch(
        [0, 1, 2, 3], WORDS[:4]
    )
    assert batch.condition.tolist() == [
        checked.classes.names.index(item.label) for item in checked.sounds
    ]
    with pytest.raises(
        DataError, match="holds sounds of snare, tom; the classes of the model are kick"
    ):
        SoundWindows(checked, Cut(), ("kick",))


def test_arrays_are_sounds():
    rows = tone(2000, 3)
    found = open_sounds(rows)
    assert (found.items[1].read(0, 2000) == rows[1]).all()
    assert np.allclose(
        open_sounds(torch.from_numpy(rows)[None]).items[0].read(0, 2000, 8000),
        rows.mean(0),
        atol=1e-6,
    )
    assert (
        open_sounds(to_int16(rows)).items[2].read(0, 2000) == to_int16(rows)[2] / np.float32(32768)
    ).all()
    assert CheckedSounds(rows, Cut()).rate == sounds.RATE
    for wrong in (np.zeros(5), np.zeros((2, 5), np.uint8), np.zeros((2, 0))):
        with pytest.raises(DataError, match="an array of"):
            open_sounds(wrong)


def test_what_is_no_source_says_so(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no sounds .*found: 1 \.txt"):
        open_sounds(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_sounds(tmp_path / "none")
    with pytest.raises(ConfigError, match="Did you mean 'drums'"):
        open_sounds("builtin:drum")
    with pytest.raises(DataError, match="cannot be read from a int"):
        open_sounds(5)


def test_the_drums_are_91_sounds_of_families():
    checked = CheckedSounds("builtin:drums", Cut())
    assert (len(checked.sounds), checked.rate, checked.skipped) == (91, 16000, ())
    assert set(checked.classes.names) >= {"bd", "drum", "elec", "sn", "tabla"}
    prefixed = CheckedSounds("builtin:drums", Cut(labels="prefix"))
    assert prefixed.classes.names == checked.classes.names
    seconds = sum(sound.frames for sound in checked.sounds) / 16000
    assert 43 < seconds < 44


# What cannot be used ---------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named(tmp_path):
    put(tmp_path / "good.wav", tone(4000))
    put(tmp_path / "silent.wav", np.zeros((1, 4000), np.float32))
    put(tmp_path / "nan.wav", np.where(np.arange(4000) == 77, np.nan, tone(4000)), subtype="FLOAT")
    put(tmp_path / "loud.wav", 5 * tone(4000), subtype="FLOAT")
    put(tmp_path / "empty.wav", tone(1)[:, :0])
    for ending in KINDS:
        (tmp_path / f"text.{ending}").write_text("no sound at all\n" * 500)
        (tmp_path / f"nothing.{ending}").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    checked = CheckedSounds(tmp_path, Cut())
    assert [item.name for item in checked.sounds] == ["good.wav", "loud.wav"]
    found = reasons(checked.skipped)
    assert len(found) == 3 + 2 * len(KINDS)
    assert found["silent.wav"].startswith("silence: never louder than 0.0001")
    assert found["nan.wav"] == "values that are not finite"
    assert found["empty.wav"] == "it has no length"
    assert found["text.wav"] == found["nothing.flac"] == "no sound, or damaged at its beginning"
    assert all(found.values())
    assert "% of its values at full scale" in reasons(checked.remarks)["loud.wav"]
    assert float(SoundWindows(checked, Cut()).random_batch([3, 4], WORDS[:2]).x.abs().max()) <= 1


@pytest.mark.parametrize("ending", KINDS)
def test_of_a_damaged_file_what_is_whole_is_used(tmp_path, ending):
    content = put(tmp_path / f"a.{ending}", tone(60_000)).read_bytes()
    whole = open_sounds(tmp_path / f"a.{ending}").items[0].read(0, 60_000)
    for share in (0.0, 0.001, 0.02, 0.3, 0.5, 0.7, 0.99):
        (tmp_path / f"a.{ending}").write_bytes(content[: int(share * len(content))])
        checked = CheckedSounds(tmp_path, Cut())
        assert len(checked.sounds) + len(checked.skipped) == 1
        assert checked.sounds or share < 0.5  # a page of ogg is as long
        for sound in checked.sounds:
            assert sound.frames <= 60_000
            safe = max(0, sound.frames - 4096)
            assert np.abs(sound.read(0, safe) - whole[:safe]).max(initial=0) < 1e-4
            SoundWindows(checked, Cut()).random_batch([0], WORDS[:1])


def test_nothing_but_damage_is_an_empty_data_set(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    data = SoundWindows(CheckedSounds(tmp_path, Cut()), Cut())
    assert len(data) == 0
    assert len(data.skipped) == 1


def test_a_file_that_breaks_later_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(sounds, "CACHE_BYTES", 0)
    for name in "ab":
        put(tmp_path / f"{name}.wav", tone(8000))
    checked = CheckedSounds(tmp_path, Cut())
    data = SoundWindows(checked, Cut())
    (tmp_path / "a.wav").write_bytes(b"gone")
    assert data.random_batch(list(range(len(data))), WORDS[: len(data)]).x.shape == (14, 1, 1024)
    assert data.damaged >= 7
    (tmp_path / "b.wav").unlink()
    with pytest.raises(DataError, match=r"8 windows in a row of .* bring the files back"):
        data.random_batch([0], WORDS[:1])


# Windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [0.0, 1.0])
def test_windows_are_the_same_from_memory_and_from_files(tmp_path, monkeypatch, augment):
    for name, rate, count in (
        ("a.wav", 22050, 9000),
        ("b.flac", 16000, 700),
        ("c.wav", 16000, 5000),
    ):
        put(tmp_path / name, tone(count, 2), rate)
    options = Cut(augment=augment)
    kept = SoundWindows(CheckedSounds(tmp_path, options), options)
    monkeypatch.setattr(sounds, "CACHE_BYTES", 0)
    read = SoundWindows(CheckedSounds(tmp_path, options), options)
    indices = [index % len(kept) for index in range(40)]
    one, other = kept.random_batch(indices, WORDS).x, read.random_batch(indices, WORDS).x
    assert kept.checked.rate == 16000
    assert (one - other).abs().max() < (
        1e-4 if augment == 0 else 0.02
    )  # speed is changed at one go, or after the rate
    assert one.dtype == torch.float32


def test_a_window_is_a_function_of_its_word(tmp_path):
    put(tmp_path / "a.wav", tone(20_000))
    data = SoundWindows(CheckedSounds(tmp_path, Cut()), options := Cut(augment=1.0))
    several = data.random_batch([0] * 40, WORDS).x
    assert (several == data.random_batch([0] * 40, WORDS).x).all()
    assert (several[7] == data.random_batch([0], WORDS[7:8]).x[0]).all()
    assert len(several.unique(dim=0)) > 30
    torch.manual_seed(0)
    first = data[0].x
    torch.manual_seed(0)
    assert (first == data[0].x).all()
    assert first.shape == (1, options.samples)
    assert Batches(data, 0).take(0, 5).x.shape == (5, 1, 1024)


def test_windows_in_order_are_the_sound(tmp_path):
    put(tmp_path / "a.wav", tone(5000))
    checked = CheckedSounds(tmp_path, Cut())
    whole = checked.sounds[0].read(0, 5000)
    data = SoundWindows(checked, Cut(cut="ordered"))
    assert (data.random_batch([0, 1, 2, 3], WORDS[:4]).x.flatten().numpy() == whole[:4096]).all()
    assert len(SoundWindows(checked, Cut(cut="start"))) == 1
    assert len(SoundWindows(checked, Cut(cut="start", samples=6000))) == 1


def test_short_sounds_are_padded_as_it_says(tmp_path):
    put(tmp_path / "a.wav", tone(100) + 0.05)
    checked = CheckedSounds(tmp_path, Cut())
    short = checked.sounds[0].read(0, 100)

    def window(**options):
        return (
            SoundWindows(checked, Cut(samples=250, **options))
            .random_batch([0], WORDS[5:6])
            .x[0, 0]
            .numpy()
        )

    assert (window() == np.concatenate([short, np.zeros(150)])).all()
    assert (window(pad="loop") == np.concatenate([short, short, short[:50]])).all()
    anywhere = window(pad="random")
    start = int(np.flatnonzero(anywhere)[0])
    assert start > 0
    assert (anywhere[start : start + 100] == short).all()


def test_peaks_are_brought_to_full_scale(tmp_path):
    put(tmp_path / "a.wav", 0.1 * tone(1024))
    checked = CheckedSounds(tmp_path, Cut())
    x = SoundWindows(checked, Cut(normalize="peak")).random_batch([0], WORDS[:1]).x
    assert abs(float(x.abs().max()) - 1) < 1e-4


def test_augmentation_changes_speed_level_and_polarity(tmp_path):
    wave = 0.5 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)[None]
    put(tmp_path / "a.wav", wave.astype(np.float32))
    checked, options = CheckedSounds(tmp_path, Cut()), Cut(samples=8192, augment=1.0)
    x = SoundWindows(checked, options).random_batch([0] * 40, WORDS).x[:, 0]
    found = torch.fft.rfft(x * torch.hann_window(8192)).abs().argmax(1) * 16000 / 8192
    assert 445 < found.min() < 470
    assert 530 < found.max() < 560
    level = x[:, 4000:4800].abs().amax(1)
    assert level.min() < 0.4
    assert 0.6 < level.max() < 0.72
    assert (
        len(SoundWindows(checked, replace(options, cut="start")).random_batch([0], WORDS[:1]).x)
        == 1
    )


def test_a_large_entry_of_a_zip_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("genkit.kit.archives.ENTRY_BYTES", 1000)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(4000).T, 16000, "PCM_16", format="WAV")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.wav", buffer.getvalue())
    assert "at most 1,000 are unpacked" in open_sounds(tmp_path / "a.zip").skipped[0].reason


# Compressed sounds, and what is said of them -------------------------------------------------------------------------


def compressed(path, values, codec, rate=16000):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(values[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("ending", "codec"), [("m4a", "aac"), ("aac", "aac"), ("mka", "aac")])
def test_what_libsndfile_does_not_open_is_decoded(tmp_path, ending, codec):
    time = np.arange(32000) / 16000
    wave = 0.5 * np.sin(2 * np.pi * 440 * time)
    compressed(tmp_path / f"a.{ending}", wave, codec)
    checked = CheckedSounds(tmp_path, Cut())
    (sound,) = checked.sounds
    assert (sound.rate, checked.skipped) == (16000, ())
    assert abs(sound.frames - 32000) < 4096
    values = sound.read(8000, 8000)
    assert abs(np.abs(np.fft.rfft(values)).argmax() * 2 - 440) <= 2


def test_the_length_of_an_mp3_is_that_of_its_sound(tmp_path):
    time = np.arange(16000 * 8) / 16000
    quiet = 0.3 * np.sin(2 * np.pi * 300 * time[:64000])
    loud = np.random.default_rng(0).normal(0, 0.2, 64000)
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.r_[quiet, loud], 16000, bitrate_mode="VARIABLE")
    whole = path.read_bytes()
    start = whole.index(b"\xff\xf3")  # MPEG 2: the first frame tells the length
    following = whole.index(b"\xff\xf3", start + 4)
    (tmp_path / "b.mp3").write_bytes(whole[following:])
    lengths = {item.name: item.frames for item in open_sounds(tmp_path).items}
    assert abs(lengths["b.mp3"] - lengths["a.mp3"]) < 3000
    checked = CheckedSounds(tmp_path, Cut())
    assert [sound.frames > 120_000 for sound in checked.sounds] == [True, True]


def test_the_rate_that_most_sounds_have_is_taken_and_said(tmp_path):
    for name, rate in (("a", 8000), ("b", 16000), ("c", 16000), ("d", 8000)):
        put(tmp_path / f"{name}.wav", tone(9000), rate)
    data = SoundWindows(CheckedSounds(tmp_path, Cut()), Cut())
    assert data.checked.rate == 16000  # of equally many the highest, by which nothing is lost
    (note,) = data.notes
    assert note.startswith("rate: 16,000 Hz, which 2 of 4 sounds have; ")
    assert CheckedSounds(tmp_path, Cut(rate=8000)).notes == ()
    assert CheckedSounds(tmp_path / "a.wav", Cut()).notes == ()


def test_channels_may_come_last():
    waves = np.stack([tone(5000)[0], np.zeros(5000, np.float32)])
    for source in ([waves.T], [(waves.T, 8000)], waves.T[None], [torch.from_numpy(waves.T.copy())]):
        (found,) = open_sounds(source).items
        assert (found.channels, found.frames) == (2, 5000)
        assert np.allclose(found.read(0, 5000), waves.mean(0))


def test_channels_that_cancel_are_no_silence(tmp_path):
    wave = tone(20_000)[0]
    put(tmp_path / "a.wav", np.stack([wave, -0.99 * wave]))
    put(tmp_path / "b.wav", np.stack([wave, 0.5 * wave]))
    checked = CheckedSounds(tmp_path, Cut())
    assert dict(checked.remarks) == {
        "a.wav": "its channels cancel each other: only channel 1 is used"
    }
    assert np.abs(checked.sounds[0].read(0, 1000) - wave[:1000]).max() < 1e-3
    data = SoundWindows(checked, Cut())
    assert data.remarks == checked.remarks


# What files and objects hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", ["wav", "aiff", "au", "w64", "rf64", "voc", "svx", "caf", "flac", "ogg"]
)
def test_a_file_that_is_cut_off_is_named(tmp_path, ending):
    path = tmp_path / f"(99999 (should be 9)) Junk after the last page.{ending}"
    soundfile.write(path, tone(60_000)[0], 16000)
    content = path.read_bytes()
    checked = CheckedSounds(path, Cut())
    assert (checked.sounds[0].frames, checked.remarks) == (60_000, ())
    path.write_bytes(content[: len(content) * 7 // 10])
    checked = CheckedSounds(path, Cut())
    assert 20_000 < checked.sounds[0].frames < 45_000
    ((_, text),) = checked.remarks
    assert text.startswith(("cut off", "damaged: "))


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mka", "aac"),
        ("m4a", "aac"),
        ("flv", "aac"),
        ("avi", "ac3"),
        ("rm", "ac3"),
    ],
)
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path, ending, codec):
    path = compressed(tmp_path / f"a.{ending}", tone(160_000)[0], codec, 44100)
    assert CheckedSounds(path, Cut()).remarks == ()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    checked = CheckedSounds(path, Cut())
    assert len(checked.skipped) + len(checked.remarks) == 1
    assert not checked.remarks or checked.remarks[0][1].startswith("damaged: ")


@pytest.mark.parametrize("ending", ["wav", "flac", "au", "caf", "ogg"])
def test_a_second_file_in_a_file_is_named(tmp_path, ending):
    for name, count in (("a", 20_000), ("b", 30_000)):
        soundfile.write(tmp_path / f"{name}.{ending}", tone(count)[0], 16000)
    both = b"".join((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    for source in (tmp_path / f"ab.{ending}", [both]):
        (tmp_path / f"ab.{ending}").write_bytes(both)
        checked = CheckedSounds(source, Cut())
        assert checked.sounds[0].frames >= 20_000
        ((_, text),) = checked.remarks
        assert "follows" in text or "damaged" in text


def test_sound_beyond_the_size_in_a_header_is_named(tmp_path):
    content = bytearray(put(tmp_path / "a.wav", tone(30_000)).read_bytes())
    for size, remark in ((1000, "what follows byte 1,044 is not read"), (2**32 - 1, "")):
        content[40:44] = size.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(content)
        checked = CheckedSounds(tmp_path, Cut())
        assert [text for _, text in checked.remarks] == [remark][: bool(remark)]


def test_objects_of_python_are_the_same_sounds(tmp_path):
    wave = tone(5000)[0]
    content = put(tmp_path / "a.wav", wave[None], 8000, "FLOAT").read_bytes()
    tensor = torch.from_numpy(wave)
    rated = [
        *([content], [{"audio": io.BytesIO(content)}], [{"audio": bytearray(content)}]),
        *(
            [(tensor, 8000)],
            [(tensor[None], 8000, "words")],
            [{"array": wave, "sampling_rate": 8000}],
        ),
        [{"audio": (wave, np.int64(8000))}],
        [{"speech": wave, "sampling_rate": 8000, "label": "a"}],
        [{"waveform": wave, "sr": 8000}],
        [{"wave": tensor, "sample_rate": np.int32(8000)}],
        [{"speech": str(tmp_path / "a.wav"), "sampling_rate": 9}],
    ]
    for source in [
        *rated,
        [wave],
        [tensor],
        [(tensor,)],
        [tensor[None].to_sparse()],
        [wave.astype(float)],
    ]:
        found = open_sounds(source)
        assert not found.skipped
        assert found.items[0].rate == (8000 if any(source is one for one in rated) else None)
        for _ in range(2):
            assert (found.items[0].read(0, 5000) == wave).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_objects_that_are_no_sounds_are_left_out():
    wave = tone(5000)[0]
    faulty = [
        *[{"array": wave, "sampling_rate": rate} for rate in (0, -8000, 10**12, "x")],
        *(
            torch.ones(9, device="meta"),
            torch.quantize_per_tensor(torch.ones(9), 0.1, 0, torch.qint8),
        ),
        *(None, 5, "gone.wav", wave[None, None], wave.astype(complex), ("gone.wav", "a")),
    ]
    found = open_sounds([{"audio": one} for one in [wave, *faulty]])
    assert (len(found.items), len(found.skipped)) == (1, len(faulty))
    assert found.skipped[0].reason == "a rate of 0 Hz: 1 to 10,000,000 can be"
    assert open_sounds([wave, *faulty[4:]]).items[0].frames == 5000
    with pytest.raises(DataError, match="cannot be read: pass one with its values in memory"):
        open_sounds(torch.ones(2, 9, device="meta"))


def test_values_that_are_no_wave_are_left_out(tmp_path):
    put(tmp_path / "good.wav", tone(4000))
    put(tmp_path / "huge.wav", tone(4000) * np.float32(1e30), subtype="FLOAT")
    checked = CheckedSounds(tmp_path, Cut())
    assert reasons(checked.skipped) == {"huge.wav": "values up to 8e+29, where full scale is 1"}
    found = CheckedSounds([tone(4000)[0], tone(4000)[0].astype(float) * 1e300], Cut())
    assert reasons(found.skipped) == {"item 1": "values that are not finite"}


def test_what_libsndfile_opens_is_known_by_its_ending():
    names = {name.lower() for name in soundfile.available_formats()} - {"raw"}
    assert {f".{name}" for name in names} <= ENDINGS


def test_every_format_of_libsndfile_is_read(tmp_path):
    kinds = {"xi": "DPCM_16", "mp3": None, "ogg": None, "flac": "PCM_16"}
    endings = {
        "nist": "sph",
        "ircam": "sf",
        "mat4": "mat",
        "mat5": "mat",
        "mpc2k": "snd",
        "wavex": "wav",
    }
    names = {name.lower() for name in soundfile.available_formats()} - {"raw", "wve"}
    for name in names:
        path = tmp_path / name / f"a.{endings.get(name, name)}"
        path.parent.mkdir()
        subtype = kinds.get(name, "PCM_16")
        soundfile.write(path, tone(9000)[0], 44100, subtype, format=name.upper())
    checked = CheckedSounds(tmp_path, Cut())
    assert (checked.skipped, checked.remarks) == ((), ())
    assert {sound.label for sound in checked.sounds} == names


@pytest.mark.parametrize("ending", ["avi", "ts", "flv"])
def test_the_sound_of_a_film_is_read(tmp_path, ending):
    codec = {"avi": "pcm_s16le"}.get(ending, "aac")
    path = tmp_path / f"a.{ending}"
    compressed(path, 0.5 * np.sin(np.arange(44100) / 9), codec, 44100)
    checked = CheckedSounds(tmp_path, Cut())
    assert not checked.skipped
    assert abs(checked.sounds[0].count(44100) - 44100) < 4096

"""Sources of pictures and what is wrong with them: nothing hostile gets through, nothing good is lost."""

import gzip
import io
import os
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

import genkit
from genkit.engine.data import Batches, open_data
from genkit.errors import ConfigError, DataError
from genkit.kit.files import HeldOut
from genkit.plugin import Remark
from genkit_image import sources
from genkit_image.options import Options
from genkit_image.pictures import augmented, with_channels
from genkit_image.plugin import ImagePlugin

TINY = {"size": 16, "features": 4}
QUICK = {"preset": "compact", "threads": 1, "run": {"plan": "fp32"}}
"""Of a run: no pretrained network is read, and no plan is measured."""
laws = settings(max_examples=40, deadline=None, derandomize=True)


def opened(source, **options):
    return ImagePlugin.open(source, Options(**{**TINY, **options}))


def data_for(source, **options):
    chosen = Options(**{**TINY, **options})
    checked = ImagePlugin.open(source, chosen)
    return ImagePlugin(chosen, ImagePlugin.inspect(checked, chosen)).dataset(checked)


def noise(number, size=(24, 20), mode="RGB"):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], bands), np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


def encoded(picture, format, **keywords):
    buffer = io.BytesIO()
    picture.save(buffer, format, **keywords)
    return buffer.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


ENDINGS = {
    "PNG": "png",
    "JPEG": "jpg",
    "WEBP": "webp",
    "BMP": "bmp",
    "GIF": "gif",
    "TIFF": "tif",
    "PPM": "ppm",
}


def good(folder, count=12):
    names = []
    for number, (format, ending) in zip(range(count), list(ENDINGS.items()) * 4, strict=False):
        names.append(f"good{number:02d}.{ending}")
        put(folder / names[-1], encoded(noise(number), format))
    return names


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows=b"", depth=8, kind=2):
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# What is wrong with pictures -------------------------------------------------------------------------------------

HOPELESS = {
    "empty.png": b"",
    "text.png": b"I am a picture, believe me.",
    "zeros.jpg": bytes(1000),
    "bomb.png": png(40_000, 40_000),
    "half_bomb.png": png(10_000, 10_000),  # where Pillow only warns
    "giant.png": png(2**31 - 1, 2**31 - 1),
    "flat.png": png(0, 10),
    "rows_missing.png": png(64, 64, bytes(50)),
    "bomb.bmp": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "bomb.gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",",
    "bomb.ppm": b"P6 100000 100000 255\n",
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "floats.tif": encoded(Image.fromarray(np.full((20, 20), 1.5, np.float32)), "TIFF"),
}


def test_two_hundred_damaged_pictures_are_named_and_the_good_ones_used(tmp_path, capfd):
    names, bad, odd = good(tmp_path), list(HOPELESS), []
    for name, content in HOPELESS.items():
        put(tmp_path / name, content)
    for format, ending in ENDINGS.items():
        whole = encoded(noise(99, (40, 40)), format)
        for part in range(12):  # at every kind of place, the header included
            length = len(whole) * part // 12 if part > 5 else 1 + 9 * part
            bad.append(f"cut{part}.{ending}")
            put(tmp_path / bad[-1], whole[:length])
        for seed in range(16):  # noise in the header, where sizes, offsets and counts stand
            draw, changed = random.Random(f"{format}{seed}"), bytearray(whole)
            for _ in range(1 + seed % 5):
                changed[draw.randrange(min(len(changed), 80 if seed % 2 else len(changed)))] = (
                    draw.randrange(256)
                )
            odd.append(f"odd{seed}.{ending}")
            put(tmp_path / odd[-1], bytes(changed))
    assert len(bad) + len(odd) >= 200
    capfd.readouterr()
    checked = opened(str(tmp_path))
    assert capfd.readouterr() == ("", "")  # nor do the libraries below speak
    skipped = {one.name for one in checked.skipped}
    assert set(bad) <= skipped <= {*bad, *odd}
    assert len(checked.usable) + len(skipped) == len(names) + len(bad) + len(odd)
    assert all(one.reason and len(one.reason) < 200 for one in checked.skipped)
    kept = [checked.source.items[index] for index in checked.usable]
    clean = put(tmp_path / "clean" / names[0], (tmp_path / names[0]).read_bytes()).parent
    for name in names[1:]:
        put(clean / name, (tmp_path / name).read_bytes())
    mine = checked.pixels([kept.index(name) for name in names], 3)
    assert np.array_equal(mine, opened(str(clean)).pixels(range(len(names)), 3))


def test_what_the_file_system_does_not_give_is_named(tmp_path, monkeypatch):
    names = good(tmp_path / "set", 3)
    (tmp_path / "set" / "folder.png").mkdir()
    (tmp_path / "set" / "lost.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    put(tmp_path / "set" / "secret.png", b"x").chmod(0)
    checked = opened(str(tmp_path / "set"))
    reasons = dict(checked.skipped)
    assert set(reasons) == {"lost.png", "pipe.png", "secret.png"}
    assert "No such file" in reasons["lost.png"]
    assert "ordinary" in reasons["pipe.png"]
    assert len(checked.usable) == len(names)

    def refuse(path, onerror, followlinks):
        onerror(PermissionError(13, "Permission denied", os.path.join(path, "locked")))
        yield str(path), [], names

    monkeypatch.setattr("genkit.kit.files.os.walk", refuse)
    assert opened(str(tmp_path / "set")).skipped == (("locked", "the folder: Permission denied"),)


MODES = {
    "1": Image.new("1", (20, 20), 1),
    "16-bit grey": Image.fromarray(np.full((20, 20), 51 * 257, np.uint16)),
    "grey with alpha": Image.new("LA", (20, 20), (51, 255)),
    "CMYK": Image.new("CMYK", (20, 20), (0, 255, 255, 0)),
    "palette": Image.new("RGB", (20, 20), (255, 0, 0)).convert("P"),
    "alpha": Image.new("RGBA", (20, 20), (255, 0, 0, 0)),
    "CMYK in a TIFF": Image.new("CMYK", (20, 20), (255, 0, 255, 0)),
    "grey as colour": Image.new("RGB", (20, 20), (51, 51, 51)),
}
SEEN = {
    "1": (255, 255, 255),
    "16-bit grey": (51, 51, 51),
    "grey with alpha": (51, 51, 51),
    "CMYK": (255, 0, 0),
    "palette": (255, 0, 0),
    "alpha": (255, 255, 255),
    "CMYK in a TIFF": (0, 255, 0),
    "grey as colour": (51, 51, 51),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_seen_as_it_looks(tmp_path, mode):
    format = {"CMYK": "JPEG", "CMYK in a TIFF": "TIFF"}.get(mode, "PNG")
    put(tmp_path / f"a.{ENDINGS[format]}", encoded(MODES[mode], format))
    pixels = opened(str(tmp_path), channels=3).pixels([0], 3)[0]
    assert np.abs(pixels.mean((1, 2)) - SEEN[mode]).max() < 3


def test_a_palette_with_transparency_and_the_first_frame_of_a_film(tmp_path):
    clear = Image.new("P", (20, 20), 0)
    clear.putpalette([255, 0, 0, 0, 0, 255])
    clear.paste(1, (0, 0, 20, 10))
    put(tmp_path / "a.png", encoded(clear, "PNG", transparency=b"\x00\xff"))
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((0, 0, 255), (255, 0, 0))]
    put(tmp_path / "b.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    checked = opened(str(tmp_path))
    assert checked.skipped == ()
    assert checked.channels == 3
    above, below = checked.pixels([0], 3)[0, :, 2, 2], checked.pixels([0], 3)[0, :, 14, 2]
    assert (above.tolist(), below.tolist()) == ([0, 0, 255], [255, 255, 255])
    assert checked.pixels([1], 3)[0, :, 5, 5].tolist() == [0, 0, 255]


# Channels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["L", "L"], 1),
        (["L", "RGB"], 3),
        (["RGBA", "RGBA"], 4),
        (["RGBA", "RGB"], 3),
        (["RGBA", "L"], 3),
    ],
)
@pytest.mark.parametrize("cache", [2**20, 0])
def test_channels_are_found_from_what_is_seen_and_can_be_forced(
    tmp_path, monkeypatch, modes, channels, cache
):
    monkeypatch.setattr("genkit_image.pictures.CACHE_BYTES", cache)
    for number, mode in enumerate(modes):
        put(tmp_path / f"{number}.png", encoded(noise(number, mode=mode), "PNG"))
    assert opened(str(tmp_path)).channels == channels
    native = opened(str(tmp_path), channels=4).pixels([0, 1], 4)
    for forced in (1, 3, 4):
        item = data_for(str(tmp_path), channels=forced)
        assert item[1].x.shape == (forced, 16, 16)
        found = opened(str(tmp_path), channels=forced).pixels([0, 1], forced)
        assert np.array_equal(found, with_channels(native, forced))


def test_opaque_pictures_with_an_alpha_band_have_no_fourth_channel(tmp_path):
    for number in range(2):
        put(tmp_path / f"{number}.png", encoded(noise(number).convert("RGBA"), "PNG"))
    assert opened(str(tmp_path)).channels == 3


def test_luma_is_pillows():
    picture = noise(3)
    mine = with_channels(np.asarray(picture).transpose(2, 0, 1)[None], 1)[0, 0]
    assert np.array_equal(mine, np.asarray(picture.convert("L")))


def test_a_mixed_set_is_the_same_in_memory_and_on_demand(tmp_path, monkeypatch):
    for number in range(150):
        put(
            tmp_path / f"{number:03d}.png",
            encoded(noise(number, mode=("L", "RGB", "RGBA")[number % 3]), "PNG"),
        )
    whole = opened(str(tmp_path))
    for cache in (0, 2 * 150 * 256):  # too small from the start; too small once colour comes
        monkeypatch.setattr("genkit_image.pictures.CACHE_BYTES", cache)
        again = opened(str(tmp_path))
        assert again.channels == whole.channels
        assert np.array_equal(again.pixels(range(150), 3), whole.pixels(range(150), 3))


def test_a_model_of_transparent_pictures_writes_transparent_pictures(tmp_path):
    for number in range(4):
        put(tmp_path / "set" / f"{number}.png", encoded(noise(number, mode="RGBA"), "PNG"))
    recipe = {"batch_size": 4}
    model = genkit.train(
        "image",
        str(tmp_path / "set"),
        out=tmp_path / "run",
        items=8,
        options=TINY,
        recipe=recipe,
        **QUICK,
    )
    files = [
        model.generate(2).save(tmp_path / "out")[0],
        *(tmp_path / "run" / "samples").glob("*8.png"),
    ]
    for file in files:
        with Image.open(file) as picture:
            assert picture.mode == "RGBA"


# Sources ---------------------------------------------------------------------------------------------------------


def zipped(path, folder, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "photos/", "/a/b/"])
def test_a_zip_file_is_its_folder(tmp_path, prefix):
    for name in ("red", "blue"):
        good(tmp_path / "set" / name, 5)
    put(tmp_path / "set" / "red" / "bad.png", HOPELESS["rows_missing.png"])
    put(tmp_path / "set" / "__MACOSX" / "x.png", b"")
    folder, packed = (
        opened(str(tmp_path / "set")),
        opened(str(zipped(tmp_path / "set.zip", tmp_path / "set", prefix))),
    )
    if prefix:
        packed = opened(str(zipped(tmp_path / "clean.zip", tmp_path / "set", prefix)))
    assert packed.skipped == folder.skipped
    assert packed.classes.names == folder.classes.names == ("blue", "red")
    assert np.array_equal(packed.classes.numbers, folder.classes.numbers)
    assert np.array_equal(packed.pixels(range(10), 3), folder.pixels(range(10), 3))


def test_hostile_entries_of_zip_files_are_skipped(tmp_path, monkeypatch):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fine.png", encoded(noise(0), "PNG"))
        archive.writestr("large.png", bytes(5000))
        archive.writestr("liar.png", bytes(3_000_000))
        archive.writestr("locked.png", encoded(noise(1), "PNG"))
        archive.writestr("../../outside.png", encoded(noise(1), "PNG"))
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"locked.png") - 46 + 8] |= 1  # the flag of encryption
    raw[raw.rindex(b"liar.png") - 46 + 24 : raw.rindex(b"liar.png") - 46 + 28] = struct.pack(
        "<I", 100
    )
    path.write_bytes(raw)
    monkeypatch.setattr("genkit.kit.archives.ENTRY_BYTES", 4000)
    checked = opened(str(path))
    reasons = dict(checked.skipped)
    assert set(reasons) == {"large.png", "liar.png", "locked.png"}
    assert "encrypted" in reasons["locked.png"]
    assert "claims to hold 5,000 bytes" in reasons["large.png"]
    assert not (tmp_path.parent.parent / "outside.png").exists()


def test_a_damaged_zip_file_is_one_error_or_skips(tmp_path):
    good(tmp_path / "set", 7)
    whole, said = zipped(tmp_path / "set.zip", tmp_path / "set").read_bytes(), []
    for seed in range(60):
        draw, changed = random.Random(seed), bytearray(whole)
        start = 0 if seed % 2 else len(whole) - 600  # the directory of entries is at the end
        for _ in range(10):
            changed[draw.randrange(start, len(whole))] = draw.randrange(256)
        put(tmp_path / "odd.zip", bytes(changed[: len(whole) - (seed % 3) * 40]))
        try:
            opened(str(tmp_path / "odd.zip"))
        except DataError as error:
            said.append(str(error))
    assert said
    assert all("odd.zip" in one for one in said)


def write_idx(path, array):
    header = (
        b"\0\0\x08" + bytes([array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    )
    put(path, header + array.tobytes())


@pytest.fixture
def fashion(tmp_path):
    """Fashion-MNIST as torchvision keeps it, five pictures long."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        raw = tmp_path / "data" / "FashionMNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", pictures if part == "train" else pictures[:2])
        write_idx(
            raw / f"{part}-labels-idx1-ubyte",
            np.array([0, 1, 2, 0, 9], np.uint8)[: 5 if part == "train" else 2],
        )
    return tmp_path / "data", pictures


def test_torchvision_sets_are_read_where_they_lie(fashion):
    root, pictures = fashion
    checked = opened(f"torchvision:FashionMNIST:{root}", size=28)
    assert np.array_equal(checked.pixels(range(5), 1)[:, 0], pictures)
    assert checked.classes.names == ("T-shirt/top", "Trouser", "Pullover", "Ankle boot")
    assert checked.classes.numbers.tolist() == [0, 1, 2, 0, 3]


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("FashionMNIST:nowhere", DataError, r'datasets.FashionMNIST\("nowhere", download=True\)'),
        ("CIFAR10", DataError, r'datasets.CIFAR10\("data", download=True\)'),
        ("FashionMnist", ConfigError, "Did you mean 'FashionMNIST'"),
        ("os", ConfigError, "no such data set"),
        ("DatasetFolder:x", DataError, "make the data set in Python"),
    ],
)
def test_torchvision_sets_that_are_not_there_are_one_sentence(
    tmp_path, monkeypatch, name, error, said
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        opened(f"torchvision:{name}")


GREY = np.random.default_rng(0).integers(0, 256, (6, 16, 16), np.uint8)
FOUR = np.random.default_rng(1).integers(0, 255, (6, 16, 16, 4), np.uint8)


def objects():
    """name -> (source, the same pictures as [N, C, H, W])"""
    for channels in (1, 3, 4):
        last = FOUR[..., :channels]
        first = np.ascontiguousarray(last.transpose(0, 3, 1, 2))
        yield f"array of {channels}, last", last, first
        yield f"array of {channels}, first", first, first
        yield f"tensor of {channels}, last", torch.from_numpy(last.copy()), first
        yield f"tensor of {channels}, first", torch.from_numpy(first), first
        yield f"items of {channels}: arrays", list(last), first
        yield f"items of {channels}: tensors", list(torch.from_numpy(first)), first
        yield (
            f"items of {channels}: floats",
            [row.float() / 255 for row in torch.from_numpy(first)],
            first,
        )
        pillows = [Image.fromarray(row[..., 0] if channels == 1 else row) for row in last]
        yield f"items of {channels}: Pillow's, with labels", [(row, 7) for row in pillows], first
    files = [encoded(Image.fromarray(row), "PNG") for row in GREY]
    yield "files in bytes", files, GREY[:, None]
    yield "files in buffers", [{"image": io.BytesIO(file)} for file in files], GREY[:, None]
    yield "files in byte arrays", [{"image": bytearray(file)} for file in files], GREY[:, None]
    yield "array without channels", GREY, GREY[:, None]
    yield "array of floats", GREY / 255, GREY[:, None]
    yield "tensor of floats", torch.from_numpy(GREY) / 255, GREY[:, None]
    yield "sparse tensor", torch.from_numpy(GREY).to_sparse(), GREY[:, None]
    yield "tensor without channels", torch.from_numpy(GREY), GREY[:, None]


@pytest.mark.parametrize(
    ("source", "expected"), [rest for _, *rest in objects()], ids=[name for name, *_ in objects()]
)
def test_objects_of_python_are_the_same_pictures(source, expected):
    checked = opened(source)
    assert checked.skipped == ()
    assert checked.channels == expected.shape[1]
    assert np.array_equal(checked.pixels(range(6), checked.channels), expected)


def test_floats_are_said_to_be_scaled():
    assert [tuple(one) for one in opened(GREY / 255).remarks] == [
        ("the array", "floats in [0, 1], taken for 0 to 255")
    ]
    assert opened(torch.rand(2, 3, 16, 16).bfloat16()).channels == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["meta", "quantised"])
def test_tensors_whose_values_cannot_be_read_are_one_sentence(kind):
    tensor = torch.empty(4, 3, 16, 16, device="meta" if kind == "meta" else "cpu")
    if kind == "quantised":
        tensor = torch.quantize_per_tensor(tensor.zero_(), 0.1, 0, torch.quint8)
    with pytest.raises(DataError, match="cannot be read: pass one with its values in memory"):
        opened(tensor)
    assert "cannot be read" in opened([noise(0), tensor[0]]).skipped[0].reason


def test_where_both_ends_could_be_channels_tensors_have_them_first_and_arrays_last():
    both = np.zeros((2, 3, 16, 4), np.uint8)
    assert opened(both).source.read(0)[0].shape == (3, 16, 4)
    assert opened(torch.from_numpy(both)).source.read(0)[0].shape == (16, 4, 3)


class Labelled:
    """A map-style data set with named classes and one picture that fails."""

    classes = ("cat", "dog", "owl")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 1:
            raise KeyError("the archive is broken here")
        return noise(index), [0, 0, 2, 2, 0, 2][index]


def test_labels_stay_with_their_pictures_and_classes_without_any_are_left_out():
    data = data_for(Labelled(), conditional=True)
    assert [one.name for one in data.skipped] == ["item 1"]
    assert data.pictures.classes.names == ("cat", "owl")
    assert [data[index].condition.item() for index in range(5)] == [0, 1, 1, 0, 1]
    expected = data_for([noise(index) for index in (0, 2, 3, 4, 5)])
    assert torch.equal(data.__getitems__(range(5)).x, expected.__getitems__(range(5)).x)


@pytest.mark.parametrize(
    "item",
    [
        None,
        "x",
        {"picture": 1},
        np.zeros((3, 16, 16, 1)),
        np.zeros((16, 16)) - 1,
        np.full((16, 16), np.nan),
    ],
)
def test_items_that_are_no_pictures_are_skipped(item):
    checked = opened([noise(0), item])
    assert [one.name for one in checked.skipped] == ["item 1"]


# From the source to the run --------------------------------------------------------------------------------------


def test_every_picture_is_decoded_once(tmp_path, monkeypatch):
    good(tmp_path / "set", 9)
    calls = []
    original = sources.decode
    monkeypatch.setattr(sources, "decode", lambda file: calls.append(1) or original(file))
    config = genkit.config.build("image", data=str(tmp_path / "set"), settings=[{"options": TINY}])
    _, dataset, _ = open_data(config)
    Batches(dataset, 0).take(0, 30)
    assert len(calls) == 9


def test_a_run_goes_on_without_what_cannot_be_used_and_says_so(tmp_path):
    good(tmp_path / "set", 6)
    for name in list(HOPELESS)[:4]:
        put(tmp_path / "set" / name, HOPELESS[name])
    put(tmp_path / "set" / "bell\x07.png", b"")
    notes = []
    arguments = {"options": TINY, "recipe": {"batch_size": 4}, "threads": 1}
    arguments |= {"progress": lambda progress: notes.append(progress.note)}
    start = {"data": str(tmp_path / "set"), "items": 8, **arguments, **QUICK}
    genkit.train("image", out=tmp_path / "run", **start)
    start = f"5 of 11 items of {tmp_path / 'set'} cannot be used and are left out: bell?.png ("
    (note,) = {note for note in notes if note and note.startswith(start)}
    assert note.endswith("; and 2 more")
    with pytest.raises(DataError, match=r"5 of 11 items.*cannot be used: bell.*without them"):
        genkit.train(
            "image", out=tmp_path / "run", items=12, resume=True, run={"strict": True}, **arguments
        )
    genkit.train(
        "image", out=tmp_path / "run", items=12, resume=True, run={"strict": False}, **arguments
    )


def test_a_source_with_nothing_usable_is_the_users_mistake(tmp_path):
    for name in list(HOPELESS)[:2]:
        put(tmp_path / name, HOPELESS[name])
    with pytest.raises(DataError, match=r"none of the 2 items of .* can be used: empty.png"):
        genkit.train(
            "image",
            str(tmp_path),
            out=tmp_path / "run",
            items=8,
            options={**TINY, "conditional": True},
        )
    report = genkit.check_data("image", str(tmp_path))
    assert (report.items, report.shape, len(report.skipped)) == (0, None, 2)


def test_a_picture_that_is_gone_later_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("genkit_image.pictures.CACHE_BYTES", 0)
    names = good(tmp_path, 3)
    data = data_for(str(tmp_path))
    (tmp_path / names[1]).unlink()
    with pytest.raises(DataError, match=f"{names[1]}.*no longer can"):
        data[1]


def test_a_model_gives_its_own_numbers_to_the_classes_of_other_data(tmp_path):
    for name in ("a", "b", "c"):
        good(tmp_path / "all" / name, 2)
    (
        good(tmp_path / "some" / "c", 1),
        good(tmp_path / "some" / "b", 1),
        good(tmp_path / "other" / "z", 1),
    )
    good(tmp_path / "other" / "a", 1)
    options = Options(**TINY, conditional=True)
    plugin = ImagePlugin(options, ImagePlugin.inspect(str(tmp_path / "all"), options))
    some = plugin.dataset(str(tmp_path / "some"))
    assert [some[index].condition.item() for index in range(2)] == [1, 2]
    with pytest.raises(DataError, match="pictures of z; the classes of the model are a, b, c"):
        plugin.dataset(str(tmp_path / "other"))


# Augmentation ----------------------------------------------------------------------------------------------------


@laws
@given(st.integers(0, 2**64 - 1), st.integers(0, 5), st.booleans())
def test_augmentation_is_a_mirror_and_a_move_of_the_reflected_picture(word, crop, flip):
    pixels = np.arange(2 * 3 * 8 * 10, dtype=np.uint8).reshape(2, 3, 8, 10)
    words = np.array([word, word ^ 1], np.uint64)
    mine = augmented(pixels.copy(), words, flip, crop)
    assert mine.dtype == np.uint8
    for row in range(2):
        wide = np.pad(pixels[row], ((0, 0), (crop, crop), (crop, crop)), "reflect")
        views = [
            wide[:, y : y + 8, x : x + 10] for y in range(2 * crop + 1) for x in range(2 * crop + 1)
        ]
        if flip and (word ^ row) & 1:
            views = [view[:, :, ::-1] for view in views]
        assert any(np.array_equal(mine[row], view) for view in views)


def test_moves_and_mirrors_are_equally_likely():
    words = np.random.Philox(key=1).random_raw(18_000)
    for flip, crop, column, places in ((False, 1, 3, 9), (True, 1, 3, 9), (True, 0, 1, 2)):
        pixels = np.zeros((18_000, 1, 7, 7), np.uint8)
        pixels[:, 0, 3, column] = 1
        counts = np.bincount(augmented(pixels, words, flip, crop).reshape(18_000, 49).argmax(1))
        found = counts[counts > 0]
        assert len(found) == places
        assert (
            (found - 18_000 / places) ** 2 / (18_000 / places)
        ).sum() < 26.1  # chi-square, one in a thousand


def test_randomness_is_a_matter_of_the_place_alone_and_touches_no_generator(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    data = data_for(arrays, flip=True, crop=3)
    before = torch.get_rng_state()
    whole = Batches(data, 5).take(0, 40).x
    for start, count in ((0, 1), (3, 9), (39, 1)):
        assert torch.equal(Batches(data, 5).take(start, count).x, whole[start : start + count])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(whole, Batches(data_for(arrays), 5).take(0, 40).x)
    assert torch.equal(data[2].x, data_for(arrays)[2].x)


def test_an_augmented_run_resumes_bit_for_bit(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    arguments = {
        "options": {**TINY, "flip": True, "crop": 2},
        "recipe": {
            "batch_size": 4,
            "generator": {"learning_rate": 1e-3},
            "critic": {"learning_rate": 1e-3},
        },
        **QUICK,
    }
    whole = genkit.train("image", arrays, out=tmp_path / "a", items=40, **arguments)
    genkit.train("image", arrays, out=tmp_path / "b", items=16, **arguments)
    parts = genkit.train("image", arrays, out=tmp_path / "b", items=40, resume=True)
    assert torch.equal(parts.generate(6).x, whole.generate(6).x)


def test_a_crop_cannot_be_larger_than_the_smallest_picture():
    with pytest.raises(ValidationError):
        Options(crop=16)


def test_a_gzipped_picture_is_no_idx_file(tmp_path):
    with pytest.raises(DataError, match="no IDX file"):
        opened(str(put(tmp_path / "a.gz", gzip.compress(b"hello"))))


# What a picture is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "ending"),
    [
        *(("JPEG", "jfif"), ("JPEG", "jpe"), ("AVIF", "avif"), ("JPEG2000", "jp2"), ("TGA", "tga")),
        *(("ICO", "ico"), ("PCX", "pcx"), ("DDS", "dds"), ("SGI", "sgi"), ("DIB", "dib")),
    ],
)
def test_every_ending_of_a_format_is_read(tmp_path, format, ending):
    put(tmp_path / "a.png", encoded(noise(1, (32, 32)), "PNG"))
    put(tmp_path / f"b.{ending}", encoded(noise(2, (32, 32)), format))
    checked = opened(str(tmp_path))
    assert (len(checked.usable), checked.skipped, checked.remarks) == (2, (), ())


def deep(top, size=(16, 16), seed=0):
    return np.random.default_rng(seed).integers(0, top + 1, size).astype(np.int64)


@pytest.mark.parametrize(("top", "white"), [(255, 255), (1000, 1023), (4000, 4095), (60000, 65535)])
@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_deep_pictures_have_the_range_of_the_whole_set(tmp_path, top, white, mode):
    kind = np.uint16 if mode == "I;16" else np.int32
    rows = [deep(top), deep(top // 20, seed=1)]  # the second one is dark, and stays dark
    rows[0][0, 0] = top
    for number, row in enumerate(rows):
        put(tmp_path / f"{number}.tif", encoded(Image.fromarray(row.astype(kind)), "TIFF"))
    checked = opened(str(tmp_path))
    expected = np.stack(rows) * 255 // white
    assert np.abs(checked.pixels([0, 1], 1)[:, 0].astype(int) - expected).max() <= 1
    said = [] if white == 65535 else [f"values up to {top:,}, so that {white:,} is taken for white"]
    assert [text for _, text in checked.remarks] == said


def test_what_of_a_file_is_not_used_is_said(tmp_path):
    frames = [noise(number, (16, 16)) for number in range(3)]
    content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    put(tmp_path / "pages.tif", content)
    put(tmp_path / "notes.txt", b"x")
    checked = opened(str(tmp_path))
    assert dict(checked.remarks) == {
        "notes.txt": "not read: files .txt are not taken as pictures",
        "pages.tif": "only the first of its 3 pictures is read",
    }
    data = data_for(str(tmp_path))
    assert data.remarks == checked.remarks


def test_colours_of_another_profile_become_srgb(tmp_path):
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    plain = Image.new("RGB", (16, 16), (200, 60, 30))
    profile = ImageCms.ImageCmsProfile(srgb).tobytes()
    put(tmp_path / "a.png", encoded(plain, "PNG", icc_profile=profile))
    put(tmp_path / "b.png", encoded(plain, "PNG", icc_profile=b"damaged"))
    put(
        tmp_path / "c.png",
        encoded(plain, "PNG", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes()),
    )
    pixels = opened(str(tmp_path)).pixels([0, 1, 2], 3)
    assert (pixels == np.array([200, 60, 30])[:, None, None]).all()


def profiles():
    """(a colour profile whose red is sRGB's green, one of grey values that are darker than sRGB's)."""
    from PIL import ImageCms

    raw = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raw = raw.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    swapped = raw.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    grey = raw.replace(b"RGB XYZ ", b"GRAYXYZ ").replace(b"rTRC", b"kTRC")
    gammas = (round(gamma * 65536).to_bytes(4, "big") for gamma in (2.4, 5))
    return swapped, grey.replace(*gammas)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA"])
def test_a_colour_profile_holds_in_every_mode(tmp_path, format, mode):
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 128))
    if mode in ("RGB", "P"):
        picture = picture.convert("RGB")
    if mode in ("P", "PA"):
        picture = picture.quantize(2)
    lossless = {"lossless": True} if format == "WEBP" else {}
    put(tmp_path / "a", encoded(picture, format, icc_profile=profiles()[0], **lossless))
    (checked,) = opened([(tmp_path / "a").read_bytes()]).pixels([0], 4)
    red, green, blue, alpha = checked[:, 0, 0].tolist()
    assert green > 230 > 30 > red
    assert blue < 60
    assert alpha == (128 if mode in ("RGBA", "PA") and (format, mode) != ("TIFF", "PA") else 255)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_profile_of_grey_values_holds(tmp_path, mode):
    put(
        tmp_path / "a.png",
        encoded(Image.new(mode, (16, 16), 200), "PNG", icc_profile=profiles()[1]),
    )
    checked = opened(str(tmp_path))
    grey = checked.pixels([0], 4)[0, :3, 0, 0].tolist()
    assert len(set(grey)) == 1
    assert 20 < grey[0] < 180
    assert checked.channels == (4 if mode == "LA" else 1)


@pytest.mark.parametrize(
    ("format", "kind"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.float32)]
)
def test_a_profile_holds_for_more_than_eight_bits(tmp_path, format, kind):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    deep = levels.astype(np.uint16) * 257 if kind is np.uint16 else levels / np.float32(255)
    for number, profile in enumerate((profiles()[1], b"damaged")):
        for name, picture in (("deep", Image.fromarray(deep)), ("plain", Image.fromarray(levels))):
            put(tmp_path / f"{number}{name}", encoded(picture, format, icc_profile=profile))
    paths = sorted(tmp_path.iterdir())
    deep, plain, untouched, _ = opened(paths, size=16).pixels(range(4), 1)[:, 0].astype(int)
    assert np.abs(deep - plain).max() <= 1
    assert np.abs(deep - levels).max() > 40
    assert np.array_equal(untouched, levels)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_the_gamma_of_a_png_file_holds_where_no_profile_does(tmp_path, mode):
    picture = Image.new("RGBA", (16, 16), (100, 100, 100, 200))
    if mode == "I;16":
        whole = encoded(Image.fromarray(np.full((16, 16), 100 * 257, np.uint16)), "PNG")
    else:
        whole = encoded(picture.convert(mode), "PNG")
    end = whole.index(b"IHDR") + 4 + 13 + 4
    for name, added in (
        ("a", chunk(b"gAMA", struct.pack(">I", 100_000))),
        ("b", chunk(b"gAMA", struct.pack(">I", 45_455))),
        ("c", chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sRGB", b"\0")),
    ):
        put(tmp_path / f"{name}.png", whole[:end] + added + whole[end:])
    paths = sorted(tmp_path.iterdir())
    pixels = opened(paths, size=16).pixels(range(3), 4)[:, :, 0, 0].tolist()
    alpha = 200 if mode in ("RGBA", "P") else 255
    linear = round(255 * (100 / 255) ** (1 / 2.2)) - (mode == "I;16")  # of deep values, the floor
    assert pixels == [[grey, grey, grey, alpha] for grey in (linear, 100, 100)]


def test_a_profile_for_other_pictures_is_passed_over(tmp_path):
    colour = Image.new("RGB", (16, 16), (200, 60, 30))
    put(tmp_path / "a.png", encoded(colour, "PNG", icc_profile=profiles()[1]))
    put(tmp_path / "b.tif", encoded(colour.convert("CMYK"), "TIFF", icc_profile=profiles()[0]))
    pixels = opened(str(tmp_path)).pixels([0, 1], 3)
    assert np.abs(pixels - np.array([200, 60, 30])[:, None, None]).max() <= 1


def test_the_second_picture_of_a_camera_is_named(tmp_path):
    content = encoded(noise(1, (16, 16)), "MPO", save_all=True, append_images=[noise(2, (16, 16))])
    put(tmp_path / "a.jpg", content)
    put(tmp_path / "b.png", encoded(noise(3), "PNG"))
    assert dict(opened(str(tmp_path)).remarks) == {
        "a.jpg": "only the first of its 2 pictures is read"
    }


def test_what_lies_beside_an_idx_file_is_named(tmp_path):
    for name in ("train", "t10k"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", GREY)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    for number in range(3):
        put(tmp_path / "more" / f"{number}.png", encoded(noise(number), "PNG"))
    checked = opened(str(tmp_path))
    assert len(checked.usable) == 6
    rest, test = checked.remarks
    assert rest[0] == "3 files (more/0.png ...)"
    assert rest[1].startswith("not read: ")
    assert rest[1].endswith("train-images-idx3-ubyte")
    assert test == ("2 files (t10k-images-idx3-ubyte ...)", "held out: not trained on")
    assert [type(one) for one in checked.remarks] == [Remark, HeldOut]


@pytest.mark.parametrize("above", ["FashionMNIST/raw", "FashionMNIST", ""])
@pytest.mark.parametrize("test", ["t10k", "x-test"])
def test_the_usual_folder_of_idx_files_is_used_whole(tmp_path, above, test):
    training = "train" if test == "t10k" else "x-train"
    for name in (training, test):
        for kind, array in (("images-idx3", GREY), ("labels-idx1", np.arange(6, dtype=np.uint8))):
            path = tmp_path / "FashionMNIST" / "raw" / f"{name}-{kind}-ubyte"
            write_idx(path, array if name == training else 255 - array)
            put(path.with_name(f"{path.name}.gz"), gzip.compress(path.read_bytes(), mtime=0))
    checked = opened(str(tmp_path / above), size=16)
    assert np.array_equal(checked.pixels(range(6), 1)[:, 0], GREY)
    assert checked.classes.numbers.tolist() == list(range(6))
    (held_out,) = checked.remarks
    assert held_out[0].startswith("4 ")
    assert isinstance(held_out, HeldOut)


def test_a_pipe_named_like_an_idx_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match="no ordinary file"):
        opened(str(tmp_path))


def test_libraries_below_are_silent(tmp_path, capfd):
    content = bytearray(encoded(noise(1, (64, 64)), "TIFF", compression="tiff_lzw"))
    content[200:260] = bytes(60)
    put(tmp_path / "a.tif", bytes(content))
    put(tmp_path / "b.png", encoded(noise(2), "PNG"))
    opened(str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_a_conditional_preset_says_why_there_are_no_classes(tmp_path):
    for name in ("cat/1.png", "dog/2.png", "3.png"):
        put(tmp_path / name, encoded(noise(1), "PNG"))
    said = r"has no classes \(3\.png: in no folder, so that the folders are not taken for classes\)"
    with pytest.raises(DataError, match=said):
        data_for(str(tmp_path), conditional=True)

"""Windows of pictures at their own resolution."""

import numpy as np
import pytest
from PIL import Image

import genkit
from genkit.errors import DataError
from genkit_image.options import Options
from genkit_image.pairs import paired
from genkit_image.plugin import ImagePlugin
from genkit_image.sources import open_source
from genkit_image.windows import windows


def photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """One of 2 x 3 windows of 16 x 20 with a margin, one of a single window, one that is too small, one damaged."""
    path = tmp_path / "photographs"
    (path / "day").mkdir(parents=True)
    for name, shape in (("a.png", (35, 63)), ("day/b.c.png", (16, 20)), ("small.png", (15, 40))):
        Image.fromarray(photograph(*shape, seed=len(name))).save(path / name)
    (path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    return path


def test_as_many_windows_as_fit_lie_around_the_middle_and_are_what_lies_there(folder):
    whole = photograph(35, 63, seed=5)
    (source,) = windows([open_source(folder)], (16, 20))
    names = [f"a[{row},{column}].png" for row in range(2) for column in range(3)]
    assert source.items == [*names, "day/b.c[0,0].png"]
    for number in (5, 0, 3, 4):
        row, column = divmod(number, 3)
        part = whole[1 + 16 * row : 17 + 16 * row, 1 + 20 * column : 21 + 20 * column]
        assert np.array_equal(np.asarray(source.read(number).content), part)
    reasons = {one.name: one.reason for one in source.skipped}
    assert reasons["small.png"] == "40 x 15 pixels are less than a window of 20 x 16"
    assert reasons.keys() == {"small.png", "broken.png"}


def test_arrays_and_data_sets_are_cut_too():
    rows = np.stack([photograph(32, 48, seed) for seed in range(3)])
    for source in (rows, [Image.fromarray(row) for row in rows]):
        pictures = ImagePlugin.open(source, Options(size=16, windows=True))
        assert len(pictures.usable) == 3 * 6
        assert np.array_equal(pictures.pixels([7], 3)[0], rows[1, :16, 16:32].transpose(2, 0, 1))


def test_pairs_are_cut_at_the_same_places_and_skipped_where_their_sizes_differ(tmp_path):
    for name in ("inputs", "pictures"):
        (tmp_path / name).mkdir()
    for number, size in enumerate((32, 40, 32)):
        picture = photograph(40, 32, number)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
        other = 255 - (picture if number != 2 else photograph(size, 32, number))
        Image.fromarray(other).save(tmp_path / "inputs" / f"{number}.bmp")
    options = Options(
        size=16,
        windows=True,
        architecture="unet",
        input=str(tmp_path / "inputs"),
        critic_norm="none",
    )
    pairing = paired(open_source(tmp_path / "pictures"), options)
    assert len(pairing.pictures.items) == len(pairing.inputs.items) == 8
    for number in range(8):
        one, other = (np.asarray(each.read(number).content) for each in pairing)
        assert np.array_equal(one, 255 - other)
    (skipped,) = pairing.inputs.skipped
    assert skipped.reason == "32 x 32 pixels, and the picture that it belongs to has 32 x 40"
    halves = paired(
        open_source(tmp_path / "pictures"), options.model_copy(update={"input": "left"})
    )
    whole, (one, other) = photograph(40, 32), halves
    assert np.array_equal(np.asarray(other.read(1).content), whole[20:36, :16])
    assert np.array_equal(np.asarray(one.read(1).content), whole[20:36, 16:])


def test_inputs_without_a_window_say_how_large_they_are(tmp_path):
    for name, size in (("inputs", 8), ("pictures", 32)):
        (tmp_path / name).mkdir()
        Image.fromarray(photograph(size, size)).save(tmp_path / name / "0.png")
    options = {"size": 16, "windows": True, "input": str(tmp_path / "inputs")}
    with pytest.raises(DataError, match="8 x 8 pixels are less than a window of 16 x 16"):
        genkit.train(
            "image",
            data=tmp_path / "pictures",
            preset="translate",
            items=8,
            threads=1,
            out=tmp_path / "run",
            options=options,
        )


def test_a_folder_without_a_window_says_how_large_they_are(folder):
    with pytest.raises(DataError, match=r"less than a window of 64 x 64"):
        genkit.train("image", data=folder, preset="upscale", items=8, threads=1, out=folder / "run")

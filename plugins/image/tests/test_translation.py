"""Pictures from pictures: pairs, networks, and a folder in, a folder out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import genkit
from genkit.errors import ConfigError, DataError
from genkit.plugin import Facts, Sample
from genkit_image import cycle, pairs, translation
from genkit_image.options import Options
from genkit_image.plugin import ARCHITECTURES, ImagePlugin

UNET = {"architecture": "unet", "size": 32, "features": 4}
RESIDUAL = {"architecture": "residual", "size": 32, "features": 4, "blocks": 2}
CYCLE = {"architecture": "cycle", "size": 32, "features": 4, "blocks": 1, "critic_norm": "none"}
WORDS = np.arange(1, 9, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def pictures(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def opened(source, **options):
    """(the plugin, its data set) of a source."""
    settings = Options(**options)
    facts = ImagePlugin.inspect(source, settings)
    plugin = ImagePlugin(settings, facts)
    return plugin, plugin.dataset(source)


# Inputs --------------------------------------------------------------------------------------------------------------


def test_inputs_that_are_made_are_what_their_names_say():
    x = pictures(8, 3, 32, 24)
    small = pairs.made("small", x, WORDS, 2)
    flat = torch.full((1, 3, 32, 24), 0.5)
    assert small.shape == (8, 3, 16, 12)
    assert torch.allclose(pairs.made("small", flat, WORDS[:1], 4), torch.tensor(0.5), atol=1 / 255)
    grey = pairs.made("grey", x, WORDS, 2)
    assert torch.allclose(
        grey[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2], atol=1e-6
    )
    noise = pairs.made("noisy", torch.zeros(8, 3, 32, 24), WORDS, 2)
    assert noise.std() == pytest.approx(25 / 127.5, rel=0.05)
    assert len({row.sum().item() for row in noise}) == 8

    masked = pairs.made("masked", x, WORDS, 2)
    hole = masked[:, 3:] > 0
    assert torch.equal(masked[:, :3][~hole.expand(-1, 3, -1, -1)], x[~hole.expand(-1, 3, -1, -1)])
    assert (masked[:, :3][hole.expand(-1, 3, -1, -1)] == 0).all()
    rows, columns = hole.any(3).sum(2)[:, 0], hole.any(2).sum(2)[:, 0]
    assert (rows * columns == hole.flatten(1).sum(1)).all()  # a rectangle
    assert ((rows >= 8) & (rows <= 16) & (columns >= 6) & (columns <= 12)).all()


def test_edges_are_black_where_a_picture_changes_and_white_where_not():
    step = torch.full((1, 1, 8, 8), -1.0)
    step[:, :, :, 4:] = 1.0
    edges = pairs.made("edges", step, WORDS[:1], 2)[0, 0]
    assert (edges[:, 3:5] == -1).all()
    assert (edges[:, :3] == 1).all()
    assert (edges[:, 5:] == 1).all()


def test_an_input_that_is_made_is_the_same_each_time_and_follows_the_words_in_training():
    source = (255 * (pictures(6, 3, 32, 32) + 1) / 2).to(torch.uint8)
    _, dataset = opened(source, input="masked", **UNET)
    assert torch.equal(dataset[2].condition, dataset.__getitems__([0, 2]).condition[1])
    one = dataset.random_batch([2, 2], WORDS[:2])
    assert torch.equal(one.x[0], one.x[1])
    assert not torch.equal(one.condition[0], one.condition[1])


def test_halves_and_folders_of_inputs_are_paired_and_changed_alike(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    for name in ("pictures", "inputs", "sheets"):
        (tmp_path / name).mkdir()
    for number, value in enumerate(values):
        Image.fromarray(value).save(tmp_path / "pictures" / f"{number}.png")
        Image.fromarray(255 - value).save(tmp_path / "inputs" / f"{number}.webp", lossless=True)
        both = np.concatenate([255 - value, value], 1)
        Image.fromarray(both).save(tmp_path / "sheets" / f"{number}.png")
    Image.fromarray(values[0]).save(tmp_path / "pictures" / "lone.png")
    (tmp_path / "inputs" / "3.webp").write_bytes(b"damaged")

    changes = {"flip": True, "crop": 3}
    _, of_folder = opened(tmp_path / "pictures", input=str(tmp_path / "inputs"), **UNET, **changes)
    assert len(of_folder) == 3
    assert {item.name for item in of_folder.skipped} == {"lone.png", "3.webp"}
    _, of_halves = opened(tmp_path / "sheets", input="left", **UNET, **changes)
    assert len(of_halves) == 4
    for dataset in (of_folder, of_halves):
        batch = dataset.random_batch([0, 1, 2, 0, 1, 2], WORDS[:6])
        assert torch.allclose(batch.x, -batch.condition, atol=1e-6)
        assert not torch.equal(batch.x[0], batch.x[3])
    (tmp_path / "others").mkdir()
    Image.fromarray(values[0]).save(tmp_path / "others" / "another.png")
    with pytest.raises(ConfigError, match=r"options.input: .*absent.* left, right, grey"):
        opened(tmp_path / "pictures", input=str(tmp_path / "absent"), **UNET)
    with pytest.raises(DataError, match="no picture has an input of its name"):
        opened(tmp_path / "pictures", input=str(tmp_path / "others"), **UNET)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"architecture": "unet"}, "unet needs an input"),
        ({"input": "grey"}, "makes pictures from noise"),
        ({**UNET, "input": "small"}, "keeps the size"),
        ({**UNET, "architecture": "cycle", "input": "grey"}, "no pairs"),
        ({**UNET, "input": "grey", "conditional": True}, "conditional is for"),
        ({**UNET, "input": "grey", "augment": "on"}, "augment is for"),
        ({"feature_matching": True}, "feature_matching needs an input"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        Options(**options)


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "channels", "inputs", "size"),
    [
        ({**UNET, "input": "edges"}, 1, 1, (530, 70)),
        ({**UNET, "size": [32, 48], "input": "masked"}, 3, 4, (331, 50)),
        ({**RESIDUAL, "input": "small", "scale": 4}, 3, 3, (90, 17)),
        ({**RESIDUAL, "input": "grey"}, 3, 1, (90, 20)),
        ({**CYCLE, "input": "others/"}, 1, 2, (170, 30)),
    ],
)
def test_strips_of_a_picture_of_any_size_are_the_whole_picture(options, channels, inputs, size):
    torch.manual_seed(0)
    make = ARCHITECTURES[options["architecture"]][0]
    generator = make(Options(**options), channels, inputs).eval()
    for weight in generator.parameters():
        torch.nn.init.normal_(weight, 0, (2 / weight[0].numel()) ** 0.5)
    condition = pictures(1, inputs, *size)
    if options["architecture"] == "cycle":
        condition[:, -1:] = 1
    strip = 2 * generator.unit * generator.scale
    with torch.no_grad():
        whole = generator({}, condition).x
        height = whole.shape[2]
        assert whole.shape == (1, channels, *(generator.scale * side for side in size))
        strips = [
            generator.unroll({}, condition, None, range(start, start + strip)).x
            for start in range(0, height, strip)
        ]
        assert len(strips) > 3
        joined = torch.cat(strips, 2)[:, :, :height]
        assert (joined - whole).abs().max() < 1e-4 * whole.std()
        last = generator.unroll({}, condition, None, range(height - 1, height + 9)).x
    assert torch.allclose(last[:, :, :1], whole[:, :, -1:], atol=1e-4)
    assert (last[:, :, 1:] == 0).all()


def test_a_residual_network_begins_with_its_input_enlarged_and_filling_keeps_what_is_given():
    generator = translation.make_generator(Options(**RESIDUAL, input="small"), 3, 3).eval()
    condition = pictures(2, 3, 16, 16)
    enlarged = torch.nn.functional.interpolate(condition, scale_factor=2, mode="bicubic")
    bias = generator.body.last.bias[:, None, None]
    assert torch.allclose(generator({}, condition).x, enlarged + bias, atol=1e-5)

    generator = translation.make_generator(Options(**UNET, input="masked"), 1, 2).eval()
    condition = pairs.made("masked", pictures(2, 1, 32, 32), WORDS[:2], 2)
    x, hole = generator({}, condition).x, condition[:, 1:] > 0
    assert torch.equal(x[~hole], condition[:, :1][~hole])
    assert (x[hole] != 0).all()


@pytest.mark.parametrize(("size", "patches"), [(32, 196), (64, 196), (256, 900)])
def test_the_critic_judges_patches_by_picture_and_input(size, patches):
    options = Options(**{**UNET, "size": size}, input="grey")
    critic = translation.PatchCritic(options, 3, 1)
    x, grey = pictures(2, 3, size, size), pictures(2, 1, size // 2, size // 2)
    critique = critic(Sample(x, grey))
    assert critique.logits[0].shape == (2, patches)
    grey = grey.requires_grad_()
    critic(Sample(x, grey)).logits[0].sum().backward()
    assert (grey.grad != 0).any()


# Both ways -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_sets(tmp_path):
    """Folders of dark pictures and of bright ones, which are more."""
    values = np.random.default_rng(0).integers(0, 100, (7, 32, 32), np.uint8)
    for name, some in (("dark", values[:3]), ("bright", values + 150)):
        (tmp_path / name).mkdir()
        for number, value in enumerate(some):
            Image.fromarray(value).save(tmp_path / name / f"{name}{number}.png")
    return tmp_path


def test_items_of_two_sets_are_pictures_of_one_under_a_picture_of_the_other(two_sets):
    options = {**CYCLE, "input": str(two_sets / "bright")}
    plugin, dataset = opened(two_sets / "dark", **options)
    assert plugin.facts["inputs"] == 2
    words = np.random.default_rng(1).integers(0, 2**63, 60, np.uint64)
    batch = dataset.random_batch([number % 3 for number in range(60)], words)
    there = cycle.is_there(batch.condition)
    assert 15 < there.sum() < 45
    for x, dark in ((batch.x, there), (batch.condition[:, :1], ~there)):
        assert torch.equal(x.flatten(1).mean(1) < 0, dark)
    assert (
        len({row.sum().item() for row in batch.condition[there, :1]}) > 4
    )  # of the seven bright ones
    assert cycle.is_there(dataset.__getitems__([0, 1, 2]).condition).all()


def test_each_way_has_networks_of_its_own_and_going_back_undoes_the_way():
    torch.manual_seed(0)
    options = Options(**CYCLE, input="others/")
    generator, critic = cycle.Generator(options, 1, 2).eval(), cycle.Critic(options, 1, 2)
    x = pictures(5, 1, 32, 32)
    way = torch.tensor([1.0, -1, -1, 1, -1])[:, None, None, None].expand(-1, 1, 32, 32)
    condition = torch.cat([x, way], 1)
    logits = critic(Sample(x, condition)).logits[0]
    for row, end in enumerate(["pictures", "inputs", "inputs", "pictures", "inputs"]):
        alone = getattr(generator.body, f"to_{end}")(x[row : row + 1])
        assert torch.allclose(generator({}, condition).x[row], alone[0], atol=1e-5)
        judged = getattr(critic, f"of_{end}")(x[row : row + 1]).flatten(1)
        assert torch.allclose(logits[row], judged[0], atol=1e-5)
    back = generator({}, condition, SimpleNamespace(direction="back")).x
    assert torch.allclose(back, generator.body.to_inputs(x), atol=1e-5)

    inverse = torch.nn.Module()
    inverse.body = lambda pair: -pair[:, :1]
    fake = Sample(-x, condition)
    values = cycle.terms(SimpleNamespace(generator=inverse), Sample(x, condition), fake)
    assert values["cycle"] == 0
    assert values["identity"] == pytest.approx(2 * x.abs().mean().item())


def test_a_cycle_model_learns_both_ways_between_dark_and_bright(two_sets):
    model = genkit.train(
        "image",
        data=two_sets / "dark",
        out=two_sets / "run",
        items=240,
        preset="cyclegan",
        options={**CYCLE, "size": 16, "features": 2, "input": str(two_sets / "bright")},
        recipe={"generator": {"learning_rate": 5e-3}, "ema_halflife_items": 50},
        run={"plan": "fp32", "samples": 8, "sample_items": 240},
    )
    for source, direction, is_bright in (("bright", "there", False), ("dark", "back", True)):
        path = str(two_sets / source / f"{source}0.png")
        x = model.generate(1, label=path, controls={"direction": direction}).x
        assert (x.mean() > 0) == is_bright


# The whole way -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that has learned to invert grey pictures, from pairs of two folders; it has seen 32 x 32 pixels alone."""
    folder = tmp_path_factory.mktemp("invert")
    values = np.random.default_rng(1).integers(0, 256, (64, 4, 4), np.uint8)
    for name in ("pictures", "inputs"):
        (folder / name).mkdir()
    for number, value in enumerate(values):
        picture = Image.fromarray(value).resize((32, 32), Image.Resampling.BICUBIC)
        picture.save(folder / "inputs" / f"{number}.png")
        Image.fromarray(255 - np.asarray(picture)).save(folder / "pictures" / f"{number}.png")
    genkit.train(
        "image",
        data=folder / "pictures",
        out=folder / "run",
        items=1_200,
        preset="upscale",
        options={"size": 32, "input": str(folder / "inputs"), "features": 8, "blocks": 1},
        recipe={"generator": {"learning_rate": 3e-3}, "terms": {"features": 0.0}},
        run={"plan": "fp32", "samples": 8, "sample_items": 1_200},
    )
    return folder


def test_what_is_learned_from_small_pairs_holds_for_pictures_of_any_size(run, tmp_path):
    sizes = {"wide": (300, 40), "tall": (37, 290), "tiny": (5, 3)}
    (tmp_path / "in").mkdir()
    values = {}
    for name, (width, height) in sizes.items():
        content = np.random.default_rng(2).integers(0, 256, (height // 3 + 1, width // 3 + 1))
        picture = Image.fromarray(content.astype(np.uint8)).resize((width, height), 2)
        picture.save(tmp_path / "in" / f"{name}.png")
        values[name] = np.asarray(picture, np.float64)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    model = genkit.load(run / "run")
    paths = genkit.translate(model, tmp_path / "in", tmp_path / "out", seed=3)
    assert [path.name for path in paths] == ["tall.png", "tiny.png", "wide.png", "samples.json"]
    for name, value in values.items():
        made = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"), np.float64)
        assert made.shape == value.shape
        error, error_of_input = (np.abs(one - (255 - value)).mean() for one in (made, value))
        assert name == "tiny" or error < 0.35 * error_of_input
    rows = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert [(row["file"], row["index"]) for row in rows] == [
        ("tall.png", 0), ("tiny.png", 1), ("wide.png", 2)
    ]  # fmt: skip

    # Again is the same; what is there already is kept with resume.
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths[:3]}
    paths[1].unlink()
    genkit.translate(model, tmp_path / "in", tmp_path / "out", seed=3, resume=True)
    assert {path: path.read_bytes() for path in paths[:3]} == {p: b for p, (b, _) in before.items()}
    assert paths[0].stat().st_mtime_ns == before[paths[0]][1]


def test_without_noise_there_is_one_sample_of_an_input_and_nothing_to_search_for(run):
    model, path = genkit.load(run / "run"), str(run / "inputs" / "0.png")
    assert model.info["card"]["pipeline_tag"] == "image-to-image"
    assert len(model.generate(label=path)) == 1
    with pytest.raises(ConfigError, match="there is no noise that could be searched for"):
        model.project(str(run / "pictures" / "0.png"))


def test_a_damaged_input_stops_behind_whole_samples(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (8, 8), 60).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"damaged")
    model = genkit.load(run / "run")
    with pytest.raises(ConfigError, match=r"b\.png.*no picture, or damaged"):
        genkit.translate(model, tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "samples.json"]
    rows = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert [row["file"] for row in rows] == ["a.png"]


def test_folders_that_cannot_be_are_refused(run, tmp_path):
    model = genkit.load(run / "run")
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="holds no file that this model takes"):
        genkit.translate(model, tmp_path / "in", tmp_path / "out")
    for name in ("a.png", "a.bmp"):
        Image.new("L", (8, 8)).save(tmp_path / "in" / name)
    with pytest.raises(ConfigError, match="two conditions are called a"):
        genkit.translate(model, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.bmp").unlink()
    with pytest.raises(ConfigError, match="is the folder of the conditions"):
        genkit.translate(model, tmp_path / "in", tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="which a sample would replace"):
        genkit.translate(model, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="no such folder"):
        genkit.translate(model, tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ConfigError, match="takes no files"):
        genkit.translate(genkit.load("image"), tmp_path / "in", tmp_path / "out")


def test_holes_are_the_transparent_pixels_of_a_file(tmp_path):
    plugin = ImagePlugin(
        Options(**UNET, input="masked"), Facts({"channels": 3, "labels": [], "inputs": 4})
    )
    value = np.full((6, 5, 4), 255, np.uint8)
    value[:3, :, 3] = 0
    Image.fromarray(value).save(tmp_path / "hole.png")
    condition = plugin.condition(str(tmp_path / "hole.png"), [0, 1])
    assert condition.shape == (2, 4, 6, 5)
    assert (condition[:, :3, :3] == 0).all()
    assert (condition[:, :3, 3:] == 1).all()
    assert (condition[:, 3, :3] == 1).all()
    assert (condition[:, 3, 3:] == -1).all()
    Image.fromarray(value[..., :3]).save(tmp_path / "whole.png")
    with pytest.raises(ConfigError, match="no transparent pixels"):
        plugin.condition(str(tmp_path / "whole.png"), [0])
    with pytest.raises(ConfigError, match="there is no such file"):
        plugin.condition(str(tmp_path / "absent.png"), [0])

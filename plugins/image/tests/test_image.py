"""Pictures: every source, every fault, the two networks, the files."""

import gzip
import io
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

import genkit
from genkit.errors import ConfigError, DataError, GenkitError
from genkit.plugin import Facts, Sample
from genkit_image import compact, dcgan, modality
from genkit_image.dcgan import Critic, Generator, halvings
from genkit_image.idx import read_idx
from genkit_image.options import Controls, Options
from genkit_image.pictures import to_pixels, to_png
from genkit_image.plugin import ImagePlugin
from genkit_image.sources import open_source

TINY = {"size": 16, "features": 4}


def opened(source, **options):
    return ImagePlugin.open(source, Options(**{**TINY, **options}))


def plugin_for(source, **options):
    chosen = Options(**{**TINY, **options})
    return ImagePlugin(chosen, ImagePlugin.inspect(source, chosen))


def paint(path, colour, size=(20, 20), mode="RGB", **keywords):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **keywords)
    return path


@pytest.fixture
def colours(tmp_path):
    """A folder with two classes of one-coloured pictures in several formats and sizes."""
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        for number, ending in enumerate(("png", "bmp", "webp")):
            keywords = {"lossless": True} if ending == "webp" else {}
            paint(
                tmp_path / "set" / name / f"{number}.{ending}",
                colour,
                (20 + 7 * number, 24),
                **keywords,
            )
    return tmp_path / "set"


# Data ------------------------------------------------------------------------------------------------------------


def test_builtin_fashion_is_ten_thousand_labelled_grey_pictures():
    source = opened("builtin:fashion")
    assert (len(source.usable), source.channels, len(source.classes.names)) == (10_000, 1, 10)
    assert np.bincount(source.classes.numbers).tolist() == [1000] * 10
    assert (
        source.classes.names[source.classes.numbers[0]],
        source.classes.names[source.classes.numbers[2]],
    ) == ("Ankle boot", "Trouser")


def test_a_folder_is_read_in_any_format_scaled_and_labelled(colours):
    plugin = plugin_for(str(colours), conditional=True)
    assert plugin.facts.values == {"channels": 3, "labels": ["blue", "red"], "augment": True}
    data = plugin.dataset(str(colours))
    assert len(data) == 6
    for index in range(6):
        item = data[index]
        assert item.x.shape == (3, 16, 16)
        expected = [-1.0, -1.0, 1.0] if item.condition == 0 else [1.0, -1.0, -1.0]
        torch.testing.assert_close(item.x.mean((1, 2)), torch.tensor(expected))


def test_labels_are_only_given_when_asked_for(colours):
    plugin = plugin_for(str(colours))
    assert plugin.facts["labels"] == []
    assert plugin.dataset(str(colours))[0].condition is None
    assert plugin.condition(None, range(4)) is None


def test_grey_folders_give_one_channel(tmp_path):
    for number in range(3):
        paint(tmp_path / f"{number}.png", 100 + number, mode="L")
    plugin = plugin_for(str(tmp_path))
    assert plugin.facts["channels"] == 1
    assert plugin.dataset(str(tmp_path))[1].x.shape == (1, 16, 16)


def test_pictures_are_cropped_around_the_middle_and_never_squashed(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255  # the middle third
    Image.fromarray(picture).save(tmp_path / "wide.png")
    item = plugin_for(str(tmp_path)).dataset(str(tmp_path))[0]
    assert item.x.min() > 0.8  # the edges blend a little


def test_exif_rotation_is_undone(tmp_path):
    picture = Image.new("RGB", (32, 32), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 32, 8))  # a bright top edge
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "a.png", exif=exif)
    item = plugin_for(str(tmp_path)).dataset(str(tmp_path))[0]
    assert item.x[:, :3].mean() > 0.9
    assert item.x[:, 5:].mean() < -0.9


def write_idx(path, array):
    header = (
        b"\0\0\x08" + bytes([array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    )
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_with_the_labels_beside_them(tmp_path, ending):
    pictures = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    write_idx(tmp_path / f"train-images-idx3-ubyte{ending}", pictures)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{ending}", np.arange(7, dtype=np.uint8) % 3)
    for source in (tmp_path, tmp_path / f"train-images-idx3-ubyte{ending}"):
        found = opened(str(source), size=28)
        assert np.array_equal(found.pixels(range(7), 1)[:, 0], pictures)
        assert found.classes.numbers.tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert found.classes.names == ("0", "1", "2")


def test_arrays_are_taken_from_python():
    arrays = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    data = plugin_for(arrays).dataset(arrays)
    expected = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(data.__getitems__([0, 3]).x, expected[[0, 3]])


def test_large_folders_are_decoded_as_they_are_needed(colours, monkeypatch):
    whole = plugin_for(str(colours)).dataset(str(colours))
    monkeypatch.setattr("genkit_image.pictures.CACHE_BYTES", 0)
    lazy = plugin_for(str(colours)).dataset(str(colours))
    assert torch.equal(lazy.__getitems__([4, 1]).x, whole.__getitems__([4, 1]).x)
    assert lazy.pictures.channels == whole.pictures.channels == 3


def test_what_cannot_be_trained_on_is_the_users_mistake(tmp_path, colours):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    for source, said in [
        (tmp_path / "empty", "holds no pictures.*nothing"),
        (tmp_path / "texts", "holds no pictures.*1 .txt"),
        (tmp_path / "texts" / "a.txt", "no IDX file"),
        (tmp_path / "gone", "no such file"),
        (None, "NoneType"),
        (np.full((3, 16, 16), 2.0), "float64"),
    ]:
        with pytest.raises(DataError, match=said):
            plugin_for(source if source is None or isinstance(source, np.ndarray) else str(source))
    with pytest.raises(DataError, match="no classes"):
        plugin_for(str(colours / "red"), conditional=True)
    with pytest.raises(ConfigError, match="Did you mean 'fashion'"):
        plugin_for("builtin:fasion")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x03\xff\xff\xff\xff\0\0\0\x1c\0\0\0\x1c",
        b"\0\0\x0d\x01\0\0\0\0",
        b"\x1f\x8bnonsense",
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content):
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_idx(path)


# Networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (28, 28), (32, 32), (48, 64), (64, 64), (36, 20), (128, 128)]
)
@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (3, 5), (4, 0)])
@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        (dcgan, "batch"),
        (dcgan, "spectral"),
        (dcgan, "none"),
        (compact, "spectral"),
        (compact, "none"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.rpartition(".")[2],
)
def test_networks_fit_any_multiple_of_four(height, width, channels, classes, kind, norm):
    options = Options(size=(height, width), features=2, latent=5, critic_norm=norm)
    labels = torch.arange(3) % classes if classes else None
    sample = kind.Generator(options, channels, classes)({"z": torch.randn(3, 5)}, labels)
    assert sample.x.shape == (3, channels, height, width)
    critique = kind.Critic(options, channels, classes)(sample)
    assert [tuple(logits.shape) for logits in critique.logits] == [(3,)]


def test_dcgan_is_the_published_one_layer_for_layer():
    options = Options(**modality.presets["dcgan"].options)
    generator, critic = Generator(options, 3, 0), Critic(options, 3, 0)
    ups = [
        (m.in_channels, m.out_channels, m.stride[0])
        for m in generator.modules()
        if isinstance(m, nn.ConvTranspose2d)
    ]
    downs = [
        (m.in_channels, m.out_channels, m.stride[0])
        for m in critic.modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert ups == [(100, 512, 1), (512, 256, 2), (256, 128, 2), (128, 64, 2), (64, 3, 2)]
    assert downs == [(3, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 2), (512, 1, 1)]
    norms = [
        [m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for net in (generator, critic)
    ]
    assert norms == [[512, 256, 128, 64], [128, 256, 512]]
    assert (
        sum(p.numel() for p in generator.parameters()) == 3_576_704
    )  # the counts that the reference prints
    assert sum(p.numel() for p in critic.parameters()) == 2_765_568
    weights = torch.cat(
        [m.weight.flatten() for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert halvings(64, 64) == 4


@pytest.mark.parametrize("preset", ["projected", "compact", "dcgan"])
def test_a_label_changes_both_what_is_made_and_what_is_judged(preset):
    options = Options(**{**modality.presets[preset].options, "features": 4})
    plugin = ImagePlugin(options, Facts({"channels": 1, "labels": list("abcd"), "augment": False}))
    torch.manual_seed(0)
    networks = plugin.networks()
    generator, critic = networks.generator.eval(), networks.critics["critic"].eval()
    nn.init.normal_(critic.labels.weight) if preset == "dcgan" else None
    z = {"z": torch.randn(1, options.latent).expand(4, -1)}
    made = generator(z, torch.arange(4)).x
    same = Sample(made[:1].expand(4, -1, -1, -1), torch.arange(4))
    for one, two in itertools.combinations(range(4), 2):
        assert not torch.allclose(made[one], made[two])
        assert critic(same).logits[0][one] != critic(same).logits[0][two]


@pytest.mark.parametrize("size", [30, 12, 2000, (32, 30)])
def test_sizes_that_do_not_work_are_refused(size):
    with pytest.raises(ValidationError):
        Options(size=size)


def test_options_choose_the_networks():
    small = {**TINY, "architecture": "compact", "critic_norm": "spectral"}
    for options, kind in ((TINY, dcgan), (small, compact)):
        networks = plugin_for("builtin:fashion", **options).networks()
        assert type(networks.generator) is kind.Generator
        assert type(networks.critics["critic"]) is kind.Critic
    with pytest.raises(
        ValidationError, match=r'critic_norm "batch" is not for compact networks: choose "none"'
    ):
        Options(architecture="compact")


def test_noise_modulates_every_layer_of_a_compact_generator():
    """At first as in any DCGAN, where the noise enters at the base alone; then each layer learns to follow it."""
    torch.manual_seed(0)
    generator = compact.Generator(Options(**TINY, latent=8), 3, 0)
    z = {"z": torch.randn(6, 8)}
    layers = [norm.affine for norm in generator.norms]
    assert len(layers) == 2
    assert not any(layer.weight.any() for layer in layers)
    generator(z).x.square().mean().backward()
    assert all(layer.weight.grad.abs().sum(1).all() for layer in layers)


def test_a_compact_critic_has_as_many_convolutions_at_each_resolution_as_asked_for():
    critic = compact.Critic(Options(size=64, features=8, depth=2, critic_norm="spectral"), 3, 0)
    shapes = [
        (layer.in_channels, layer.out_channels, layer.stride[0])
        for layer in critic.body.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert shapes == [
        *((3, 8, 2), (8, 8, 1)),
        *((8, 16, 2), (16, 16, 1)),
        *((16, 32, 2), (32, 32, 1)),
        (32, 64, 2),
    ]


def test_a_compact_generator_draws_no_checkerboard():
    """Even areas stay even, to the edges of the picture; an ordinary transposed convolution breaks them up."""
    generator = compact.Generator(Options(**TINY, latent=8), 3, 0)
    last, x = generator.stages[-1], torch.ones(1, 4, 8, 8)
    assert last(x).shape == (1, 3, 16, 16)
    assert last(x).flatten(2).std(2).max() < 1e-6
    assert last(x).std() > 0.01
    inner = generator.stages[0](torch.ones(1, 8, 8, 8))[:, :, 2:-2, 2:-2]
    assert inner.flatten(2).std(2).max() < 1e-6
    assert nn.ConvTranspose2d(4, 3, 4, 2, 1)(x).flatten(2).std(2).max() > 0.01


@pytest.mark.parametrize("kind", [dcgan, compact])
def test_the_number_of_maps_doubles_up_to_its_bound(kind):
    options = Options(size=64, features=8, features_max=20, critic_norm="none")
    assert dcgan.layout(options) == ([8, 16, 20, 20], (4, 4))
    assert kind.Critic(options, 1, 0)(
        kind.Generator(options, 1, 0)({"z": torch.randn(2, 100)})
    ).features[0].shape == ((2, 20, 4, 4))


# Files and the whole path ----------------------------------------------------------------------------------------


def test_encoded_pictures_are_the_pixels_bit_for_bit():
    x = torch.linspace(-1, 1, 256).view(1, 16, 16)
    plugin = plugin_for("builtin:fashion")
    decoded = np.asarray(Image.open(io.BytesIO(plugin.encode(Sample(x), "png", None))))
    assert np.array_equal(decoded, np.arange(256).reshape(16, 16))
    colour = torch.rand(3, 16, 20) * 2 - 1
    decoded = np.asarray(Image.open(io.BytesIO(plugin.encode(Sample(colour), "png", None))))
    assert np.array_equal(decoded, to_pixels(colour).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_every_kind_of_picture_is_a_png_of_its_mode(channels, mode):
    pixels = torch.randint(
        256, (5, channels, 7, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for picture, content in zip(pixels, to_png(pixels), strict=True):
        with Image.open(io.BytesIO(content)) as decoded:
            assert decoded.mode == mode
            assert np.array_equal(
                np.asarray(decoded).reshape(7, 12, channels), picture.permute(1, 2, 0).numpy()
            )
        Image.open(io.BytesIO(content)).verify()


def test_many_pictures_are_encoded_as_each_would_be():
    plugin, x = plugin_for("builtin:fashion"), torch.rand(70, 1, 16, 16) * 2 - 1
    one_by_one = [plugin.encode(Sample(picture), "png", None) for picture in x]
    assert plugin.encode_each(Sample(x), "png", None) == one_by_one


def test_an_animation_shows_the_samples_in_order_and_for_ever():
    plugin, x = plugin_for("builtin:fashion"), torch.rand(5, 1, 16, 16) * 2 - 1
    content = plugin.preview(Sample(x), "webp", Controls(fps=20))
    assert plugin.preview(Sample(x), "webp", Controls(fps=20)) == content
    with Image.open(io.BytesIO(content)) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("WEBP", 5, 0)
        for number, pixels in enumerate(to_pixels(x)):
            film.seek(number)
            assert np.array_equal(np.asarray(film.convert("L")), pixels[0].numpy())
            assert film.info["duration"] == 50


@pytest.mark.parametrize("architecture", ["dcgan", "compact"])
@pytest.mark.parametrize("conditional", [False, True])
def test_truncation_keeps_who_is_who_and_brings_them_together(architecture, conditional):
    torch.manual_seed(0)
    options = {"conditional": conditional, "features": 8, "size": 32}
    plugin = plugin_for("builtin:fashion", architecture=architecture, critic_norm="none", **options)
    generator = plugin.networks().generator
    for parameter in generator.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    noise = {"z": torch.randn(64, generator.noise["z"].shape[0])}
    condition = torch.arange(64) % 10 if conditional else None
    with torch.no_grad():
        generator(noise, condition, None)  # BatchNorm's statistics
        generator.eval()
        whole, same, near, half, tight = (
            generator(noise, condition, Controls(truncation=share)).x
            for share in (None, 1, 0.8, 0.5, 0.01)
        )
        alone = generator(
            {"z": noise["z"][3:4]}, None if condition is None else condition[3:4],
            Controls(truncation=0.5),
        ).x  # fmt: skip
    assert torch.equal(whole, same)
    torch.testing.assert_close(alone[0], half[3], rtol=1e-4, atol=1e-5)
    spreads = [x[::10].std(0).mean() for x in (whole, half, tight)]
    assert spreads[0] > 1.2 * spreads[1] > 5 * spreads[2]
    distances = torch.cdist(near.flatten(1), whole.flatten(1))
    assert (distances.argmin(1) == torch.arange(64)).float().mean() > 0.8, "who is who"


@pytest.mark.parametrize(
    "values", [{"truncation": 0}, {"truncation": 1.5}, {"fps": 0}, {"fps": 61}]
)
def test_controls_that_do_not_work_are_refused(values):
    with pytest.raises(ValidationError):
        Controls(**values)


def test_values_that_are_not_finite_are_never_written():
    with pytest.raises(GenkitError, match="not finite"):
        plugin_for("builtin:fashion").encode(
            Sample(torch.full((1, 16, 16), torch.nan)), "png", None
        )


def test_a_preview_has_a_column_for_every_class():
    plugin = plugin_for("builtin:fashion", conditional=True)
    preview = Image.open(
        io.BytesIO(plugin.preview(Sample(torch.zeros(20, 1, 16, 16)), "png", None))
    )
    assert preview.size == (10 * 18 + 2, 2 * 18 + 2)
    preview = Image.open(
        io.BytesIO(plugin.preview(Sample(torch.zeros(20, 1, 16, 16)), "png", None, columns=5))
    )
    assert preview.size == (5 * 18 + 2, 4 * 18 + 2)


def test_the_manifest_is_plain_data_and_its_presets_are_configurations():
    from genkit.config import build

    json.dumps(modality.to_json())
    for preset in modality.presets:
        assert build("image", preset).preset == preset


def test_pictures_train_resume_and_generate(tmp_path, colours):
    options = {**TINY, "size": [16, 20], "conditional": True}
    rates = {player: {"learning_rate": 1e-3} for player in ("generator", "critic")}
    recipe = {"batch_size": 4, **rates}
    whole = genkit.train(
        "image",
        str(colours),
        out=tmp_path / "a",
        items=40,
        options=options,
        recipe=recipe,
        threads=1,
    )
    genkit.train(
        "image",
        str(colours),
        out=tmp_path / "b",
        items=16,
        options=options,
        recipe=recipe,
        threads=1,
    )
    parts = genkit.train("image", out=tmp_path / "b", items=40, resume=True)
    assert torch.equal(parts.generate(6).x, whole.generate(6).x)
    files = parts.generate(3, label="red").save(tmp_path / "out")
    with Image.open(files[0]) as picture:
        assert picture.size == (20, 16)
    assert (
        sorted(path.name for path in (tmp_path / "a" / "samples").iterdir())[-1]
        == "000000000040.png"
    )


def test_classes_keep_their_numbers_when_training_goes_on_with_fewer_of_them(tmp_path, colours):
    for name in ("green", "yellow"):
        paint(colours / name / "0.png", (0, 255, 0), (20, 24))
    options = {**TINY, "conditional": True}
    still = {"batch_size": 4, "generator": {"learning_rate": 0.0}, "ema_halflife_items": 0}
    settings = {"items": 4, "options": options, "recipe": still, "threads": 1}
    first = genkit.train("image", str(colours), out=tmp_path / "first", **settings)
    fewer = tmp_path / "fewer"
    for name in ("red", "yellow"):
        shutil.copytree(colours / name, fewer / name)
    tuned = genkit.train(
        "image", str(fewer), out=tmp_path / "tuned", init=tmp_path / "first", **settings
    )
    assert tuned.plugin.facts["labels"] == ["blue", "green", "red", "yellow"]
    for name, weight in first.generator.named_parameters():
        torch.testing.assert_close(tuned.generator.get_parameter(name), weight)
    assert tuned.plugin.condition("yellow", [0]).tolist() == [3]
    assert tuned.generate(4).sample.condition.tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="no such label"):
        tuned.generate(1, label="purple")
    others = ImagePlugin.adapt_facts(Facts({"labels": ["red", "pink"]}), tuned.plugin.facts)
    assert others["labels"] == ["red", "pink"]


def test_sixteen_bits_are_scaled_and_never_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    item = plugin_for(str(tmp_path)).dataset(str(tmp_path))[0]
    torch.testing.assert_close(item.x[0].flatten(), torch.linspace(-1, 1, 256), rtol=0, atol=0.01)


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    paint(tmp_path / "b.png", (0, 0, 255))
    assert (plugin_for(str(tmp_path)).dataset(str(tmp_path))[0].x == 1).all()


def test_hidden_folders_are_no_classes(tmp_path, colours):
    paint(colours / ".ipynb_checkpoints" / "x.png", (0, 0, 0))
    paint(colours / "__MACOSX" / "x.png", (0, 0, 0))
    assert open_source(str(colours)).names == ("blue", "red")


def test_one_coloured_picture_makes_all_of_them_colour(tmp_path):
    for number in range(150):
        paint(tmp_path / f"{number:03d}.png", 100, (16, 16), mode="L")
    paint(tmp_path / "099.png", (255, 0, 0), (16, 16))
    assert opened(str(tmp_path)).channels == 3


def test_picture_files_are_byte_equal_alone_in_batches_and_shuffled(tmp_path):
    recipe = {"batch_size": 16}
    run = {"plan": "fp32", "threads": 1}
    model = genkit.train(
        "image", preset="compact", out=tmp_path / "run", items=64, options=TINY, recipe=recipe, run=run
    )  # fmt: skip
    model.generate(100, seed=3).save(tmp_path / "all")
    model.generate(3, seed=3, start=30).save(tmp_path / "few")
    genkit.load(tmp_path / "run").generate(seed=3, indices=[99, 7, 64, 63, 0]).save(
        tmp_path / "shuffled"
    )
    for folder, indices in (("few", (30, 31, 32)), ("shuffled", (0, 7, 63, 64, 99))):
        for index in indices:
            name = f"{index:06d}.png"
            assert (tmp_path / folder / name).read_bytes() == (tmp_path / "all" / name).read_bytes()

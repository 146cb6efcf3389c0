"""What pictures are judged by: known faults show in the measure made for them, networks see what files hold."""

import numpy as np
import pytest
import torch
from torch import nn

from genkit.errors import ConfigError, DataError
from genkit.kit.distances import frechet
from genkit.plugin import Evidence, Facts, Sample
from genkit_image import features, lite0
from genkit_image.measures import measures
from genkit_image.options import Options
from genkit_image.plugin import ImagePlugin


@pytest.fixture(scope="module")
def opened():
    """The built-in garments, read once."""
    return ImagePlugin.open("builtin:fashion", Options(size=32))


def plugin(data, **options):
    chosen = Options(size=32, **options)
    return ImagePlugin(chosen, ImagePlugin.inspect(data, chosen))


@pytest.fixture(scope="module")
def garments(opened):
    """160 garments [N, 1, 32, 32]."""
    return plugin(opened).references(opened, None).__getitems__(list(range(160))).x


NETWORKS = ImagePlugin(Options(size=32), Facts({"channels": 1, "labels": [], "augment": False}))


def none(count):
    raise AssertionError("no network of pictures is trained")


# Real pictures ----------------------------------------------------------------------------------------------------


def test_references_are_neither_flipped_nor_moved_and_know_their_classes(opened):
    augmenting = plugin(opened, flip=True, crop=4, conditional=True)
    references = augmenting.references(opened, None)
    still = augmenting.dataset(opened).__getitems__([3, 5])
    words = np.array([1, 2**40], np.uint64)
    for batch in (references.__getitems__([3, 5]), references.random_batch([3, 5], words)):
        assert torch.equal(batch.x, still.x)
        assert torch.equal(batch.condition, still.condition)


def test_references_of_other_classes_have_none(opened):
    pictures = [(np.full((32, 32), 90 * place, np.uint8), f"new {place}") for place in range(2)]
    references = plugin(opened, conditional=True).references(pictures, None)
    assert references[1].condition is None
    with pytest.raises(DataError, match=r"none of the 1 items of .* can be used"):
        plugin(opened).references([np.zeros((0, 4), np.uint8)], None)


# Networks ---------------------------------------------------------------------------------------------------------


def test_networks_see_what_files_hold(garments):
    networks = NETWORKS.feature_networks({}, none)
    assert [(name, one.distance) for name, one in networks.items()] == [
        ("lite0", "fd-lite0"),
        ("random", "fd-random"),
    ]
    for network in networks.values():
        whole = network.features(Sample(garments[:40]))
        rounded = network.features(Sample(garments[:40] + 0.3 / 127.5))
        assert torch.equal(whole, rounded)
        assert whole.dtype == torch.float32
        assert torch.allclose(network.features(Sample(garments[37:39])), whole[37:39], atol=1e-5)
    x = garments[:2].expand(-1, 3, -1, -1)
    resized = nn.functional.interpolate(x, (64, 64), mode="bilinear")
    direct = lite0.pretrained()(resized)
    grey = ((garments[:2] + 1) * 127.5).round().byte()
    wanted = features.random_features(grey)  # by the network of one channel
    assert torch.equal(networks["random"].features(Sample(garments[:2])), wanted)
    assert torch.allclose(networks["lite0"].features(Sample(x)), direct, atol=1e-4)


def test_a_transparent_picture_is_seen_on_white(garments):
    network = NETWORKS.feature_networks({}, none)["lite0"]
    clear = torch.cat([garments[:1].expand(-1, 3, -1, -1), -torch.ones(1, 1, 32, 32)], 1)
    white = torch.ones(1, 3, 32, 32)
    assert torch.equal(network.features(Sample(clear)), network.features(Sample(white)))


def test_distances_grow_with_the_damage(garments):
    blurred = nn.functional.avg_pool2d(garments[80:], 3, 1, 1)
    noise = torch.rand(80, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for network in NETWORKS.feature_networks({}, none).values():
        rows = [network.features(Sample(x)) for x in (garments[:80], garments[80:], blurred, noise)]
        real, damaged, foreign = (frechet(row, rows[0]) for row in rows[1:])
        assert real < 0.7 * damaged < 0.3 * foreign


class Means(nn.Module):
    """Stands for Inception in a TorchScript file."""

    def forward(self, x, return_features: bool = False):
        assert return_features
        assert x.dtype == torch.uint8
        return x.float().mean([2, 3])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_only_inceptions_distance_is_called_fid(garments, tmp_path):
    torch.jit.script(Means()).save(tmp_path / "inception.pt")
    network = features.networks({"inception": tmp_path / "inception.pt"})["inception"]
    means = (garments[:40].mean((2, 3)) + 1) * 127.5
    assert torch.allclose(network.features(Sample(garments[:40])), means.expand(-1, 3), atol=1e-3)
    assert network.distance == "FID"
    distances = {one.distance for one in NETWORKS.feature_networks({}, none).values()}
    assert not any("fid" in name.lower() for name in distances)


@pytest.mark.slow
def test_dinov2_is_the_class_token_of_a_local_folder(garments, tmp_path):
    from genkit.kit import compat

    compat.prepare()
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=56
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "dinov2")
    network = features.networks({"dinov2": tmp_path / "dinov2"})["dinov2"]
    white = network.features(Sample(torch.ones(1, 1, 32, 32)))
    colours = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    wanted = model(pixel_values=colours.view(1, 3, 1, 1).expand(1, 3, 224, 224)).pooler_output
    assert torch.allclose(white, wanted, atol=1e-4)
    assert network.distance == "fd-dinov2"


@pytest.mark.slow
def test_torch_fidelitys_inception_is_read_from_its_state_dict(garments, tmp_path, monkeypatch):
    from genkit.kit import compat

    compat.torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import (
        FeatureExtractorInceptionV3 as Inception,
    )

    torch.save({}, tmp_path / "nothing.pth")
    with monkeypatch.context() as patched:
        patched.setattr(Inception, "load_state_dict", lambda network, weights: None)
        made = Inception("own", ["2048"], feature_extractor_weights_path=tmp_path / "nothing.pth")
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    network = features.networks({"inception": tmp_path / "weights.pth"})["inception"]
    pixels = ((garments[:2] + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)
    assert torch.allclose(network.features(Sample(garments[:2])), made(pixels)[0], rtol=1e-4)
    assert network.distance == "FID"


def refused(weights, text):
    with pytest.raises(ConfigError, match=text) as caught:
        features.networks(weights)
    return "\n" not in str(caught.value)


def test_weights_that_cannot_be_used_are_told(tmp_path):
    torch.save({"weight": nn.Linear(1, 1)}, tmp_path / "code.pth")
    code = tmp_path / "code.pth"
    assert refused(
        {"lite0": code}, "no network of that name takes a file of weights; these do: inc"
    )
    assert refused({"inceptoin": code}, "Did you mean 'inception'")
    assert refused(
        {"inception": tmp_path / "no.pth"}, r"weights for 'inception': there is no .*no.pth"
    )
    assert refused({"inception": code}, "is no TorchScript file")  # a pickle that names code


@pytest.mark.slow
def test_weights_of_another_network_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    assert refused({"inception": tmp_path / "other.pth"}, "holds those of another network")
    assert refused({"dinov2": tmp_path / "empty"}, "is no folder of such a model")


# Measures ---------------------------------------------------------------------------------------------------------


def test_an_upsamplers_texture_shows_on_its_lattice(garments):
    real, other = 0.5 * garments[:80], 0.5 * garments[80:]
    untouched = measures(other, real)
    assert untouched["spectrum_mean_db"] < 1.5
    for stride, other_stride in ((2, 4), (4, 2)):
        texture = 0.15 * torch.cos(2 * torch.pi / stride * torch.arange(32))
        woven = measures(other + texture, real)
        assert woven[f"spectrum_stride{stride}_db"] > 3
        assert abs(woven[f"spectrum_stride{other_stride}_db"]) < 1.5
        assert woven["spectrum_worst_db"] > 15
    blurred = measures(nn.functional.avg_pool2d(other, 2, 1)[..., :31, :31], real[..., :31, :31])
    assert blurred["spectrum_stride2_db"] < -10


def test_measures_of_equal_sets_are_zero_and_of_flat_ones_finite(garments):
    evidence = Evidence(Sample(garments), Sample(garments))
    row = NETWORKS.measures(evidence)
    assert {
        name: value for name, value in row.items() if name.startswith("spectrum")
    } == dict.fromkeys(
        ("spectrum_mean_db", "spectrum_worst_db", "spectrum_stride2_db", "spectrum_stride4_db"), 0.0
    )
    assert row["brightness"] == pytest.approx(float((garments.mean() + 1) / 2), abs=1e-6)
    flat = NETWORKS.measures(Evidence(Sample(torch.zeros(8, 1, 32, 32)), Sample(garments)))
    assert np.isfinite(list(flat.values())).all()
    assert flat["contrast"] == 0
    assert flat["spectrum_worst_db"] > 60


def test_facts_of_the_model_decide_the_channels(opened):
    other = ImagePlugin(Options(size=32), Facts({"channels": 3, "labels": [], "augment": False}))
    assert other.references(opened, None)[0].x.shape == (3, 32, 32)

"""Compact networks with an encoder: what they infer, and that networks without one are what they were."""

import pytest
import torch

import genkit
from genkit.errors import ConfigError
from genkit.plugin import Facts, Sample, capabilities_of
from genkit_image.options import Options
from genkit_image.plugin import ImagePlugin

ENCODED = {"architecture": "compact", "features": 4, "critic_norm": "spectral", "encoder": True}


def plugin_of(channels=1, labels=(), **options):
    facts = {"channels": channels, "labels": list(labels), "augment": False}
    return ImagePlugin(Options(**{**ENCODED, **options}), Facts(facts))


def pictures(options, channels):
    return 2 * torch.rand(5, channels, *options.shape) - 1


@pytest.mark.parametrize(
    ("channels", "size", "labels"),
    [(1, 16, ()), (3, 64, ()), (4, (20, 48), ()), (3, 28, ("a", "b", "c"))],
)
def test_pictures_of_any_kind_are_inferred_row_by_row_and_drawn_again(channels, size, labels):
    torch.manual_seed(0)
    plugin = plugin_of(channels, labels, size=size, latent=7)
    networks = plugin.networks()
    x = pictures(plugin.options, channels)
    real = Sample(x, torch.tensor([0, 1, 2, 0, 1]) if labels else None)
    terms = plugin.terms("generator", networks, real, real, {})
    assert set(terms) == {"prior", "values", "likeness"}
    assert not plugin.terms("critic", networks, real, real, {})
    generator = networks.generator.eval()
    (posterior,), (alone,) = (generator.infer(each).values() for each in (real, real[:1]))
    assert posterior.mean.shape == posterior.deviation.shape == (5, 7)
    assert torch.allclose(alone.mean, posterior.mean[:1], atol=1e-5)
    assert generator({"z": posterior.mean}, real.condition).x.shape == x.shape
    if labels:
        (other,) = generator.infer(Sample(x, (real.condition + 1) % 3)).values()
        assert not torch.allclose(other.mean, posterior.mean)


def test_a_generator_without_an_encoder_infers_nothing_and_both_begin_with_the_same_weights():
    weights = {}
    for encoder in (False, True):
        torch.manual_seed(0)
        plugin = plugin_of(size=16, encoder=encoder)
        generator = plugin.generator()
        weights[encoder] = generator.state_dict()
        expected = {"infer", "pretrain_loss"} if encoder else set()
        assert capabilities_of(plugin, generator) & {"infer", "pretrain_loss"} == expected
    own = {name for name in weights[True] if name.startswith("encoder.")}
    assert own
    trained = [name for name in weights[False] if ".norm." not in name]  # BatchNorm's statistics
    assert set(weights[True]) - own == set(trained)
    assert all(torch.equal(weights[False][name], weights[True][name]) for name in trained)


def test_only_compact_networks_take_an_encoder():
    for options in ({"architecture": "dcgan"}, {"architecture": "compact", "generator": "a:b"}):
        with pytest.raises(ConfigError, match=r"encoder: it belongs to the generator of"):
            genkit.train("image", options={"critic_norm": "spectral", "encoder": True, **options})


def test_a_vae_draws_again_what_it_was_not_trained_on(tmp_path):
    torch.manual_seed(0)
    ramps = torch.linspace(-1, 1, 16) / 2
    slopes = torch.rand(1100, 2) * 2 - 1
    x = (slopes[:, :1] * ramps)[:, None, :, None] + (slopes[:, 1:] * ramps)[:, None, None, :]
    options = {**ENCODED, "size": 16, "latent": 4, "deviation": 0.05}
    model = genkit.train(
        "image", (x[:1000].numpy() + 1) / 2, preset="vae", items=6400, out=tmp_path, options=options, threads=1,
        recipe={"generator": {"learning_rate": 1e-2}},
    )  # fmt: skip
    again = model.reconstruct(x[1000:]).sample.x
    error, variance = (again - x[1000:]).square().mean(), x.var(0).mean()
    assert error < 0.2 * variance

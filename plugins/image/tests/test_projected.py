"""The critic on features of a pretrained network."""

import pytest
import torch

import genkit
from genkit.plugin import Facts, Sample
from genkit_image import lite0, projected
from genkit_image.options import Options
from genkit_image.plugin import ImagePlugin


def pictures(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_its_trunk_computes_the_maps_of_the_published_network_with_norms_folded_in():
    whole = lite0.pretrained()
    trunk = whole.trunk(11)
    x = pictures(2, 3, 48, 40)
    for one, other in zip(
        whole.maps(x, projected.TAPS), trunk.maps(x, projected.TAPS), strict=True
    ):
        assert one.std() > 1
        assert torch.allclose(one, other, atol=1e-3)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in trunk.modules())


@pytest.mark.parametrize(
    ("size", "channels", "classes"), [(16, 1, 0), ((20, 48), 4, 3), (32, 3, 2), ((100, 36), 3, 0)]
)
def test_it_has_a_logit_of_each_depth_for_pictures_of_any_kind(size, channels, classes):
    critic = projected.Critic(Options(size=size), channels, classes).eval()
    x = pictures(3, channels, *Options(size=size).shape)
    labels = torch.tensor([0, 1, 1]) if classes else None
    logits = critic(Sample(x, labels)).logits
    assert [tuple(one.shape) for one in logits] == [(3,)] * len(projected.TAPS)
    alone = critic(Sample(x[1:2], None if labels is None else labels[1:2])).logits
    for one, other in zip(logits, alone, strict=True):
        assert torch.allclose(one[1:2], other, atol=1e-4)


def test_transparent_pictures_are_judged_as_they_look_on_white():
    critic = projected.Critic(Options(size=32), 4, 0)
    x = pictures(1, 4, 32, 32)
    x[:, 3] = -1
    white = torch.ones(1, 4, 32, 32)
    for one, other in zip(critic.maps(x), critic.maps(white), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_only_its_heads_learn_and_the_gradient_reaches_every_pixel():
    critic = projected.Critic(Options(size=32), 3, 2)
    x = pictures(2, 3, 32, 32).requires_grad_()
    sum(critic(Sample(x, torch.tensor([0, 1]))).logits).sum().backward()
    assert (x.grad != 0).all()
    for name, weight in critic.named_parameters():
        assert (weight.grad is None) == name.startswith("trunk."), name


def test_it_is_a_second_critic_of_any_architecture():
    facts = Facts({"channels": 3, "labels": [], "augment": False})
    for architecture, norm in (("dcgan", "batch"), ("compact", "spectral")):
        options = Options(
            size=16, features=4, architecture=architecture, critic_norm=norm,
            pretrained_critic="lite0",
        )  # fmt: skip
        critics = ImagePlugin(options, facts).networks().critics
        assert set(critics) == {"critic", "features"}


@pytest.fixture(scope="module")
def reals():
    """[64, 3, 16, 16]: red above black, with a little noise."""
    x = torch.zeros(64, 3, 16, 16)
    x[:, 0, :8] = 1.0
    return x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, reals):
    """A run with the features' critic alone, without the critic of pixels and the term of spectra."""
    out = tmp_path_factory.mktemp("projected") / "run"
    settings = {
        "options": {"size": 16, "features": 8, "latent": 8, "augment": "off", "spectrum": False},
        "recipe": {"batch_size": 16, "critic": {"weight": 0.0}, "critics": {"features": {"weight": 1.0}}},
        "run": {"plan": "fp32", "threads": 1},
    }  # fmt: skip
    pixels = ((reals.clamp(-1, 1) + 1) * 127.5).byte().numpy()
    genkit.train("image", pixels, preset="projected", out=out, items=640, settings=[settings])
    return out


def test_it_teaches_a_generator_what_pictures_look_like(folder, reals):
    """Features of samples come closer to those of real pictures."""
    samples = genkit.load(folder).generate(32).x
    network = projected.Critic(Options(size=16), 3, 0)
    noise = pictures(32, 3, 16, 16)
    goal, found, before = (network.maps(x)[1].mean(0) for x in (reals, samples, noise))
    assert (found - goal).norm() < 0.5 * (before - goal).norm()


def test_whoever_draws_from_a_model_needs_no_pretrained_network(folder, monkeypatch):
    monkeypatch.setattr(projected, "_trunk", lambda: pytest.fail("a critic was built"))
    assert genkit.load(folder).generate(2).x.shape == (2, 3, 16, 16)

"""The critic on features of a pretrained network."""

import pytest
import torch

from genkit import train
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


def test_it_teaches_a_generator_what_pictures_look_like(tmp_path):
    """Alone, without the critic of pixels: features of samples come closer to those of real pictures."""
    numbers = torch.Generator().manual_seed(0)
    x = torch.zeros(64, 3, 16, 16)
    x[:, 0, :8] = 1.0
    x += 0.05 * torch.randn(x.shape, generator=numbers)
    settings = {
        "options": {"size": 16, "features": 8, "latent": 8, "augment": "off"},
        "recipe": {"batch_size": 16, "critic": {"weight": 0.0}, "critics": {"features": {"weight": 1.0}}},
        "run": {"plan": "fp32", "threads": 1},
    }  # fmt: skip
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).byte().numpy()
    model = train(
        "image", pixels, preset="projected", out=tmp_path / "run", items=640, settings=[settings]
    )
    samples = model.draw(range(32), 0).x
    network = projected.Critic(Options(size=16), 3, 0)
    noise = torch.rand(32, 3, 16, 16, generator=numbers) * 2 - 1
    goal, found, before = (network.maps(one)[1].mean(0) for one in (x, samples, noise))
    assert (found - goal).norm() < 0.5 * (before - goal).norm()

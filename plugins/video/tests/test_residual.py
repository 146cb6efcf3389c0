"""The norm-free residual networks of frames."""

import pytest
import torch
from torch import nn

from genkit.kit.blocks import Residual
from genkit.plugin import Sample
from genkit_video.options import Options
from genkit_video.residual import ResidualCritic, ResidualRenderer

SMALL = {"size": 16, "renderer": "residual", "features": 4, "critic_features": 4}


def networks(channels=3, classes=0, latent=8, **options):
    chosen = Options(**{**SMALL, **options})
    renderer = ResidualRenderer(chosen, latent, channels, classes)
    return renderer, ResidualCritic(chosen, channels, classes)


def frames(renderer, latents, condition=None):
    """[B, C, H, W]: one frame for each latent [B, M]."""
    return renderer(torch.empty(len(latents), 0), latents[:, None], condition).squeeze(2)


def test_they_have_as_many_blocks_as_asked_for_and_start_as_identities():
    for network in networks(size=32, depth=3):
        blocks = [layer for layer in network.modules() if isinstance(layer, Residual)]
        assert len(blocks) == 9
        for block in blocks:
            x = torch.randn(2, block.body[0].in_channels, 4, 4)
            assert torch.equal(block(x), x)


def test_they_neither_fade_nor_explode_at_any_depth():
    torch.manual_seed(0)
    wide = {"features": 16, "critic_features": 16}
    renderer, critic = networks(latent=64, size=64, depth=8, **wide)
    x = frames(renderer, torch.randn(8, 64))
    features = critic(Sample(x)).features[0]
    for values in (x, features, critic.basis(features)):
        assert 1 / 3 < values.std() < 3


def test_a_class_changes_what_is_drawn_and_what_is_judged_in_its_row_alone():
    torch.manual_seed(0)
    renderer, critic = networks(classes=4)
    z, labels = torch.randn(1, 8).expand(4, -1), torch.arange(4)
    assert len(frames(renderer, z, labels).flatten(1).unique(dim=0)) == 4
    x = torch.randn(1, 3, 16, 16).expand(4, -1, -1, -1).clone().requires_grad_()
    logits = critic(Sample(x, labels)).logits[0]
    assert len(set(logits.tolist())) == 4
    (gradient,) = torch.autograd.grad(logits[1], x)
    assert (gradient[[0, 2, 3]] == 0).all()


def test_a_spectral_critic_has_norms_of_one():
    torch.manual_seed(0)
    _, critic = networks(1, 4, critic_norm="spectral")
    layers = [
        layer
        for layer in critic.eval().modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)
    ]
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
        assert norm == pytest.approx(1, rel=1e-3)
    assert len(layers) == 1 + 2 * 3 + 1 + 1 + 1 + 1  # stem, blocks, change, basis, head, labels

"""Blocks of any rank: identities at the start, formulas written out, rows that know nothing of one another."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from genkit.kit.blocks import (
    LEAKY_SLOPE,
    DownStage,
    Residual,
    UpStage,
    downsample,
    towards_mean,
    upsample,
    variance_scaling_,
)

ranks = pytest.mark.parametrize("rank", [1, 2, 3])
bodies = pytest.mark.parametrize(
    ("kernels", "groups"),
    [((1, 3, 1), 1), ((1, 3, 1), 2), ((3, 3), 1)],
    ids=["bottleneck", "grouped", "plain"],
)
SPACES = {1: (8,), 2: (4, 8), 3: (2, 4, 6)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def convolutions(module):
    return [
        layer for layer in module.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]


def critic(rank, awake=True, **keywords):
    """A small critic, 4 channels to one number; `awake`: its residual branches are not zero."""
    net = nn.Sequential(
        DownStage(4, 6, rank, [Residual(4, 4, rank, **keywords)]),
        Residual(6, 4, rank, **keywords),
        nn.Flatten(),
    )
    features = 6 * math.prod(side // 2 for side in SPACES[rank])
    net.append(variance_scaling_(nn.Linear(features, 1)))
    if awake:
        for block in (layer for layer in net.modules() if isinstance(layer, Residual)):
            variance_scaling_(block.body[-1])
    return net


# Blocks ----------------------------------------------------------------------------------------------------------


@ranks
@bodies
def test_a_fresh_block_is_the_identity(rank, kernels, groups):
    x = torch.randn(3, 8, *SPACES[rank])
    assert torch.equal(Residual(8, 4, rank, kernels, groups)(x), x)


@ranks
@bodies
def test_initial_weights_are_those_of_the_formula(rank, kernels, groups):
    block = Residual(64, 96, rank, kernels, groups, depth=16)
    *scaled, last = convolutions(block)
    assert (last.weight == 0).all()
    assert last.bias is None
    shrink = 16 ** (-1 / (2 * len(kernels) - 2))
    for layer in scaled:
        fan_in = layer.weight[0].numel()
        expected = shrink * math.sqrt(2 / (1 + LEAKY_SLOPE**2) / fan_in)
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert (layer.bias == 0).all()
    assert [layer.groups for layer in scaled[1:]] == [groups] * (len(kernels) - 2)


@pytest.mark.parametrize("kernels", [(1, 3, 1), (3, 3)])
def test_one_step_changes_what_a_network_gives_by_as_much_at_any_depth(kernels):
    """Fixup's law, for plain gradient descent: without the scaling, 64 blocks would change it 64 times as much."""
    x, changes = torch.randn(16, 8, 6, 6, dtype=torch.float64), []
    for depth in (1, 64):
        net = nn.Sequential(
            *(Residual(8, 16, 2, kernels, depth=depth) for _ in range(depth))
        ).double()
        before = net(x)
        before.mul(torch.randn_like(before)).mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 1e-3 * parameter.grad
            changes.append((net(x) - before).norm().item())
    assert 0.2 < changes[1] / changes[0] < 5


def test_blocks_that_cannot_be_are_refused():
    for kernels in ((3,), (1, 2, 1), ()):
        with pytest.raises(ValueError, match=r"two or more, all odd; take \(1, 3, 1\) or \(3, 3\)"):
            Residual(4, 4, 2, kernels)
    for rank in (0, 4):
        with pytest.raises(ValueError, match=f"rank = {rank}"):
            Residual(4, 4, rank)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(64, 256),
        nn.Conv1d(16, 256, 5),
        nn.Conv2d(16, 256, 4, 2),
        nn.Conv3d(8, 256, 3, groups=2),
        nn.ConvTranspose1d(64, 256, 4, 2),
        nn.ConvTranspose2d(32, 256, 4, 2, groups=2),
        nn.ConvTranspose3d(16, 256, 2, 2),
    ],
    ids=repr,
)
def test_a_scaled_layer_keeps_the_second_moment_times_its_gain(layer):
    rank = layer.weight.ndim - 2
    x = torch.randn((8, layer.in_channels, *(9,) * rank) if rank else (64, layer.in_features))
    out = variance_scaling_(layer, 1.5)(x)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        out = out[
            (slice(None), slice(None), *(slice(4, -4),) * rank)
        ]  # fewer inputs reach the edges
    assert out.square().mean().item() == pytest.approx(1.5**2, rel=0.15)
    assert (layer.bias == 0).all()


# Resolutions -----------------------------------------------------------------------------------------------------


def linear_interpolation(x, axis):
    """Twice as many points: 3/4 of the nearer, 1/4 of the farther neighbour; the edges are repeated."""
    edge = np.concatenate([x.take([0], axis), x, x.take([-1], axis)], axis)
    count = x.shape[axis]
    before, after = edge.take(range(count), axis), edge.take(range(2, count + 2), axis)
    pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])


@pytest.mark.parametrize("factors", [2, (2,), (2, 1), (2, 2), (1, 2, 2), (2, 1, 1)])
def test_resolutions_change_by_the_formulas_axis_by_axis(factors):
    rank = 2 if factors == 2 else len(factors)
    each = (2, 2) if factors == 2 else factors
    x = torch.randn(2, 3, *SPACES[rank], dtype=torch.float64)
    up = down = x.numpy()
    for axis, factor in enumerate(each, 2):
        if factor == 2:
            up = linear_interpolation(up, axis)
            down = (
                down.take(range(0, down.shape[axis], 2), axis)
                + down.take(range(1, down.shape[axis], 2), axis)
            ) / 2
    np.testing.assert_allclose(upsample(x, factors).numpy(), up, atol=1e-14)
    np.testing.assert_allclose(downsample(x, factors).numpy(), down, atol=1e-14)


def test_what_cannot_be_halved_is_named():
    with pytest.raises(
        ValueError, match=r"sides \(4, 7\) must be multiples of the factors \(2, 2\)"
    ):
        downsample(torch.zeros(1, 1, 4, 7))


@ranks
def test_stages_change_channels_and_the_axes_they_are_told_to(rank):
    space, factors = SPACES[rank], (1, *[2] * (rank - 1)) if rank > 1 else 2
    times = (1, *[2] * (rank - 1)) if rank > 1 else (2,)
    large = tuple(side * factor for side, factor in zip(space, times, strict=True))
    up = UpStage(6, 4, rank, [Residual(4, 8, rank), Residual(4, 8, rank)], factors)
    down = DownStage(4, 6, rank, [Residual(4, 8, rank)], factors)
    assert up(torch.randn(2, 6, *space)).shape == (2, 4, *large)
    assert down(torch.randn(2, 4, *large)).shape == (2, 6, *space)
    assert len(convolutions(UpStage(4, 4, rank, []))) == 0  # equal channels need no change


# What critics need -----------------------------------------------------------------------------------------------


@ranks
@bodies
def test_a_row_knows_nothing_of_the_others(rank, kernels, groups):
    net = critic(rank, kernels=kernels, groups=groups)
    x = torch.randn(3, 4, *SPACES[rank], requires_grad=True)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))
    (gradient,) = torch.autograd.grad(net(x)[1].sum(), x)
    assert (gradient[[0, 2]] == 0).all()
    assert (gradient[1] != 0).any()


@ranks
@bodies
def test_second_derivatives_are_right(rank, kernels, groups):
    """R1 and R2 differentiate a gradient."""
    net = critic(rank, kernels=kernels, groups=groups).double()
    x = torch.randn(1, 4, *SPACES[rank], dtype=torch.float64, requires_grad=True)
    weight = net[0].blocks[0].body[0].weight

    def squared_gradient(weight):
        names = dict.fromkeys(["0.blocks.0.body.0.weight"], weight)
        (gradient,) = torch.autograd.grad(
            torch.func.functional_call(net, names, x).sum(), x, create_graph=True
        )
        return gradient.square().sum()

    assert torch.autograd.gradcheck(squared_gradient, weight)
    assert torch.autograd.grad(squared_gradient(weight), weight)[0].abs().sum() > 0


def test_upsampling_has_a_second_derivative():
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: upsample(x).square(), x)


@ranks
def test_at_first_only_the_last_weights_of_a_branch_learn_and_then_all_do(rank):
    net = critic(rank, awake=False)
    x = torch.randn(4, 4, *SPACES[rank])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        silent = {name for name, parameter in net.named_parameters() if not parameter.grad.any()}
        inner = {
            name for name, _ in net.named_parameters() if "body." in name and "body.4" not in name
        }
        assert silent == (inner if step == 0 else set())
        optimizer.step()


@pytest.mark.parametrize("rank", [2, 3])
def test_bfloat16_and_channels_last_run_and_stay(rank):
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    net = nn.Sequential(
        UpStage(6, 4, rank, [Residual(4, 8, rank)]),
        DownStage(4, 6, rank, [Residual(4, 8, rank, (3, 3))]),
    )
    x = torch.randn(2, 6, *SPACES[rank])
    expected = net(x)
    x = x.to(memory_format=layout).requires_grad_()
    net.to(memory_format=layout)
    torch.testing.assert_close(net(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        made = net(x)
    made.float().square().sum().backward()
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=layout)
    torch.testing.assert_close(made.float(), expected, rtol=0.05, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@ranks
def test_networks_can_be_planned_without_memory(rank):
    with torch.device("meta"):
        net = critic(rank)
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


# Truncation --------------------------------------------------------------------------------------------------------


def halves(code):
    """Activations of a layer that is not linear: their mean is not that of the mean code."""
    return torch.relu(code @ torch.linspace(-1, 1, code.shape[1] * 6).view(code.shape[1], 6))


def test_activations_move_to_their_mean_over_the_noise():
    z = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0))
    plain, mean = halves(z), halves(z).mean(0)
    assert torch.equal(towards_mean(halves, z, 5, None), plain)
    assert torch.equal(towards_mean(halves, z, 5, 1), plain)
    moved = towards_mean(halves, z, 5, 0.25)
    assert (moved.mean(0) - mean).abs().max() < 0.15
    torch.testing.assert_close(moved.std(0), 0.25 * plain.std(0))
    torch.testing.assert_close(moved.diff(dim=0), 0.25 * plain.diff(dim=0), rtol=1e-4, atol=1e-5)


def test_each_class_has_a_mean_of_its_own_and_a_row_does_not_depend_on_others():
    z = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    code = torch.cat([z, torch.eye(2)[torch.arange(8) % 2]], 1)
    moved = towards_mean(halves, code, 5, 0.5)
    for row in range(8):
        assert torch.equal(towards_mean(halves, code[row : row + 1], 5, 0.5)[0], moved[row])
    far = [towards_mean(halves, code[row : row + 1], 5, 1e-6)[0] for row in (0, 1, 2)]
    torch.testing.assert_close(far[0], far[2])
    assert (far[0] - far[1]).abs().max() > 0.1

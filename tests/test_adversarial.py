"""Losses equal their formulas written out in NumPy; penalties equal finite differences of a smooth critic.

Relaxations keep their symbol and have the distribution of their definition.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genkit import recipe
from genkit.adversarial import (
    LOSSES,
    PENALTIES,
    gumbel_softmax,
    interpolate,
    r1_penalty,
    r2_penalty,
    squared_gradient_norm,
    squared_slope,
    straight_through,
    wgan_gp_penalty,
)

laws = settings(max_examples=40, deadline=None, derandomize=True)


def minus_log_sigmoid(x):
    return np.logaddexp(0, -x)


# name: (critic at the reals, critic at the fakes, generator), each of (real logits, fake logits), from the papers.
FORMULAS = {
    "non_saturating": (
        lambda r, f: minus_log_sigmoid(r),
        lambda r, f: minus_log_sigmoid(-f),
        lambda r, f: minus_log_sigmoid(f),
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r),
        lambda r, f: np.maximum(0, 1 + f),
        lambda r, f: -f,
    ),
    "wasserstein": (lambda r, f: -r, lambda r, f: f, lambda r, f: -f),
    "least_squares": (
        lambda r, f: (r - 1) ** 2 / 2,
        lambda r, f: f**2 / 2,
        lambda r, f: (f - 1) ** 2 / 2,
    ),
    "relativistic": (
        lambda r, f: minus_log_sigmoid(r - f) / 2,
        lambda r, f: minus_log_sigmoid(r - f) / 2,
        lambda r, f: minus_log_sigmoid(f - r),
    ),
}

names = pytest.mark.parametrize("name", sorted(LOSSES))
EVENTS = [(5,), (2, 3, 4), (2, 3, 2, 2)]
events = pytest.mark.parametrize("event", EVENTS, ids=["rank 1", "rank 3", "rank 4"])
heads = pytest.mark.parametrize("logits", [(), (3,)], ids=["one logit", "three logits"])


# Losses ----------------------------------------------------------------------------------------------------------


def test_the_names_in_recipes_are_the_losses_and_penalties_that_there_are():
    assert set(LOSSES) == set(recipe.LOSSES) == set(FORMULAS)
    assert set(PENALTIES) == set(recipe.PENALTIES)
    assert len(set(recipe.LOSSES)) == len(recipe.LOSSES)


@names
@pytest.mark.parametrize("shape", [(7,), (7, 3)], ids=["[B]", "[B, P]"])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_a_loss_is_its_formula_written_out(name, shape, scale):
    draw = np.random.Generator(np.random.Philox(0))
    real, fake = scale * draw.standard_normal(shape), scale * draw.standard_normal(shape)
    loss = LOSSES[name]
    found = (
        *loss.critic(torch.from_numpy(real), torch.from_numpy(fake)),
        loss.generator(torch.from_numpy(fake), torch.from_numpy(real)),
    )
    for value, formula in zip(found, FORMULAS[name], strict=True):
        assert value.shape == shape
        assert value.dtype == torch.float64
        # torch's softplus is the identity above 20: 1e-10 off.
        np.testing.assert_allclose(
            value.numpy(), formula(real, fake), rtol=2e-10 if scale > 1 else 1e-13, atol=1e-300
        )


@names
def test_losses_and_their_gradients_are_finite_at_extreme_logits(name):
    real, fake = (torch.tensor([-1e4, 0.0, 1e4, -1e4], requires_grad=True) for _ in range(2))
    at_real, at_fake = LOSSES[name].critic(real, fake)
    total = at_real.sum() + at_fake.sum() + LOSSES[name].generator(fake, real).sum()
    gradients = torch.autograd.grad(total, (real, fake))
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@names
def test_only_a_paired_loss_mixes_rows_of_real_and_fake(name):
    draw = torch.Generator().manual_seed(0)
    real, fake, other = (torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(3))
    loss = LOSSES[name]
    same = torch.equal(loss.critic(real, fake)[0], loss.critic(real, other)[0])
    same &= torch.equal(loss.critic(real, fake)[1], loss.critic(other, fake)[1])
    same &= torch.equal(loss.generator(fake, real), loss.generator(fake, other))
    assert same == (not loss.paired)


@names
def test_losses_drive_the_players_against_each_other(name):
    """At a tie the critic gains by raising reals and lowering fakes, the generator by raising fakes."""
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    at_real, at_fake = LOSSES[name].critic(real, fake)
    up, down = torch.autograd.grad(at_real.mean() + at_fake.mean(), (real, fake), allow_unused=True)
    (won,) = torch.autograd.grad(LOSSES[name].generator(fake, real).mean(), fake)
    assert (up < 0).all()
    assert (won < 0).all()
    assert (
        (down > 0).all() if name != "least_squares" else (down == 0).all()
    )  # its target for fakes is zero


def test_the_critics_shares_of_a_relativistic_pair_add_up_to_the_pairs_loss():
    draw = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(5, generator=draw, dtype=torch.float64) for _ in range(2))
    at_real, at_fake = LOSSES["relativistic"].critic(real, fake)
    np.testing.assert_allclose(
        at_real + at_fake, minus_log_sigmoid((real - fake).numpy()), rtol=1e-12
    )


# Penalties -------------------------------------------------------------------------------------------------------


class SmoothCritic(nn.Module):
    """[B, *event] -> [B] or [B, P]; in float64, so that finite differences are exact to about 1e-9."""

    def __init__(self, event, logits):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        size = int(np.prod(event))
        self.inner = nn.Parameter(0.7 * torch.randn(size, 6, generator=draw, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(6, *logits, generator=draw, dtype=torch.float64))

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.inner) @ self.outer


def points(event, rows=4):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(rows, *event, generator=draw, dtype=torch.float64)


def differences(f, x, step=1e-5):
    """Central finite differences of a scalar function with respect to each element of a tensor."""
    gradient = torch.empty_like(x)
    for place in range(x.numel()):
        move = torch.zeros(x.numel(), dtype=x.dtype)
        move[place] = step
        move = move.view_as(x)
        gradient.view(-1)[place] = (f(x + move) - f(x - move)) / (2 * step)
    return gradient


def slow_norms(critic, x):
    """[B]: the norm of each sample's own gradient, by finite differences, one sample at a time."""
    with torch.no_grad():
        return torch.stack(
            [
                differences(lambda row: critic(row[None]).sum(), row).square().sum().sqrt()
                for row in x
            ]
        )


EXPECTED = {
    "r1": lambda norm: norm**2,
    "r2": lambda norm: norm**2,
    "wgan_gp": lambda norm: (norm - 1) ** 2,
}
kinds = pytest.mark.parametrize("kind", sorted(EXPECTED))


def penalty(kind, critic, x):
    x = x.detach().requires_grad_()
    return PENALTIES[kind].value(x, critic(x))


@kinds
@events
@heads
def test_a_penalty_is_its_finite_differences_per_sample(kind, event, logits):
    critic, x = SmoothCritic(event, logits), points(event)
    value = penalty(kind, critic, x)
    assert value.shape == (len(x),)
    expected = EXPECTED[kind](slow_norms(critic, x))
    assert expected.min() > 1e-3  # a distribution that holds of zeros says little
    torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-8)


@kinds
@events
def test_a_penalty_of_a_row_does_not_depend_on_other_rows(kind, event):
    critic, x = SmoothCritic(event, ()), points(event, rows=5)
    together = penalty(kind, critic, x).detach()
    for row in range(5):
        torch.testing.assert_close(
            penalty(kind, critic, x[row : row + 1]).detach()[0], together[row]
        )
    changed = x.clone()
    changed[1:] += 100
    torch.testing.assert_close(penalty(kind, critic, changed).detach()[0], together[0])


@kinds
@events
@heads
def test_a_penalty_is_differentiable_in_the_critics_parameters(kind, event, logits):
    critic, x = SmoothCritic(event, logits), points(event)
    penalty(kind, critic, x).mean().backward()
    for parameter in critic.parameters():
        found, place = parameter.grad.clone(), int(parameter.grad.abs().argmax())
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.view(-1)[place] += step
            values.append(penalty(kind, critic, x).mean().item())
            with torch.no_grad():
                parameter.view(-1)[place] -= step
        expected = (values[0] - values[1]) / 2e-5
        assert abs(expected) > 1e-3
        assert found.view(-1)[place].item() == pytest.approx(expected, rel=1e-5)


@kinds
def test_a_penalty_and_its_gradient_are_finite_where_the_critic_is_flat(kind):
    weight = torch.zeros(3, requires_grad=True)
    x = torch.ones(2, 3, requires_grad=True)
    value = PENALTIES[kind].value(x, x @ weight)
    value.mean().backward()
    assert torch.allclose(value, torch.full((2,), EXPECTED[kind](0.0)), atol=1e-5)
    assert weight.grad.isfinite().all()


def test_a_critic_of_slope_one_has_no_wgan_gp_penalty():
    x = torch.randn(
        4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    assert wgan_gp_penalty(x, x @ direction).abs().max() < 1e-12
    assert torch.allclose(
        wgan_gp_penalty(x, 3 * x @ direction), torch.full((4,), 4.0, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "function", [squared_gradient_norm, r1_penalty, r2_penalty, wgan_gp_penalty]
)
def test_points_that_do_not_require_grad_are_refused(function):
    critic, x = SmoothCritic((5,), ()), points((5,))
    with pytest.raises(ValueError, match="require grad"):
        function(x, critic(x))


def test_where_a_penalty_is_taken_is_said_beside_it():
    assert {name: penalty.at for name, penalty in PENALTIES.items()} == {
        "r1": "real",
        "r2": "fake",
        "wgan_gp": "between",
        "r1_approx": "real",
        "r2_approx": "fake",
    }


@events
@heads
def test_a_squared_slope_has_the_squared_gradient_norm_as_its_mean(event, logits):
    """Over the directions sqrt(D) e_i, whose mean outer product is the identity as that of N(0, I) is."""
    critic, x, step = SmoothCritic(event, logits), points(event), 1e-4
    size = x[0].numel()
    slopes = []
    with torch.no_grad():
        for place in range(size):
            move = torch.zeros(size, dtype=x.dtype)
            move[place] = step * size**0.5
            slopes.append(
                (critic(x + move.view(x.shape[1:])) - critic(x - move.view(x.shape[1:])))
                / (2 * step)
            )
    mean = torch.stack([squared_slope(x, slope.reshape(len(x), -1)) for slope in slopes]).mean(0)
    torch.testing.assert_close(mean, slow_norms(critic, x) ** 2, rtol=1e-4, atol=1e-7)


# Interpolation ---------------------------------------------------------------------------------------------------


@laws
@given(st.integers(1, 5), st.lists(st.integers(1, 4), max_size=4), st.integers(0, 2**31))
def test_interpolation_takes_each_sample_its_own_share_of_the_way(rows, event, seed):
    draw = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(rows, *event, generator=draw, dtype=torch.float64) for _ in range(2))
    share = torch.rand(rows, generator=draw, dtype=torch.float64)
    between = interpolate(real, fake, share)
    assert between.shape == real.shape
    for row in range(rows):
        expected = (
            share[row].item() * real[row].numpy() + (1 - share[row].item()) * fake[row].numpy()
        )
        np.testing.assert_allclose(between[row].numpy(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(interpolate(real, fake, torch.ones(rows, dtype=torch.float64)), real)
    assert torch.equal(interpolate(real, fake, torch.zeros(rows, dtype=torch.float64)), fake)


# Relaxations -----------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([0.5, -1.0, 1.5], dtype=torch.float64)
ROWS = 200_000


def drawn(logits, rows=ROWS):
    """Symbols with the probabilities softmax(logits)."""
    return torch.multinomial(logits.softmax(0), rows, replacement=True)


def plain_gumbel_softmax(logits, temperature):
    uniform = torch.rand_like(logits)
    return ((logits - (-uniform.log()).log()) / temperature).softmax(1)


def leaves(logits, rows=ROWS):
    return logits.detach().expand(rows, -1).clone().requires_grad_()


def assert_same_mean(one, other):
    """Two clouds [N, K] have one mean: their difference is within 4.5 of its standard errors."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    assert ((one.mean(0) - other.mean(0)).abs() <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 100.0])
def test_a_relaxed_row_is_finite_sums_to_one_and_is_largest_at_its_symbol(temperature, dtype):
    torch.manual_seed(0)
    logits = torch.randn(ROWS // 4, 5, dtype=dtype) * 5
    logits[::2, 1] = -torch.inf
    symbol = logits.softmax(1).multinomial(1)[:, 0]
    unlikely = logits.argmin(1).where(logits.amin(1).isfinite(), symbol)
    for chosen in (symbol, unlikely):
        logits.requires_grad_()
        soft = gumbel_softmax(logits, chosen, temperature)
        (gradient,) = torch.autograd.grad((soft * torch.randn_like(soft)).sum(), logits)
        assert soft.isfinite().all()
        assert gradient.isfinite().all()
        assert (gradient[::2, 1] == 0).all()
        torch.testing.assert_close(soft.sum(1), torch.ones_like(soft[:, 0]))
        rest = soft.scatter(1, chosen[:, None], -1.0).amax(1)
        assert (
            soft.gather(1, chosen[:, None])[:, 0] > rest
        ).all()  # strictly: a tie has no largest


def test_straight_through_is_the_one_hot_with_the_gradient_of_what_is_soft():
    logits = torch.tensor([[0.3, -torch.inf, 2.0], [1.0, 0.0, -1.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]])
    found = straight_through(logits.softmax(1), torch.tensor([2, 0]))
    assert found.tolist() == [[0, 0, 1], [1, 0, 0]]
    (gradient,) = torch.autograd.grad((found * weights).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad((logits.softmax(1) * weights).sum(), logits)
    assert torch.equal(gradient, expected)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_numbers_drawn_given_the_symbol_leave_the_law_of_the_plain_definition(temperature):
    """First and second moments of the value, and of the gradient of a curved function of it."""
    torch.manual_seed(1)
    clouds = []
    for relax in (
        lambda logits: gumbel_softmax(logits, drawn(LOGITS), temperature),
        lambda logits: plain_gumbel_softmax(logits, temperature),
    ):
        logits = leaves(LOGITS)
        soft = relax(logits)
        (gradient,) = torch.autograd.grad((soft @ LOGITS).square().sum(), logits)
        soft = soft.detach()
        products = (soft[:, :, None] * soft[:, None]).flatten(1)
        clouds.append(torch.cat([soft, products, gradient, gradient.square(), gradient * soft], 1))
    assert_same_mean(*clouds)


def test_the_symbol_is_all_that_is_known_of_the_numbers():
    """Given the symbol, the plain definition's rows that have it are distributed as ours."""
    torch.manual_seed(2)
    plain = plain_gumbel_softmax(LOGITS.expand(ROWS, -1), 0.7)
    for symbol in range(3):
        theirs = plain[plain.argmax(1) == symbol]
        ours = gumbel_softmax(LOGITS.expand(ROWS, -1), torch.full((ROWS,), symbol), 0.7)
        assert_same_mean(
            torch.cat([ours, ours.square()], 1), torch.cat([theirs, theirs.square()], 1)
        )

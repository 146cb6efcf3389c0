"""Adversarial losses, penalties, perturbations, masked means and relaxations: pure functions of tensors.

Usable without the rest of genkit. Tensors may have any rank; logits are a critic's raw outputs, high for real, or a
generator's for V symbols. Losses and penalties are not reduced over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, relu, softplus


class AdversarialLoss(NamedTuple):
    """The losses that critics and the generator minimise.

    Args:
        critic: (real logits, fake logits) -> (loss at the reals, loss at the fakes), each shaped as its logits;
            the critic minimises the sum of their means.
        generator: (fake logits, real logits) -> loss at the fakes, shaped as the fake logits.
        paired: the loss compares row with row, so a step counts only where both samples are valid.
        border: the logit between real and fake; None: a single logit says nothing, only its distance to another one.
    """

    critic: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    generator: Callable[[Tensor, Tensor], Tensor]
    paired: bool = False
    border: float | None = 0.0


class Penalty(NamedTuple):
    """A gradient penalty on a critic.

    Args:
        value: (points, logits) -> [B]: per sample, unscaled. `points` [B, *event] requires grad, `logits` [B] or [B, P]
            were computed from it. Where there is a `step`: (points, slopes) -> [B], and nothing requires grad.
        at: where the critic is probed: at `"real"` samples, at `"fake"` ones, or `"between"` the two.
        step: None: by the gradient itself. A number: by finite differences, without a second backward; the critic is
            asked again at points + step * e, e ~ N(0, I), and slopes [B, P] = (those logits - the logits) / step.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    at: Literal["real", "fake", "between"]
    step: float | None = None


# Losses ----------------------------------------------------------------------------------------------------------


def non_saturating_critic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigmoid(real) and -log(1 - sigmoid(fake)). Source: Goodfellow et al. 2014, arXiv:1406.2661, eq. 1."""
    return softplus(-real_logits), softplus(fake_logits)


def non_saturating_generator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """-log sigmoid(fake). Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3."""
    return softplus(-fake_logits)


def hinge_critic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """max(0, 1 - real) and max(0, 1 + fake). Source: Lim and Ye 2017, arXiv:1705.02894, eq. 7."""
    return relu(1 - real_logits), relu(1 + fake_logits)


def hinge_generator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """-fake. Source: Lim and Ye 2017, arXiv:1705.02894, eq. 8."""
    return -fake_logits


def wasserstein_critic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """-real and fake. Source: Arjovsky et al. 2017, arXiv:1701.07875, eq. 3."""
    return -real_logits, fake_logits


def least_squares_critic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(real - 1)^2 / 2 and fake^2 / 2. Source: Mao et al. 2017, arXiv:1611.04076, eq. 9 (a = 0, b = c = 1)."""
    return (real_logits - 1).square() / 2, fake_logits.square() / 2


def least_squares_generator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """(fake - 1)^2 / 2. Source: Mao et al. 2017, arXiv:1611.04076, eq. 9."""
    return (fake_logits - 1).square() / 2


def relativistic_critic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """softplus(-(real - fake)), the pair's loss, shared equally by its two members.

    Source: relativistic pairing, Jolicoeur-Martineau 2019, arXiv:1807.00734, eq. 3; Huang et al., arXiv:2501.05441.
    """
    pair = softplus(fake_logits - real_logits) / 2
    return pair, pair


def relativistic_generator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """softplus(-(fake - real)). Source: as `relativistic_critic`, with the roles exchanged."""
    return softplus(real_logits - fake_logits)


LOSSES: dict[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(non_saturating_critic, non_saturating_generator),
    "hinge": AdversarialLoss(hinge_critic, hinge_generator),
    "wasserstein": AdversarialLoss(wasserstein_critic, hinge_generator, border=None),
    "least_squares": AdversarialLoss(least_squares_critic, least_squares_generator, border=0.5),
    "relativistic": AdversarialLoss(
        relativistic_critic, relativistic_generator, paired=True, border=None
    ),
}


# Penalties -------------------------------------------------------------------------------------------------------


def squared_gradient_norm(points: Tensor, logits: Tensor) -> Tensor:
    """Squared L2 norm, per sample, of the gradient of the summed logits with respect to `points`.

    Args:
        points: [B, *event], requires grad; any rank.
        logits: [B] or [B, P], computed from `points`; row b from point b alone.

    Returns:
        [B], >= 0, differentiable with respect to the critic's parameters.

    Raises:
        ValueError: if `points` does not require grad.
    """
    if not points.requires_grad:
        raise ValueError(
            "the points of a gradient penalty must require grad before the critic sees them"
        )
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def r1_penalty(real: Tensor, logits: Tensor) -> Tensor:
    """Squared gradient norm at real samples, [B]. The usual loss adds gamma / 2 times its mean.

    Source: Mescheder et al. 2018, arXiv:1801.04406, eq. 9. Arguments and errors: `squared_gradient_norm`.
    """
    return squared_gradient_norm(real, logits)


def r2_penalty(fake: Tensor, logits: Tensor) -> Tensor:
    """Squared gradient norm at generated samples, [B]. The usual loss adds gamma / 2 times its mean.

    Source: Mescheder et al. 2018, arXiv:1801.04406, eq. 10. Arguments and errors: `squared_gradient_norm`.
    """
    return squared_gradient_norm(fake, logits)


def wgan_gp_penalty(points: Tensor, logits: Tensor) -> Tensor:
    """(gradient norm - 1)^2 at points between real and fake samples, [B]. The usual loss adds 10 times its mean.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, eq. 3. Arguments and errors: `squared_gradient_norm`.
    """
    # The root has no slope at zero; the constant is far below the float32 resolution of a norm near 1.
    return ((squared_gradient_norm(points, logits) + 1e-12).sqrt() - 1).square()


def squared_slope(points: Tensor, slopes: Tensor) -> Tensor:
    """Squared slope of the summed logits along one random direction, [B]: estimates `squared_gradient_norm`.

    For e ~ N(0, I) the slope is gradient . e, whose square has the squared gradient norm as its mean; what a finite
    step adds is of the order of the step times the curvature.

    Args:
        points: [B, *event].
        slopes: [B, P], see `Penalty.step`.

    Source: the approximate R1 of Lin et al. 2025, arXiv:2501.08316; the estimator of Hutchinson 1990.
    """
    return slopes.flatten(1).sum(1).square()


def interpolate(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Points on the lines between real and fake samples: share * real + (1 - share) * fake, one share per sample.

    Args:
        real, fake: [B, *event].
        share: [B], in [0, 1].
    """
    share = share.view(-1, *[1] * (real.ndim - 1))
    return share * real + (1 - share) * fake


PENALTIES: dict[str, Penalty] = {
    "r1": Penalty(r1_penalty, "real"),
    "r2": Penalty(r2_penalty, "fake"),
    "wgan_gp": Penalty(wgan_gp_penalty, "between"),
    "r1_approx": Penalty(squared_slope, "real", step=0.01),
    "r2_approx": Penalty(squared_slope, "fake", step=0.01),
}


# Perturbations ---------------------------------------------------------------------------------------------------


def perturbations(
    points: Sequence[Tensor],
    loss: Callable[[Sequence[Tensor]], Tensor],
    bound: float,
    steps: int = 1,
    step_size: float | None = None,
    random_start: bool = False,
) -> list[Tensor]:
    """Perturbations of points, inside an L-infinity bound, that raise a loss: steps along the sign of its gradient.

    Only the points get a gradient: none reaches the parameters of the networks that compute the loss.

    Args:
        points: tensors of any shape, moved together.
        loss: a function of the moved points: a scalar with a gradient to each of them.
        bound: by which each number is moved at most.
        steps: of the search; after each one the perturbations are cut to the bound.
        step_size: None: `bound` for one step, 2.5 * bound / steps for more.
        random_start: begin at perturbations from torch's global generator, uniform inside the bound; else at none.

    Returns:
        For each tensor of points one of its shape, without a graph: in [-bound, bound].

    Source: one step: Goodfellow et al. 2015, arXiv:1412.6572, section 4; more: Madry et al. 2018, arXiv:1706.06083,
    section 2.1.
    """
    if step_size is None:
        step_size = bound if steps == 1 else 2.5 * bound / steps
    shifts = [
        torch.empty_like(x).uniform_(-bound, bound) if random_start else torch.zeros_like(x)
        for x in points
    ]
    for _ in range(steps):
        for shift in shifts:
            shift.requires_grad_()
        with torch.enable_grad():
            value = loss([x.detach() + shift for x, shift in zip(points, shifts, strict=True)])
        gradients = torch.autograd.grad(value, shifts)
        shifts = [
            (shift.detach() + step_size * gradient.sign()).clamp_(-bound, bound)
            for shift, gradient in zip(shifts, gradients, strict=True)
        ]
    return shifts


# Means under a mask ----------------------------------------------------------------------------------------------


def row_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each row of values [B] or [B, ...], over the valid steps where there is a mask [B, L]: [B]."""
    if mask is not None:
        return masked(values, mask).sum(1) / mask.sum(1).clamp(min=1)
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def masked_mean(values: Tensor, mask: Tensor | None, count: Tensor | None = None) -> Tensor:
    """Mean of values [B, ...] over the valid steps of a mask [B, L], a scalar.

    Args:
        count: divide by this instead of the number of valid steps, where the batch is a part of a larger one.
    """
    if mask is None:
        return values.mean()
    return masked(values, mask).sum() / (mask.sum() if count is None else count)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Values with 0 at every step that is not valid, even where the padding holds an infinity or NaN."""
    return values.where(mask, 0.0)


# Relaxations of a discrete choice --------------------------------------------------------------------------------


def straight_through(soft: Tensor, symbol: Tensor) -> Tensor:
    """The exact one-hot of a symbol, with the gradient of a relaxed one.

    Args:
        soft: [B, V], for example the probabilities that the symbol was drawn from.
        symbol: [B], of 0 to V - 1.

    Returns:
        [B, V].

    Source: Bengio et al. 2013, arXiv:1308.3432. With probabilities its mean gradient is exact where what follows is
    linear in the one-hot.
    """
    return one_hot(symbol, soft.shape[1]).to(soft.dtype) + (soft - soft.detach())


def gumbel_softmax(logits: Tensor, symbol: Tensor, temperature: float) -> Tensor:
    """The Gumbel-softmax relaxation of a symbol that was already drawn from `logits`, with a gradient.

    The Gumbel noise is drawn from torch's global generator, conditional on the symbol: unconditional for the largest
    sum of logit and noise, truncated below it for the others. Over symbols and noise, value and gradient have the same
    distribution as softmax((logits + Gumbel) / temperature), whose gradient holds the noise fixed too.

    Args:
        logits: [B, V]; -inf where a symbol is impossible.
        symbol: [B], drawn with the probabilities softmax(logits), by whatever means.
        temperature: above 0.

    Returns:
        [B, V]; rows sum to 1 and are largest at the symbol.

    Source: Jang et al. 2017, arXiv:1611.01144, eq. 2; Maddison et al. 2017, arXiv:1611.00712. Conditional noise:
    Maddison et al. 2014, arXiv:1411.0030 (top-down construction); held fixed: Paulus et al. 2021, arXiv:2010.04838.
    """
    with torch.no_grad():
        gumbel = -torch.empty_like(logits).exponential_().log()
        largest = logits.logsumexp(1, keepdim=True) + gumbel.gather(1, symbol[:, None])
        # How far each sum lies below the largest; at least so far that no rounding makes another symbol its equal.
        least = 8 * torch.finfo(logits.dtype).eps
        gap = (softplus(largest - logits - gumbel) / temperature).clamp(min=least)
        gap = gap.scatter(1, symbol[:, None], 0.0)
    # An impossible symbol has no slope, and infinity - infinity is not zero.
    slope = logits.masked_fill(logits.isinf(), 0.0)
    return ((slope - slope.detach()) / temperature - gap).softmax(1)

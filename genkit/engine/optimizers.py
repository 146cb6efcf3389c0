"""Builds optimisers from settings, takes their steps, constrains weights, and packs optimiser states as named tensors.

Knows parameters, BatchNorm layers and settings; no loss and no game.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from genkit.engine.averages import batch_norms
from genkit.recipe import Constraint, Player, value_at

LEAST_SCALE = 0.01
"""Under singular_values, the least scale of a BatchNorm layer as a share of the greatest allowed one.

A scale of zero would pass no gradient to the layers before it.
"""


def make_optimizer(settings: Player, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a player's settings name."""
    rate, decay = value_at(settings.learning_rate, 0), settings.weight_decay
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, settings.momentum, weight_decay=decay, fused=fused)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters,
            rate,
            settings.alpha,
            settings.epsilon,
            weight_decay=decay,
            momentum=settings.momentum,
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, settings.betas, settings.epsilon, weight_decay=decay, fused=fused)


def step(
    optimizer: torch.optim.Optimizer, gradients: list[Tensor], rate: float, clip: float | None
) -> tuple[Tensor, Tensor]:
    """One step, skipped if a gradient is not finite; fused Adam and AdamW decide that without waiting for the device.

    Args:
        optimizer: its parameters hold the gradients; they are cleared after the step.
        gradients: of all its parameters that have one.
        rate: the current learning rate.
        clip: the largest allowed L2 norm of all gradients together; None: no limit.

    Returns:
        (the norm before clipping, whether it is finite), scalars on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = nn.utils.get_total_norm(gradients)
    finite = norm.isfinite()
    if clip is not None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grads_with_norm_(weights, clip, norm)
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and optimizer.defaults["fused"]:
        optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, finite


@torch.no_grad()
def impose(constraint: Constraint, player: nn.Module) -> None:
    """Apply a weight constraint to a player's trainable weights. Source: see `genkit.recipe.Constraint`."""
    for parameter in player.parameters():
        if not parameter.requires_grad:
            continue
        if constraint.kind == "weight_clip":
            parameter.clamp_(-constraint.bound, constraint.bound)
        elif parameter.ndim >= 2:
            u, values, vh = torch.linalg.svd(parameter.flatten(1), full_matrices=False)
            clipped = (u * values.clamp(max=constraint.bound)) @ vh
            parameter.copy_(clipped.view_as(parameter))
    for norm in batch_norms(player) if constraint.kind == "singular_values" else ():
        if norm.running_var is not None and norm.weight is not None and norm.weight.requires_grad:
            limit = constraint.bound * norm.running_var.sqrt()
            norm.weight.clamp_(LEAST_SCALE * limit, limit)


def pack(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """An optimiser's state as named tensors: `<parameter number>.<name>`."""
    for number, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                yield f"{number}.{key}", torch.as_tensor(value)


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimiser's state from the named tensors of `pack`; its settings stay as they are.

    Moments take the memory format of their parameters: fused steps walk through memory in order and would otherwise
    pair weights with the wrong moments.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `<name>.`, without that prefix."""
    return {
        key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")
    }

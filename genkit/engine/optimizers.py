"""Optimisers from settings, constraints after their steps, and their state as named tensors.

Knows parameters and settings; no networks, no losses, no game.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from genkit.engine.averages import batch_norms
from genkit.recipe import Constraint, Player, value_at

LEAST_SCALE = 0.01
"""Of a normalisation under singular_values, over the largest that it may have: at zero it would stay."""


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


@torch.no_grad()
def impose(constraint: Constraint, player: nn.Module) -> None:
    """Bring the weights that learn back under a bound. Source: see `genkit.recipe.Constraint`."""
    for parameter in player.parameters():
        if not parameter.requires_grad:
            continue
        if constraint.kind == "weight_clip":
            parameter.clamp_(-constraint.bound, constraint.bound)
        elif parameter.ndim >= 2:
            left, values, right = torch.linalg.svd(parameter.flatten(1), full_matrices=False)
            clipped = (left * values.clamp(max=constraint.bound)) @ right
            parameter.copy_(clipped.view_as(parameter))
    for norm in batch_norms(player) if constraint.kind == "singular_values" else ():
        if norm.running_var is not None and norm.weight is not None and norm.weight.requires_grad:
            most = constraint.bound * norm.running_var.sqrt()
            norm.weight.clamp_(LEAST_SCALE * most, most)


def pack(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """An optimiser's state as named tensors: `<parameter number>.<name>`."""
    for number, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                yield f"{number}.{key}", torch.as_tensor(value)


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimiser's state from named tensors; its settings stay as they are.

    Moments take the memory format of their parameters: fused steps run through memory and would mix them up.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        like = parameters[int(number)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )

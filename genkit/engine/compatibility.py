"""Whether recipe, networks and data fit together: asked before a game begins, answered in a sentence.

Knows the networks and what they give; plays nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine.averages import couples_samples
from genkit.errors import ConfigError, PluginError, did_you_mean
from genkit.plugin import Critique, ModalityPlugin, Networks, Sample, capabilities_of
from genkit.recipe import GumbelSoftmax, Recipe, ScoreFunction, StraightThrough


def check_networks(config: RunConfig, plugin: ModalityPlugin, networks: Networks) -> frozenset[str]:
    """The capabilities that plugin and generator have, after checks of all that only the networks can tell.

    Raises:
        ConfigError: if the recipe asks for what they cannot do.
        PluginError: if they break the contract.
    """
    recipe, who = config.recipe, registry.origin(config.modality)
    capabilities = capabilities_of(plugin, networks.generator)
    for capability, setting in required_capabilities(recipe).items():
        if capability not in capabilities:
            raise ConfigError(f"{setting} needs the capability {capability!r}, which {who} lacks")
    if not isinstance(getattr(networks.generator, "noise", None), Mapping):
        raise PluginError(
            who, "networks", "its generator has no `noise` mapping (part -> genkit.plugin.Noise)"
        )
    if not networks.critics and any(stage.kind != "pretrain" for stage in recipe.stages):
        raise PluginError(who, "networks", "it has no critics, and a game needs at least one")
    for name in recipe.critics:
        if name not in networks.critics:
            raise ConfigError(
                f"recipe.critics.{name}: no such critic.{did_you_mean(name, networks.critics)}"
            )
    for name, module in {"generator": networks.generator, **networks.critics}.items():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise PluginError(who, "networks", f"{name!r} has no parameters that could learn")
    for name, critic in networks.critics.items():
        if recipe.penalties and couples_samples(critic):
            raise ConfigError(
                f"recipe.penalties ({', '.join(recipe.penalties)}) need a critic without batch statistics, but the "
                f"critic {name!r} has BatchNorm: a penalty is per sample. Choose another normalisation, or no penalty"
            )
    return capabilities


def required_capabilities(recipe: Recipe) -> dict[str, str]:
    """Capability -> which setting needs it."""
    needs = {}
    if any(stage.kind == "pretrain" for stage in recipe.stages):
        needs["pretrain_loss"] = "a pretrain stage in recipe.stages"
    if isinstance(recipe.estimator, ScoreFunction):
        needs["log_prob"] = "recipe.estimator.kind = 'score_function'"
        if recipe.estimator.credit == "monte_carlo":
            needs["complete"] = "recipe.estimator.credit = 'monte_carlo'"
    if isinstance(recipe.estimator, StraightThrough | GumbelSoftmax):
        needs["relaxed"] = f"recipe.estimator.kind = {recipe.estimator.kind!r}"
    if recipe.terms:
        needs["terms"] = "recipe.terms"
    return needs


@torch.no_grad()
def check_critic(name: str, critic: nn.Module, sample: Sample) -> None:
    """Ask a critic once, so that one that breaks the contract says so before the game.

    Raises:
        ConfigError: if it gives anything but a Critique with logits [B] or [B, P].
    """
    was_training = critic.training
    critique = critic.eval()(sample)
    critic.train(was_training)
    if not isinstance(critique, Critique):
        kind = type(critique).__name__
        raise ConfigError(
            f"the critic {name!r} gives a {kind}; a genkit.plugin.Critique was expected"
        )
    for logits in critique.logits:
        if logits.ndim not in (1, 2) or len(logits) != len(sample):
            raise ConfigError(
                f"the critic {name!r} gives logits {list(logits.shape)} for {len(sample)} samples; "
                f"[{len(sample)}] or [{len(sample)}, P] was expected"
            )


@torch.no_grad()
def check_generator(
    generator: nn.Module, noise: Mapping[str, Tensor], controls: Any, real: Sample
) -> None:
    """Ask a generator once, so that one that breaks the contract says so before the game.

    Raises:
        ConfigError: if it gives anything but a Sample like the data.
    """
    was_training = generator.training
    fake = generator.eval()(noise, real.condition, controls)
    generator.train(was_training)
    if not isinstance(fake, Sample):
        raise ConfigError(
            f"the generator gives a {type(fake).__name__}; a genkit.plugin.Sample was expected"
        )
    if fake.x.shape != real.x.shape:
        raise ConfigError(
            f"the generator gives samples {list(fake.x.shape)}, the data are {list(real.x.shape)}"
        )


@torch.no_grad()
def sees_other_rows(critic: nn.Module, sample: Sample) -> bool:
    """Whether a critic's logits for one sample depend on the others of its batch: tried, not declared.

    Args:
        sample: a batch of samples, of which at least two differ.
    """
    if couples_samples(critic):
        return True
    was_training = critic.training
    critic.eval()
    copies, batch = critic(sample[torch.zeros(len(sample), dtype=torch.long)]), critic(sample)
    critic.train(was_training)
    return not all(
        torch.allclose(one[0], other[0], rtol=1e-3, atol=1e-4)
        for one, other in zip(copies.logits, batch.logits, strict=True)
    )

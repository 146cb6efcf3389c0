"""Checks that recipe, networks and data fit together, made before a game begins; each failure is one clear sentence.

Knows the recipe, the networks and their outputs; trains nothing.
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
from genkit.plugin import Critique, ModalityPlugin, Networks, Noise, Sample, capabilities_of
from genkit.recipe import GumbelSoftmax, Recipe, ScoreFunction, StraightThrough


def check_networks(config: RunConfig, plugin: ModalityPlugin, networks: Networks) -> frozenset[str]:
    """The optional capabilities of plugin and generator, after checking the networks against recipe and contract.

    Raises:
        ConfigError: if the recipe needs what plugin or networks cannot do.
        PluginError: if the networks break the contract.
    """
    recipe, origin = config.recipe, registry.origin(config.modality)
    capabilities = capabilities_of(plugin, networks.generator)
    for capability, setting in required_capabilities(recipe).items():
        if capability not in capabilities:
            raise ConfigError(
                f"{setting} needs the capability {capability!r}, which {origin} lacks"
            )
    noise = getattr(networks.generator, "noise", None)
    if not isinstance(noise, Mapping):
        raise PluginError(
            origin, "networks", "its generator has no `noise` mapping (part -> genkit.plugin.Noise)"
        )
    for part, spec in noise.items():
        if not isinstance(spec, Noise) or not isinstance(spec.shape, tuple):
            raise PluginError(
                origin,
                "networks",
                f"its generator has noise[{part!r}] = {spec!r}; a genkit.plugin.Noise with a tuple as its shape, such "
                "as Noise((4,)), was expected",
            )
    if not networks.critics and any(stage.kind != "pretrain" for stage in recipe.stages):
        raise PluginError(
            origin, "networks", "it has no critics, but a stage of the recipe needs at least one"
        )
    for name in recipe.critics:
        if name not in networks.critics:
            raise ConfigError(
                f"recipe.critics.{name}: no such critic.{did_you_mean(name, networks.critics)}"
            )
    for name, module in {"generator": networks.generator, **networks.critics}.items():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise PluginError(origin, "networks", f"{name!r} has no trainable parameters")
    for name, critic in networks.critics.items():
        if recipe.penalties and couples_samples(critic):
            raise ConfigError(
                f"recipe.penalties ({', '.join(recipe.penalties)}) are computed per sample, but the critic {name!r} "
                "has BatchNorm, which mixes the samples of a batch. Use another normalisation, or remove the penalties"
            )
    return capabilities


def required_capabilities(recipe: Recipe) -> dict[str, str]:
    """Capability -> the setting of the recipe that needs it."""
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
def check_critic(name: str, critic: nn.Module, sample: Sample, recipe: Recipe) -> None:
    """Run a critic once in eval mode, so that a broken contract is reported before the game begins.

    Raises:
        ConfigError: if it returns anything but a Critique with logits [B] or [B, P], or scores no steps where the
            recipe's credit needs it.
    """
    was_training = critic.training
    critique = critic.eval()(sample)
    critic.train(was_training)
    if not isinstance(critique, Critique):
        kind = type(critique).__name__
        raise ConfigError(
            f"the critic {name!r} returns a {kind}; a genkit.plugin.Critique was expected"
        )
    for logits in critique.logits:
        if logits.ndim not in (1, 2) or len(logits) != len(sample):
            raise ConfigError(
                f"the critic {name!r} returns logits {list(logits.shape)} for {len(sample)} samples; "
                f"[{len(sample)}] or [{len(sample)}, P] was expected"
            )
    estimator = recipe.estimator
    wants_steps = isinstance(estimator, ScoreFunction) and estimator.credit == "per_step"
    if wants_steps and not critique.per_step:
        raise ConfigError(
            f"recipe.estimator.credit = 'per_step' needs critics that score every step; {name!r} scores whole "
            "samples: choose another critic, or credit terminal or monte_carlo"
        )


@torch.no_grad()
def check_generator(
    generator: nn.Module, noise: Mapping[str, Tensor], controls: Any, real: Sample
) -> None:
    """Run a generator once in eval mode, so that a broken contract is reported before the game begins.

    Raises:
        ConfigError: if it returns anything but a Sample of the real batch's shape.
    """
    was_training = generator.training
    fake = generator.eval()(noise, real.condition, controls)
    generator.train(was_training)
    if not isinstance(fake, Sample):
        raise ConfigError(
            f"the generator returns a {type(fake).__name__}; a genkit.plugin.Sample was expected"
        )
    if fake.x.is_floating_point() and not fake.x.isfinite().all():
        raise ConfigError(
            "the generator returns values that are not finite before it has learned anything"
        )
    if fake.x.shape != real.x.shape:
        raise ConfigError(
            f"the generator returns samples {list(fake.x.shape)}, but the data are {list(real.x.shape)}"
        )


@torch.no_grad()
def sees_other_rows(critic: nn.Module, sample: Sample) -> bool:
    """Whether a critic's logits for one sample depend on the others of its batch: found by trying, not declared.

    Args:
        critic: its logits for row 0 are compared between the batch and a batch of copies of row 0.
        sample: a batch in which at least two samples differ.
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

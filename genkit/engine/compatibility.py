"""Checks that recipe, networks and data fit together, made before a game begins; each failure is one clear sentence.

Knows the recipe, the networks and their outputs; trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit.adversarial import straight_through
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine.averages import couples_samples
from genkit.engine.teacher import WEIGHTS, Teacher
from genkit.errors import ConfigError, DataError, ModelError, PluginError, did_you_mean
from genkit.plugin import Critique, ModalityPlugin, Networks, Noise, Sample, capabilities_of
from genkit.recipe import (
    GumbelSoftmax,
    Importance,
    Part,
    Pathwise,
    Recipe,
    ScoreFunction,
    StraightThrough,
)

LEAST_HELD_OUT = 100
"""Items by which critics are stopped early: of fewer, chance alone makes some of their scores seem certain."""


def check_processes(recipe: Recipe, processes: int) -> None:
    """Raise ConfigError unless so many processes can share each batch, and keep all that the recipe asks for."""
    if recipe.batch_size % (processes * recipe.gradient_accumulation * recipe.group):
        raise ConfigError(
            f"recipe.batch_size = {recipe.batch_size} cannot be divided among {processes} processes, each in "
            f"{recipe.gradient_accumulation} parts (recipe.gradient_accumulation) of whole groups of {recipe.group} "
            "(recipe.estimator.group): choose a multiple of the product of these three numbers"
        )
    critics = {f"critics.{name}": critic for name, critic in recipe.critics.items()}
    for name, critic in {"critic": recipe.critic, **critics}.items():
        if critic.pool and processes > 1:
            raise ConfigError(
                f"recipe.{name}.pool = {critic.pool} keeps earlier fakes in one process, and there are {processes}: "
                "set it to 0, or train with one process"
            )


def check_held_out(recipe: Recipe, count_of: Callable[[Part], int]) -> None:
    """Raise DataError unless early stopping holds out enough items for its figures to mean something.

    Args:
        count_of: how many items a part of the data has.
    """
    for number, stage in enumerate(recipe.stages):
        stopping = stage.early_stopping
        if stopping is not None and (count := count_of(stopping.part)) < LEAST_HELD_OUT:
            raise DataError(
                f"recipe.stages.{number}.early_stopping holds out {count} items, the part {list(stopping.part)} of the "
                f"data: at least {LEAST_HELD_OUT} are needed. Give more data, hold out a larger part, or leave it out "
                f"(recipe.stages.{number}.early_stopping=null)"
            )


def check_networks(config: RunConfig, plugin: ModalityPlugin, networks: Networks) -> frozenset[str]:
    """The optional capabilities of plugin and generator, after checking the networks against recipe and contract.

    Raises:
        ConfigError: if the recipe needs what plugin or networks cannot do.
        PluginError: if the networks break the contract.
    """
    recipe, origin = config.recipe, registry.origin(config.modality)
    capabilities = capabilities_of(plugin, networks.generator)
    for capability, setting in required_capabilities(
        recipe, config.run.teacher is not None
    ).items():
        if capability not in capabilities:
            raise ConfigError(
                f"{setting} needs the capability {capability!r}, which {origin} lacks"
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


def structure_fault(networks: object) -> str:
    """What is wrong with what a plugin gives as its networks; empty if they are modules that can be trained.

    Args:
        networks: what `networks` returned, before anything was done with it.
    """
    if not isinstance(networks, Networks):
        return f"it returned a {type(networks).__name__}; a genkit.plugin.Networks was expected"
    modules = {"generator": networks.generator}
    for group in ("critics", "frozen"):
        members = getattr(networks, group)
        if not isinstance(members, Mapping):
            return f"its {group} are a {type(members).__name__}; a mapping of names to modules was expected"
        for name, module in members.items():
            if not isinstance(name, str) or not name or "." in name or name in modules:
                return (
                    f"the name {name!r} in its {group}: a text without a dot was expected, that is no name of "
                    f"another network ({', '.join(modules)})"
                )
            modules[name] = module
    owners: dict[int, str] = {}
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            return f"its {name!r} is a {type(module).__name__}; a torch.nn.Module was expected"
        for path, parameter in module.named_parameters():
            if nn.parameter.is_lazy(parameter):
                return f"its {name!r} has a weight without a shape, {path}: run lazy modules once before"
            if parameter.requires_grad and owners.setdefault(id(parameter), name) != name:
                return (
                    f"its {name!r} has a weight, {path}, that {owners[id(parameter)]!r} has too: each weight is "
                    "trained by one player; use a copy, or pass a frozen network"
                )
    return _noise_fault(getattr(networks.generator, "noise", None))


def _noise_fault(noise: object) -> str:
    """What is wrong with a generator's `noise`; empty if it can be drawn."""
    if not isinstance(noise, Mapping):
        return "its generator has no `noise` mapping (part -> genkit.plugin.Noise)"
    for part, spec in noise.items():
        is_shape = isinstance(spec, Noise) and isinstance(spec.shape, tuple)
        if not is_shape or not all(_is_count(size, 0) for size in spec.shape):
            return (
                f"its generator has noise[{part!r}] = {spec!r}; a genkit.plugin.Noise with a tuple of sizes as its "
                "shape, such as Noise((4,)), was expected"
            )
        allowed = {
            "distribution": ("'normal' or 'uniform'", spec.distribution in ("normal", "uniform")),
            "dtype": ("'float32' or 'float64'", spec.dtype in ("float32", "float64")),
            "steps": (
                "None, or a number from 1 on",
                spec.steps is None or _is_count(spec.steps, 1),
            ),
        }
        for name, (expectation, is_valid) in allowed.items():
            if not is_valid:
                value = getattr(spec, name)
                return f"its generator has noise[{part!r}] with {name} = {value!r}: must be {expectation}"
    return ""


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def required_capabilities(recipe: Recipe, has_teacher: bool = False) -> dict[str, str]:
    """Capability -> the setting of the recipe that needs it.

    Args:
        recipe: of the game.
        has_teacher: the generator learns from another model, which brings two terms and what is learned in pretraining.
    """
    needs = {}
    if any(stage.kind == "pretrain" for stage in recipe.stages) and not has_teacher:
        needs["pretrain_loss"] = "a pretrain stage in recipe.stages"
    if isinstance(recipe.estimator, ScoreFunction | Importance):
        needs["log_prob"] = f"recipe.estimator.kind = {recipe.estimator.kind!r}"
    if isinstance(recipe.estimator, ScoreFunction) and recipe.estimator.credit == "monte_carlo":
        needs["complete"] = "recipe.estimator.credit = 'monte_carlo'"
    if isinstance(recipe.estimator, StraightThrough | GumbelSoftmax):
        needs["relaxed"] = f"recipe.estimator.kind = {recipe.estimator.kind!r}"
    if set(recipe.terms) - set(WEIGHTS if has_teacher else ()):
        needs["terms"] = "recipe.terms"
    if recipe.augmentation is not None:
        needs["augment"] = "recipe.augmentation"
    return needs


Fault = Callable[[str], Exception]
"""Makes the error of a contract that is broken, of a reason: see `genkit.discovery.registry.asking`."""


def check_sample(sample: Sample, fault: Fault) -> None:
    """Raise an error unless a batch of real or generated samples is one that networks can be given."""
    for name in ("x", "condition", "mask", "relaxed"):
        part = getattr(sample, name)
        if not (isinstance(part, Tensor) or (part is None and name != "x")):
            raise fault(f"its {name} is a {type(part).__name__}; a tensor was expected")
    mask, shape = sample.mask, sample.x.shape
    if mask is not None and not (
        mask.dtype == torch.bool
        and mask.ndim == 2
        and len(mask) == shape[0]
        and mask.shape[1] in shape[1:]
    ):
        raise fault(
            f"its mask is {list(mask.shape)} of {mask.dtype} for samples {list(shape)}; a bool for each step was "
            "expected, [B, L]"
        )


def check_critic(
    name: str, critic: nn.Module, sample: Sample, fake: Sample, recipe: Recipe, fault: Fault
) -> None:
    """Run a critic once in eval mode, so that a broken contract is reported before the game begins.

    Args:
        sample, fake: real samples, and what `check_generator` returned.
        fault: for whatever it returns but a Critique with finite logits [B] or [B, P] that have a gradient.

    Raises:
        ConfigError: if it scores no steps where the recipe's credit needs it, or cannot be attacked where the recipe
            asks for it.
    """
    attack = recipe.critic_named(name).attack
    if attack is not None:
        if not sample.x.is_floating_point():
            raise ConfigError(
                f"the attack on the critic {name!r} (recipe.critic.attack) moves samples by up to {attack.bound:g}, "
                f"which needs continuous ones, and these are {sample.x.dtype}: leave the attack out"
            )
        sample = sample.with_x(sample.x.detach().requires_grad_())
    was_training, version = critic.training, sample.x._version
    with torch.enable_grad():
        critique = critic.eval()(sample)
        if fake.relaxed is not None:
            critic(fake)  # not every critic can read mixtures of symbols
    critic.train(was_training)
    if not isinstance(critique, Critique):
        raise fault(
            f"it returned a {type(critique).__name__}; a genkit.plugin.Critique was expected"
        )
    if not isinstance(critique.logits, tuple | list) or not len(critique.logits):
        raise fault(f"it returned logits = {critique.logits!r}; a tuple of tensors was expected")
    for logits in critique.logits:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise fault(
                f"it returned logits of {kind}; tensors of floating-point numbers were expected"
            )
        if logits.ndim not in (1, 2) or len(logits) != len(sample):
            raise fault(
                f"it returned logits {list(logits.shape)} for {len(sample)} samples; "
                f"[{len(sample)}] or [{len(sample)}, P] was expected"
            )
        if not logits.isfinite().all():
            raise fault("it returned logits that are not finite before it has learned anything")
        if not logits.requires_grad:
            raise fault(
                "no gradient comes back from its logits: nothing may be detached from its weights"
            )
    if sample.x._version != version:
        raise fault("it wrote into its input (x): work on a copy")
    if attack is not None:
        total = torch.stack([logits.sum() for logits in critique.logits]).sum()
        if torch.autograd.grad(total, sample.x, allow_unused=True)[0] is None:
            raise ConfigError(
                f"the attack on the critic {name!r} (recipe.critic.attack) follows its gradient, and none comes back "
                "to the samples (x): leave the attack out"
            )
    estimator = recipe.estimator
    wants_steps = isinstance(estimator, ScoreFunction) and estimator.credit == "per_step"
    if wants_steps and not critique.per_step:
        raise ConfigError(
            f"recipe.estimator.credit = 'per_step' needs critics that score every step; {name!r} scores whole "
            "samples: choose another critic, or credit terminal or monte_carlo"
        )


def check_generator(
    generator: nn.Module,
    noise: Mapping[str, Tensor],
    controls: Any,
    real: Sample,
    recipe: Recipe,
    fault: Fault,
) -> Sample:
    """Run a generator in eval mode, so that a broken contract is reported before the game begins.

    Args:
        fault: for whatever it returns but a Sample of the real batch's shape and dtype, finite, and with a gradient
            where the recipe's estimator needs it.

    Returns:
        Fakes as the generator's update shows them to critics: relaxed, where the recipe relaxes them.
    """
    was_training = generator.training
    versions = {part: tensor._version for part, tensor in noise.items()}
    with torch.enable_grad():
        fake = view = generator.eval()(noise, real.condition, controls)
    if isinstance(recipe.estimator, StraightThrough | GumbelSoftmax):
        with torch.no_grad():
            view = cast(Any, generator).relaxed(noise, real.condition, controls, _one_hot)
    generator.train(was_training)
    if not isinstance(fake, Sample):
        raise fault(f"it returned a {type(fake).__name__}; a genkit.plugin.Sample was expected")
    check_sample(fake, fault)
    for fake_kind, real_kind in (
        (list(fake.x.shape), list(real.x.shape)),
        (fake.x.dtype, real.x.dtype),
    ):
        if fake_kind != real_kind:
            raise fault(f"it returned samples {fake_kind}, but the data are {real_kind}")
    if fake.x.is_floating_point() and not fake.x.isfinite().all():
        raise fault("it returned values that are not finite before it has learned anything")
    if (
        isinstance(recipe.estimator, Pathwise)
        and fake.x.is_floating_point()
        and not fake.x.requires_grad
    ):
        raise fault(
            "no gradient comes back from its samples: nothing may be detached from its weights"
        )
    for part, version in versions.items():
        if noise[part]._version != version:
            raise fault(f"it wrote into its noise ({part}): work on a copy")
    return cast(Sample, view)


def _one_hot(logits: Tensor, symbol: Tensor) -> Tensor:
    """A relaxation of a symbol, as `relaxed` asks for one."""
    return straight_through(logits.softmax(1), symbol)


@torch.no_grad()
def check_teacher(
    teacher: Teacher,
    student: nn.Module,
    plugin: ModalityPlugin,
    noise: Mapping[str, Tensor],
    controls: Any,
    real: Sample,
) -> None:
    """Run a teacher once, so that one that does not fit its student or the data is reported before the game begins.

    Args:
        plugin: of the student, with its options and facts.
        noise, controls: of the student, for the rows of the real batch.

    Raises:
        ConfigError: if the two draw from different noise, know different classes or symbols, their samples differ in
            shape, or nothing can be learned from discrete samples.
    """
    name = teacher.name
    cure = f"leave the options that decide about it as the teacher has them{_other_options(teacher, plugin)}"
    generators: Any = (teacher.generator, student)
    parts, own_parts = (dict(one.noise) for one in generators)
    for part in {**parts, **own_parts}:
        if parts.get(part) != own_parts.get(part):
            raise ConfigError(
                f"the teacher {name} draws from the noise {part} = {parts.get(part)}, the student from "
                f"{own_parts.get(part)}, but a student learns from the same noise: {cure}"
            )
    labels = tuple(plugin.facts.values.get("labels") or ())
    if teacher.labels != labels:
        raise ConfigError(
            f"the teacher {name} knows the classes {_listed(teacher.labels)}, the data have {_listed(labels)}: take "
            "data of the teacher's classes"
        )
    goal = teacher.draw(noise, real.condition, controls)
    if (goal.x.shape, goal.x.dtype) != (real.x.shape, real.x.dtype):
        raise ConfigError(
            f"the teacher {name} draws samples {list(goal.x.shape[1:])} of {goal.x.dtype}, but items of the data are "
            f"{list(real.x.shape[1:])} of {real.x.dtype}: take data of its kind, and {cure}"
        )
    if goal.x.is_floating_point():
        return
    tells_all = teacher.has_distributions(student)
    if not tells_all and not callable(getattr(student, "log_prob", None)):
        raise ConfigError(
            f"the samples of the teacher {name} are discrete, and a student learns from them by `distributions` or "
            "`log_prob`: its generator has neither"
        )
    if tells_all:
        shapes = [list(one.distributions(goal).shape) for one in generators]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"the teacher {name} gives distributions {shapes[0]}, the student {shapes[1]}: both must know the same "
                "symbols"
            )


def _other_options(teacher: Teacher, plugin: ModalityPlugin) -> str:
    """The options that a student has other values of than its teacher, for messages; empty if there are none."""
    options = {} if plugin.options is None else plugin.options.model_dump(mode="json")
    differences = [
        f"options.{key} = {value!r} (the teacher's: {teacher.options[key]!r})"
        for key, value in options.items()
        if key in teacher.options and teacher.options[key] != value
    ]
    return f"; they differ in {', '.join(differences)}" if differences else ""


def _listed(labels: tuple[str, ...]) -> str:
    """The first names of classes, for messages."""
    return ", ".join(labels[:5]) + (" ..." if len(labels) > 5 else "") if labels else "none"


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


def check_state(state: Any, counters: Mapping[str, Any], retries: int, path: Path) -> None:
    """Raise ModelError unless the plain part of a checkpoint has counts where counts belong, and means of items.

    Args:
        state: what the file holds.
        counters: of a game of the same networks.
        retries: the most returns to an earlier state that a game makes.
        path: of the file, for messages.
    """
    is_tree = isinstance(state, dict) and all(
        isinstance(state.get(name, {}), dict) for name in ("updates", "machine", "data")
    )
    if not is_tree:
        raise ModelError(f"{path} is no state of a run: an object with objects in it was expected")
    values = {
        **{name: state.get(name, 0) for name in counters if name != "updates"},
        **{f"updates.{name}": state.get("updates", {}).get(name) for name in counters["updates"]},
        "log_bytes": state.get("log_bytes"),
    }
    for name, value in values.items():
        kinds = (int, float) if name == "seconds" else (int,)
        is_count = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_count or not 0 <= value < 2**53 or (name == "retry" and value > retries):
            raise ModelError(f"{path}: {name} = {value!r} is no count of a run")
    means = state.get("data", {}).get("spread_means", [])
    if not (isinstance(means, list) and all(isinstance(mean, float) for mean in means)):
        raise ModelError(f"{path}: data.spread_means are no numbers")

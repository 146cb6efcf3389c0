"""User objects: losses, penalties, rewards and networks that users name as `module:attribute`.

This is the only place where a name becomes code. A name is imported when a user gives it (`admit`), and tried on small
tensors. The names in a model folder are never imported; they are only compared with those that the user gave, so that
no model folder can make a process import anything. Torch is imported only when an object is tried or built.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genkit.errors import ConfigError, ModelError, did_you_mean, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genkit.adversarial import AdversarialLoss, Penalty

_networks: set[str] = set()
"""Names of the network classes that were admitted in this process."""


class Named:
    """Marks a setting that takes a built-in name or `module:attribute`: `Annotated[str, Named("wide", "deep")]`.

    Validation checks only the form of a name, because a model folder's settings are validated too; the object is
    imported when a configuration for training is built. Python objects (functions, classes, named tuples) are accepted
    and replaced by their names, see `name_of`.

    Args:
        built_in: the built-in names.
    """

    def __init__(self, *built_in: str) -> None:
        self.built_in = built_in

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def check(self, value: Any) -> str | None:
        """The name that a value of the setting stands for; None stays None.

        Raises:
            ValueError: for a name that is neither built-in nor of the form `module:attribute`, and for an object that
                no module has under a name.
        """
        if callable(value) or isinstance(value, tuple):  # losses and penalties are named tuples
            return name_of(value)
        if value is None or value in self.built_in or (isinstance(value, str) and ":" in value):
            return value
        raise ValueError(
            f"no such name {value!r}.{did_you_mean(str(value), self.built_in)} Your own: module:attribute"
        )


def resolve(target: str) -> Any:
    """Import the object that `module:attribute` names; the attribute may have dots.

    Raises:
        ValueError: if it is not of this form.
        Exception: whatever the import raises; AttributeError if the module has no such attribute.
    """
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{target!r} is not of the form module:attribute")
    value: Any = importlib.import_module(module)
    for name in attribute.split("."):
        value = getattr(value, name)
    return value


def name_of(thing: Any) -> str:
    """The `module:attribute` of a Python object, by which it is imported again when a run is resumed.

    Raises:
        ValueError: if no imported module has it as an attribute.
    """
    # The object's own module first (of a named tuple: its class's), then all others, the last imported one first.
    for module in (getattr(thing, "__module__", ""), *reversed(sys.modules)):
        for attribute, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
            if value is thing:
                return f"{module}:{attribute}"
    raise ValueError(
        f"a {type(thing).__name__} that no module has under a name of its own: write it at the top of a module"
    )


def admit(setting: str, name: str, fault: Callable[[Any], str]) -> Any:
    """Import and try a user object.

    Args:
        setting: the setting that names it, for messages.
        name: its `module:attribute`.
        fault: a function of the object that gives what is wrong with it, or an empty string; it may raise.

    Returns:
        The object.

    Raises:
        ConfigError: if it cannot be imported, or `fault` finds something or raises.
    """
    try:
        thing = resolve(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises at import
        raise ConfigError(
            f"{setting} = {name!r}: cannot be imported ({first_line(error)})"
        ) from error
    try:
        reason = fault(thing)
    except Exception as error:  # whatever the user's code raises on small tensors
        reason = f"fails when it is tried on small tensors ({first_line(error)})"
    if reason:
        raise ConfigError(f"{setting} = {name!r}: {reason}")
    return thing


# Losses, penalties and rewards, which recipes name ---------------------------------------------------------------


def loss_named(name: str) -> AdversarialLoss:
    """The loss that `recipe.loss` names: a built-in one, or a user object.

    Raises:
        ConfigError: if a user object cannot be imported or is not an `AdversarialLoss` that works.
    """
    from genkit.adversarial import LOSSES

    return LOSSES[name] if name in LOSSES else admit("recipe.loss", name, loss_fault)


def penalty_named(name: str) -> Penalty:
    """The penalty that a key of `recipe.penalties` names: a built-in one, or a user object.

    Raises:
        ConfigError: if a user object cannot be imported or is not a `Penalty` that works.
    """
    from genkit.adversarial import PENALTIES

    return PENALTIES[name] if name in PENALTIES else admit("recipe.penalties", name, penalty_fault)


def reward_named(name: str) -> Callable[[Tensor], Tensor]:
    """The reward that `recipe.estimator.reward` names: a function of a critic's (discriminator's) logits.

    A built-in one other than `negative_loss`, which needs the game's loss, or a user object.

    Returns:
        logits of any shape -> rewards of the same shape.

    Raises:
        ConfigError: if a user object cannot be imported or is not such a function.
    """
    import torch

    built_in: dict[str, Callable[[Tensor], Tensor]] = {
        "probability": torch.sigmoid,
        "signed_probability": lambda logits: 2 * torch.sigmoid(logits) - 1,
        "logit": lambda logits: logits,
    }
    return (
        built_in[name] if name in built_in else admit("recipe.estimator.reward", name, reward_fault)
    )


def loss_fault(loss: Any) -> str:
    """What is wrong with an object as an `AdversarialLoss`, tried on logits [4] and [4, 3]; empty if nothing is."""
    from genkit.adversarial import AdversarialLoss

    if not isinstance(loss, AdversarialLoss):
        return f"is a {type(loss).__name__}; a genkit.adversarial.AdversarialLoss was expected"
    for shape in ((4,), (4, 3)):  # one logit per sample, and several
        real, fake = _numbers(*shape), -_numbers(*shape)
        critic_losses = loss.critic(real, fake)
        if not (isinstance(critic_losses, tuple) and len(critic_losses) == 2):
            return f"its critic gives a {type(critic_losses).__name__}, not (loss at the reals, loss at the fakes)"
        parts = {
            "its critic's loss at the reals": critic_losses[0],
            "its critic's loss at the fakes": critic_losses[1],
            "its generator's loss": loss.generator(fake, real),
        }
        faults = [
            _tensor_fault(values, shape, subject, "one for each logit, not reduced")
            for subject, values in parts.items()
        ]
        if any(faults):
            return next(filter(None, faults))
        if (
            not (critic_losses[0] + critic_losses[1]).requires_grad
            or not parts["its generator's loss"].requires_grad
        ):
            return "no gradient comes back from it to the logits"
    return ""


def penalty_fault(penalty: Any) -> str:
    """What is wrong with an object as a `Penalty`, tried on points [4, 3]; empty if nothing is."""
    from genkit.adversarial import Penalty

    if not isinstance(penalty, Penalty):
        return f"is a {type(penalty).__name__}; a genkit.adversarial.Penalty was expected"
    if penalty.at not in ("real", "fake", "between"):
        return f"its at = {penalty.at!r}: must be 'real', 'fake' or 'between'"
    if penalty.step is not None and not penalty.step > 0:
        return f"its step = {penalty.step!r}: must be above 0, or None"
    points, weights = _numbers(4, 3), _numbers(3)
    # [B, P]: a critic whose gradient depends on both the points and its weights
    logits = (points * weights).square()
    values = (
        penalty.value(points, logits)
        if penalty.step is None
        else penalty.value(points.detach(), logits)
    )
    fault = _tensor_fault(
        values,
        (4,),
        "its value at points [4, 3]",
        "one for each sample, of any rank: .flatten(1).sum(1)",
    )
    return fault or (
        ""
        if values.requires_grad
        else "no gradient comes back from its value to the critic's weights"
    )


def reward_fault(reward: Any) -> str:
    """What is wrong with an object as a reward, tried on logits [4] and [4, 3]; empty if nothing is."""
    if not callable(reward):
        return f"is a {type(reward).__name__}; a function of a critic's logits was expected"
    faults = [
        _tensor_fault(reward(_numbers(*shape).detach()), shape, "it", "one for each logit")
        for shape in ((4,), (4, 3))
    ]
    return next(filter(None, faults), "")


def _numbers(*shape: int) -> Tensor:
    """A tensor of numbers of both signs that requires a gradient; no random generator is used."""
    import torch

    return torch.linspace(-2.0, 3.0, torch.Size(shape).numel()).view(shape).requires_grad_()


def _tensor_fault(values: Any, shape: tuple[int, ...], subject: str, expectation: str) -> str:
    """What keeps an object from being a finite tensor of a shape; empty if nothing does.

    Args:
        subject: what the object is, for the message.
        expectation: what the tensor should hold, for the message.
    """
    import torch

    if not isinstance(values, torch.Tensor):
        return f"{subject} is a {type(values).__name__}; a tensor {list(shape)} was expected ({expectation})"
    if tuple(values.shape) != shape:
        return f"{subject} has the shape {list(values.shape)}; {list(shape)} was expected ({expectation})"
    return "" if bool(values.isfinite().all()) else f"{subject} is not finite at ordinary logits"


# Networks, which options name ------------------------------------------------------------------------------------


def network_fault(kind: Any) -> str:
    """What is wrong with an object as the class of a network; empty if nothing is. It is not built here."""
    from torch import nn

    is_network = (
        isinstance(kind, type) and issubclass(kind, nn.Module) and not inspect.isabstract(kind)
    )
    return "" if is_network else f"is {kind!r}; a class of torch.nn.Module was expected"


def admit_network(setting: str, name: str) -> None:
    """Import the class of a network and allow `network` to build it in this process.

    Args:
        setting: the setting that names it, for messages.
        name: its `module:attribute`.

    Raises:
        ConfigError: if it cannot be imported, or is not a concrete class of `torch.nn.Module`.
    """
    admit(setting, name, network_fault)
    _networks.add(name)


def is_admitted(name: str) -> bool:
    """Whether the user has named this network class in this process."""
    return name in _networks


def network(setting: str, name: str, *arguments: Any) -> nn.Module:
    """Build a user's network; plugins call it where an option does not name a built-in network.

    Only a class that the user has named in this process is built. Any other name comes from a model folder and becomes
    a placeholder without weights: generating needs no critic (discriminator), and `not_placeholder` raises for a
    network that is needed.

    Args:
        setting: the option that names it, for messages.
        name: `module:attribute` of its class.
        arguments: arguments of the class; the plugin documents them.

    Returns:
        The network, or a placeholder (an `nn.Identity`).

    Raises:
        ConfigError: if the class raises when it is called with these arguments.
    """
    from torch import nn

    if not is_admitted(name):
        absent = nn.Identity()
        absent.not_admitted = f"its {setting} is {name!r}"  # type: ignore[assignment]
        return absent
    try:
        module: nn.Module = resolve(name)(*arguments)
    except Exception as error:  # whatever the user's constructor raises
        raise ConfigError(
            f"{setting} = {name!r}: cannot be built with ({', '.join(type(one).__name__ for one in arguments)}): "
            f"{first_line(error)}"
        ) from error
    return module


def not_placeholder(module: nn.Module, subject: object) -> nn.Module:
    """The network, unchanged, if it is not the placeholder of a class that the user has not named.

    Args:
        subject: what needs the network (a model folder, an option), for the message.

    Raises:
        ModelError: if it is a placeholder; says how to name the class.
    """
    absent = getattr(module, "not_admitted", None)
    if absent is None:
        return module
    raise ModelError(
        f"{subject} needs a user object ({absent}), and no model folder makes genkit import any: if you trust it, name "
        "it yourself with --user-object module:attribute, in Python genkit.load(..., user_objects=[...])"
    )

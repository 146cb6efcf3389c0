"""User objects: losses, penalties, rewards and networks that users give as `module:attribute`.

Code enters here and nowhere else: a name is imported when a user gives it (`admit`) and tried on small tensors.
What a model folder names is only ever looked up among what a user gave, so that no folder makes a process import a
thing. Torch-free until something is tried; knows no file, no plugin and no settings but the words for them.
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


class Named:
    """Marks a setting that takes a built-in name or `module:attribute`: `Annotated[str, Named("wide", "deep")]`.

    Only the form of a name is checked with the settings, for those of a model folder are settings too; it is imported
    where a configuration is built. An object is taken too, as the name under which its module has it.

    Args:
        built_in: the names that are there already.
    """

    def __init__(self, *built_in: str) -> None:
        self.built_in = built_in

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def check(self, value: Any) -> str | None:
        """The name.

        Raises:
            ValueError: for one that is neither built in nor of the form `module:attribute`, or for an object without.
        """
        if callable(value) or isinstance(value, tuple):  # losses and penalties are named tuples
            return name_of(value)
        if value is None or value in self.built_in or (isinstance(value, str) and ":" in value):
            return value
        raise ValueError(
            f"no such name {value!r}.{did_you_mean(str(value), self.built_in)} Your own: module:attribute"
        )


def resolve(target: str) -> Any:
    """What `module:attribute` names."""
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{target!r} is not of the form module:attribute")
    value: Any = importlib.import_module(module)
    for name in attribute.split("."):
        value = getattr(value, name)
    return value


def name_of(thing: Any) -> str:
    """The `module:attribute` of a Python object, by which it is found again when a run goes on.

    Raises:
        ValueError: if no module has it.
    """
    # The last module that was imported is the one that others have it from.
    for module in (getattr(thing, "__module__", ""), *reversed(sys.modules)):
        for attribute, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
            if value is thing:
                return f"{module}:{attribute}"
    raise ValueError(
        f"a {type(thing).__name__} that no module has under a name of its own: write it at the top of a module"
    )


def admit(setting: str, name: str, fault: Callable[[Any], str]) -> Any:
    """What a user's `module:attribute` names, imported and tried.

    Args:
        setting: where it was given, for messages.
        fault: says what is wrong with it, or nothing.

    Raises:
        ConfigError: if it cannot be imported or is not what is wanted.
    """
    try:
        thing = resolve(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises at import
        raise ConfigError(
            f"{setting} = {name!r}: cannot be imported ({first_line(error)})"
        ) from error
    try:
        wrong = fault(thing)
    except Exception as error:  # whatever the user's code raises on tensors that it did not expect
        wrong = f"fails when it is tried on small tensors ({first_line(error)})"
    if wrong:
        raise ConfigError(f"{setting} = {name!r}: {wrong}")
    return thing


# What recipes name -----------------------------------------------------------------------------------------------


def loss_named(name: str) -> AdversarialLoss:
    """A built-in loss, or a user object.

    Raises:
        ConfigError: as `admit`.
    """
    from genkit.adversarial import LOSSES

    return LOSSES[name] if name in LOSSES else admit("recipe.loss", name, loss_fault)


def penalty_named(name: str) -> Penalty:
    """A built-in penalty, or a user object.

    Raises:
        ConfigError: as `admit`.
    """
    from genkit.adversarial import PENALTIES

    return PENALTIES[name] if name in PENALTIES else admit("recipe.penalties", name, penalty_fault)


def reward_named(name: str) -> Callable[[Tensor], Tensor]:
    """A function of a critic's logits, shaped as they are; built in, or a user object.

    Raises:
        ConfigError: as `admit`.
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
    """What keeps something from being an `AdversarialLoss`, or nothing."""
    from genkit.adversarial import AdversarialLoss

    if not isinstance(loss, AdversarialLoss):
        return f"is a {type(loss).__name__}; a genkit.adversarial.AdversarialLoss was expected"
    for shape in ((4,), (4, 3)):  # one logit a sample, and several
        real, fake = _numbers(*shape), -_numbers(*shape)
        at_both = loss.critic(real, fake)
        if not (isinstance(at_both, tuple) and len(at_both) == 2):
            return f"its critic gives a {type(at_both).__name__}, not (loss at the reals, loss at the fakes)"
        parts = {
            "its critic's loss at the reals": at_both[0],
            "its critic's loss at the fakes": at_both[1],
            "its generator's loss": loss.generator(fake, real),
        }
        wrong = [
            _unlike(values, shape, who, "one for each logit, not reduced")
            for who, values in parts.items()
        ]
        if any(wrong):
            return next(filter(None, wrong))
        if (
            not (at_both[0] + at_both[1]).requires_grad
            or not parts["its generator's loss"].requires_grad
        ):
            return "no gradient comes back from it to the logits"
    return ""


def penalty_fault(penalty: Any) -> str:
    """What keeps something from being a `Penalty`, or nothing."""
    from genkit.adversarial import Penalty

    if not isinstance(penalty, Penalty):
        return f"is a {type(penalty).__name__}; a genkit.adversarial.Penalty was expected"
    if penalty.at not in ("real", "fake", "between"):
        return f"its at = {penalty.at!r}: must be 'real', 'fake' or 'between'"
    if penalty.step is not None and not penalty.step > 0:
        return f"its step = {penalty.step!r}: must be above 0, or None"
    points, weights = _numbers(4, 3), _numbers(3)
    logits = (
        points * weights
    ).square()  # [B, P]: a critic whose slope depends on point and weights
    values = (
        penalty.value(points, logits)
        if penalty.step is None
        else penalty.value(points.detach(), logits)
    )
    wrong = _unlike(
        values,
        (4,),
        "its value at points [4, 3]",
        "one for each sample, of any rank: .flatten(1).sum(1)",
    )
    return wrong or (
        ""
        if values.requires_grad
        else "no gradient comes back from its value to the critic's weights"
    )


def reward_fault(reward: Any) -> str:
    """What keeps something from being a reward, or nothing."""
    if not callable(reward):
        return f"is a {type(reward).__name__}; a function of a critic's logits was expected"
    wrong = [
        _unlike(reward(_numbers(*shape).detach()), shape, "it", "one for each logit")
        for shape in ((4,), (4, 3))
    ]
    return next(filter(None, wrong), "")


def _numbers(*shape: int) -> Tensor:
    """Some, of both signs, with a gradient; no random generator is asked."""
    import torch

    return torch.linspace(-2.0, 3.0, torch.Size(shape).numel()).view(shape).requires_grad_()


def _unlike(values: Any, shape: tuple[int, ...], who: str, wanted: str) -> str:
    import torch

    if not isinstance(values, torch.Tensor):
        return f"{who} is a {type(values).__name__}; a tensor {list(shape)} was expected ({wanted})"
    if tuple(values.shape) != shape:
        return f"{who} has the shape {list(values.shape)}; {list(shape)} was expected ({wanted})"
    return "" if bool(values.isfinite().all()) else f"{who} is not finite at ordinary logits"


# Networks, which options name ------------------------------------------------------------------------------------


def network_fault(kind: Any) -> str:
    """What keeps something from being the class of a network, or nothing; it is built when the data are known."""
    from torch import nn

    fits = isinstance(kind, type) and issubclass(kind, nn.Module) and not inspect.isabstract(kind)
    return "" if fits else f"is {kind!r}; a class of torch.nn.Module was expected"


def admit_network(setting: str, name: str) -> None:
    """Make the class of a network known in this process from now on.

    Raises:
        ConfigError: as `admit`.
    """
    admit(setting, name, network_fault)
    _networks.add(name)


def is_admitted(name: str) -> bool:
    """Whether somebody named this network in this process."""
    return name in _networks


def network(setting: str, name: str, *arguments: Any) -> nn.Module:
    """A user's network, built; what plugins call where an option names no built-in one.

    Nothing is imported here. A name that nobody gave in this process (it stands in a model folder) becomes a placeholder
    without weights: whoever only generates needs no critic, and `not_placeholder` refuses what is needed.

    Args:
        setting: which option it was, for messages.
        name: `module:attribute` of its class.
        arguments: that the class is built with; the plugin documents them.

    Raises:
        ConfigError: if it cannot be built with them.
    """
    from torch import nn

    if not is_admitted(name):
        absent = nn.Identity()
        absent.not_admitted = f"its {setting} is {name!r}"  # type: ignore[assignment]
        return absent
    try:
        built: nn.Module = resolve(name)(*arguments)
    except Exception as error:  # whatever the user's constructor raises
        raise ConfigError(
            f"{setting} = {name!r}: cannot be built with ({', '.join(type(one).__name__ for one in arguments)}): "
            f"{first_line(error)}"
        ) from error
    return built


def not_placeholder(module: nn.Module, where: object) -> nn.Module:
    """The network of a model, if it is not the placeholder of one that must be named first.

    Raises:
        ModelError: says how to name it.
    """
    absent = getattr(module, "not_admitted", None)
    if absent is None:
        return module
    raise ModelError(
        f"{where} needs a user object ({absent}), and no model folder makes genkit import any: if you trust it, name it "
        "yourself with --user-object module:attribute, in Python genkit.load(..., user_objects=[...])"
    )

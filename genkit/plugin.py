"""The contract between genkit and a modality: what a plugin declares, and what passes between it and the engine.

Torch-free at import: a manifest must cost nothing to read. Knows no modality, no file, no loss.

Shape letters, used in every docstring of the house:

    B batch    Z latent    C channels    L steps    V symbols    P logits per sample    F features

`*event` is the shape of one sample without its batch axis. A plugin adds letters of its own (H W pixels, T frames).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeVar, runtime_checkable

from genkit.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

API = (1, 0)
"""Version of this contract. The major is part of the entry-point group, so it is readable without an import."""

ENTRY_POINT_GROUP = f"genkit.modality.v{API[0]}"

PLUGIN_CAPABILITIES = frozenset(
    {"condition", "initialise", "terms", "augment", "preview", "writer"}
)
GENERATOR_CAPABILITIES = frozenset({"pretrain_loss", "log_prob", "complete", "relaxed", "unroll"})
CAPABILITIES = PLUGIN_CAPABILITIES | GENERATOR_CAPABILITIES
"""Optional capabilities. Each is the name of a method, of the plugin or of its generator: whoever has it can do it."""


# What a plugin declares ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A named set of options and recipe settings that are known to work together.

    Args:
        summary: one line for lists and help.
        options: values for the plugin's options, as plain data.
        recipe: values for `genkit.recipe.Recipe`, as plain data.
        run: values for the run itself (items, how often to look), as plain data.
    """

    summary: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Modality:
    """A plugin's manifest: plain data, so that a list or a help page costs no import of torch.

    Args:
        id: what users type; equals the name of the entry point. Lower-case letters, digits and underscores.
        title: a few words.
        plugin: `"module:Class"` of a `ModalityPlugin`; in one process also the class itself.
        summary: one line.
        media_type: of one encoded sample (RFC 6838).
        formats: file endings that `encode` can write, the default first.
        preview_formats: file endings of what `preview` writes of many samples, the default first.
        options: `"module:Class"` of a `genkit.recipe.Settings`: what is trained. None: there are none.
        controls: `"module:Class"` of the same for what can be turned when generating. None: there are none. A control
            `<part>_seed` that is not None is the seed of the noise part `<part>`, and of all parts `<part>.<more>`: the
            sampler sees to it, the plugin only declares the control.
        presets: the first is the default.
        data: the default data source, None where there is none.
    """

    id: str
    title: str
    plugin: str | type[ModalityPlugin]
    summary: str = ""
    media_type: str = "application/octet-stream"
    formats: tuple[str, ...] = ("npy",)
    preview_formats: tuple[str, ...] = ()
    options: str | type[Any] | None = None
    controls: str | type[Any] | None = None
    presets: Mapping[str, Preset] = field(default_factory=lambda: {"default": Preset()})
    data: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON data.

        Raises:
            TypeError: if it holds anything but plain data and `"module:name"` strings.
        """
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["presets"] = {
            name: {f.name: getattr(preset, f.name) for f in fields(preset)}
            for name, preset in self.presets.items()
        }
        result: dict[str, Any] = json.loads(json.dumps(plain))
        return result

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Modality:
        """The manifest that `to_json` made such data of."""
        presets = {name: Preset(**preset) for name, preset in plain["presets"].items()}
        formats = {name: tuple(plain[name]) for name in ("formats", "preview_formats")}
        return cls(**{**plain, **formats, "presets": presets})


@dataclass(frozen=True)
class Facts:
    """What the DATA decide about the networks: channels, size, label names, vocabulary, rate.

    Saved with the model; networks are built from options and facts alone, without the data.

    Args:
        values: plain JSON data.
        files: small files by name (a tokenizer, say), kept in the model's `assets/`.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class Skipped(NamedTuple):
    """One item of a data source that cannot be used.

    Args:
        name: of the item, as the user knows it: a path within the source, say.
        reason: in a few words.
    """

    name: str
    reason: str


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set of one modality, as `torch.utils.data.Dataset`; a tensor or array [N, *event] is one too.

    An item is a `Sample` without batch axis, its `x` alone, or a pair (x, condition). All items have one shape. What is
    random about an item is drawn from the global generators of torch, NumPy or Python, which are seeded for each item.

    It may have an attribute `skipped`, a sequence of `Skipped`: what the source holds and cannot be used. Where there is
    nothing else, the data set may be empty; the user is told why.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class BatchedDataset(Dataset, Protocol):
    """A data set that reads a whole batch at once; not for items that are random."""

    def __getitems__(self, indices: list[int], /) -> Any:
        """A `Sample` with batch axis [B, ...], or a list of items, in the order of the indices."""
        ...


@runtime_checkable
class RandomDataset(Dataset, Protocol):
    """A data set whose items are random by words that they are given: read ahead of time, in a thread of its own."""

    def random_batch(self, indices: list[int], words: NDArray[np.uint64], /) -> Sample:
        """A batch [B, ...]; `words` [B] has 64 random bits for each item, for all that is random about it.

        No global generator may be touched: the same words give the same items.
        """
        ...


# What passes between the plugin's networks and the engine --------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """One part of a generator's noise.

    Args:
        shape: of one sample's part, or of one step's where there are steps.
        distribution: `"normal"`: N(0, 1); `"uniform"`: U(0, 1), never 0 or 1.
        steps: length of a leading step axis that can be drawn from any position; None: no such axis.
        dtype: `"float32"`, or `"float64"` where a cumulative distribution is inverted.
    """

    shape: tuple[int, ...]
    distribution: str = "normal"
    steps: int | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Sample:
    """A batch of samples, real and fake alike; without the batch axis: one item of a data set.

    Args:
        x: [B, *event].
        condition: [B, ...], what a conditional model is told; None for others.
        mask: [B, L] bool, valid steps; ONE mask for critics, log-probabilities and metrics. None: all are valid.
        relaxed: [B, L, V], a differentiable relaxation of a discrete `x`, largest at its symbols. A critic reads it
            where it is given, and the one-hot of `x` otherwise. The engine gives it in the generator's updates alone.
    """

    x: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None
    relaxed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Sample:
        """The same rows of every part."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Sample:
        """Every part on a device."""
        blocking = (
            str(device) == "cpu"
        )  # a copy to the CPU that does not wait may be read before it has arrived
        return self._each(lambda tensor: tensor.to(device, non_blocking=not blocking))

    def detach(self) -> Sample:
        """Every part cut from its graph."""
        return self._each(lambda tensor: tensor.detach())

    def with_x(self, x: Tensor) -> Sample:
        """The same sample with another `x`."""
        return replace(self, x=x)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Sample:
        present = {
            f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None
        }
        return replace(self, **{name: change(part) for name, part in present.items()})


@dataclass(frozen=True)
class Critique:
    """What a critic says of a batch.

    Args:
        logits: one entry per head or scale, each [B] or [B, P]; high means real.
        features: for feature matching, [B, ...] each.
        outputs: auxiliary heads by name (a class, a category code), [B, ...] each.
        per_step: True if P are the steps of `x`, to be read under its mask.
    """

    logits: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    per_step: bool = False

    def __getitem__(self, rows: Any) -> Critique:
        """The same rows of every part."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Critique:
        logits, features = tuple(map(change, self.logits)), tuple(map(change, self.features))
        return Critique(
            logits,
            features,
            {name: change(part) for name, part in self.outputs.items()},
            self.per_step,
        )


Parts = TypeVar("Parts", Sample, Critique)


def full_precision(parts: Parts) -> Parts:
    """A Sample or a Critique whose half-precision parts are float32: what is compared and summed is never half."""
    return parts._each(
        lambda tensor: (
            tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
        )
    )


class Generator(Protocol):
    """What the engine asks of a generator: an `nn.Module` with a `noise` attribute.

    Methods that it may have, its optional capabilities:
        `pretrain_loss(real) -> Tensor`: a scalar to minimise before the game (maximum likelihood, reconstruction).
        `log_prob(sample) -> [B, L]`: log-probability of each step of `sample.x`, at the temperature of sampling.
        `complete(sample, length, noise) -> Sample`: keeps the first `length` steps of each row and draws the rest.
        `relaxed(noise, condition, controls, relax) -> Sample`: as `forward`, with the very same `x` and `mask`, and
            with `Sample.relaxed`. At each step `relax(logits [B, V], symbol [B]) -> [B, V]` makes it of the logits at
            the temperature of sampling and the symbol that was drawn from them; steps that are masked out hold the
            one-hot of the padding, without a gradient. What later steps are told of a symbol may carry its gradient
            as `genkit.adversarial.straight_through(relaxed, symbol)`, whose value is the one-hot that `forward` sees.
    """

    noise: Mapping[str, Noise]

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any
    ) -> Sample:
        """Samples from noise; a row depends on its own noise and condition alone when in eval mode."""
        ...


class Unrolling(Generator, Protocol):
    """A generator with the capability `unroll`: samples of any length, of which any steps can be drawn by themselves.

    In training its `forward` draws the first `length(None)` steps, from noise of `Noise.steps` steps; when sampling,
    each sample is drawn alone, in whole blocks, so that memory is bounded and bits do not depend on the length.

    Args:
        block: output steps of one call of `unroll` when sampling.
        step_axis: of x [B, *event], the axis that output steps run along; at least 1.
    """

    block: int
    step_axis: int

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Output steps of a whole sample, where its condition [1, ...] has a say in it; controls None: of training."""
        ...

    def needs(self, steps: range, controls: Any) -> Mapping[str, range]:
        """Which steps (>= 0) of each noise part that has steps are needed to draw these output steps."""
        ...

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """These output steps, from just the noise that they need; equal whatever is drawn beside them."""
        ...


@dataclass(frozen=True)
class Networks:
    """A model's modules, as architecture only: the engine moves everything, and asks for `initialise` where it must.

    Args:
        generator: an `nn.Module` that is a `Generator`.
        critics: by name; each maps a `Sample` to a `Critique`.
        frozen: never trained, for use in `terms` (a reference model, a feature network).
    """

    generator: nn.Module
    critics: Mapping[str, nn.Module]
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)


# The plugin's class ----------------------------------------------------------------------------------------------


class ModalityPlugin(ABC):
    """One modality: its data, its networks, its files. One method must be written; the rest have
    defaults or are optional capabilities.

    Args:
        options: an instance of the manifest's options, None where it names none.
        facts: what `inspect` found, here or long ago.
    """

    def __init__(self, options: Any = None, facts: Facts | None = None) -> None:
        self.options = options
        self.facts = facts or Facts()

    @classmethod
    def open(cls, source: Any, options: Any) -> Any:
        """What `inspect` and `dataset` are given as their source; the default: the source itself.

        For a source that is costly to read: read it here, once for both. What it gives may be opened again.
        """
        return source

    @classmethod
    def inspect(cls, source: Any, options: Any) -> Facts:
        """What the data decide. The default: nothing."""
        return Facts()

    def dataset(self, source: Any) -> Any:
        """A map-style data set whose items are Samples without the batch axis (`[*event]`).

        See `Dataset` for what else it may have, `BatchedDataset` and `RandomDataset` for how it is read faster.

        The default takes a tensor or array [N, *event], or a map-style data set of tensors or Samples.

        Raises:
            DataError: for any other source.
        """
        if source is None:
            raise DataError("no data was given: pass a tensor, an array or a map-style data set")
        if isinstance(source, str | Path) or not (
            hasattr(source, "__len__") and hasattr(source, "__getitem__")
        ):
            raise DataError(
                f"data of type {type(source).__name__}: pass a tensor, an array or a map-style data set"
            )
        return source

    @abstractmethod
    def networks(self) -> Networks:
        """Freshly built networks, from options and facts alone; torch's seed is set by the engine."""

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One sample (no batch axis) as the bytes of an ordinary file. The default: NumPy's `.npy`.

        Deterministic: equal samples give equal bytes. Called from several threads at once.
        """
        import io

        import numpy as np

        if format != "npy":
            raise ConfigError(f"format {format!r}: this modality writes .npy only")
        buffer = io.BytesIO()
        np.save(buffer, sample.x.cpu().numpy(), allow_pickle=False)
        return buffer.getvalue()

    def encode_each(self, samples: Sample, format: str, controls: Any) -> list[bytes]:
        """Each sample of a batch as `encode` would write it, for modalities that do many at once more quickly."""
        return [self.encode(samples[row], format, controls) for row in range(len(samples))]

    # Optional capabilities: a plugin that has the method can do it ------------------------------------------------

    def initialise(self, networks: Networks) -> None:
        """Bring pretrained weights into freshly built networks, frozen ones too; torch's seed is set by the engine.

        Called once, for a fresh run only: a run that goes on, one that begins with another model (`--init`), and a
        saved model bring their own weights. In each process of a run, with equal outcome.

        Args:
            networks: on their device already; weights are changed in place (`load_state_dict`), never replaced.
        """
        raise NotImplementedError

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B, ...]: the condition for each sample index.

        Args:
            value: what the user asked for (a label, a prompt, a file); None: the plugin's default for those indices,
                or None if there is no default (training then takes conditions from the data).
        """
        raise NotImplementedError

    def terms(
        self,
        player: str,
        networks: Networks,
        real: Sample,
        fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> Mapping[str, Tensor]:
        """Extra terms of a player's loss by name, each a scalar; `recipe.terms` weighs them.

        Args:
            player: `"generator"`, or a critic's name.
            networks: the players' bare modules; of these only the one that is updated gathers gradients.
            critiques: of the fakes, by critic (in a critic's update: its own, of `"real"` and `"fake"`).
        """
        raise NotImplementedError

    def augment(self, sample: Sample) -> Sample:
        """What critics see instead of a sample, real or fake; differentiable, random by torch's global generator."""
        raise NotImplementedError

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """Many samples as one file: a joint preview (a grid), or the joint file (all lines, all rows).

        Args:
            columns: how many samples belong side by side where the caller knows; None: the plugin's choice.
        """
        raise NotImplementedError

    def writer(
        self, file: BinaryIO, format: str, controls: Any
    ) -> AbstractContextManager[Callable[[Sample], None]]:
        """A writer of one sample that comes in parts [1, ...]: the same file as `encode` makes of the whole."""
        raise NotImplementedError


def class_numbers(
    labels: Sequence[str],
    value: str | None,
    indices: Sequence[int],
    hint: str = "train a model of labelled data",
) -> Tensor | None:
    """[B]: the number of the label asked for; without one, sample i is of class i modulo K; None: there are no labels.

    Args:
        labels: names of the K classes that the model knows; empty for an unconditional one.
        value: the label that is asked for; None: the default.
        indices: of the samples.
        hint: how to get a model that knows labels, for the error message.

    Raises:
        ConfigError: for an unknown label, or any label where there are none.
    """
    import torch

    if not labels:
        if value is not None:
            raise ConfigError(f"label {value!r}: this model knows no labels; {hint}")
        return None
    if value is None:
        return torch.tensor([index % len(labels) for index in indices])
    if value not in labels:
        raise ConfigError(f"label {value!r}: no such label.{did_you_mean(value, labels)}")
    return torch.full((len(indices),), labels.index(value))


def capabilities_of(plugin: ModalityPlugin, generator: object) -> frozenset[str]:
    """The optional capabilities that a plugin and its generator have."""
    methods = {
        name
        for name in PLUGIN_CAPABILITIES
        if getattr(type(plugin), name) is not getattr(ModalityPlugin, name)
    }
    return frozenset(
        methods
        | {name for name in GENERATOR_CAPABILITIES if callable(getattr(generator, name, None))}
    )

"""The contract between genkit and a modality: what a plugin declares, and what passes between it and the engine.

Torch-free at import: a manifest must cost nothing to read. Knows no modality, no file, no loss.

Shape letters, used in every docstring of genkit:

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
"""Optional capabilities: names of methods of the plugin or of its generator. A class that has the method has the
capability; nothing else has to be declared."""


# What a plugin declares ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A named set of options and recipe settings that are known to work together.

    Args:
        summary: one line for lists and help.
        options: values for the plugin's options, as plain data.
        recipe: values for `genkit.recipe.Recipe`, as plain data.
        run: values for `genkit.config.RunSettings` (items, how often samples are drawn), as plain data.
    """

    summary: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Modality:
    """A plugin's manifest: plain data, so that lists and help pages need no import of torch.

    Args:
        id: what users type; equals the name of the entry point. Lower-case letters, digits and underscores.
        title: a few words, for lists.
        plugin: `"module:Class"` of a `ModalityPlugin`; within one process also the class itself.
        summary: one line, for lists and help.
        media_type: of one encoded sample (RFC 6838).
        formats: file endings that `encode` can write, the default first.
        preview_formats: file endings of what `preview` writes of many samples, the default first.
        options: `"module:Class"` of a `genkit.recipe.Settings`: what can be set when training. None: nothing.
        controls: `"module:Class"` of a `genkit.recipe.Settings`: what can be set when generating (truncation,
            temperature, length). None: nothing. A control `<part>_seed` that is not None is the seed of the noise part
            `<part>`, and of all parts `<part>.<more>`: the sampler applies it, the plugin only declares it.
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
        """The manifest from the data that `to_json` gives."""
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


class Remark(NamedTuple):
    """What of a data source is not read, or is used otherwise than it lies there: its name, and a few words."""

    name: str
    text: str


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set of one modality, as `torch.utils.data.Dataset`; a tensor or array [N, *event] is one too.

    An item is a `Sample` without batch axis, its `x` alone, or a pair (x, condition). All items have one shape. What is
    random about an item is drawn from the global generators of torch, NumPy or Python, which are seeded for each item.

    It may have the attributes `skipped`, a sequence of `Skipped` (where nothing can be used, it may be empty: the user
    is told why), `remarks`, a sequence of `Remark`, and `notes`, sentences about what the data decided.
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
        condition: [B, ...], the condition of a conditional model (classes, prompts, spectra); None for others.
        mask: [B, L] bool, valid steps; one mask for critics, log-probabilities and metrics. None: all are valid.
        relaxed: [B, L, V], a differentiable relaxation of a discrete `x`, largest at its symbols. Critics read it
            where it is present, and the one-hot of `x` otherwise; the engine passes it in generator updates only.
    """

    x: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None
    relaxed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Sample:
        """Some rows of every part."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Sample:
        """Every part on a device."""
        # A copy to the CPU that does not wait may be read before it has arrived.
        blocking = str(device) == "cpu"
        return self._each(lambda tensor: tensor.to(device, non_blocking=not blocking))

    def detach(self) -> Sample:
        """Every part detached from its graph."""
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
    """The output of a critic for a batch.

    Args:
        logits: one entry per head or scale, each [B] or [B, P]; high means real.
        features: for feature matching, [B, ...] each.
        outputs: auxiliary heads by name (a class, a category code), [B, ...] each.
        per_step: True if the P logits belong to the steps of `x`, and its mask applies to them.
    """

    logits: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    per_step: bool = False

    def __getitem__(self, rows: Any) -> Critique:
        """Some rows of every part."""
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
    """A Sample or a Critique with float32 in place of half precision, so that sums and comparisons are exact enough."""
    return parts._each(
        lambda tensor: (
            tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
        )
    )


class Generator(Protocol):
    """What the engine expects of a generator: an `nn.Module` with a `noise` attribute.

    Optional capabilities, methods that it may have:
        `pretrain_loss(real) -> Tensor`: a scalar to minimise before the game (maximum likelihood, reconstruction).
        `log_prob(sample) -> [B, L]`: log-probability of each step of `sample.x`, at the temperature of sampling.
        `complete(sample, length, noise) -> Sample`: keeps the first `length` steps of each row and draws the rest.
        `relaxed(noise, condition, controls, relax) -> Sample`: as `forward`, with the same `x` and `mask`, and with
            `Sample.relaxed`. At each step `relax(logits [B, V], symbol [B]) -> [B, V]` gives the relaxed symbol, from
            the logits at the temperature of sampling and the symbol drawn from them; steps that are masked out hold the
            one-hot of the padding, without a gradient. The input of later steps may carry the gradient too, as
            `genkit.adversarial.straight_through(relaxed, symbol)`, whose value is the one-hot that `forward` sees.
    """

    noise: Mapping[str, Noise]

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any
    ) -> Sample:
        """A batch of samples. In eval mode each row depends on its own noise and condition only."""
        ...


class Unrolling(Generator, Protocol):
    """A generator with the capability `unroll`: samples of any length, whose steps can be drawn independently.

    In training `forward` draws the first `length(None)` steps, from noise of `Noise.steps` steps. When sampling, each
    sample is drawn by itself, in whole blocks, so that memory is bounded and bits do not depend on the length.

    Args:
        block: output steps of one call of `unroll` when sampling.
        step_axis: the axis of x [B, *event] along which output steps run; at least 1.
    """

    block: int
    step_axis: int

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Number of output steps of a whole sample.

        Args:
            controls: of the sample; None: the length in training.
            condition: [1, ...] of the sample, for generators whose length depends on it.
        """
        ...

    def needs(self, steps: range, controls: Any) -> Mapping[str, range]:
        """The steps (>= 0) of each noise part with a step axis that are needed to draw some output steps."""
        ...

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """Some output steps, from exactly the noise that `needs` names; equal in whatever blocks they are drawn."""
        ...


@dataclass(frozen=True)
class Networks:
    """A model's modules, freshly built. The engine moves them to devices and calls `initialise` where it applies.

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
    """One modality: its data, its networks, its files.

    `networks` must be written; other methods have defaults or are optional capabilities.

    Args:
        options: an instance of the manifest's options, None where it names none.
        facts: what `inspect` returned, for these data or for those of a saved model.
    """

    def __init__(self, options: Any = None, facts: Facts | None = None) -> None:
        self.options = options
        self.facts = facts or Facts()

    @classmethod
    def open(cls, source: Any, options: Any) -> Any:
        """The source as `inspect` and `dataset` receive it; the default: unchanged.

        A source that is costly to read is read here, once for both. The result must be accepted as a source again.
        """
        return source

    @classmethod
    def inspect(cls, source: Any, options: Any) -> Facts:
        """The facts of a source. The default: none."""
        return Facts()

    def dataset(self, source: Any) -> Any:
        """A map-style data set whose items are Samples without the batch axis (`[*event]`).

        See `Dataset` for what it may have besides, `BatchedDataset` and `RandomDataset` for faster reading.

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
        """Freshly built networks, from options and facts only; the engine sets torch's seed before."""

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
        """Each sample of a batch, as `encode` writes it; to be overridden where many at once are faster."""
        return [self.encode(samples[row], format, controls) for row in range(len(samples))]

    # Optional capabilities: a plugin that has the method can do it ------------------------------------------------

    def initialise(self, networks: Networks) -> None:
        """Load pretrained weights into freshly built networks, frozen ones too; the engine sets torch's seed before.

        Called once, for a fresh run only: a resumed run, one that starts from another model (`--init`) and a saved
        model have weights already. Called in each process of a run, and must give the same weights in all.

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
        """Extra terms of a player's loss by name, each a scalar; `recipe.terms` has their weights.

        Args:
            player: `"generator"`, or a critic's name.
            networks: the players' bare modules; only the one that is updated gathers gradients.
            critiques: by critic, of the fakes; in a critic's update by `"real"` and `"fake"`, its own.
        """
        raise NotImplementedError

    def augment(self, sample: Sample) -> Sample:
        """Real or fake samples as critics see them: differentiable, random by torch's global generator."""
        raise NotImplementedError

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """Many samples as one file: a joint preview (a grid), or the joint file (all lines, all rows).

        Args:
            columns: how many samples go side by side; None: the plugin's choice.
        """
        raise NotImplementedError

    def writer(
        self, file: BinaryIO, format: str, controls: Any
    ) -> AbstractContextManager[Callable[[Sample], None]]:
        """A function that writes one sample in parts [1, ...], giving the same file as `encode` of the whole sample."""
        raise NotImplementedError


def class_numbers(
    labels: Sequence[str],
    value: str | None,
    indices: Sequence[int],
    hint: str = "train a model of labelled data",
) -> Tensor | None:
    """Class numbers [B] for a label; without a label, sample i is of class i modulo K.

    Returns None for a model without labels.

    Args:
        labels: names of the K classes that the model knows; empty for an unconditional one.
        value: the label; None: classes in turn.
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

"""The class of a modality: its data, its networks, its files, and what it can do besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.plugin.evaluation import Evidence, FeatureNetwork
from genkit.plugin.manifest import Conditions, Facts
from genkit.plugin.networks import Critique, Networks, Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

PLUGIN_CAPABILITIES = frozenset(
    {
        "condition",
        "initialise",
        "terms",
        "augment",
        "preview",
        "writer",
        "references",
        "corruptions",
        "feature_networks",
        "measures",
        "export_facts",
    }
)
GENERATOR_CAPABILITIES = frozenset(
    {
        "pretrain_loss",
        "log_prob",
        "distributions",
        "complete",
        "relaxed",
        "unroll",
        "stepwise",
        "infer",
    }
)
CAPABILITIES = PLUGIN_CAPABILITIES | GENERATOR_CAPABILITIES
"""Optional capabilities: names of methods of the plugin or of its generator. A class that has the method has the
capability; nothing else has to be declared."""


class ModalityPlugin(ABC):
    """One modality: its data, its networks, its files.

    `networks` must be written; other methods have defaults or are optional capabilities.

    Args:
        options: an instance of the manifest's options, None where it names none.
        facts: what `inspect` returned, for these data or for those of a saved model.
    """

    curves: Sequence[tuple[str, str]] = ()
    """Pairs of measures that are plotted against each other, x and y, when a control is varied in evaluation."""

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

    @classmethod
    def adapt_facts(cls, facts: Facts, model: Facts) -> Facts:
        """The facts of a run that starts from the weights of a model.

        The default: those of its data, but with the model's `labels`, in their order, where all labels of the data are
        among them: so a class keeps its number, and what the weights know of it. Other classes, as many as the model
        has, take the places of its own.

        A plugin overrides it where another fact says what the weights mean, as a vocabulary does: the run must keep
        that of the model, whatever the data say.

        Args:
            facts: of the data.
            model: of the model.
        """
        labels, model_labels = (one.values.get("labels") for one in (facts, model))
        if not (isinstance(labels, list) and isinstance(model_labels, list) and labels):
            return facts
        if any(label not in model_labels for label in labels):
            return facts
        return replace(facts, values={**facts.values, "labels": model_labels})

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

    def generator(self) -> nn.Module:
        """A generator like that of `networks`, alone: samples are drawn from a saved model without its critics.

        The default takes it from `networks()`; to be overridden where critics are costly to build.
        """
        return self.networks().generator

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

    def conditions(self) -> Conditions:
        """What values `condition` takes of this model. The default: the labels of the fact `labels`, if there are any.

        Servers pass on nothing else, so that no name or path of a stranger reaches the file system: a plugin whose
        conditions are texts or files says so here.
        """
        labels = self.facts.values.get("labels")
        is_list = isinstance(labels, list | tuple) and all(isinstance(name, str) for name in labels)
        return Conditions(labels=tuple(labels) if is_list and labels else ())

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

    def references(self, source: Any, controls: Any) -> Any:
        """Real items to compare samples with: a data set as `dataset` returns it, of an opened source.

        Without random augmentation, and of the length and rate that samples have under these controls. Where a plugin
        has no such method, evaluation takes `dataset(source)`.

        Raises:
            DataError: if no item can be used.
        """
        raise NotImplementedError

    def corruptions(self, samples: Sample) -> Mapping[str, Sample]:
        """Real samples with a known fault, by the name of their row in an evaluation: shuffled steps, say.

        They show how much a fault costs, beside the rows of real samples and noise. What is random about them is drawn
        from the global generators, which are seeded before.

        Args:
            samples: real ones [N, ...], as `references` gives them.
        """
        raise NotImplementedError

    def feature_networks(
        self, weights: Mapping[str, Path], training: Callable[[int], Sample]
    ) -> Mapping[str, FeatureNetwork]:
        """Networks by name, over whose features samples can be compared; the first is the default for nearest items.

        Args:
            weights: files of networks by name (`--weights inception=FILE`), for networks that the plugin cannot bring
                along. Without a file a network that needs one is left out.
            training: gives n real samples [n, ...] that are in no comparison, to train a network on the spot; fewer,
                where the data have fewer.

        Raises:
            ConfigError: for a name in `weights` that is no network's, naming those that are; for a file that cannot be
                read.
        """
        raise NotImplementedError

    def measures(self, evidence: Evidence) -> Mapping[str, float | None]:
        """The modality's own measures of a set of samples, by name; None for one that cannot be computed.

        Called for each model, and for the rows that show the scale: other real samples, and noise.
        """
        raise NotImplementedError

    def export_facts(self) -> Mapping[str, Any]:
        """What a program without this plugin must know to use the samples of an exported model, as plain JSON data.

        It stands beside the facts of the data in the file: the range of values, say. `vocabulary`, a list with the
        UTF-8 bytes of each symbol, as Latin-1 text, is what the reader of genkit writes lines with.

        Raises:
            ConfigError: if this model cannot be exported; it says why.
        """
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

"""What a plugin adds to evaluation: feature networks, and what its own measures are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genkit.plugin.networks import Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genkit.plugin.modality import ModalityPlugin


@dataclass(frozen=True)
class FeatureNetwork:
    """A network over whose features sets of samples are compared.

    Args:
        features: samples [B, ...] on the CPU -> features [B, F], float32; a pure function, called without gradients.
            What is costly to load is loaded at the first call.
        distance: what a Frechet distance over these features is called, `fd-lite0` say; `FID` is for Inception's alone.
        protocol: whatever decides the figures besides the samples, as plain data: a hash of the weights, the resizing
            of pictures ... Features of real samples are kept on disk under it.
        maps: samples [B, ...] on any device -> tensors [B, ...] of features with a gradient to the samples, of any
            shapes and scales: by these, too, a search for noise compares samples. None: it does not.
    """

    features: Callable[[Sample], Tensor]
    distance: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    maps: Callable[[Sample], Sequence[Tensor]] | None = None


@dataclass(frozen=True)
class Evidence:
    """What a plugin's own measures are computed from: a set of samples beside a set of real ones.

    Args:
        samples: [N, ...] on the CPU: drawn from a model; in the rows that show the scale, real ones or noise.
        real: [M, ...] on the CPU, as `ModalityPlugin.references` gives them; in no row the same as `samples`.
        controls: that the samples were drawn with; None where the modality has none.
        data: the source of the real ones, as the user named it.
        generator: that drew the samples, in eval mode; None in the rows that show the scale.
        judge: (plugin, generator) of another model of this modality, which the user named to judge samples by.
        training: the source that the model was trained on, as the user named it; None: it is unknown.
    """

    samples: Sample
    real: Sample
    controls: Any = None
    data: Any = None
    generator: nn.Module | None = None
    judge: tuple[ModalityPlugin, nn.Module] | None = None
    training: Any = None

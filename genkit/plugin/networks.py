"""What passes between a plugin's networks and the engine: noise, samples, critiques, and what a generator is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


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
class Posterior:
    """What a generator infers of one part of the noise of some samples.

    Args:
        mean: [B, ...] as the part; the noise itself where it is known for certain.
        deviation: [B, ...], of the independent normal distributions around the mean; None: the noise is known.
    """

    mean: Tensor
    deviation: Tensor | None = None

    def draw(self) -> Tensor:
        """Noise from this distribution, by torch's global generator; gradients reach both parts."""
        if self.deviation is None:
            return self.mean
        return self.mean + self.deviation * self.deviation.new_empty(self.mean.shape).normal_()


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
        `distributions(sample) -> [B, L, V]`: log-probabilities of every symbol at each step, given the steps of
            `sample.x` before it, at the temperature of sampling; -inf for one that is impossible. Students learn from
            them.
        `complete(sample, length, noise) -> Sample`: keeps the first `length` steps of each row and draws the rest.
        `relaxed(noise, condition, controls, relax) -> Sample`: as `forward`, with the same `x` and `mask`, and with
            `Sample.relaxed`. At each step `relax(logits [B, V], symbol [B]) -> [B, V]` gives the relaxed symbol, from
            the logits at the temperature of sampling and the symbol drawn from them; steps that are masked out hold the
            one-hot of the padding, without a gradient. The input of later steps may carry the gradient too, as
            `genkit.adversarial.straight_through(relaxed, symbol)`, whose value is the one-hot that `forward` sees.
        `infer(sample, controls=None) -> {part: Posterior}`: the noise, by part, of which given samples are likely to
            have been drawn with these controls.
            Parts that it leaves out are drawn as ever; only parts of normal noise have a deviation. In eval mode it
            depends on each row alone.
        `stepwise(condition, controls) -> Stepwise`: the samples of `forward` as a loop over one step, by which they are
            exported. A generator without it is exported as a whole, its loops unrolled.
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
class Stepwise:
    """A generator's samples as a loop over one module, for programs that run without the generator.

    The loop calls `step` for each symbol of `prefix`, then `length` times, and passes the state on. The sample is x and
    mask of the last `length` calls; steps that are masked out may be left out.

    Args:
        step: an `nn.Module`, called with (noise, condition, controls, forced, state); returns (Sample, state). The
            sample is one step, x [B, *event of a step] and a mask [B]. `noise` has the numbers of this step, without
            the step axis; noise parts without one are whole. Where `forced` [B], int64, is not -1, the step is this
            symbol, and nothing is drawn (teacher forcing). States are tensors [B, ...] by name.
        state: what the first call gets, [1, ...] each.
        prefix: [1, K], int64: symbols that are read before the sample; K may be 0.
        length: steps of the sample.
    """

    step: nn.Module
    state: Mapping[str, Tensor]
    prefix: Tensor
    length: int


@dataclass(frozen=True)
class Networks:
    """A model's modules, freshly built. The engine moves them to devices and calls `initialise` where it applies.

    Args:
        generator: an `nn.Module` that is a `Generator`.
        critics: by name; each maps a `Sample` to a `Critique`.
        frozen: never trained, for use in `terms` (a reference model, a feature network, running means as buffers).
    """

    generator: nn.Module
    critics: Mapping[str, nn.Module]
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)

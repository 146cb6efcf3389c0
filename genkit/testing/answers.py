"""Checks of what samples answer to: controls, conditions, masks that say where they end; of noise inferred of them, and
of the distributions of their steps.

They work like those of `genkit.testing.checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from genkit import config as configuration
from genkit.engine.views import preview_conditions
from genkit.errors import ConfigError, UserError
from genkit.plugin import Sample
from genkit.sampling.samples import Samples
from genkit.testing.findings import (
    FIRM,
    differing,
    expect,
    has_gradient,
    listed,
    parts_of,
    perturbed,
)
from genkit.testing.subject import Subject


def controls_have_effect(subject: Subject) -> None:
    """Every control changes samples, their files or a preview, at some value."""
    default = subject.draw(range(5))
    for name in type(subject.controls).model_fields:
        values = list(other_values(subject, name))
        expect(
            not values or any(changes(subject, default, {name: value}) for value in values),
            f"the control {name!r} changes nothing, neither samples nor files, at {listed(map(repr, values))}: use it, "
            "or take it out",
        )


def other_values(subject: Subject, name: str) -> Iterator[Any]:
    """Values of a control that are valid and not the default, extreme ones among them."""
    annotation = type(subject.controls).model_fields[name].annotation
    options = [value for part in (annotation, *get_args(annotation)) for value in get_args(part)]
    plain = [value for value in options if isinstance(value, str | int | float)]
    for value in [*plain, *CANDIDATES]:
        try:
            controls = configuration.controls(subject.modality, {name: value})
        except ConfigError:
            continue
        if getattr(controls, name) != getattr(subject.controls, name):
            yield value


CANDIDATES = (1, 0.001, 0.1, 0.5, 0.9, 2, 4, 12, 0, True, False)
"""Values that controls are tried with."""


def changes(subject: Subject, default: Samples, settings: dict[str, Any]) -> bool:
    """Whether controls change the samples of some identities, their files or their previews."""
    modality, controls = subject.modality, configuration.controls(subject.modality, settings)
    conditions = partial(preview_conditions, subject.played.game)
    try:
        sample = subject.model.draw(range(5), 0, controls=controls, conditions=conditions)
    except UserError:  # it is not for this model, and says so
        return True
    if differing(parts_of(sample), parts_of(default.sample)):
        return True
    samples = Samples(sample, 0, tuple(range(5)), None, subject.model, controls)
    if any(samples.encode(format) != default.encode(format) for format in modality.formats):
        return True
    plugin = subject.model.plugin
    return "preview" in subject.capabilities and any(
        plugin.preview(sample, ending, controls, None)
        != plugin.preview(default.sample, ending, default.controls, None)
        for ending in modality.preview_formats
    )


def conditions_matter(subject: Subject) -> None:
    """A sample depends on its condition, where the data have conditions."""
    condition = subject.real_batch.condition
    if condition is None or len(torch.unique(condition, dim=0)) < 2:
        return
    generator, noise = perturbed(subject.generator, FIRM), subject.noise()
    with torch.no_grad():
        first, *others = (
            generator(noise, one.expand_as(condition).contiguous(), subject.controls).x
            for one in torch.unique(condition, dim=0)[:4]
        )
    expect(
        any(not torch.equal(first, other) for other in others),
        "different conditions give the same samples from the same noise: let the generator use its condition",
    )


def masks_end_where_samples_end(subject: Subject) -> None:
    """Assert that valid steps come first, and none follows the symbol that ends all shorter real samples."""
    batches = [subject.real_batch, *(subject.fake(seed) for seed in range(8))]
    masks = [batch.mask for batch in batches]
    for mask in masks:
        if mask is None:
            return
        expect(
            bool((mask[:, 1:] <= mask[:, :-1]).all()),
            "a mask has valid steps behind others that are not: valid steps come first",
        )
    end = end_of(subject.real_batch)
    for batch in batches[1:]:
        assert batch.mask is not None
        if end is not None:
            is_behind = (batch.x == end).cumsum(1) - (batch.x == end).long() > 0
            expect(
                not bool((is_behind & batch.mask).any()),
                f"a generated mask has valid steps behind the symbol {end}, with which shorter real samples end: mark "
                "the steps up to and with it",
            )


def end_of(real: Sample) -> int | None:
    """The symbol with which every real sample that is shorter than the longest ends, and which occurs nowhere else."""
    assert real.mask is not None
    if real.x.ndim != 2 or real.x.is_floating_point():
        return None
    lengths = real.mask.sum(1)
    shorter = (lengths < real.x.shape[1]) & (lengths > 0)
    last = real.x[torch.arange(len(lengths)), (lengths - 1).clamp(min=0)]
    symbols = torch.unique(last[shorter])
    if len(symbols) != 1:
        return None
    end = int(symbols[0])
    is_last = torch.arange(real.x.shape[1]) == (lengths - 1)[:, None]
    return None if bool(((real.x == end) & real.mask & ~is_last).any()) else end


def infer_finds_noise(subject: Subject) -> None:
    """`infer` gives each row alone parts of the noise, other ones for other samples; discrete ones are drawn again."""
    generator: Any = perturbed(subject.generator, FIRM)
    condition, controls = subject.real_batch.condition, subject.controls
    with torch.no_grad():
        fake: Sample = generator(subject.noise(), condition, controls)
        posteriors, single = (generator.infer(each, controls) for each in (fake, fake[:2]))
    noise = subject.noise(seed=1)
    unknown = set(posteriors) - set(noise)
    expect(
        not unknown,
        f"infer names {listed(unknown)}; the parts of the noise are {listed(noise)}",
    )
    for part, posterior in posteriors.items():
        for kind in ("mean", "deviation"):
            values, first = getattr(posterior, kind), getattr(single[part], kind)
            if values is None and kind == "deviation":
                continue
            expect(
                values.shape == noise[part].shape,
                f"infer gave a {kind} {list(values.shape)} of {part!r}; {list(noise[part].shape)} was expected",
            )
            is_valid = values.isfinite().all() and (kind == "mean" or (values > 0).all())
            expect(is_valid, f"infer gave a {kind} of {part!r} that is not finite, or not positive")
            expect(
                torch.allclose(first, values[:2], rtol=1e-3, atol=1e-4),
                f"infer's {kind} of {part!r} depends on the other rows of its batch",
            )
        distribution = generator.noise[part].distribution
        expect(
            posterior.deviation is None or distribution == "normal",
            f"infer gave a deviation of {part!r}, whose distribution is {distribution}: normal noise around a mean "
            "would leave its range. Give that part a normal distribution",
        )
        noise[part] = posterior.mean.to(noise[part].dtype)
    differs = [not torch.equal(one.mean, one.mean.roll(1, 0)) for one in posteriors.values()]
    expect(any(differs), "infer gives the same noise for different samples: let it depend on x")
    if not fake.x.is_floating_point():
        with torch.no_grad():
            repeated = generator(noise, condition, controls)
        expect(
            torch.equal(repeated.x, fake.x),
            "the noise that infer gives draws other samples than those it was asked about",
        )


def distributions_are_those_of_log_prob(subject: Subject) -> None:
    """`distributions` sums to one at each step, gives each symbol what `log_prob` gives it, and has a gradient."""
    generator: Any = perturbed(subject.generator, FIRM)
    with torch.no_grad():
        fake: Sample = generator(subject.noise(), subject.real_batch.condition, subject.controls)
    values: Tensor = generator.distributions(fake)
    steps = fake.x.shape[:2]
    expect(
        values.ndim == 3 and values.shape[:2] == steps,
        f"distributions gave {list(values.shape)}; [B, L, V] with {list(steps)} was expected",
    )
    valid = torch.ones(steps, dtype=torch.bool) if fake.mask is None else fake.mask
    sums = values.double().exp().sum(2)[valid]
    expect(
        torch.allclose(sums, torch.ones_like(sums), atol=1e-3),
        f"the probabilities of distributions sum to {sums.min().item():.4f} to {sums.max().item():.4f} at valid steps; "
        "1 was expected",
    )
    if "log_prob" in subject.capabilities and fake.x.ndim == 2:
        own = values.gather(2, fake.x[..., None])[..., 0][valid]
        expect(
            torch.allclose(
                own, generator.log_prob(fake)[valid].to(own.dtype), rtol=1e-3, atol=1e-3
            ),
            "distributions gives the symbols of samples other probabilities than log_prob",
        )
    expect(
        torch.allclose(
            generator.distributions(fake[:2])[valid[:2]],
            values[:2][valid[:2]],
            rtol=1e-3,
            atol=1e-4,
        ),
        "distributions depends on the other rows of its batch",
    )
    weights = torch.rand(values.shape)
    finite = values.masked_fill(values.isinf(), 0.0)
    expect(
        has_gradient(generator, (finite * weights)[valid].sum()),
        "no gradient of distributions reaches the generator",
    )

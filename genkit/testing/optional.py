"""What a modality must do that has an optional capability: checks like those of `genkit.testing.checks`."""

from __future__ import annotations

import contextlib
import io
import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genkit.adversarial import straight_through
from genkit.errors import UserError
from genkit.plugin import Sample
from genkit.sampling.drawing import cut, noise_for
from genkit.system.seeding import global_seeds
from genkit.testing.findings import (
    all_weights,
    begins_rightly,
    describe,
    differing,
    expect,
    has_gradient,
    judged,
    listed,
    parts_of,
    well_formed,
)
from genkit.testing.subject import Subject

# Capabilities ----------------------------------------------------------------------------------------------------


def condition_answers(subject: Subject) -> None:
    """`condition` gives each index its own condition, like those of the data, or refuses what it does not know."""
    plugin, indices = subject.model.plugin, [0, 1, 2, 65]
    with contextlib.suppress(UserError):
        plugin.condition("no such value", indices)
    given, real = plugin.condition(None, indices), subject.real_batch.condition
    if given is None:
        return
    expect(
        len(given) == len(indices), f"condition gave {len(given)} rows for {len(indices)} indices"
    )
    for index, row in zip(indices, given, strict=True):
        alone = plugin.condition(None, [index])
        same = alone is not None and torch.equal(alone[0], row)
        expect(
            same, f"the condition of index {index} depends on the indices that are asked with it"
        )
    if real is None:
        raise AssertionError(
            "condition has a default, but the data have no conditions: give None without labels"
        )
    found, wanted = (given.shape[1:], given.dtype), (real.shape[1:], real.dtype)
    expect(
        found == wanted,
        f"conditions are {describe(*found)}, those of the data {describe(*wanted)}: make them alike",
    )


def initialise_is_repeatable(subject: Subject) -> None:
    """`initialise` gives the same finite weights each time."""
    one, other = (all_weights(subject.game().networks) for _ in range(2))
    changed = differing(one, other)
    expect(not changed, f"initialise gave other weights the second time: {listed(changed)}")
    lost = [
        name
        for name, value in one.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    expect(not lost, f"initialise gave weights that are not finite: {listed(lost)}")


def terms_are_scalars(subject: Subject) -> None:
    """`terms` gives finite scalars, and all that the recipe weighs."""
    game, real, fake = subject.played.game, subject.real_batch, subject.fake()
    critics = subject.critics
    by_player = {"generator": {name: judged(critic, fake) for name, critic in critics.items()}}
    for name, critic in critics.items():
        by_player[name] = {"real": judged(critic, real), "fake": judged(critic, fake)}
    seen: set[str] = set()
    for player, critiques in by_player.items():
        for name, value in game.plugin.terms(player, game.networks, real, fake, critiques).items():
            seen.add(name)
            right = isinstance(value, Tensor) and value.ndim == 0 and bool(value.isfinite())
            expect(
                right, f"the term {name!r} of {player} is {value!r}; a finite scalar was expected"
            )
    unknown = set(game.config.recipe.terms) - seen
    expect(
        not unknown, f"the recipe weighs {listed(unknown)}, but terms gave {listed(seen) or 'none'}"
    )


def augment_keeps_shape(subject: Subject) -> None:
    """`augment` keeps shape and kind, is differentiable, and random by torch's global generator alone."""
    plugin, x = subject.model.plugin, subject.real_batch.x
    point = x.clone().requires_grad_() if x.is_floating_point() else x
    with global_seeds("augment"):
        once = plugin.augment(subject.real_batch.with_x(point)).x
    with global_seeds("augment"):
        twice = plugin.augment(subject.real_batch.with_x(point)).x
    expect(
        torch.equal(once, twice),
        "augment differed under one seed: draw from torch's global generator",
    )
    found, wanted = (once.shape, once.dtype), (x.shape, x.dtype)
    expect(
        found == wanted,
        f"augment made {describe(*wanted)} into {describe(*found)}: keep shape and kind",
    )
    if x.is_floating_point():
        expect(
            once.requires_grad, "no gradient passes through augment: use differentiable operations"
        )
        (slope,) = torch.autograd.grad(once.square().sum(), point)
        expect(
            slope.isfinite().all() and slope.any(),
            "the gradient through augment is nothing, or not finite",
        )


def preview_writes_each_ending(subject: Subject) -> None:
    """`preview` writes each of the manifest's endings, the same each time."""
    samples = subject.drawn(range(5))
    for ending in subject.modality.preview_formats:
        once, twice = (
            subject.model.plugin.preview(samples.sample, ending, samples.controls, 2)
            for _ in range(2)
        )
        begins_rightly(once, ending)
        expect(once == twice, f"equal samples gave another preview .{ending}")


def pretrain_loss_learns(subject: Subject) -> None:
    """`pretrain_loss` is a finite scalar with a gradient."""
    generator: Any = subject.generator
    loss = generator.pretrain_loss(subject.real_batch)
    expect(
        loss.ndim == 0 and loss.isfinite(),
        f"pretrain_loss gave {loss!r}; a finite scalar was expected",
    )
    expect(has_gradient(generator, loss), "no gradient of pretrain_loss reaches the generator")


def log_prob_is_one(subject: Subject) -> None:
    """`log_prob` gives each step a finite value of at most 0, by its own row alone, and with a gradient."""
    generator: Any = subject.generator
    fake = subject.fake()
    values = generator.log_prob(fake)
    wanted = fake.x.shape[:2]
    expect(
        values.shape == wanted,
        f"log_prob gave {list(values.shape)}; [B, L] = {list(wanted)} was expected",
    )
    valid = values if fake.mask is None else values[fake.mask]
    expect(
        valid.isfinite().all() and (valid <= 1e-5).all(),
        f"log_prob gave values from {valid.min().item():g} to {valid.max().item():g} at valid steps; finite ones of "
        "at most 0 were expected",
    )
    alone = generator.log_prob(fake[:2])
    expect(
        torch.allclose(alone, values[:2], rtol=1e-3, atol=1e-4),
        "log_prob depends on the other rows of its batch",
    )
    expect(has_gradient(generator, valid.sum()), "no gradient of log_prob reaches the generator")


def complete_keeps_prefixes(subject: Subject) -> None:
    """`complete` keeps the steps that it is told to keep, and a whole sample as it is."""
    generator: Any = subject.generator
    fake, steps = subject.fake(), subject.fake().x.shape[1]
    for length in (torch.arange(len(fake.x)) % (steps + 1), torch.full((len(fake.x),), steps)):
        with torch.no_grad():
            done = generator.complete(fake, length, subject.noise(seed=1))
        well_formed(done, len(fake), "a completed batch")
        expect(
            done.x.shape == fake.x.shape,
            f"complete gave {list(done.x.shape)} for {list(fake.x.shape)}",
        )
        kept = torch.arange(steps) < length[:, None]
        kept = kept if fake.mask is None else kept & fake.mask
        expect(
            torch.equal(done.x[kept], fake.x[kept]),
            "complete changed steps that it was told to keep",
        )


def relaxed_agrees(subject: Subject) -> None:
    """`relaxed` draws what `forward` draws, with a relaxation that is largest at its symbols and carries a gradient."""
    generator: Any = subject.generator
    told: list[tuple[Tensor, Tensor]] = []

    def relax(logits: Tensor, symbol: Tensor) -> Tensor:
        told.append((logits.detach(), symbol))
        return straight_through(logits.softmax(1), symbol)

    plain = subject.fake()
    soft: Sample = generator.relaxed(
        subject.noise(), subject.real_batch.condition, subject.controls, relax
    )
    changed = differing(parts_of(replace(soft, relaxed=None)), parts_of(plain))
    expect(
        not changed, f"relaxed draws another {listed(changed)} than forward does of the same noise"
    )
    relaxation = soft.relaxed
    if relaxation is None or relaxation.ndim != 3 or relaxation.shape[:2] != soft.x.shape[:2]:
        raise AssertionError("relaxed gave no Sample.relaxed [B, L, V]")
    valid = torch.ones_like(soft.x, dtype=torch.bool) if soft.mask is None else soft.mask
    expect(
        torch.equal(relaxation.argmax(2)[valid], soft.x[valid]),
        "Sample.relaxed is not largest at the symbols of x",
    )
    weights = torch.rand(relaxation.shape)
    expect(
        has_gradient(generator, (relaxation * weights).sum()),
        "no gradient of Sample.relaxed reaches the generator",
    )
    if "log_prob" in subject.capabilities and told:
        steps = len(told)
        drawn = torch.stack(
            [logits.log_softmax(1).gather(1, symbol[:, None])[:, 0] for logits, symbol in told], 1
        )
        scored = generator.log_prob(plain)[:, :steps].detach()
        agree = torch.allclose(
            drawn[valid[:, :steps]], scored[valid[:, :steps]].to(drawn.dtype), rtol=1e-3, atol=1e-3
        )
        expect(
            agree,
            "log_prob is not that of the logits from which symbols are drawn: score with the same policy",
        )


def unroll_is_one_sample(subject: Subject) -> None:
    """`unroll` draws any steps by themselves as it draws them together, and in training's length as `forward` does."""
    generator: Any = subject.generator
    condition, controls = subject.real_batch.condition, subject.controls

    def drawn(steps: range, given: Any) -> Sample:
        windows = generator.needs(steps, given)
        noise = noise_for(
            generator, 0, range(len(subject.real_batch)), torch.device("cpu"), given, windows
        )
        with torch.no_grad():
            sample: Sample = generator.unroll(noise, condition, given, steps)
        found = sample.x.shape[generator.step_axis]
        expect(
            found == len(steps),
            f"unroll gave {found} steps along axis {generator.step_axis} for {len(steps)}",
        )
        return sample

    stop = max(generator.length(controls, condition), 8) + 5
    whole = drawn(range(stop), controls).x
    for size in (1, 7):
        parts = [drawn(range(at, min(at + size, stop)), controls).x for at in range(0, stop, size)]
        gap = (torch.cat(parts, generator.step_axis) - whole).abs().max().item()
        expect(
            gap <= 1e-5,
            f"steps drawn {size} at a time differ by up to {gap:g} from those drawn together",
        )
    trained, length = subject.fake(), generator.length(None, condition)
    found = trained.x.shape[generator.step_axis]
    expect(found == length, f"length is {length} without controls, but forward draws {found} steps")
    for part, window in generator.needs(range(length), None).items():
        steps = generator.noise[part].steps
        expect(
            window == range(steps or 0),
            f"{length} steps need {window} of the noise {part!r}, which has {steps}",
        )
    with torch.no_grad():
        unrolled = generator.unroll(subject.noise(), condition, None, range(length)).x
    gap = (unrolled - trained.x).abs().max().item()
    expect(gap <= 1e-4, f"unroll and forward differ by up to {gap:g} for the same noise")


def writer_writes_what_encode_writes(subject: Subject) -> None:
    """`writer` makes of a sample that comes in parts the file that `encode` makes of the whole."""
    model, samples = subject.model, subject.drawn(range(1))
    axis = getattr(model.generator, "step_axis", None)
    parts = [samples.sample]
    if axis is not None:
        cuts = (0, 1, 3, samples.x.shape[axis])
        parts = [
            cut(model.generator, parts, start, stop)
            for start, stop in itertools.pairwise(cuts)
            if stop > start
        ]
    for ending in subject.modality.formats:
        file = io.BytesIO()
        with model.plugin.writer(file, ending, samples.controls) as write:
            for part in parts:
                write(part)
        (whole,) = samples.encode(ending)
        expect(file.getvalue() == whole, f"writer and encode write another .{ending} of one sample")

"""The checks of optional capabilities, one function each; they work like those of `genkit.testing.checks`."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from genkit.adversarial import straight_through
from genkit.discovery import bundled
from genkit.errors import ConfigError, UserError
from genkit.plugin import Conditions, Sample, Stepwise
from genkit.sampling.drawing import cut, noise_for
from genkit.sampling.opening import open_model
from genkit.system.seeding import global_seeds
from genkit.testing.findings import (
    FIRM,
    all_weights,
    check_signature,
    critique_of,
    describe,
    differing,
    expect,
    has_gradient,
    listed,
    parts_of,
    perturbed,
    well_formed,
)
from genkit.testing.subject import Subject

# Capabilities ----------------------------------------------------------------------------------------------------


def condition_answers(subject: Subject) -> None:
    """`condition` gives each index its own condition, like those of the data, and each label another one."""
    plugin, indices = subject.model.plugin, [0, 1, 2, 65]
    accepted = plugin.conditions()
    expect(
        isinstance(accepted, Conditions),
        f"conditions gave a {type(accepted).__name__}; a genkit.plugin.Conditions was expected",
    )
    for label in accepted.labels:
        row = plugin.condition(label, [0])
        expect(row is not None, f"conditions has the label {label!r}, but condition gives None")
    with contextlib.suppress(UserError):
        plugin.condition("no such value", indices)
    default, real = plugin.condition(None, indices), subject.real_batch.condition
    if default is None:
        return
    expect(
        len(default) == len(indices),
        f"condition gave {len(default)} rows for {len(indices)} indices",
    )
    for index, row in zip(indices, default, strict=True):
        single = plugin.condition(None, [index])
        is_same = single is not None and torch.equal(single[0], row)
        expect(is_same, f"the condition of index {index} depends on the indices of the same call")
    labels = accepted.labels
    if len(labels) > 1:
        one, other = (plugin.condition(label, [0]) for label in labels[:2])
        is_one = one is not None and other is not None and torch.equal(one, other)
        expect(
            not is_one,
            f"condition answers {labels[0]!r} and {labels[1]!r} alike: give each label its own",
        )
        many = plugin.condition(None, list(range(64)))
        expect(
            many is None or len(torch.unique(many, dim=0)) > 1,
            "condition gives 64 indices the same default, but there are several labels: let it depend on the index",
        )
    if real is None:
        raise AssertionError(
            "condition has a default, but the data have no conditions: return None for data without labels"
        )
    default_kind, real_kind = (default.shape[1:], default.dtype), (real.shape[1:], real.dtype)
    expect(
        default_kind == real_kind,
        f"conditions are {describe(*default_kind)}, those of the data {describe(*real_kind)}: make them equal",
    )


def initialise_is_repeatable(subject: Subject) -> None:
    """`initialise` gives the same finite weights each time."""
    one, other = (all_weights(subject.game().networks) for _ in range(2))
    differing_names = differing(one, other)
    expect(
        not differing_names,
        f"initialise gave other weights the second time: {listed(differing_names)}",
    )
    broken_names = [
        name
        for name, value in one.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    expect(not broken_names, f"initialise gave weights that are not finite: {listed(broken_names)}")


def terms_are_scalars(subject: Subject) -> None:
    """`terms` returns finite scalars, among them all terms that the recipe has weights for."""
    game, real, fake = subject.played.game, subject.real_batch, subject.fake()
    critics = subject.critics
    by_player = {"generator": {name: critique_of(critic, fake) for name, critic in critics.items()}}
    for name, critic in critics.items():
        by_player[name] = {"real": critique_of(critic, real), "fake": critique_of(critic, fake)}
    term_names: set[str] = set()
    for player, critiques in by_player.items():
        for name, value in game.plugin.terms(player, game.networks, real, fake, critiques).items():
            term_names.add(name)
            is_valid = isinstance(value, Tensor) and value.ndim == 0 and bool(value.isfinite())
            expect(
                is_valid,
                f"the term {name!r} of {player} is {value!r}; a finite scalar was expected",
            )
    unknown = set(game.config.recipe.terms) - term_names
    expect(
        not unknown,
        f"the recipe has weights for {listed(unknown)}, but terms returned {listed(term_names) or 'none'}",
    )


def augment_keeps_shape(subject: Subject) -> None:
    """`augment` keeps shape and dtype, is differentiable, and is random by torch's global generator alone."""
    plugin, x = subject.model.plugin, subject.real_batch.x
    point = x.clone().requires_grad_() if x.is_floating_point() else x
    with global_seeds("augment"):
        view = plugin.augment(subject.real_batch.with_x(point)).x
    with global_seeds("augment"):
        repeated = plugin.augment(subject.real_batch.with_x(point)).x
    expect(
        torch.equal(view, repeated),
        "augment differed under one seed: draw from torch's global generator",
    )
    view_kind, real_kind = (view.shape, view.dtype), (x.shape, x.dtype)
    expect(
        view_kind == real_kind,
        f"augment changed {describe(*real_kind)} into {describe(*view_kind)}: keep shape and dtype",
    )
    if x.is_floating_point():
        expect(
            view.requires_grad, "no gradient passes through augment: use differentiable operations"
        )
        (gradient,) = torch.autograd.grad(view.square().sum(), point)
        expect(
            gradient.isfinite().all() and gradient.any(),
            "the gradient through augment is zero, or not finite",
        )


def preview_writes_each_ending(subject: Subject) -> None:
    """`preview` writes each of the manifest's preview formats, with the same bytes each time."""
    samples = subject.draw(range(5))
    for ending in subject.modality.preview_formats:
        content, repeated = (
            subject.model.plugin.preview(samples.sample, ending, samples.controls, 2)
            for _ in range(2)
        )
        check_signature(content, ending)
        expect(
            content == repeated,
            f"equal samples gave different .{ending} previews: leave out time stamps and random names",
        )


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
    """`log_prob` gives each step a finite value of at most 0 that depends on its own row alone and has a gradient."""
    generator: Any = subject.generator
    fake = subject.fake()
    values = generator.log_prob(fake)
    shape = fake.x.shape[:2]
    expect(
        values.shape == shape,
        f"log_prob gave {list(values.shape)}; [B, L] = {list(shape)} was expected",
    )
    valid = values if fake.mask is None else values[fake.mask]
    expect(
        valid.isfinite().all() and (valid <= 1e-5).all(),
        f"log_prob gave values from {valid.min().item():g} to {valid.max().item():g} at valid steps; finite values of "
        "at most 0 were expected",
    )
    single = generator.log_prob(fake[:2])
    expect(
        torch.allclose(single, values[:2], rtol=1e-3, atol=1e-4),
        "log_prob depends on the other rows of its batch",
    )
    expect(has_gradient(generator, valid.sum()), "no gradient of log_prob reaches the generator")


def first_steps_follow_log_prob(subject: Subject) -> None:
    """First symbols are as frequent as `log_prob` says, and their probabilities sum to at most 1."""
    if subject.fake().x.is_floating_point():
        return
    generator: Any = perturbed(subject.generator, FIRM)
    condition = subject.real_batch.condition
    rows = len(subject.real_batch)
    condition = None if condition is None else condition[:1].expand_as(condition).contiguous()
    probability: dict[int, float] = {}
    counts: Counter[int] = Counter()
    for seed in range(math.ceil(DRAWS / rows)):
        with torch.no_grad():
            fake = generator(subject.noise(seed), condition, subject.controls)
            first = generator.log_prob(fake)[:, 0].double().exp()
        for symbol, value in zip(fake.x[:, 0].tolist(), first.tolist(), strict=True):
            counts[symbol] += 1
            same = math.isclose(
                probability.setdefault(symbol, value), value, rel_tol=1e-3, abs_tol=1e-6
            )
            expect(
                same,
                f"log_prob gives the first symbol {symbol} the probability {probability[symbol]:.4f} in one row and "
                f"{value:.4f} in another under the same condition",
            )
    total, draws = sum(probability.values()), counts.total()
    expect(
        total <= 1 + 1e-3,
        f"the probabilities of the first symbols, by log_prob, sum to {total:.3f}; at most 1 was expected",
    )
    for symbol, count in counts.most_common(5):
        p, share = probability[symbol], count / draws
        margin = 6 * math.sqrt(max(share * (1 - share), 1 / draws) / draws)
        expect(
            abs(p - share) <= margin,
            f"of {draws} samples {share:.3f} begin with the symbol {symbol}, but log_prob gives it {p:.3f}: score the "
            "distribution that is drawn from, each step at its own place",
        )


DRAWS = 1000
"""Samples that are drawn to compare frequencies."""


def complete_keeps_prefixes(subject: Subject) -> None:
    """`complete` keeps the first `length` steps of each row, and draws the others from its noise."""
    generator: Any = subject.generator
    fake, steps = subject.fake(), subject.fake().x.shape[1]
    for length in (torch.arange(len(fake.x)) % (steps + 1), torch.full((len(fake.x),), steps)):
        with torch.no_grad():
            completion = generator.complete(fake, length, subject.noise(seed=1))
        well_formed(completion, len(fake), "a completed batch")
        expect(
            completion.x.shape == fake.x.shape,
            f"complete gave {list(completion.x.shape)} for {list(fake.x.shape)}",
        )
        keep = torch.arange(steps) < length[:, None]
        keep = keep if fake.mask is None else keep & fake.mask
        expect(
            torch.equal(completion.x[keep], fake.x[keep]),
            "complete changed steps of the prefix that it must keep",
        )
    start, firm = torch.zeros(len(fake.x), dtype=torch.long), perturbed(generator, FIRM)
    with torch.no_grad():
        one, repeated, other = (
            cast(Any, firm).complete(fake, start, subject.noise(seed=seed)) for seed in (1, 1, 2)
        )
    expect(
        not differing(parts_of(one), parts_of(repeated)),
        "complete gives other samples from the same noise: take all randomness from the noise",
    )
    expect(
        not torch.equal(one.x, other.x),
        "complete gives the same samples from other noise: draw the steps behind the prefix from its noise",
    )


def relaxed_agrees(subject: Subject) -> None:
    """`relaxed` draws the samples of `forward`, with a relaxation that is largest at the symbols and has a gradient."""
    generator: Any = subject.generator
    calls: list[tuple[Tensor, Tensor]] = []

    def relax(logits: Tensor, symbol: Tensor) -> Tensor:
        calls.append((logits.detach(), symbol))
        return straight_through(logits.softmax(1), symbol)

    plain = subject.fake()
    soft: Sample = generator.relaxed(
        subject.noise(), subject.real_batch.condition, subject.controls, relax
    )
    differing_names = differing(parts_of(replace(soft, relaxed=None)), parts_of(plain))
    expect(
        not differing_names,
        f"relaxed and forward draw different {listed(differing_names)} from the same noise",
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
    if "log_prob" in subject.capabilities and calls:
        steps = len(calls)
        drawn_log_prob = torch.stack(
            [logits.log_softmax(1).gather(1, symbol[:, None])[:, 0] for logits, symbol in calls], 1
        )
        scored = generator.log_prob(plain)[:, :steps].detach()
        agree = torch.allclose(
            drawn_log_prob[valid[:, :steps]],
            scored[valid[:, :steps]].to(drawn_log_prob.dtype),
            rtol=1e-3,
            atol=1e-3,
        )
        expect(
            agree,
            "log_prob is not that of the logits from which symbols are drawn: score with the same policy",
        )


def unroll_is_one_sample(subject: Subject) -> None:
    """`unroll` draws the same steps separately and together, and equals `forward` in the length of training."""
    generator: Any = perturbed(
        subject.generator
    )  # layers that start at zero would hide their neighbours
    condition, controls = subject.real_batch.condition, subject.controls

    def unroll(steps: range, step_controls: Any) -> Sample:
        windows = generator.needs(steps, step_controls)
        noise = noise_for(
            generator,
            0,
            range(len(subject.real_batch)),
            torch.device("cpu"),
            step_controls,
            windows,
        )
        with torch.no_grad():
            sample: Sample = generator.unroll(noise, condition, step_controls, steps)
        length_of_axis = sample.x.shape[generator.step_axis]
        expect(
            length_of_axis == len(steps),
            f"unroll gave {length_of_axis} steps along axis {generator.step_axis} for {len(steps)}",
        )
        return sample

    stop = max(generator.length(controls, condition), 8) + 5
    whole = unroll(range(stop), controls).x
    for size in (1, 7):
        parts = [unroll(range(at, min(at + size, stop)), controls).x for at in range(0, stop, size)]
        gap = (torch.cat(parts, generator.step_axis) - whole).abs().max().item()
        expect(
            gap <= 1e-5 * max(1.0, whole.abs().max().item()),
            f"steps drawn {size} at a time differ by up to {gap:g} from those drawn together",
        )
    with torch.no_grad():
        fake = generator(subject.noise(), condition, subject.controls)
    length = generator.length(None, condition)
    length_of_axis = fake.x.shape[generator.step_axis]
    expect(
        length_of_axis == length,
        f"length is {length} without controls, but forward draws {length_of_axis} steps",
    )
    for part, window in generator.needs(range(length), None).items():
        steps = generator.noise[part].steps
        expect(
            window == range(steps or 0),
            f"{length} steps need {window} of the noise {part!r}, which has {steps}",
        )
    with torch.no_grad():
        unrolled = generator.unroll(subject.noise(), condition, None, range(length)).x
    gap = (unrolled - fake.x).abs().max().item()
    expect(
        gap <= 1e-4 * max(1.0, fake.x.abs().max().item()),
        f"unroll and forward differ by up to {gap:g} for the same noise",
    )


def steps_are_one_sample(subject: Subject) -> None:
    """The loop over `stepwise`'s step draws the samples of `forward`, and takes the symbols that it is forced to."""
    generator: Any = perturbed(subject.generator, FIRM)
    rows, condition, controls = (
        len(subject.real_batch),
        subject.real_batch.condition,
        subject.controls,
    )
    first = None if condition is None else condition[:1]
    condition = None if first is None else first.expand_as(cast(Tensor, condition)).contiguous()
    loop: Stepwise = generator.stepwise(first, controls)
    noise = subject.noise()
    stepped = {part for part, spec in generator.noise.items() if spec.steps is not None}
    with torch.no_grad():
        whole = generator(noise, condition, controls)

    def looped(forced: Tensor) -> Sample:
        """A batch whose first symbols [B] are forced, where they are not -1."""
        state = {name: row.repeat(rows, *(1,) * (row.ndim - 1)) for name, row in loop.state.items()}
        steps = []
        for number in range(-loop.prefix.shape[1], loop.length):
            step_noise = {
                part: values[:, max(number, 0)] if part in stepped else values
                for part, values in noise.items()
            }
            symbol = torch.full((rows,), -1)
            if number <= 0:
                symbol = loop.prefix[0, number].expand(rows) if number < 0 else forced
            with torch.no_grad():
                step, state = loop.step(step_noise, condition, controls, symbol, state)
            steps += [step] if number >= 0 else []
        masks = [
            torch.ones(rows, dtype=torch.bool) if step.mask is None else step.mask for step in steps
        ]
        return Sample(torch.stack([step.x for step in steps], 1), mask=torch.stack(masks, 1))

    loop_sample = looped(torch.full((rows,), -1))
    counts = [
        shape[1] if mask is None else mask.sum(1)
        for shape, mask in ((whole.x.shape, whole.mask), (loop_sample.x.shape, loop_sample.mask))
    ]
    expect(
        torch.equal(*(torch.as_tensor(count).expand(rows) for count in counts)),
        "the loop over stepwise's step draws other samples than forward from the same noise: of other lengths",
    )
    valid = cast(Tensor, loop_sample.mask)
    ours, theirs = loop_sample.x[valid], whole.x[:, : loop_sample.x.shape[1]][valid]
    is_same = torch.equal(ours, theirs)
    if ours.is_floating_point():
        is_same = torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    expect(
        is_same,
        "the loop over stepwise's step draws other samples than forward from the same noise",
    )
    if not ours.is_floating_point():
        kinds, places = torch.unique(loop_sample.x, return_inverse=True)
        symbols = kinds[(places[:, 0] + 1) % len(kinds)]  # others than were drawn
        expect(
            torch.equal(looped(symbols).x[:, 0], symbols),
            "stepwise's step draws a symbol where it is forced to take one",
        )


def export_facts_are_plain(subject: Subject) -> None:
    """`export_facts` gives JSON data; a vocabulary in them writes the lines that `encode` writes."""
    plugin = subject.model.plugin
    facts = plugin.export_facts()
    try:
        is_same = json.loads(json.dumps(facts)) == facts
    except (TypeError, ValueError):
        is_same = False
    expect(
        is_same,
        f"export_facts gave {facts!r}, which is not the same after JSON: use lists and dicts",
    )
    names = facts.get("vocabulary")
    if names is None or "txt" not in subject.modality.formats:
        return
    samples = subject.draw(range(5))
    mask = samples.sample.mask
    for row, content in enumerate(samples.encode("txt")):
        symbols = samples.x[row] if mask is None else samples.x[row][mask[row]]
        line = "".join(names[symbol] for symbol in symbols.tolist())
        line = line.removeprefix(facts.get("lead", ""))
        text = line.encode("latin-1").decode(errors="replace")
        expect(
            text == content.decode(),
            f"the vocabulary of export_facts writes {text!r}, encode {content.decode()!r}",
        )


def writer_writes_what_encode_writes(subject: Subject) -> None:
    """`writer` writes a sample part by part into the same file that `encode` makes of the whole sample."""
    model, samples = subject.model, subject.draw(range(1))
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
        expect(
            file.getvalue() == whole,
            f"writer and encode write different .{ending} files of the same sample",
        )


def shipped_models_open(subject: Subject) -> None:
    """Each model that ships with the plugin is whole, was made with it, and can be opened."""
    faults = list(bundled.faults(subject.modality))
    expect(not faults, f"{listed(faults)}")
    for name in subject.modality.models:
        open_model(bundled.model_path(subject.modality, name), "cpu", subject.modality)


def shipped_models_draw(subject: Subject) -> None:
    """Each model that ships with the plugin draws the same samples each time, the first one without any condition."""
    for place, name in enumerate(subject.modality.models):
        folder = bundled.model_path(subject.modality, name)
        one, other = (open_model(folder, "cpu", subject.modality) for _ in range(2))
        try:
            whole = one.generate(4, seed=3)
        except ConfigError as error:
            expect(place, f"its first model, {name!r}, cannot draw without a condition: {error}")
            continue
        pair = other.generate(indices=[2, 0], seed=3)
        expect(
            torch.equal(pair.x, whole.x[[2, 0]]),
            f"its model {name!r} drew other samples when it was opened again: keep all of its state in parameters and "
            "buffers, and take all randomness from the noise",
        )
        whole.encode()

"""The checks of every modality, one function each.

A check takes a `Subject` and returns if all is well. Otherwise it raises; the message of an AssertionError says what
was found, what was expected and what to do. Its docstring is shown to users. Knows the engine and the sampler; no test
runner and no modality.
"""

from __future__ import annotations

import itertools
import json
import mimetypes
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from genkit import config as configuration
from genkit.discovery import registry
from genkit.engine.compatibility import required_capabilities
from genkit.engine.data import Batches
from genkit.engine.run_folder import RunFolder
from genkit.engine.views import model_of, preview_conditions
from genkit.errors import ConfigError
from genkit.plugin import Critique, Facts, Modality
from genkit.sampling.drawing import CHUNK
from genkit.sampling.opening import open_model
from genkit.system.files import cache_folder
from genkit.system.seeding import global_seeds
from genkit.system.tensors import read_tensors, write_tensors
from genkit.testing.answers import masks_end_where_samples_end
from genkit.testing.findings import (
    all_weights,
    check_signature,
    critique_of,
    describe,
    differing,
    expect,
    fingerprint,
    listed,
    parts_of,
    perturbed,
    well_formed,
)
from genkit.testing.processes import call, child
from genkit.testing.subject import Subject

TRIAL_SECONDS = 2.0
"""Items of the data are tried for so long."""

LABELLED = 1024
"""Among so many items there should be several classes, where there are labels."""

# The manifest ----------------------------------------------------------------------------------------------------


def manifest_is_plain_data(subject: Subject) -> None:
    """The manifest is plain data and survives JSON; its id, media type and file endings are well formed."""
    modality = subject.modality
    wrong = registry.check_manifest(modality.id, modality)
    expect(not wrong, wrong)
    plain = modality.to_json()
    expect(
        Modality.from_json(plain).to_json() == plain,
        "the manifest is not the same after JSON: use plain data only",
    )
    media = modality.media_type
    expect(
        re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", media),
        f"media_type {media!r}: the form type/subtype was expected",
    )
    expect(modality.formats, "formats is empty: name at least one file ending that encode writes")
    for ending in (*modality.formats, *modality.preview_formats):
        expect(
            re.fullmatch(r"[a-z0-9]+", ending),
            f"the file ending {ending!r}: lower-case letters and digits without a dot were expected",
        )


def import_takes_no_torch(subject: Subject) -> None:
    """Importing the manifest, the options and the controls does not import torch."""
    parts = (subject.modality.options, subject.modality.controls)
    code = (
        "import sys; from genkit.discovery.registry import resolve\n"
        "for target in sys.argv[1:]: resolve(target); 'torch' in sys.modules and sys.exit(target + ' imports torch')"
    )
    targets = [str(subject.target), *(part for part in parts if isinstance(part, str))]
    process = child(code, targets)
    message = (process.stderr.strip().splitlines() or ["no error message"])[-1]
    expect(
        process.returncode == 0,
        f"{message}: import torch only in the module that the manifest's `plugin` names",
    )


def names_resolve(subject: Subject) -> None:
    """The classes that the manifest names for plugin, options and controls exist and have the right base classes."""
    registry.load(subject.modality)
    for part in ("options", "controls"):
        cls = registry.named_class(subject.modality, part)
        is_valid = cls is None or (isinstance(cls, type) and issubclass(cls, BaseModel))
        expect(
            is_valid,
            f"its {part}, {getattr(subject.modality, part)}, are no subclass of genkit.recipe.Settings",
        )


def presets_are_configurations(subject: Subject) -> None:
    """Every preset is a valid configuration."""
    for name in subject.modality.presets:
        configuration.build(subject.modality, name)


def capabilities_suffice(subject: Subject) -> None:
    """Plugin and generator have the capabilities that the recipe needs; the manifest has endings for previews."""
    for capability, setting in required_capabilities(subject.config.recipe).items():
        expect(
            capability in subject.capabilities,
            f"{setting} needs {capability!r}, which plugin and generator lack: write the method, or change the recipe",
        )
    if "preview" in subject.capabilities:
        expect(
            subject.modality.preview_formats,
            "the plugin has preview, but the manifest names no ending for it: set preview_formats",
        )


def options_round_trip(subject: Subject) -> None:
    """Options are the same after JSON, and reject unknown keys."""
    survives(subject.config.options, "options")


def controls_round_trip(subject: Subject) -> None:
    """Controls have defaults, are the same after JSON, and reject unknown keys."""
    survives(subject.controls, "controls")


def survives(settings: Any, part: str) -> None:
    """Assert that settings are the same after JSON, and reject an unknown key."""
    plain = settings.model_dump(mode="json")
    restored = configuration.validate(type(settings), json.loads(json.dumps(plain)), part)
    expect(
        restored == settings,
        f"{part} are not the same after JSON: {settings!r} became {restored!r}",
    )
    try:
        configuration.validate(type(settings), {**plain, "no_such_setting": 1}, part)
    except ConfigError:
        return
    raise AssertionError(
        f"{part} take an unknown key: derive them from genkit.recipe.Settings, which rejects it"
    )


# Data, facts, networks -------------------------------------------------------------------------------------------


def data_are_samples(subject: Subject) -> None:
    """All items are finite samples of one shape with matching masks; the same position gives the same items again."""
    dataset = subject.open()[1]
    unusable = Batches(dataset, 0).tried(TRIAL_SECONDS)
    faults = [f"item {index} ({fault})" for index, fault in unusable.items()]
    expect(not faults, f"the data set has items that cannot be used: {listed(faults)}")
    first, repeated = (Batches(subject.open()[1], 0).take(0, 16) for _ in range(2))
    expect(
        differing(parts_of(first), parts_of(repeated)) == [],
        "the same position of the data gave other items when it was read again: draw random numbers from the global "
        "generators, which are seeded for each item",
    )
    well_formed(first, 16, "a real batch")
    labels, count = subject.open()[0].facts.values.get("labels"), min(len(dataset), LABELLED)
    conditions = Batches(dataset, 0).take(0, count).condition
    if (
        isinstance(labels, list)
        and len(labels) > 1
        and conditions is not None
        and conditions.ndim == 1
    ):
        expect(
            len(torch.unique(conditions)) > 1,
            f"the facts have {len(labels)} labels, but the first {count} items have one condition, "
            f"{conditions[0].item()}: give each item its own",
        )


def facts_round_trip(subject: Subject) -> None:
    """Facts are the same after JSON, and `inspect` finds the same ones again."""
    (plugin, _), (other, _) = subject.open(), subject.open()
    facts, values = plugin.facts, dict(plugin.facts.values)
    expect(
        json.loads(json.dumps(values)) == values,
        f"facts are not the same after JSON: {values!r}; use lists, strings, numbers and dictionaries with string keys",
    )
    for name, content in facts.files.items():
        expect(
            os.path.basename(name) == name and isinstance(content, bytes),
            f"facts.files[{name!r}]: bytes under a plain file name were expected",
        )
    expect(
        facts == other.facts,
        "inspect found other facts the second time: they must depend on the data and the options alone",
    )


def networks_follow_from_facts(subject: Subject) -> None:
    """Options and facts alone rebuild the networks, without the data; torch's seed determines their weights."""
    plugin, _ = subject.open()
    options: Any = subject.config.options
    if options is not None:
        options = configuration.validate(
            type(options), json.loads(options.model_dump_json()), "options"
        )
    facts = Facts(json.loads(json.dumps(dict(plugin.facts.values))), dict(plugin.facts.files))
    with global_seeds("networks"):
        weights = all_weights(plugin.networks())
    fresh_plugin = registry.load(subject.modality)(options, facts)
    with global_seeds("networks"):
        rebuilt = all_weights(fresh_plugin.networks())
    differing_names = differing(weights, rebuilt)
    expect(
        not differing_names,
        f"networks differ when they are rebuilt without the data ({listed(differing_names)}): keep everything that "
        "depends on the data in the facts, and draw weights from torch's global generator",
    )
    with global_seeds("networks"):
        generator = fresh_plugin.generator().state_dict(prefix="generator.")
    shapes, expected_shapes = (
        {(name, value.shape) for name, value in state.items() if name.startswith("generator.")}
        for state in (generator, weights)
    )
    differing_names = sorted({name for name, _ in shapes ^ expected_shapes})
    expect(
        not differing_names,
        f"generator() gives another network than networks() ({listed(differing_names)})",
    )


def fakes_are_like_reals(subject: Subject) -> None:
    """Generated samples have the parts, shapes and dtypes of real ones, one for each row of noise."""
    real, noise = subject.real_batch, subject.noise()
    parts = {part: value.clone() for part, value in noise.items()}
    with torch.no_grad():
        fake = subject.generator(noise, real.condition, subject.controls)
    names = differing(parts, noise)
    expect(not names, f"the generator wrote into its noise ({listed(names)}): work on a copy")
    well_formed(fake, len(real), "a generated batch")
    fake_kind, real_kind = (fake.x.shape[1:], fake.x.dtype), (real.x.shape[1:], real.x.dtype)
    expect(
        fake_kind == real_kind,
        f"generated samples are {describe(*fake_kind)}, real ones {describe(*real_kind)}: make them equal",
    )
    has_mask, real_has_mask = fake.mask is not None, real.mask is not None
    expect(
        has_mask == real_has_mask,
        f"generated samples have {'a' if has_mask else 'no'} mask, real ones {'one' if real_has_mask else 'none'}: "
        "critics could tell them apart by that alone",
    )
    masks_end_where_samples_end(subject)


def critics_judge_each_row(subject: Subject) -> None:
    """Each critic returns finite logits for every real and every generated sample."""
    for (name, critic), sample in itertools.product(
        subject.critics.items(), (subject.real_batch, subject.fake())
    ):
        parts = {part: value.clone() for part, value in parts_of(sample).items()}
        critique = critique_of(critic, sample)
        expect(
            isinstance(critique, Critique) and critique.logits,
            f"the critic {name!r} returned no Critique with logits",
        )
        names = differing(parts, parts_of(sample))
        expect(
            not names,
            f"the critic {name!r} wrote into its input ({listed(names)}): work on a copy",
        )
        for logits in critique.logits:
            is_valid = logits.ndim in (1, 2) and len(logits) == len(sample)
            expect(
                is_valid,
                f"the critic {name!r} returned logits {list(logits.shape)}; [B] or [B, P] with B = {len(sample)} "
                "was expected",
            )
            expect(
                logits.isfinite().all(),
                f"the critic {name!r} returned logits that are not finite",
            )
            has_steps = not critique.per_step or logits.shape[1:] == sample.x.shape[1:2]
            expect(
                has_steps,
                f"the critic {name!r} is per_step, but returned {list(logits.shape)} for x {list(sample.x.shape)}",
            )


# Training --------------------------------------------------------------------------------------------------------


def training_is_finite_and_moves_all(subject: Subject) -> None:
    """After a few rounds every loss and gradient was finite, and every player has changed."""
    game, weights_before = subject.played.game, subject.played.weights_before
    for name in subject.learners:
        _, count = game.tally.sums[f"{name}.loss"]
        expect(
            int(count) == game.updates[name],
            f"{game.updates[name] - int(count)} losses of {name} were not finite",
        )
        expect(not game.tally.sums[f"{name}.skipped"][0], f"a gradient of {name} was not finite")
    weights_after = game.state()[1]["players"]
    for name in subject.learners:
        prefix = "generator." if name == "generator" else f"critics.{name}."
        own_weights = {key: value for key, value in weights_after.items() if key.startswith(prefix)}
        differing_names = differing(own_weights, {key: weights_before[key] for key in own_weights})
        expect(
            differing_names,
            f"{name} has not changed after {game.updates[name]} updates: let a gradient reach its parameters",
        )


def gradients_stay_separate(subject: Subject) -> None:
    """An update gives gradients to all parameters of its player and to no other's; frozen networks never get any."""
    game, gradients = subject.played.game, subject.played.gradients
    strays = {
        f"{owner}'s {name} in an update of {player}"
        for player, owner, name in gradients
        if player != owner
    }
    expect(
        not strays,
        f"parameters got gradients in an update of another player: {listed(strays)}; players must not share parameters",
    )
    for owner in subject.learners:
        player = game.players[owner]
        missing_names = {
            name
            for name, parameter in player.named_parameters()
            if any(parameter is one for one in game.trainable[owner])
            and (owner, owner, name) not in gradients
        }
        expect(
            not missing_names,
            f"{owner}: no gradient ever reached {listed(missing_names)}; use these parameters in the forward pass, "
            "or set requires_grad=False",
        )
    for name, module in game.networks.frozen.items():
        trainable_names = [
            key
            for key, value in module.named_parameters()
            if value.requires_grad or value.grad is not None
        ]
        expect(
            not trainable_names,
            f"the frozen network {name!r} has trainable parameters: {listed(trainable_names)}",
        )


def resume_equals_uninterrupted(subject: Subject) -> None:
    """A run that was stopped and resumed ends like an uninterrupted one, bit for bit."""
    subject.interrupt("resumed")
    subject.train("resumed", resume=True)
    same_runs(
        subject.unseen,
        subject.folder / "resumed",
        "a resumed run differs from one that was never stopped",
    )


def drawing_changes_nothing(subject: Subject) -> None:
    """A run that draws samples in every round ends like one that draws none before its end, bit for bit."""
    assert subject.model
    same_runs(
        subject.unseen,
        subject.folder / "seen",
        "a run that drew samples in every round differs from one that did not",
    )


def same_runs(one: Path, other: Path, message: str) -> None:
    """Assert that the last checkpoints of two runs are equal."""
    folders = [RunFolder(path, is_main_process=False).latest() for path in (one, other)]
    for group in ("players", "averages", "optimizers"):
        a, b = (read_tensors(folder / f"{group}.safetensors") for folder in folders if folder)
        expect(
            not (differing_names := differing(a, b)),
            f"{message} ({listed(differing_names)}): keep no state outside of parameters and buffers, and draw random "
            "numbers from the global generators",
        )


# Drawing and saving ----------------------------------------------------------------------------------------------


def same_identity_same_sample(subject: Subject) -> None:
    """A seed and an index give the same sample in any batch, at any time; another seed gives other samples."""
    whole = subject.draw(range(60, 68), seed=3)
    for index in (66, 61, 60):
        single = subject.draw([index], seed=3)
        expect(
            torch.equal(single.x[0], whole.x[index - 60]),
            f"sample {index} of seed 3 changed when it was drawn again: take all randomness from the noise",
        )
    if not subject.noise():  # the condition alone determines the sample
        return
    other = subject.draw(range(60, 68), seed=4)
    expect(
        not torch.equal(other.x, whole.x),
        "seeds 3 and 4 give the same samples: let the generator use its noise",
    )


def rows_stand_alone(subject: Subject) -> None:
    """In eval mode a sample depends on its own noise and condition, not on the rest of the batch."""
    noise, other = subject.noise(), subject.noise(seed=1)
    half = subject.config.recipe.batch_size // 2
    mixed = {part: torch.cat([noise[part][:half], other[part][half:]]) for part in noise}
    condition, generator = subject.real_batch.condition, perturbed(subject.generator)
    with torch.no_grad():
        plain, mixed_batch = (
            generator(one, condition, subject.controls).x[:half] for one in (noise, mixed)
        )
    is_same = torch.allclose(plain.double(), mixed_batch.double(), rtol=1e-4, atol=1e-5)
    expect(
        is_same,
        "samples changed with the other rows of their batch: use no batch statistics in eval mode",
    )


def saved_is_loaded(subject: Subject) -> None:
    """A model that was saved and loaded gives the same samples and has the same facts."""
    model, path = model_of(subject.played.game), subject.folder / "saved"
    model.save(path)
    reopened = open_model(path, "cpu", subject.modality)
    batches = (parts_of(subject.draw(range(4), model=one).sample) for one in (model, reopened))
    differing_names = differing(*batches)
    expect(
        not differing_names,
        f"a loaded model draws other samples ({listed(differing_names)}): keep all of its state in parameters and "
        "buffers",
    )
    expect(
        reopened.plugin.facts == model.plugin.facts,
        "a loaded model has other facts than the one that was saved",
    )


def files_are_what_they_say(subject: Subject) -> None:
    """Encoded samples have the manifest's media type; the bytes are the same each time, alone or many at once."""
    modality, samples = subject.modality, subject.draw(range(3))
    types = mimetypes.MimeTypes(filenames=())
    usual = types.guess_all_extensions(modality.media_type, strict=False)
    usual_type = types.guess_type(f"0.{modality.formats[0]}", strict=False)[0]
    expect(
        not (usual_type and usual and f".{modality.formats[0]}" not in usual),
        f"media_type is {modality.media_type}, but .{modality.formats[0]} is {usual_type}: make them agree",
    )
    for format in modality.formats:
        contents, repeated = samples.encode(format), samples.encode(format)
        singles = [
            subject.model.plugin.encode(samples.sample[row], format, samples.controls)
            for row in range(3)
        ]
        expect(
            contents == repeated,
            f"equal samples gave other bytes of .{format}: leave out time stamps and random names",
        )
        expect(contents == singles, f"encode_each gave other bytes of .{format} than encode")
        for content in contents:
            check_signature(content, format, as_text=modality.media_type.startswith("text/"))


def fresh_process_rebuilds(subject: Subject) -> None:
    """A new process, with only the manifest as JSON and the model folder, draws the same samples."""
    digest = fingerprint(subject.draw(range(4)).x)
    condition = preview_conditions(subject.played.game, range(CHUNK))
    file = subject.folder / "asked.safetensors"
    write_tensors(file, {} if condition is None else {"condition": condition})
    arguments = [json.dumps(subject.modality.to_json()), str(subject.folder / "seen"), str(file)]
    process = call("genkit.testing.checks:draw_there", arguments)
    message = (process.stderr.strip().splitlines() or ["no error message"])[-1]
    expect(
        process.returncode == 0,
        f"a fresh process cannot draw ({message}): name importable classes as module:Class",
    )
    expect(
        digest in process.stdout,
        "a fresh process drew other samples: keep no state in modules or in the environment",
    )


def draw_there() -> None:
    """Draw from the model on the command line and print the samples' fingerprint; runs in a process of its own."""
    torch.set_num_threads(1)
    manifest, model, condition_file = sys.argv[1:]
    condition = read_tensors(Path(condition_file)).get("condition")
    opened_model = open_model(model, "cpu", Modality.from_json(json.loads(manifest)))
    controls = configuration.controls(opened_model.modality, {})

    def conditions(indices: Sequence[int]) -> Tensor | None:
        return None if condition is None else condition[list(indices)]

    x = opened_model.draw(range(4), 0, controls=controls, conditions=conditions).x
    sys.stdout.write(f"\n{fingerprint(x)}\n")


def files_stay_in_the_run(subject: Subject) -> None:
    """Opening, training, drawing and saving leave files only in the run's folder (and in the user's cache)."""
    with subject.watching():
        subject.draw(range(2)).save(subject.folder / "drawn")
    allowed = [
        os.path.abspath(root) + os.sep for root in (subject.folder, cache_folder().parent, "/dev")
    ]
    strays = {
        path
        for path in subject.written
        if not path.startswith(tuple(allowed))
        and "__pycache__" not in path
        and os.path.lexists(path)
    }
    strays -= {str(subject.folder)}
    expect(
        not strays,
        f"it wrote outside of the run's folder: {listed(strays)}; use temporary files, or facts.files",
    )

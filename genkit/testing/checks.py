"""What every modality must do, one small function each.

A check is asked with a `Subject` and says nothing if all is well; else it raises, and an AssertionError says what was
found, what was wanted and what to do. Its docstring is what users read. Knows no test runner and no modality.
"""

from __future__ import annotations

import importlib
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
from genkit.errors import ConfigError
from genkit.plugin import Critique, Facts, Modality
from genkit.sampling.drawing import CHUNK
from genkit.sampling.model import open_model
from genkit.system.files import cache_folder
from genkit.system.seeding import global_seeds
from genkit.system.tensors import read_tensors, write_tensors
from genkit.testing.findings import (
    all_weights,
    begins_rightly,
    child,
    describe,
    differing,
    expect,
    fingerprint,
    judged,
    listed,
    parts_of,
    well_formed,
)
from genkit.testing.subject import Subject

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
        f"media_type {media!r}: of the form type/subtype was expected",
    )
    expect(modality.formats, "formats is empty: name at least one file ending that encode writes")
    for ending in (*modality.formats, *modality.preview_formats):
        expect(
            re.fullmatch(r"[a-z0-9]+", ending),
            f"the file ending {ending!r}: lower case without its dot was expected",
        )


def import_takes_no_torch(subject: Subject) -> None:
    """Importing the manifest, its options and its controls does not import torch."""
    parts = (subject.modality.options, subject.modality.controls)
    code = (
        "import sys; from genkit.discovery.registry import resolve\n"
        "for target in sys.argv[1:]: resolve(target); 'torch' in sys.modules and sys.exit(target + ' imports torch')"
    )
    targets = [str(subject.target), *(part for part in parts if isinstance(part, str))]
    ended = child(code, targets)
    said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
    expect(
        ended.returncode == 0,
        f"{said}: import it where it is used, in the module that `plugin` names",
    )


def names_resolve(subject: Subject) -> None:
    """The plugin's class, its options and its controls are where the manifest says, and of the right kind."""
    registry.load(subject.modality)
    for part in ("options", "controls"):
        cls = registry.named_class(subject.modality, part)
        right = cls is None or (isinstance(cls, type) and issubclass(cls, BaseModel))
        expect(
            right,
            f"its {part}, {getattr(subject.modality, part)}, are no subclass of genkit.recipe.Settings",
        )


def presets_are_configurations(subject: Subject) -> None:
    """Every preset is a valid configuration."""
    for name in subject.modality.presets:
        configuration.build(subject.modality, name)


def capabilities_suffice(subject: Subject) -> None:
    """The classes can do what the preset's recipe asks for, and the manifest has endings for their previews."""
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
    """Options survive JSON and refuse what they do not know."""
    survives(subject.config.options, "options")


def controls_round_trip(subject: Subject) -> None:
    """Controls have defaults, survive JSON and refuse what they do not know."""
    survives(subject.controls, "controls")


def survives(settings: Any, part: str) -> None:
    """Assert that settings are the same after JSON, and refuse an unknown key."""
    plain = settings.model_dump(mode="json")
    again = configuration.validate(type(settings), json.loads(json.dumps(plain)), part)
    expect(again == settings, f"{part} are not the same after JSON: {settings!r} became {again!r}")
    try:
        configuration.validate(type(settings), {**plain, "no_such_setting": 1}, part)
    except ConfigError:
        return
    raise AssertionError(
        f"{part} take an unknown key: derive them from genkit.recipe.Settings, which refuses it"
    )


# Data, facts, networks -------------------------------------------------------------------------------------------


def data_are_samples(subject: Subject) -> None:
    """The data are samples of one shape, finite, with masks that fit; the same place gives the same ones again."""
    first, again = (Batches(subject.open()[1], 0).take(0, 16) for _ in range(2))
    expect(
        differing(parts_of(first), parts_of(again)) == [],
        "the same place of the data gave other items when it was read anew: draw what is random from the global "
        "generators, which are seeded for each item",
    )
    well_formed(first, 16, "a real batch")


def facts_round_trip(subject: Subject) -> None:
    """Facts survive JSON, and the data give the same ones again."""
    (plugin, _), (other, _) = subject.open(), subject.open()
    facts, values = plugin.facts, dict(plugin.facts.values)
    expect(
        json.loads(json.dumps(values)) == values,
        f"facts are not the same after JSON: {values!r}; use lists, strings, numbers and dictionaries with string keys",
    )
    for name, content in facts.files.items():
        expect(
            os.path.basename(name) == name and isinstance(content, bytes),
            f"facts.files[{name!r}]: bytes by a name",
        )
    expect(
        facts == other.facts,
        "inspect found other facts the second time: they must follow from the data alone",
    )


def networks_follow_from_facts(subject: Subject) -> None:
    """The networks are rebuilt from options and facts alone, without the data; torch's seed decides their weights."""
    plugin, _ = subject.open()
    options: Any = subject.config.options
    if options is not None:
        options = configuration.validate(
            type(options), json.loads(options.model_dump_json()), "options"
        )
    facts = Facts(json.loads(json.dumps(dict(plugin.facts.values))), dict(plugin.facts.files))
    with global_seeds("networks"):
        before = all_weights(plugin.networks())
    with global_seeds("networks"):
        rebuilt = all_weights(registry.load(subject.modality)(options, facts).networks())
    changed = differing(before, rebuilt)
    expect(
        not changed,
        f"networks differ when they are rebuilt without the data ({listed(changed)}): what the data decide "
        "belongs to the facts, and weights are drawn from torch's global generator",
    )


def fakes_are_like_reals(subject: Subject) -> None:
    """Generated samples have the shape and the kind of real ones, one for each row of noise."""
    real, fake = subject.real_batch, subject.fake()
    well_formed(fake, len(real), "a generated batch")
    found, wanted = (fake.x.shape[1:], fake.x.dtype), (real.x.shape[1:], real.x.dtype)
    expect(
        found == wanted,
        f"generated samples are {describe(*found)}, real ones {describe(*wanted)}: make them alike",
    )


def critics_judge_each_row(subject: Subject) -> None:
    """Each critic gives every real and every generated sample finite logits."""
    for (name, critic), sample in itertools.product(
        subject.critics.items(), (subject.real_batch, subject.fake())
    ):
        critique = judged(critic, sample)
        expect(
            isinstance(critique, Critique) and critique.logits,
            f"the critic {name!r} gave no Critique with logits",
        )
        for logits in critique.logits:
            right = logits.ndim in (1, 2) and len(logits) == len(sample)
            expect(
                right,
                f"the critic {name!r} gave logits {list(logits.shape)}; [B] or [B, P] with B = {len(sample)}",
            )
            expect(logits.isfinite().all(), f"the critic {name!r} gave logits that are not finite")
            steps = not critique.per_step or logits.shape[1:] == sample.x.shape[1:2]
            expect(
                steps,
                f"the critic {name!r} is per_step, but gave {list(logits.shape)} for x {list(sample.x.shape)}",
            )


# Training --------------------------------------------------------------------------------------------------------


def training_is_finite_and_moves_all(subject: Subject) -> None:
    """After a few rounds every loss was finite, and every player has changed."""
    game, before = subject.played.game, subject.played.before
    for name in game.players:
        _, count = game.tally[f"{name}.loss"]
        expect(
            int(count) == game.updates[name],
            f"{game.updates[name] - int(count)} losses of {name} were not finite",
        )
        expect(not game.tally[f"{name}.skipped"][0], f"a gradient of {name} was not finite")
    after = game.state()[1]["players"]
    for name in game.players:
        prefix = "generator." if name == "generator" else f"critics.{name}."
        own = {key: value for key, value in after.items() if key.startswith(prefix)}
        moved = differing(own, {key: before[key] for key in own})
        expect(
            moved,
            f"{name} has not changed after {game.updates[name]} updates: does a gradient reach it?",
        )


def gradients_stay_at_home(subject: Subject) -> None:
    """In its update every parameter of a player gets a gradient, and nobody else's; what is frozen never gets one."""
    game, received = subject.played.game, subject.played.received
    foreign = {
        f"{owner}'s {name} in an update of {player}"
        for player, owner, name in received
        if player != owner
    }
    expect(
        not foreign,
        f"gradients were gathered out of place: {listed(foreign)}; do parts of the players coincide?",
    )
    for owner, player in game.players.items():
        without = {
            name
            for name, parameter in player.named_parameters()
            if any(parameter is one for one in game.trainable[owner])
            and (owner, owner, name) not in received
        }
        expect(
            not without,
            f"{owner}: no gradient ever reached {listed(without)}; use it, or do not let it learn",
        )
    for name, module in game.networks.frozen.items():
        learning = [
            key
            for key, value in module.named_parameters()
            if value.requires_grad or value.grad is not None
        ]
        expect(not learning, f"the frozen network {name!r} learns: {listed(learning)}")


def resume_equals_uninterrupted(subject: Subject) -> None:
    """A run that was stopped and resumed ends like one that was not, bit for bit."""
    size, items = subject.config.recipe.batch_size, subject.config.run.items
    assert items is not None
    rare = {"sample_items": 2 * items}
    subject.train("resumed", run=rare, items=items // size // 2 * size)
    subject.train("resumed", run=rare, items=items, resume=True)
    same_runs(
        subject.unseen,
        subject.folder / "resumed",
        "a resumed run differs from one that was never stopped",
    )


def looking_does_not_touch(subject: Subject) -> None:
    """A run that draws samples in every round ends like one that does not, bit for bit."""
    assert subject.model
    same_runs(
        subject.unseen,
        subject.folder / "seen",
        "a run that looked at samples differs from one that did not",
    )


def same_runs(one: Path, other: Path, what: str) -> None:
    """Assert that the last checkpoints of two runs are equal."""
    folders = [RunFolder(path, is_main_process=False).latest() for path in (one, other)]
    for group in ("players", "averages", "optimizers"):
        a, b = (read_tensors(folder / f"{group}.safetensors") for folder in folders if folder)
        expect(
            not (changed := differing(a, b)),
            f"{what} ({listed(changed)}): keep no state outside of parameters and buffers, and draw what is random "
            "from the global generators",
        )


# Drawing and saving ----------------------------------------------------------------------------------------------


def same_identity_same_sample(subject: Subject) -> None:
    """A seed and an index are one sample, in any batch, at any time; other seeds give others."""
    whole = subject.drawn(range(60, 68), seed=3)
    for index in (66, 61, 60):
        alone = subject.drawn([index], seed=3)
        expect(
            torch.equal(alone.x[0], whole.x[index - 60]),
            f"sample {index} of seed 3 was another one when it was drawn again: all that is random is in the noise",
        )
    if not subject.noise():  # all is said by the condition
        return
    other = subject.drawn(range(60, 68), seed=4)
    expect(
        not torch.equal(other.x, whole.x),
        "seeds 3 and 4 give the same samples: does the generator use its noise?",
    )


def rows_stand_alone(subject: Subject) -> None:
    """In eval mode a sample depends on its own noise and condition, not on the rest of the batch."""
    noise, other = subject.noise(), subject.noise(seed=1)
    half = subject.config.recipe.batch_size // 2
    mixed = {part: torch.cat([noise[part][:half], other[part][half:]]) for part in noise}
    condition = subject.real_batch.condition
    with torch.no_grad():
        alone, among = (
            subject.generator(one, condition, subject.controls).x[:half] for one in (noise, mixed)
        )
    same = torch.allclose(alone.double(), among.double(), rtol=1e-4, atol=1e-5)
    expect(
        same,
        "samples changed with the other rows of their batch: no statistics over the batch in eval mode",
    )


def saved_is_loaded(subject: Subject) -> None:
    """A model that was saved and loaded gives the same samples; its folder holds weights, settings and assets only."""
    model, path = subject.played.game.model(), subject.folder / "saved"
    model.save(path)
    loaded = open_model(path, "cpu", subject.modality)
    drawn = (parts_of(subject.drawn(range(4), model=one).sample) for one in (model, loaded))
    changed = differing(*drawn)
    expect(
        not changed,
        f"a loaded model draws other samples ({listed(changed)}): keep all that it needs in its weights",
    )
    expect(
        loaded.plugin.facts == model.plugin.facts,
        "a loaded model has other facts than the one that was saved",
    )


def files_are_what_they_say(subject: Subject) -> None:
    """Encoded samples are of the manifest's media type, and the same each time, alone or many at once."""
    modality, samples = subject.modality, subject.drawn(range(3))
    types = mimetypes.MimeTypes(filenames=())
    usual = types.guess_all_extensions(modality.media_type, strict=False)
    known = types.guess_type(f"0.{modality.formats[0]}", strict=False)[0]
    expect(
        not (known and usual and f".{modality.formats[0]}" not in usual),
        f"media_type is {modality.media_type}, but .{modality.formats[0]} is {known}: make them agree",
    )
    for format in modality.formats:
        once, twice = samples.encode(format), samples.encode(format)
        alone = [
            subject.model.plugin.encode(samples.sample[row], format, samples.controls)
            for row in range(3)
        ]
        expect(
            once == twice,
            f"equal samples gave other bytes of .{format}: leave out time stamps and random names",
        )
        expect(once == alone, f"encode_each gave other bytes of .{format} than encode")
        for content in once:
            begins_rightly(content, format, as_text=modality.media_type.startswith("text/"))


def fresh_process_rebuilds(subject: Subject) -> None:
    """A process of its own, with the manifest as JSON and the model folder, draws the same samples."""
    here = fingerprint(subject.drawn(range(4)).x)
    condition = subject.played.game.look_conditions(range(CHUNK))
    file = subject.folder / "asked.safetensors"
    write_tensors(file, {} if condition is None else {"condition": condition})
    told = [json.dumps(subject.modality.to_json()), str(subject.folder / "seen"), str(file)]
    ended = child("from genkit.testing.checks import draw_there; draw_there()", told)
    said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
    expect(
        ended.returncode == 0,
        f"a fresh process cannot draw ({said}): name importable classes as module:Class",
    )
    expect(
        here in ended.stdout,
        "a fresh process drew other samples: keep no state in modules or in the environment",
    )


def draw_there() -> None:
    """Draw from the model of the command line and say what came (in a process of its own)."""
    torch.set_num_threads(1)
    manifest, model, asked = sys.argv[1:]
    condition = read_tensors(Path(asked)).get("condition")
    opened = open_model(model, "cpu", Modality.from_json(json.loads(manifest)))
    controls = configuration.controls(opened.modality, {})

    def told(indices: Sequence[int]) -> Tensor | None:
        return None if condition is None else condition[list(indices)]

    x = opened.draw(range(4), 0, controls=controls, conditions=told).x
    sys.stdout.write(f"\n{fingerprint(x)}\n")


def files_stay_in_the_run(subject: Subject) -> None:
    """Opening, training, drawing and saving leave files in the run's folder only (and in the user's cache)."""
    importlib.import_module(
        "torch._dynamo"
    )  # makes its own folder, when a process makes its first optimizer
    with subject.watching():
        subject.drawn(range(2)).save(subject.folder / "drawn")
    allowed = [
        os.path.abspath(root) + os.sep for root in (subject.folder, cache_folder().parent, "/dev")
    ]
    outside = {
        path
        for path in subject.written
        if not path.startswith(tuple(allowed))
        and "__pycache__" not in path
        and os.path.lexists(path)
    }
    outside -= {str(subject.folder)}
    expect(
        not outside,
        f"it wrote outside of the run's folder: {listed(outside)}; use temporary files, or facts.files",
    )

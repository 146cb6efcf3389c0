"""A student learns from a finished model: the teacher's function is reached, from the same noise, bit for bit again."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from toys import (
    Language,
    Mixture,
    duet,
    grid,
    language,
    ring,
    sentence_probabilities,
    sentences,
)

import genkit
from genkit import config as configuration
from genkit.cli import main
from genkit.engine import run_folder
from genkit.engine.data import open_data
from genkit.engine.distillation import student_settings
from genkit.engine.game import Game
from genkit.engine.teacher import Teacher, distance
from genkit.errors import ConfigError, ModelError, StorageError
from genkit.plugin import Noise, Sample
from genkit.system.runtime import Runtime

SMALL = {"width": 16, "depth": 2}
QUICK = {"batch_size": 32}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Runs of a ring, a language and a duet, a few rounds each; the language is learned somewhat."""
    folder = tmp_path_factory.mktemp("teachers")
    arguments = {"threads": 1}
    genkit.train(ring, out=folder / "ring", items=256, options=SMALL, recipe=QUICK, **arguments)
    genkit.train(duet, out=folder / "duet", items=128, **arguments)
    fast = {"stages": [{"kind": "pretrain"}], "generator": {"learning_rate": 0.02}}
    genkit.train(language, out=folder / "language", items=256 * 40, recipe=fast, **arguments)
    return folder


@pytest.fixture
def distill(tmp_path):
    """Distil a toy: `distill(teacher, modality, items, name="student", **arguments)` -> (model, run folder)."""

    def run(teacher, modality, items, name="student", **arguments):
        out = tmp_path / name
        arguments = {"threads": 1, "modality": modality, **arguments}
        return genkit.distill(teacher, out=out, items=items, **arguments), out

    return run


def checkpoint_of(out):
    folder = out / "checkpoints" / (out / "latest").read_text().strip()
    names = ("players", "averages", "optimizers")
    return {name: load_file(folder / f"{name}.safetensors") for name in names}


def assert_same(first, second):
    one, two = checkpoint_of(first), checkpoint_of(second)
    for name, tensors in one.items():
        assert tensors.keys() == two[name].keys()
        assert all(torch.equal(tensors[key], two[name][key]) for key in tensors)


# What is learned -------------------------------------------------------------------------------------------------


class LinearPoints(Mixture):
    """Points that are linear in their noise."""

    def networks(self):
        networks = super().networks()
        networks.generator.body = nn.Linear(self.options.latent, 2)
        return networks


def test_a_linear_student_becomes_its_teacher(tmp_path, distill):
    linear = replace(ring, id="linear", plugin=LinearPoints)
    model = genkit.train(linear, out=tmp_path / "teacher", items=256, recipe=QUICK, threads=1)
    model.generator.body.weight.copy_(torch.tensor([[2.0, -1.0], [0.5, 3.0]]))
    model.save(tmp_path / "known")
    falling = {"start": 0.1, "end": 1e-4, "share": 1.0, "shape": "cosine"}
    recipe = {"stages": [{"kind": "pretrain"}], "generator": {"learning_rate": falling}}
    recipe |= {"batch_size": 64, "ema_halflife_items": 0}
    student, _ = distill(tmp_path / "known", linear, 64 * 120, recipe=recipe)
    for name, weight in model.generator.state_dict().items():
        assert torch.allclose(student.generator.state_dict()[name], weight, atol=1e-3)


def divergence(teacher, student):
    """KL(teacher || student) of whole sentences, by enumeration."""
    p, q = (sentence_probabilities(m.generator, m.plugin.options) for m in (teacher, student))
    return float((p * (p / q).log())[p > 0].sum())


def test_the_divergence_of_a_language_falls_to_nothing(teachers, distill):
    teacher = genkit.load(teachers / "language", modality=language)
    short, long = (
        distill(teachers / "language", language, 256 * rounds, str(rounds), options={"width": 32})[
            0
        ]
        for rounds in (1, 60)
    )
    assert divergence(teacher, short) > 0.1
    assert divergence(teacher, long) < 0.01
    (stage,) = long.info["card"]["recipe"]["stages"]
    assert stage["kind"] == "pretrain"


class Untold(Language):
    """Its generator tells log-probabilities, and no distributions."""

    def networks(self):
        networks = super().networks()
        networks.generator.distributions = None
        score = type(networks.generator).distributions.__get__(networks.generator)

        def log_prob(sample):
            return score(sample).gather(2, sample.x[..., None])[..., 0].where(sample.mask, 0.0)

        networks.generator.log_prob = log_prob
        return networks


def test_without_distributions_samples_are_learned_from(teachers, distill):
    teacher = genkit.load(teachers / "language", modality=language)
    untold = replace(language, plugin=Untold)
    student, out = distill(teachers / "language", untold, 256 * 60)
    assert divergence(teacher, genkit.load(out, modality=language)) < 0.05
    assert not callable(student.generator.distributions)


def test_the_divergence_is_that_of_the_formula_at_valid_steps():
    one, other = (
        Language(configuration.build(language).options).networks().generator for _ in "ab"
    )
    words, mask = sentences(one.options)
    value = Teacher(one, "it").divergence(other, Sample(words, mask=mask))
    with torch.no_grad():
        p, q = (
            each.distributions(Sample(words, mask=mask)).double().numpy() for each in (one, other)
        )
    sums = [
        sum(np.exp(a) * (a - b) for a, b in zip(*row, strict=True) if np.isfinite(a))
        for row in zip(p[mask.numpy()], q[mask.numpy()], strict=True)
    ]
    assert float(value.detach()) == pytest.approx(np.mean(sums), rel=1e-5)
    value.backward()
    assert all(weight.grad.isfinite().all() for weight in other.parameters())


def test_a_distance_counts_in_variances_of_the_goal():
    torch.manual_seed(0)
    one, other = torch.randn(2, 4000, 3, 5) * 7 + 100
    assert distance(one, one) == 0
    assert float(distance(one, other)) == pytest.approx(2, rel=0.03)
    mask = torch.arange(5).expand(4000, 5) < 2  # the steps are the last axis
    other[:, :, 2:] = torch.nan
    assert float(distance(other, one, mask)) == pytest.approx(2, rel=0.05)
    assert distance(one[:1], one[:1] + 1) > 0  # one row has no variance


class Shaken(Mixture):
    """Critics see points that are moved at random, and tell features."""

    def networks(self):
        networks = super().networks()
        critic = networks.critics["critic"]
        forward = critic.forward
        critic.forward = lambda sample: replace(forward(sample), features=(sample.x.square(),))
        return networks

    def augment(self, sample):
        return sample.with_x(sample.x + torch.randn_like(sample.x))


@pytest.mark.parametrize("plugin", [Mixture, Shaken])
@pytest.mark.parametrize(
    "recipe",
    [
        {"gradient_accumulation": 2},
        {"critic": {"steps": 3}, "estimator": {"kind": "pathwise", "reuse_fakes": True}},
    ],
)
def test_a_teacher_draws_from_the_noise_of_the_fakes(recipe, plugin):
    toy = replace(ring, plugin=plugin)
    config = configuration.build(toy, settings=[{"recipe": {**recipe, **QUICK}, "options": SMALL}])
    plugin, dataset, _ = open_data(config)
    game = Game(config, plugin, dataset, Runtime("cpu"))
    twin = copy.deepcopy(game.networks.generator).requires_grad_(False)
    game.teacher = Teacher(twin, "its twin")
    game.play_round()
    figures = game.statistics()
    assert figures["generator.teacher"] == 0  # they are equal, so only the noise could differ
    assert figures.get("generator.teacher_features", 0) == 0
    assert ("generator.teacher_features" in figures) == (type(plugin) is Shaken)
    before = copy.deepcopy(twin.state_dict())
    game.play_round()
    assert game.statistics()["generator.teacher"] > 0
    assert all(torch.equal(before[name], weight) for name, weight in twin.state_dict().items())


# The run ---------------------------------------------------------------------------------------------------------


def test_a_run_that_learns_from_a_copy_goes_on_bit_for_bit(teachers, distill, tmp_path):
    source = shutil.copytree(teachers / "duet", tmp_path / "source")
    recipe = {**QUICK, "stages": [{"kind": "pretrain", "items": 64}, {"kind": "game"}]}
    _, whole = distill(source, duet, 256, "whole", recipe=recipe)
    _, parts = distill(source, duet, 128, "parts", recipe=recipe)
    shutil.rmtree(source)
    genkit.train(duet, out=parts, items=256, threads=1, resume=True)
    assert_same(whole, parts)
    # The teacher's weights are in no checkpoint.
    assert (
        checkpoint_of(whole)["players"].keys() == checkpoint_of(teachers / "duet")["players"].keys()
    )
    saved = yaml.safe_load((parts / "config.yaml").read_text())["run"]
    card = json.loads((parts / "model" / "config.json").read_text())["card"]
    assert saved["teacher"] == str(source)
    assert saved["teacher_sha256"] == card["teacher_sha256"]
    assert card["teacher"] == "source"


def test_a_language_that_is_distilled_goes_on_bit_for_bit(teachers, distill):
    _, whole = distill(teachers / "language", language, 256 * 6, "whole")
    _, parts = distill(teachers / "language", language, 256 * 3, "parts")
    genkit.train(language, out=parts, items=256 * 6, threads=1, resume=True)
    assert_same(whole, parts)


@pytest.mark.parametrize("failure", [OSError("no space"), KeyboardInterrupt()])
def test_a_setup_that_fails_leaves_no_half_teacher(teachers, distill, monkeypatch, failure):
    def fail(source, target):
        raise failure

    _, whole = distill(teachers / "ring", ring, 64, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.shutil, "copyfile", fail)
        with pytest.raises((StorageError, genkit.Interrupted)):
            distill(teachers / "ring", ring, 64, "parts")
    parts = whole.with_name("parts")
    assert not (parts / "teacher").exists()
    genkit.train(ring, out=parts, threads=1, resume=True)
    assert not [path for path in parts.iterdir() if path.suffix == ".tmp"]
    assert (parts / "teacher" / "model.safetensors").is_file()
    assert_same(whole, parts)


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_teacher(
    teachers, distill, tmp_path
):
    source = shutil.copytree(teachers / "ring", tmp_path / "source")
    _, whole = distill(source, ring, 64, "whole")
    parts = shutil.copytree(whole, tmp_path / "parts")
    shutil.rmtree(source)
    for name in ("checkpoints", "model", "samples"):
        shutil.rmtree(parts / name, ignore_errors=True)
    (parts / "latest").unlink()
    genkit.train(ring, out=parts, threads=1, resume=True)
    assert_same(whole, parts)


def test_critics_begin_with_the_teachers_where_they_fit(teachers, distill):
    still = {"critic": {"learning_rate": 0.0}, "penalties": {"r1": None, "r2": None}}
    notes = []

    def tell(progress):
        notes.append(progress.note or "")

    _, same = distill(teachers / "ring", ring, 64, "same", recipe=still)
    _, other = distill(
        teachers / "ring", ring, 64, options={"width": 24}, recipe=still, progress=tell
    )
    own = load_file(teachers / "ring" / "model" / "critics.safetensors")
    begun = load_file(same / "model" / "critics.safetensors")
    assert all(torch.equal(begun[name], weight) for name, weight in own.items())
    assert any("'critic' starts with fresh weights: its network differs" in note for note in notes)
    assert (other / "teacher" / "critics.safetensors").exists()


def test_the_settings_are_the_teachers_and_then_the_users(teachers):
    manifest, preset, layers = student_settings(
        teachers / "ring", [{"options": {"depth": 1}, "recipe": {"loss": "hinge"}}], ring
    )
    config = configuration.build(manifest, preset, None, layers)
    assert (config.options.width, config.options.depth) == (16, 1)
    assert (config.recipe.batch_size, config.recipe.loss) == (32, "hinge")
    assert config.recipe.penalties.keys() == {"r1", "r2"}
    assert config.run.teacher == str(teachers / "ring")
    kinds = [(stage.kind, stage.items) for stage in config.recipe.stages]
    assert kinds == [("pretrain", 60_000), ("game", None)]  # the student follows its teacher first


def test_a_command_distils_and_prints_where_the_student_is(teachers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    genkit.register(ring)
    try:
        genkit.train("ring", out="teacher", items=64, options=SMALL, recipe=QUICK, threads=1)
        for words in (["--print-config"], ["--items", "64", "--quiet"]):
            with pytest.raises(SystemExit) as exit_info:
                main(["distill", "teacher", "options.width=8", "--threads", "1", *words])
            assert not exit_info.value.code
        output = capsys.readouterr().out
        assert "width: 8" in output
        assert output.strip().endswith("runs/ring-student/model")
        assert genkit.load("runs/ring-student").plugin.options.width == 8
    finally:
        genkit.unregister("ring")


# Mistakes --------------------------------------------------------------------------------------------------------


class OtherNoise(Mixture):
    def networks(self):
        networks = super().networks()
        networks.generator.noise = {"w": Noise((2,), "uniform")}
        return networks


class Scores(Language):
    """Discrete samples that nothing can be learned of."""

    def networks(self):
        networks = super().networks()
        networks.generator.distributions = networks.generator.log_prob = None
        return networks


GAME = {"stages": [{"kind": "game"}], "estimator": {"kind": "straight_through"}}
MISTAKES = {
    "noise": (
        ("ring", ring, {"options": {"latent": 3}}),
        r"noise z = .*\(2,\).*, the student from .*\(3,\).*options.latent = 3 \(the teacher's: 2\)",
    ),
    "modality": (("ring", grid, {}), "is a model of 'ring', not of 'grid'"),
    "missing": (("nowhere", ring, {}), "nowhere"),
    "option": (("ring", ring, {"options": {"wdth": 3}}), "Did you mean 'width'"),
    "classes": (
        ("duet", duet, {"options": {"classes": 4}}),
        r"knows the classes .*, the data have .*: take data of the teacher's classes",
    ),
    "symbols": (
        ("language", language, {"options": {"symbols": 4}}),
        "gives distributions .* must know the same symbols",
    ),
    "init": (("ring", ring, {"run": {"init": "ring"}}), "init and teacher exclude each other"),
    "nothing to learn": (
        ("language", replace(language, plugin=Scores), {"recipe": GAME}),
        "neither",
    ),
    "other weights": (("ring", ring, {"run": {"teacher_sha256": "00"}}), "other weights"),
    "term": (
        ("ring", ring, {"recipe": {"terms": {"techer": 1}}}),
        "needs the capability 'terms'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_sentences_and_leave_nothing(mistake, teachers, distill, tmp_path):
    (teacher, modality, arguments), says = MISTAKES[mistake]
    with pytest.raises((ConfigError, ModelError), match=says) as info:
        distill(teachers / teacher, modality, 64, "none", **arguments)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "none").exists()


def test_a_teacher_is_not_replaced_by_its_student(teachers, tmp_path):
    folder = shutil.copytree(teachers / "ring", tmp_path / "ring")
    with pytest.raises(ConfigError, match="lies in the folder of the run"):
        genkit.distill(folder, out=folder, items=64, modality=ring, overwrite=True)
    assert (folder / "model" / "model.safetensors").exists()


def test_a_recipe_that_names_code_is_not_imported(teachers, tmp_path):
    folder = shutil.copytree(teachers / "ring" / "model", tmp_path / "stranger")
    info = json.loads((folder / "config.json").read_text())
    info["card"]["recipe"]["loss"] = "antigravity:geohash"
    (folder / "config.json").write_text(json.dumps(info))
    with pytest.raises(ModelError, match=r"its recipe.loss is code of its author's"):
        student_settings(folder, [], ring)
    layers = [{"recipe": {"loss": "hinge"}}]
    manifest, preset, layers = student_settings(folder, layers, ring)
    assert configuration.build(manifest, preset, None, layers).recipe.loss == "hinge"

"""The engine through the face: resume, stages, looking, stopping, refusing. Quality is in test_quality.py."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from toys import (
    Duet,
    Language,
    LanguageCritic,
    LanguageGenerator,
    Mixture,
    PointGenerator,
    RingOptions,
    duet,
    grid,
    language,
    ring,
    step_language,
)

import genkit
from genkit import config as configuration
from genkit.engine import clock, training
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.optimizers import impose, make_optimizer, pack, unpack
from genkit.errors import (
    ConfigError,
    DataError,
    GenkitError,
    Interrupted,
    ModelError,
    PluginError,
    RunError,
    TrainingError,
    UnknownModality,
)
from genkit.plugin import (
    Critique,
    Facts,
    Modality,
    ModalityPlugin,
    Networks,
    Noise,
    Preset,
    Sample,
)
from genkit.recipe import Constraint, Player
from genkit.system.runtime import Runtime, waiting


def weights(out):
    """Every tensor of the newest checkpoint and of the model."""
    folder = out / "checkpoints" / (out / "latest").read_text().strip()
    tensors = {
        f"{file.stem}/{key}": value
        for file in folder.glob("*.safetensors")
        for key, value in load_file(file).items()
    }
    return tensors | {
        f"model/{key}": value
        for key, value in load_file(out / "model" / "model.safetensors").items()
    }


def assert_same(first, second):
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


REUSE = {"estimator": {"kind": "pathwise", "reuse_fakes": True}}
STAGED = {
    "stages": [
        {"kind": "pretrain", "items": 512},
        {"kind": "critics", "items": 512},
        {"kind": "game"},
    ],
    "batch_size": 64,
}
EARLY = {
    "part": [0, 0.5],
    "early_stopping": {"part": [0.9, 1], "interval": 64, "count": 200, "patience": 2},
}
GAMES = {
    "two critics, BatchNorm, dropout, random items, labels, terms": (duet, {}),
    "fakes used again": (duet, REUSE),
    "earlier fakes": (duet, {"critic": {"pool": 150}}),
    "pretraining, critics alone, game": (language, STAGED),
    "moving average": (
        language,
        {"estimator": {"kind": "score_function", "baseline": "moving_average"}},
    ),
    "rollouts": (
        language,
        {"estimator": {"kind": "score_function", "credit": "monte_carlo", "rollouts": 2}},
    ),
    "importance": (language, {"estimator": {"kind": "importance", "group": 8, "real": 0.5}}),
    "critics that stop early": (
        language,
        {
            "estimator": {"kind": "importance", "group": 8, "real": 0.5},
            "stages": [
                {"kind": "critics", "items": 640, **EARLY},
                {"kind": "generator", "items": 192, "part": [0, 0.5]},
                {"kind": "critics", "items": 640, **EARLY},
                {"kind": "generator"},
            ],
            "critic": {"learning_rate": 0.1},
        },
    ),
    "steps": (step_language, {}),
    "straight-through": (step_language, {"estimator": {"kind": "straight_through"}}),
    "Gumbel-softmax, a falling temperature": (
        language,
        {
            "estimator": {
                "kind": "gumbel_softmax",
                "temperature": {"start": 2.0, "end": 0.5, "items": 2000},
            }
        },
    ),
    "rmsprop, clipping, constraint": (
        ring,
        {
            "loss": "wasserstein",
            "penalties": {"wgan_gp": {"weight": 10, "interval": 2}},
            "critic": {
                "optimizer": "rmsprop",
                "steps": 2,
                "constraint": {"kind": "singular_values", "interval": 3},
            },
            "generator": {"optimizer": "sgd", "momentum": 0.5, "gradient_clip": 1.0, "interval": 2},
        },
    ),
}


@pytest.mark.parametrize(
    "recipe", [{}, {"critic": {"steps": 3}}, {"generator": {"steps": 2, "interval": 2}}]
)
def test_fakes_that_are_used_again_teach_what_the_same_noise_drawn_again_teaches(recipe):
    def play(estimator, noise_again):
        config = configuration.build(
            ring, settings=[{"recipe": {**recipe, **estimator, "batch_size": 16}}]
        )
        plugin, dataset, _ = open_data(config)
        game = Game(config, plugin, dataset, Runtime("cpu"))
        if noise_again:  # the generator's first update gets the noise of the critics' last fakes
            last, fresh = config.recipe.critic.steps - 1, game._noises
            fakes = lambda *_: game._noise(game._key("fakes", last), range(16))  # noqa: E731
            game._noises = lambda number, *others: fakes if number == 0 else fresh(number, *others)
        for _ in range(4):
            game.play_round()
        return game.state()[1]["players"]

    again, same, fresh = play(REUSE, False), play({}, True), play({}, False)
    assert all(torch.allclose(again[name], same[name], atol=1e-6) for name in again)
    assert not all(torch.allclose(again[name], fresh[name], atol=1e-6) for name in again)


def test_fakes_are_not_both_kept_and_cut(train):
    with pytest.raises(ConfigError, match="reuse_fakes"):
        train(ring, 64, recipe={**REUSE, "batch_size": 16, "gradient_accumulation": 2})


@pytest.mark.parametrize(
    ("drawn", "says"),
    [
        (
            lambda x: x,
            "failed at the generator: it returned a Tensor; a genkit.plugin.Sample was expected",
        ),
        (
            lambda x: Sample(x[:, :1]),
            r"it returned samples \[8, 1\], but the data are \[8, 2\]",
        ),
        (lambda x: x.no_such_thing, "failed at the generator: AttributeError"),
    ],
)
def test_a_generator_that_breaks_the_contract_says_so_before_the_game(train, drawn, says):
    class Other(PointGenerator):
        def forward(self, *given):
            return drawn(super().forward(*given).x)

    class Points(Mixture):
        def networks(self):
            return replace(super().networks(), generator=Other(8, 2))

    with pytest.raises(PluginError, match=says):
        train(replace(ring, plugin=Points), 64)


@pytest.mark.parametrize("game", GAMES)
def test_a_resumed_run_equals_one_that_never_stopped(train, game):
    """It stops within a stage, at the end of one, and between two multiples of the batch."""
    modality, recipe = GAMES[game]
    recipe = {"batch_size": 64, **recipe}
    _, whole = train(modality, 1280, "whole", recipe=recipe)
    for items in (448, 512, 1100, 1280):
        _, parts = train(modality, items, "parts", recipe=recipe, resume=True)
    assert_same(whole, parts)


def test_a_look_and_a_save_at_one_moment_share_a_model(train, monkeypatch):
    """To make a model takes forward passes for BatchNorm's statistics."""
    moments = []
    make = training.model_of
    monkeypatch.setattr(
        training, "model_of", lambda game: (moments.append(game.items), make(game))[1]
    )
    train(ring, 640, recipe={"batch_size": 64}, run={"sample_items": 320})
    assert moments == [320, 640]
    train(ring, 704, recipe={"batch_size": 64}, run={"sample_items": 320}, resume=True)
    assert moments[2:] == [704]


def test_the_temperature_is_that_of_the_items_seen(train):
    """Before the first update of the generator 64 items have been seen."""
    temperatures = {
        "scheduled": {"start": 9.0, "end": 0.5, "items": 64},
        "number": 0.5,
        "other": 1.0,
    }
    folders = {}
    for name, temperature in temperatures.items():
        estimator = {"kind": "gumbel_softmax", "temperature": temperature}
        _, folders[name] = train(
            language, 256, name, recipe={"batch_size": 64, "estimator": estimator}
        )
    assert_same(folders["scheduled"], folders["number"])
    with pytest.raises(AssertionError):
        assert_same(folders["number"], folders["other"])


class Watcher(LanguageCritic):
    """Notes in whose updates it saw a relaxation: its own parameters learn in its own updates alone."""

    seen: ClassVar[set[tuple[str, bool]]] = set()

    def forward(self, sample):
        mine = all(parameter.requires_grad for parameter in self.parameters())
        if self.training:  # not when it is tried before the game
            self.seen.add(("critic" if mine else "generator", sample.relaxed is not None))
        return super().forward(sample)


class Watched(Language):
    def networks(self):
        return Networks(LanguageGenerator(self.options), {"critic": Watcher(self.options)})


def test_only_updates_of_the_generator_see_relaxations(train):
    train(
        replace(language, id="watched", plugin=Watched),
        256,
        recipe={"estimator": {"kind": "straight_through"}},
    )
    assert Watcher.seen == {("critic", False), ("generator", True)}


def test_looking_does_not_touch(train):
    _, often = train(duet, 640, "often", run={"sample_items": 32, "checkpoint_seconds": 0.001})
    _, never = train(duet, 640, "never", run={"sample_items": 10**9})
    assert_same(often, never)
    assert (
        len(list((often / "samples").iterdir())) == 10
    )  # a round is 64 items: the wide critic has two updates
    assert [path.name for path in (never / "samples").iterdir()] == [
        "000000000640.txt"
    ]  # the end is always shown


def test_the_global_generators_are_given_back(train):
    torch.manual_seed(1)
    np.random.seed(1)
    train(duet, 64)
    after = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(after[0], torch.rand(3))
    assert np.array_equal(after[1], np.random.rand(3))


def test_another_seed_is_another_run_and_the_same_seed_the_same(train):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(duet, 128, name, seed=seed)
    folder = train(duet, 64, "probe")[1].parent
    assert_same(folder / "a", folder / "b")
    assert any(
        not torch.equal(x, y)
        for x, y in zip(weights(folder / "a").values(), weights(folder / "c").values(), strict=True)
    )


def test_accumulation_gives_the_gradient_of_the_whole_batch(train):
    """In SGD one step, without batch statistics, dropout or random items; a mask of variable length included."""
    for modality in (ring, language, step_language):
        recipe = {
            "batch_size": 64,
            "generator": {"optimizer": "sgd"},
            "critic": {"optimizer": "sgd"},
        }
        if modality is not ring:  # whom to leave out depends on the part of the batch
            recipe["estimator"] = {"baseline": "none"}
        _, whole = train(modality, 64, f"{modality.id}-whole", recipe=recipe)
        _, cut = train(
            modality, 64, f"{modality.id}-cut", recipe={**recipe, "gradient_accumulation": 4}
        )
        for name, tensor in weights(whole).items():
            torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_items_count_real_samples_whatever_the_updates(train, state):
    seen = []
    recipe = {"critic": {"steps": 3}, "batch_size": 10}
    _, out = train(ring, 90, recipe=recipe, progress=seen.append)
    assert state(out)["items"] == 90
    assert state(out)["updates"] == {"generator": 3, "critic": 9}
    assert seen[-1].items == 90
    assert seen[-1].total_items == 90


def test_critics_have_their_own_number_of_updates(train, state):
    recipe = {"critics": {"wide": {"steps": 2}, "narrow": {"interval": 2}}, "batch_size": 10}
    _, out = train(duet, 80, recipe=recipe)
    assert state(out)["updates"] == {"generator": 4, "narrow": 2, "wide": 8}


def test_pretraining_alone_teaches_the_language(train):
    from toys import LanguageOptions, total_variation

    recipe = {
        "stages": [{"kind": "pretrain"}],
        "generator": {"learning_rate": 1e-2},
        "ema_halflife_items": 5000,
    }
    model, _ = train(language, 60_000, recipe=recipe)
    assert total_variation(model.generator, LanguageOptions()) < 0.05


def test_a_stage_begins_with_fresh_optimisers_and_its_own_settings(train, checkpoint):
    stages = [
        {"kind": "pretrain", "items": 128, "generator": {"optimizer": "sgd", "momentum": 0.9}},
        {"kind": "game"},
    ]
    _, out = train(language, 128, recipe={"batch_size": 64, "stages": stages})
    before = load_file(checkpoint(out) / "optimizers.safetensors")
    assert {key.rsplit(".", 1)[1] for key in before} == {"momentum_buffer"}
    train(language, 256, recipe={"batch_size": 64, "stages": stages}, resume=True)
    after = load_file(checkpoint(out) / "optimizers.safetensors")
    steps = {
        float(value)
        for key, value in after.items()
        if key.startswith("generator.") and key.endswith(".step")
    }
    assert steps == {2.0}


def test_a_stage_trains_the_generator_alone_against_the_critics_as_they_are(train, checkpoint):
    estimator = {"kind": "importance", "group": 4}
    stages = [{"kind": "critics", "items": 256}, {"kind": "generator"}]
    recipe = {"batch_size": 64, "estimator": estimator, "stages": stages}
    _, out = train(language, 256, recipe=recipe)
    before = load_file(checkpoint(out) / "players.safetensors")
    train(language, 512, recipe=recipe, resume=True)
    after = load_file(checkpoint(out) / "players.safetensors")
    is_same = {key: torch.equal(before[key], after[key]) for key in before}
    assert all(value for key, value in is_same.items() if key.startswith("critics."))
    assert not all(value for key, value in is_same.items() if key.startswith("generator.module."))
    # What the critics were trained against stays known.
    opponent = {key: value for key, value in after.items() if key.startswith("generator.opponent.")}
    assert opponent
    for key, value in opponent.items():
        assert torch.equal(value, before[key.replace("opponent", "module", 1)])


def test_stages_see_parts_of_the_data_that_have_no_item_in_common(train, monkeypatch):
    rows = {"critics": set(), "game": set()}
    take = Game._reals

    def noted(game, position):
        batch = take(game, position)
        kind = game.config.recipe.stages[game.stage].kind
        rows[kind] |= {tuple(row) for row in batch.x.tolist()}
        return batch

    monkeypatch.setattr(Game, "_reals", noted)
    # 100,000 points: 400 of them, and 300 of others.
    stages = [
        {"kind": "critics", "items": 900, "part": [0, 0.004]},
        {"kind": "game", "part": [0.997, 1]},
    ]
    train(ring, 1800, recipe={"batch_size": 30, "stages": stages})
    assert {kind: len(points) for kind, points in rows.items()} == {"critics": 400, "game": 300}
    assert not rows["critics"] & rows["game"]


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_an_optimiser_survives_packing_bit_for_bit(name):
    def steps(optimizer, layer, count):
        for number in range(count):
            optimizer.zero_grad()
            layer(torch.full((2, 3), float(number))).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    settings = Player(optimizer=name, learning_rate=0.01, momentum=0.9)
    first = nn.Linear(3, 2)
    second = nn.Linear(3, 2)
    optimizer = make_optimizer(settings, list(first.parameters()))
    steps(optimizer, first, 3)
    second.load_state_dict(first.state_dict())
    other = make_optimizer(settings, list(second.parameters()))
    unpack(other, {name: value.clone() for name, value in pack(optimizer)})
    steps(optimizer, first, 3)
    steps(other, second, 3)
    assert torch.equal(first.weight, second.weight)


def test_constraints_bound_what_they_say():
    torch.manual_seed(0)
    matrix, kernel, bias = (
        nn.Parameter(3 * torch.randn(*shape)) for shape in ((4, 6), (5, 2, 3, 3), (7,))
    )
    before = bias.detach().clone()
    player = nn.ParameterList([matrix, kernel, bias])
    impose(Constraint(kind="singular_values", bound=1.0), player)
    assert torch.linalg.matrix_norm(matrix, 2) <= 1 + 1e-5
    assert torch.linalg.matrix_norm(kernel.flatten(1), 2) <= 1 + 1e-5
    assert torch.equal(bias, before)
    kernel.requires_grad_(False)
    impose(Constraint(kind="weight_clip", bound=0.1), player)
    assert max(matrix.abs().max(), bias.abs().max()) <= 0.1 < kernel.abs().max()


def test_singular_values_bound_the_scale_of_a_normalisation_by_its_running_deviation():
    norm, frozen = nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False)
    norm.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, -1.0, 0.5]))
        norm.bias.fill_(7.0)
    for kind, expected in (
        ("weight_clip", [3.0, -1.0, 0.5]),
        ("singular_values", [2.0, 0.005, 0.5]),
    ):
        impose(
            Constraint(kind=kind, bound=10.0 if kind == "weight_clip" else 1.0),
            nn.Sequential(norm, frozen),
        )
        assert norm.weight.tolist() == pytest.approx(expected)
    assert norm.bias.tolist() == [7.0] * 3


# Refusing --------------------------------------------------------------------------------------------------------


def test_a_second_run_into_the_folder_is_refused_unless_asked_for(train):
    train(ring, 256)
    with pytest.raises(RunError, match=r"--resume.*--overwrite"):
        train(ring, 256)
    train(ring, 256, overwrite=True)


def test_resuming_with_another_configuration_names_every_difference(train):
    train(ring, 256)
    with pytest.raises(RunError) as error:
        train(ring, 512, resume=True, recipe={"loss": "hinge"}, options={"width": 64})
    assert "recipe.loss: 'relativistic' -> 'hinge'" in str(error.value)
    assert "options.width: 128 -> 64" in str(error.value)


def test_resuming_needs_no_setting_said_again(train, tmp_path):
    _, out = train(ring, 256, recipe={"loss": "hinge"}, seed=5)
    genkit.train(ring, out=out, items=512, resume=True)
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert (saved["recipe"]["loss"], saved["run"]["seed"], saved["run"]["items"]) == (
        "hinge",
        5,
        512,
    )


def test_a_finished_run_resumed_is_the_same_model(train):
    first, out = train(ring, 256)
    before = weights(out)
    second, _ = train(ring, 256, resume=True)
    assert all(torch.equal(value, before[name]) for name, value in weights(out).items())
    assert torch.equal(first.generate(4).x, second.generate(4).x)


def test_resume_starts_where_there_is_nothing(train):
    _, out = train(ring, 256, resume=True)
    assert (out / "model").is_dir()


def test_the_log_is_cut_back_to_the_checkpoint(train):
    _, out = train(ring, 256)
    log = out / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"items": 999999}\n{"items": 10')
    train(ring, 512, resume=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["items"] for row in rows] == sorted(row["items"] for row in rows)
    assert rows[-1]["items"] == 512


def test_schedules_in_shares_follow_the_length_of_the_run(train):
    falling = {"start": 1e-3, "end": 0.0, "share": 0.5, "delay": 0.5}
    recipe = {
        "batch_size": 32,
        "generator": {"learning_rate": falling},
        "penalties": {"r1": None, "r2": None},
    }
    rates = {}
    for items in (256, 512):
        config = configuration.build(ring, settings=[{"recipe": recipe, "run": {"items": items}}])
        plugin, dataset, _ = open_data(config)
        game = Game(config, plugin, dataset, Runtime("cpu", 1, "fp32"))
        rates[items] = []
        while not game.over():
            game.play_round()
            rates[items].append(game.optimizers["generator"].param_groups[0]["lr"])
    assert rates[256][:4] == rates[512][:8:2] == [1e-3] * 4
    assert rates[256][4:] == pytest.approx([0.75e-3, 0.5e-3, 0.25e-3, 0.0])
    assert rates[512][9::2] == pytest.approx(rates[256][4:])


def test_minutes_bound_the_run_and_say_what_that_costs(train):
    notes = []
    genkit.train(
        ring,
        out=train(ring, 256, "other")[1].parent / "timed",
        minutes=0.01,
        threads=1,
        progress=lambda p: notes.append(p.note),
    )
    assert any(note and "cannot be repeated exactly" in note for note in notes)


class Exploding(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, sample):
        factor = torch.inf if self.training else 1.0
        return Critique((self.weight * sample.x.flatten(1).sum(1) * factor,))


class Points(ModalityPlugin):
    critic = nn.Linear

    def networks(self):
        class Generator(nn.Module):
            def __init__(self):
                super().__init__()
                self.noise = {"z": Noise((2,))}
                self.body = nn.Linear(2, 2)

            def forward(self, noise, condition=None, controls=None):
                return Sample(self.body(noise["z"]))

        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

            def forward(self, sample):
                return Critique((self.body(sample.x),))

        return Networks(Generator(), {"critic": Critic()})


class Bomb(Points):
    def networks(self):
        return replace(super().networks(), critics={"critic": Exploding()})


def test_a_loss_that_is_not_finite_stops_with_advice_and_saves_nothing(train):
    bomb = Modality(id="bomb", title="Bomb", plugin=Bomb)
    with pytest.raises(TrainingError, match=r"not finite.*Lower the learning rates"):
        train(bomb, 6400, data=torch.randn(100, 2))


def test_a_penalty_refuses_a_critic_with_batch_statistics(train):
    points = Modality(id="points", title="Points", plugin=Points)
    with pytest.raises(ConfigError, match="BatchNorm"):
        train(points, 64, data=torch.randn(100, 2), recipe={"penalties": {"r1": {"weight": 1}}})
    train(points, 64, data=torch.randn(100, 2), overwrite=True)


def test_a_penalty_refuses_discrete_samples(train):
    with pytest.raises(ConfigError, match="continuous"):
        train(language, 256, recipe={"penalties": {"r1": {"weight": 1}}})


def test_an_unknown_critic_and_a_missing_capability_are_named(train):
    with pytest.raises(ConfigError, match=r"recipe.critics.wid.*Did you mean 'wide'"):
        train(duet, 64, recipe={"critics": {"wid": {"steps": 2}}})
    with pytest.raises(ConfigError, match="pretrain_loss"):
        train(ring, 64, "b", recipe={"stages": [{"kind": "pretrain"}]})


@pytest.mark.parametrize("data", [None, 3, "no/such/path", torch.empty(0, 2)])
def test_data_that_cannot_be_trained_on_is_the_users_mistake(train, data):
    with pytest.raises(DataError):
        train(Modality(id="points", title="Points", plugin=Points), 64, data=data)


# Stopping --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    genkit.train(duet, out=out, items=1920, threads=1)
    return out


@contextmanager
def heeded(number, handler=signal.SIG_DFL):
    """The tests themselves may run under nohup, where SIGHUP is ignored."""
    previous = signal.getsignal(number)
    if number != signal.SIGINT:
        signal.signal(number, handler)
    yield
    signal.signal(number, previous)


def test_a_run_under_nohup_outlives_its_terminal(train, whole, monkeypatch):
    monkeypatch.setattr(clock, "LOG_SECONDS", 0.02)
    with heeded(signal.SIGHUP, signal.SIG_IGN):
        hang_up = lambda progress: os.kill(os.getpid(), signal.SIGHUP)  # noqa: E731
        _, out = train(duet, 1920, "outlived", progress=hang_up)
    assert_same(whole, out)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 138),
    ],
)
def test_a_signal_saves_everything_and_the_run_goes_on_bit_for_bit(
    train, whole, state, tmp_path, monkeypatch, number, code
):
    monkeypatch.setattr(clock, "LOG_SECONDS", 0.02)
    signals = []

    def stop(progress):
        if progress.items and not signals:
            signals.append(os.kill(os.getpid(), number))

    with heeded(number), pytest.raises(Interrupted, match="everything is saved") as error:
        train(duet, 1920, "parts", progress=stop)
    assert error.value.exit_code == code
    assert 0 < state(tmp_path / "parts")["items"] < 1920
    _, parts = train(duet, 1920, "parts", resume=True)
    assert_same(whole, parts)


TRAIN_UNTIL_DONE = """
import os, sys
import torch._dynamo  # which the first optimizer of a process imports
import genkit
from genkit.engine import clock, training
from toys import duet

clock.LOG_SECONDS = 0.02

def train():
    genkit.train(
        duet, out=sys.argv[1], items=1920, threads=1, resume=True, run={"checkpoint_seconds": 0.02},
        progress=lambda progress: print(os.getpid(), progress.items, flush=True),
    )

for attempt in range(10):
    child = os.fork()
    if not child:
        try:
            train()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("ended", status, flush=True)
    if status != 9:
        break
"""
"""Trains in one process after the other, forked so that each has its imports, until one is not killed."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
def test_a_killed_run_can_always_go_on(whole, tmp_path):
    """kill -9 at a few moments; tests/benchmarks/kills.py does it twenty times."""
    out = tmp_path / "killed"
    command = [sys.executable, "-c", TRAIN_UNTIL_DONE, str(out)]
    kills, ends = set(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            first, number = line.split()
            if first == "ended":
                ends.append(int(number))
            elif len(kills) < 3 and int(number) > 0 and first not in kills:
                os.kill(int(first), signal.SIGKILL)
                kills.add(first)
    assert len(kills) >= 1
    assert ends == [signal.SIGKILL] * len(kills) + [0]
    assert_same(whole, out)


# What may not be lost --------------------------------------------------------------------------------------------


def test_a_mistake_never_costs_an_earlier_run(train):
    _, out = train(duet, 256)
    before = weights(out)
    points = Modality(id="points", title="Points", plugin=Points)
    for arguments, error in [
        ({"device": "cuda:99"}, ConfigError),
        ({"recipe": {"critics": {"no": {}}}}, ConfigError),
    ]:
        with pytest.raises(error):
            train(duet, 256, overwrite=True, **arguments)
    with pytest.raises(DataError):
        train(points, 256, overwrite=True, data="no/such/path")
    assert all(torch.equal(value, before[name]) for name, value in weights(out).items())
    with pytest.raises(RunError, match="exclude"):
        train(duet, 256, overwrite=True, resume=True)


def test_overwriting_deletes_what_runs_write_and_nothing_else(train):
    _, out = train(duet, 256)
    (out / "thesis.tex").write_text("mine")
    train(duet, 128, overwrite=True)
    assert (out / "thesis.tex").read_text() == "mine"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["000000000128"]


def test_a_folder_with_a_configuration_file_is_no_run(tmp_path):
    done = genkit.train(duet, out=tmp_path / "run", items=64, threads=1)
    assert done.path is not None
    project = tmp_path / "project"
    project.mkdir()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    del saved["genkit_run"]
    (project / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(RunError, match="holds no genkit run"):
        genkit.train(duet, out=project, items=64, overwrite=True)


def test_a_start_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError):
        genkit.train(
            Modality(id="points", title="Points", plugin=Points),
            "no/such/path",
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


class Poisoned(Points):
    """Its loss stays finite while a gradient is not: the root of zero has no slope."""

    def networks(self):
        networks = super().networks()

        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(1))

            def forward(self, sample):
                return Critique((self.weight.square().sqrt() * sample.x.sum(1),))

        return replace(networks, critics={"critic": Critic()})


def test_updates_without_a_finite_gradient_are_skipped_counted_and_in_the_end_given_up(
    train, tmp_path
):
    poisoned, notes = Modality(id="poisoned", title="Poisoned", plugin=Poisoned), []
    settings = {"data": torch.randn(100, 2), "recipe": {"loss": "wasserstein"}}
    train(poisoned, 640, **settings)
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows[-1]["critic.skipped"] == 1.0
    assert rows[-1]["generator.skipped"] == 0.0
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    with pytest.raises(TrainingError, match="not finite"):
        train(poisoned, 64_000, "other", **settings, progress=lambda p: notes.append(p.note))
    assert len([note for note in notes if note and "half the learning rates" in note]) == 3
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.parametrize("means", ["x", None, {"a": 1}, [[]], [1.0, "x"], [True], 10**400])
def test_a_state_whose_means_are_damaged_is_named(train, checkpoint, state, means):
    _, out = train(ring, 256)
    content = state(out)
    content["data"]["spread_means"] = means
    (checkpoint(out) / "state.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"state.json: data.spread_means are no numbers"):
        train(ring, 512, resume=True)


def test_a_state_of_a_stage_that_there_is_not_is_named(train, checkpoint, state):
    _, out = train(ring, 256)
    (checkpoint(out) / "state.json").write_text(json.dumps({**state(out), "stage": 5}))
    with pytest.raises(ModelError, match="does not fit the networks of the run's configuration"):
        train(ring, 512, resume=True)


def test_a_run_whose_plugin_is_gone_says_what_to_install(train):
    _, out = train(ring, 256)
    content = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(content.replace("local 0 (ring)", "rings-gan 1.2 (ring)"))
    with pytest.raises(
        UnknownModality, match=r"made with rings-gan 1.2 \(ring\), .*: pip install rings-gan$"
    ):
        genkit.train("ring", out=out, resume=True)
    with pytest.raises(UnknownModality, match="no installed plugin provides the modality 'grid'"):
        genkit.train("grid", out=out, resume=True)


def test_a_run_of_an_earlier_version_goes_on(train, checkpoint, state):
    """It compared the first items."""
    _, out = train(ring, 256)
    content = state(out)
    content["data"]["means"] = content["data"].pop("spread_means")
    (checkpoint(out) / "state.json").write_text(json.dumps(content))
    train(ring, 512, resume=True)


def test_resuming_with_changed_data_is_refused(train):
    points = Modality(id="points", title="Points", plugin=Points)
    data = torch.randn(100, 2)
    train(points, 64, data=data)
    with pytest.raises(RunError, match="items: 100 -> 7"):
        train(points, 128, data=torch.randn(7, 2), resume=True)
    with pytest.raises(RunError, match="the means of some items"):
        train(points, 128, data=torch.randn(100, 2), resume=True)
    for place in (0, 99):  # of the items that are looked at, which are spread evenly
        other = data.clone()
        other[place] += 3
        with pytest.raises(RunError, match="the means of some items"):
            train(points, 128, data=other, resume=True)
    with pytest.raises(RunError, match="pass them again"):
        train(points, 128, resume=True)
    train(points, 128, data=data.clone(), resume=True)


class FilePoints(Points):
    @classmethod
    def open(cls, source, options):
        return torch.from_numpy(np.load(source)).float()


def test_data_may_move_and_be_named_from_anywhere(train, tmp_path, monkeypatch):
    """A run on moved data, or resumed in another working folder, equals one that was never interrupted."""
    points = Modality(id="points", title="Points", plugin=FilePoints)
    (tmp_path / "old").mkdir()
    np.save(tmp_path / "old" / "points.npy", np.random.default_rng(0).normal(size=(100, 2)))
    monkeypatch.chdir(tmp_path / "old")
    monkeypatch.setenv("HOME", str(tmp_path))
    _, whole = train(points, 192, "whole", data="points.npy")
    _, parts = train(points, 64, "parts", data="points.npy")
    monkeypatch.chdir(tmp_path)
    train(points, 128, "parts", resume=True)  # the path in config.yaml is absolute
    (tmp_path / "old").rename(tmp_path / "new")
    train(points, 192, "parts", data="~/new/points.npy", resume=True)
    assert_same(whole, parts)
    config = yaml.safe_load((parts / "config.yaml").read_text())
    assert config["data"] == str(tmp_path / "new" / "points.npy")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: genkit.train(ring, out=name, items=64, run={"plan": "fp32"}),
        lambda: genkit.load(name),
    ):
        with pytest.raises(genkit.UserError, match="names no file or folder"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = genkit.train(ring, out="~/run", items=64, threads=1)
    assert (tmp_path / "run" / "config.yaml").exists()
    assert genkit.load("~/run", modality=ring).modality is ring
    model.save("~/copy")
    assert (tmp_path / "copy" / "model.safetensors").exists()
    model.generate(2).save("~/samples/")
    assert (tmp_path / "samples" / "samples.json").exists()


def test_a_finished_run_resumed_writes_no_second_checkpoint_and_says_so(train):
    notes = []
    _, out = train(ring, 256)
    train(ring, 256, resume=True, progress=lambda progress: notes.append(progress.note or ""))
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["000000000256"]
    assert any("more --items" in note for note in notes)


def test_a_run_that_never_reaches_its_game_says_so(train):
    notes = []
    stages = [{"kind": "pretrain", "items": 1000}, {"kind": "game"}]
    train(
        language,
        256,
        recipe={"stages": stages},
        progress=lambda progress: notes.append(progress.note or ""),
    )
    assert any("before its last stage (game) begins" in note for note in notes)


class Sorted(Points):
    """Labelled data in the order of a folder: all of class 0, then all of class 1."""

    def dataset(self, source):
        labels = torch.arange(4000) // 2000
        return [Sample(torch.full((2,), float(label)), label) for label in labels]

    def networks(self):
        networks = super().networks()

        class Generator(nn.Module):
            def __init__(self):
                super().__init__()
                self.noise = {"z": Noise((2,))}
                self.norm = nn.BatchNorm1d(1)
                self.out = nn.Linear(1, 2)

            def forward(self, noise, condition=None, controls=None):
                return Sample(self.out(self.norm(10.0 * condition[:, None].float())), condition)

        return replace(networks, generator=Generator())


def test_statistics_are_recalibrated_under_the_conditions_of_all_the_data(train):
    model, _ = train(Modality(id="sorted", title="Sorted", plugin=Sorted), 64)
    assert model.generator.norm.running_mean.item() == pytest.approx(5, abs=0.5)
    with pytest.raises(ConfigError, match="give a label"):
        model.generate(2)


class Broken(Points):
    @classmethod
    def inspect(cls, source, options):
        return {}["vocabulary"]


def test_what_a_plugin_raises_names_the_plugin_and_the_call(train):
    with pytest.raises(
        PluginError, match=r"local 0 \(broken\) failed at inspect: KeyError: 'vocabulary'"
    ):
        train(Modality(id="broken", title="Broken", plugin=Broken), 64, data=torch.randn(10, 2))


def test_a_game_needs_a_critic(train):
    class Lonely(Points):
        def networks(self):
            return replace(super().networks(), critics={})

    with pytest.raises(PluginError, match="no critics"):
        train(Modality(id="lonely", title="Lonely", plugin=Lonely), 64, data=torch.randn(10, 2))


def test_a_loss_that_is_none_is_refused(train):
    with pytest.raises(ConfigError, match="AdversarialLoss was expected"):
        train(ring, 64, recipe={"loss": "genkit.adversarial:hinge_critic"})


def test_threads_are_given_back(train):
    before = torch.get_num_threads()
    genkit.train(ring, out=train(ring, 64)[1].parent / "other", items=64, threads=2)
    assert torch.get_num_threads() == before


class Feverish(Points):
    """Its loss is not finite after 60 passes of the critic, until a game has gone back."""

    def networks(self):
        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.before, self.well = nn.Linear(2, 1), 0.0, False
                self.register_buffer("passes", torch.zeros(()))

            def forward(self, sample):
                self.passes += 1
                self.well = self.well or self.passes <= self.before
                self.before = float(self.passes)
                return Critique(
                    (
                        self.body(sample.x)[:, 0]
                        * (1.0 if self.well or self.passes < 60 else torch.nan),
                    )
                )

        return replace(super().networks(), critics={"critic": Critic()})


def test_a_preview_that_fails_is_told_and_stops_nothing(train, monkeypatch):
    notes = []
    monkeypatch.delenv("GENKIT_STRICT_PLUGINS", raising=False)
    monkeypatch.setattr(Duet, "preview", lambda *_: "text")
    _, out = train(duet, 320, progress=lambda p: notes.append(p.note))
    assert any("no preview at" in note and "it returned a str" in note for note in notes if note)
    assert (out / "model" / "model.safetensors").exists()


def test_stopping_while_the_data_are_read_says_that_nothing_was_changed(train, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("genkit.engine.training.open_data", interrupt)
    with pytest.raises(
        Interrupted, match=r"stopped before the run went on; nothing of .* was changed"
    ):
        train(duet, 320)


def test_what_takes_long_is_told(monkeypatch):
    told = []
    monkeypatch.setattr("genkit.system.runtime.PATIENCE", 0.05)
    with waiting("reading the data", told.append):
        time.sleep(0.4)
    assert told[:2] == ["reading the data: 0 s so far", "reading the data: 0 s so far"]
    with waiting("reading the data", None):
        pass


def test_measuring_the_plans_is_told(train, monkeypatch):
    monkeypatch.setattr("genkit.system.runtime.PATIENCE", 0.01)
    notes = []
    train(
        ring,
        256,
        run={"plan": "auto"},
        options={"width": 9},
        progress=lambda p: notes.append(p.note),
    )
    assert "measuring which plan is the fastest here: 0 s so far" in notes


class ReturnsADict(Mixture):
    @classmethod
    def inspect(cls, source, options):
        return {"mean": 0.0}


class FactsOfNumPy(Mixture):
    @classmethod
    def inspect(cls, source, options):
        return Facts({"mean": np.float32(0.5)})


class FactsOfNan(Mixture):
    @classmethod
    def inspect(cls, source, options):
        return Facts({"mean": float("nan")})


class NoDataSet(Mixture):
    def dataset(self, source):
        return None


class NoiseOfNumbers(Mixture):
    def networks(self):
        networks = super().networks()
        networks.generator.noise = {"z": 4}
        return networks


class NanFromTheStart(Mixture):
    def networks(self):
        networks = super().networks()
        networks.generator.register_forward_hook(lambda _, __, one: one.with_x(one.x * torch.nan))
        return networks


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (ReturnsADict, "failed at inspect: it returned a dict; a genkit.plugin.Facts was expected"),
        (
            FactsOfNumPy,
            r"inspect: facts\.values\['mean'\] = .*0\.5.*: plain JSON data were expected",
        ),
        (FactsOfNan, r"inspect: facts\.values\['mean'\] = nan: plain JSON data were expected"),
        (NoDataSet, "dataset: it returned a NoneType; a map-style data set was expected"),
        (NoiseOfNumbers, r"noise\['z'\] = 4; a genkit\.plugin\.Noise with a tuple"),
        (NanFromTheStart, "values that are not finite before it has learned anything"),
    ],
)
def test_authors_slips_are_sentences_before_a_run_begins(train, tmp_path, plugin, says):
    slip = Modality(
        id="slip", title="Slip", plugin=plugin, options=RingOptions, presets=ring.presets
    )
    with pytest.raises(GenkitError, match=says):
        train(slip, 320)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("seconds", [1e-6, 1000])
def test_a_lost_game_goes_back_and_on_with_half_the_rates(train, state, seconds):
    """To its last checkpoint, or to its start."""
    feverish, notes = Modality(id="feverish", title="Feverish", plugin=Feverish), []
    run = {"checkpoint_seconds": seconds, "plan": "fp32"}
    _, out = train(
        feverish, 5120, data=torch.randn(100, 2), run=run, progress=lambda p: notes.append(p.note)
    )
    (said,) = [note for note in notes if note and "half the learning rates" in note]
    assert ("back to 0 items" in said) == (seconds == 1000)
    assert state(out)["retry"] == 1
    assert all(value.isfinite().all() for value in weights(out).values())


def test_a_game_begins_with_the_weights_of_another(train, tmp_path):
    model, _ = train(ring, 2560, "first")
    still = {"recipe": {"generator": {"learning_rate": 0.0}, "critic": {"learning_rate": 0.0}}}
    tuned, out = train(ring, 256, "tuned", init=tmp_path / "first", seed=1, **still)
    assert torch.equal(tuned.generate(8).x, model.generate(8).x)
    first, second = weights(tmp_path / "first"), weights(out)
    assert all(
        torch.equal(second[name], value)
        for name, value in first.items()
        if name.startswith("players/critics")
    )
    assert yaml.safe_load((out / "config.yaml").read_text())["run"]["init"] == str(
        tmp_path / "first"
    )
    shutil.rmtree(tmp_path / "first")
    train(ring, 512, "tuned", resume=True)  # what it began with is no longer needed


def test_weights_are_taken_over_with_their_options(train, tmp_path):
    train(ring, 256, "narrow", options={"width": 16})
    model, _ = train(ring, 256, "tuned", init=tmp_path / "narrow")
    assert model.info["options"]["width"] == 16
    with pytest.raises(ModelError, match="does not fit"):
        train(ring, 256, "wide", init=tmp_path / "narrow", options={"width": 32})
    with pytest.raises(ModelError, match="model of 'ring', not of 'grid'"):
        train(grid, 256, "other", init=tmp_path / "narrow")
    with pytest.raises(ModelError, match="does not exist"):
        train(ring, 256, "none", init=tmp_path / "nowhere")


# Pretrained weights ----------------------------------------------------------------------------------------------


class Taught(Mixture):
    """Points whose generator, and the frozen reference that it is drawn to, begin with weights from a file."""

    source: ClassVar[Any]
    asked: ClassVar[int] = 0

    def networks(self):
        frozen = {"reference": PointGenerator(self.options.width, self.options.latent)}
        return replace(super().networks(), frozen=frozen)

    def initialise(self, networks):
        type(self).asked += 1
        for module in (networks.generator, networks.frozen["reference"]):
            module.load_state_dict(load_file(self.source))

    def terms(self, player, networks, real, fake, critiques):
        return (
            {"near": sum((mine - its).square().sum() for mine, its in _pairs(networks))}
            if player == "generator"
            else {}
        )


def _pairs(networks):
    return zip(
        networks.generator.parameters(), networks.frozen["reference"].parameters(), strict=True
    )


@pytest.fixture
def taught(tmp_path):
    """A modality whose weights begin in a file, which may vanish."""

    class Here(Taught):
        source = tmp_path / "pretrained.safetensors"

    torch.manual_seed(7)
    save_file(PointGenerator(16, 2).state_dict(), Here.source)
    preset = Preset(options={"width": 16}, recipe={"batch_size": 16}, run={"plan": "fp32"})
    return replace(ring, id="taught", plugin=Here, presets={"default": preset})


STILL = {"generator": {"learning_rate": 0.0}, "ema_halflife_items": 50}


def test_a_fresh_run_begins_with_pretrained_weights_and_so_do_its_averages(train, taught):
    _, out = train(taught, 16, recipe=STILL)
    found, source = weights(out), load_file(taught.plugin.source)
    assert taught.plugin.asked == 1
    for name, value in source.items():
        for where in (
            "players/generator.module.",
            "players/frozen.reference.",
            "averages/",
            "model/",
        ):
            assert torch.equal(found[where + name], value)


def test_the_source_of_pretrained_weights_is_never_needed_again(train, taught):
    _, whole = train(taught, 640, "whole")
    train(taught, 320, "parts")
    taught.plugin.source.unlink()
    model, parts = train(taught, 640, "parts", resume=True)
    assert_same(whole, parts)
    assert torch.equal(genkit.load(parts, modality=taught).generate(4).x, model.generate(4).x)
    assert taught.plugin.asked == 2


def test_a_game_that_begins_with_another_model_is_not_initialised(train, taught, tmp_path):
    model, first = train(taught, 320, "first")
    taught.plugin.source.unlink()
    tuned, out = train(taught, 16, "tuned", init=first, recipe=STILL)
    assert torch.equal(tuned.generate(4).x, model.generate(4).x)
    one, other = weights(first), weights(out)
    assert all(
        torch.equal(other[name], value)
        for name, value in one.items()
        if name.startswith("players/frozen")
    )
    with pytest.raises(ModelError, match="no weights of the frozen network 'reference'"):
        train(
            taught, 16, "none", init=shutil.copytree(first / "model", tmp_path / "alone" / "model")
        )


def test_going_back_to_the_start_goes_back_to_pretrained_weights(taught):
    chosen = configuration.build(taught)
    plugin = taught.plugin(chosen.options)
    game = Game(chosen, plugin, plugin.dataset(None), Runtime("cpu"))
    game.initialise()
    back = game.snapshot()
    game.begin_stage()
    game.update_generator("game", game.next_batch(), 0)
    game.update_average()
    source = load_file(taught.plugin.source)
    assert not all(torch.equal(game.average.weights[name], value) for name, value in source.items())
    back()
    for weights in (game.average.weights, game.networks.generator.state_dict()):
        assert all(torch.equal(weights[name], value) for name, value in source.items())


def test_initialising_may_not_replace_what_learns_and_names_what_it_lacks(train, taught):
    class Replacing(taught.plugin):
        def initialise(self, networks):
            networks.generator.body = PointGenerator(16, 2).body

    with pytest.raises(PluginError, match=r"failed at initialise: it replaces parameters"):
        train(replace(taught, plugin=Replacing), 16)
    taught.plugin.source.unlink()
    with pytest.raises(
        PluginError, match=r"\(taught\) failed at initialise: .*pretrained.safetensors"
    ):
        train(taught, 16, "gone")


def test_a_run_reports_to_tensorboard_too(train):
    _, out = train(ring, 2560, run={"track": "tensorboard"})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "track"))
    events.Reload()
    assert "critic.loss" in events.Tags()["scalars"]
    assert events.Scalars("critic.loss")[-1].step == 2560


def test_an_unknown_tracker_is_named(train):
    with pytest.raises(
        ConfigError, match=r"run.track = 'tensorbord': no such tracker. Did you mean 'tensorboard'"
    ):
        train(ring, 256, run={"track": "tensorbord"})

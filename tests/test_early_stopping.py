"""Critics are kept by what they gain on items that they have not learned."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toys import language

import genkit
from genkit import config as configuration
from genkit.engine.data import open_data
from genkit.engine.early_stopping import BestCritics
from genkit.engine.game import Game
from genkit.errors import ConfigError, DataError, ModelError
from genkit.plugin import Critique, Sample
from genkit.recipe import EarlyStopping
from genkit.sampling.reranking import UNFITTED, Calibration
from genkit.system.runtime import Runtime

SETTINGS = EarlyStopping(patience=2)


class Slope(nn.Module):
    """The log-ratio of N(1, 1) and N(0, 1), times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, sample):
        return Critique((self.weight * (sample.x[:, 0] - 0.5),))


class Twice(nn.Module):
    """A critic with a second head, whose logits are twice those of the first."""

    def forward(self, sample):
        logits = sample.x[:, 0] - 0.5
        return Critique((logits, 2 * logits))


def pairs(shift):
    """Batches of real items N(shift, 1) and of samples N(0, 1)."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        real, fake = torch.randn(2, 100, 1, generator=draw)
        yield Sample(real + shift), Sample(fake)


def weighing(best, weight, shift=1.0):
    """What `best` finds with this weight of its critic."""
    best.critics["slope"].weight.data.fill_(weight)
    return best.follow(*best.score(pairs(shift)), SETTINGS, "seed")


def test_the_critics_that_gain_most_are_kept_and_scaled():
    best = BestCritics({"slope": Slope()}, {"slope": 1.0})
    figures = weighing(best, 2.0)
    # Of the log-ratio itself the gain is KL(N(1, 1) || N(0, 1)) = 1 / 2, and its scale is 1: here half of that.
    assert math.isclose(figures["gain"], 0.5, abs_tol=0.1)
    assert math.isclose(figures["scale"], 0.5, abs_tol=0.1)
    assert (best.gain, best.calibration.scale, best.misses) == (
        figures["gain"],
        figures["scale"],
        0,
    )
    weighing(best, 0.01)  # scaled by 1.5 at most
    weighing(best, -1.0)
    assert best.misses == 2
    assert best.stop(SETTINGS)
    assert not best.stop(None)
    assert best.notes == [
        "no more was gained by the critics in 2 measurements, so this stage ends: the best gain "
        f"{figures['gain']:.3g} nats an item, and are kept"
    ]
    assert best.weights()["slope.weight"] == 2.0
    best.begin_stage(trains_critics=False)
    assert best.critics["slope"].weight == 2.0
    assert best.calibration.scale == figures["scale"]
    assert not best.stop(SETTINGS)
    best.begin_stage(trains_critics=True)
    assert best.calibration.scale == 1.0


def test_critics_that_gain_nothing_have_the_scale_0_and_stay_as_they_are():
    best = BestCritics({"slope": Slope()}, {"slope": 1.0})
    assert best.calibration.scale == 1.0
    for weight in (0.5, 1.0):
        weighing(best, weight, shift=0.0)
    assert (best.gain, best.calibration.scale, best.misses, best.best) == (0.0, 0.0, 2, {})
    assert "nothing that is more than chance" in best.notes[0]
    best.begin_stage(trains_critics=False)
    assert best.critics["slope"].weight == 1.0
    weighing(best, 1.0)
    assert best.calibration.scale > 0.9


def test_the_state_is_restored():
    best, other = (BestCritics({"slope": Slope()}, {"slope": 1.0}) for _ in range(2))
    weighing(best, 1.0)
    best.calibration = best.calibration._replace(length_weight=0.7)
    weighing(best, -1.0)
    other.restore(best.state())
    assert (other.gain, other.calibration.scale, other.misses) == (
        best.gain,
        best.calibration.scale,
        1,
    )
    assert other.calibration == best.calibration
    assert other.weights() == {"slope.weight": 1.0}
    with pytest.raises(ValueError, match="other networks"):
        other.restore({**best.state(), "another.weight": torch.ones(())})


def test_a_run_of_critics_stops_early_and_keeps_the_best_in_its_model(train, checkpoint, tmp_path):
    """Against a generator that has learned nothing the critic soon knows all that it can."""
    stopping = {"interval": 256, "count": 400, "patience": 2}
    stage = {"kind": "critics", "part": [0, 0.9], "early_stopping": stopping}
    recipe = {"batch_size": 64, "stages": [stage], "critic": {"learning_rate": 0.1}}
    notes = []
    arguments = {"recipe": recipe, "progress": lambda progress: notes.append(progress.note)}
    model, out = train(language, 200_000, **arguments)
    assert any("so this stage ends: the best gain" in str(note) for note in notes)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["items"] < 100_000
    assert any(row.get("critics.gain", 0) > 0.1 for row in rows)
    best = load_file(checkpoint(out) / "best_critics.safetensors")
    gain, scale, length_weight, misses = best.pop("figures").tolist()
    assert gain > 0.1
    assert 0 < scale <= 1.5
    assert misses == 2
    assert model.reranker.calibration == (scale, length_weight)
    model.generate_to(tmp_path / "drawn", 2, best_of=3, choose="sample")
    told = json.loads((tmp_path / "drawn" / "samples.json").read_text())
    assert told["calibration"] == {"scale": scale, "length_weight": length_weight}
    kept = load_file(out / "model" / "critics.safetensors")
    assert best.keys() == kept.keys()
    assert all(torch.equal(best[name], kept[name]) for name in best)
    # It is over, and a run that starts from it has the best critics and their scale.
    train(language, 400_000, **arguments, resume=True)
    assert any("stopped early" in str(note) for note in notes)
    stages = {"estimator": {"kind": "importance"}, "stages": [{"kind": "generator"}]}
    _, other = train(language, 64, "other", recipe={"batch_size": 64, **stages}, init=out)
    players = load_file(checkpoint(other) / "players.safetensors")
    for name, value in best.items():
        critic, _, rest = name.partition(".")
        assert torch.equal(players[f"critics.{critic}.module.{rest}"], value)
    shutil.copytree(out / "model", tmp_path / "copy")
    for number, init in enumerate([out, tmp_path / "copy"]):
        name, recipe = f"other {number}", {"batch_size": 64, **stages}
        _, other = train(language, 64, name, recipe=recipe, init=init)
        about = json.loads((other / "model" / "config.json").read_text())
        assert "calibration" not in about  # its generator is another
        state = load_file(checkpoint(other) / "best_critics.safetensors")
        assert state["figures"].tolist() == [0, scale, length_weight, 0]
    assert model.generate(2, best_of=2).x.shape == (2, *model.generate(1).x.shape[1:])


@pytest.mark.parametrize(("kind", "scale"), [("critics", 1.0), ("generator", 0.5)])
def test_the_scale_of_an_earlier_run_is_that_of_critics_that_stay_as_they_are(kind, scale):
    estimator = {"kind": "importance", "group": 4}
    recipe = {"batch_size": 8, "estimator": estimator, "stages": [{"kind": kind}]}
    config = configuration.build(language, settings=[{"recipe": recipe}])
    plugin, dataset, _ = open_data(config)
    game = Game(config, plugin, dataset, Runtime("cpu"))
    game.best_critics.calibration = Calibration(0.5, 0.3)
    game.play_round()
    assert game.best_critics.calibration.scale == scale


def test_a_damaged_file_of_the_best_critics_is_one_sentence(train, checkpoint):
    stage = {"kind": "critics", "part": [0, 0.9], "early_stopping": {"interval": 64, "count": 100}}
    _, out = train(language, 128, recipe={"batch_size": 64, "stages": [stage]})
    (checkpoint(out) / "best_critics.safetensors").write_bytes(b"best")
    with pytest.raises(ModelError, match=r"best_critics.safetensors is no whole safetensors file"):
        train(language, 64, "other", init=out)


def test_what_a_run_has_from_another_is_there_after_it_was_stopped_or_measured():
    """A game that begins with the calibration of another run, and has no early stopping of its own."""
    stages = [{"kind": "generator", "items": 8}, {"kind": "critics"}]
    estimator = {"kind": "importance", "group": 4}
    recipe = {"batch_size": 8, "estimator": estimator, "stages": stages}
    settings = [{"recipe": recipe, "run": {"init": "other"}}]
    config = configuration.build(language, settings=settings)
    plugin, dataset, _ = open_data(config)
    game, other = (Game(config, plugin, dataset, Runtime("cpu")) for _ in range(2))
    game.best_critics.calibration = Calibration(0.5, 0.3)
    back = game.snapshot()
    game.play_round()
    other.restore(*game.state())
    assert other.best_critics.calibration == (0.5, 0.3)
    game.play_round()
    assert game.best_critics.calibration == UNFITTED
    back()
    assert game.best_critics.calibration == (0.5, 0.3)


def test_critics_that_were_not_taken_over_bring_no_calibration(train, checkpoint, tmp_path):
    stage = {"kind": "critics", "part": [0, 0.9], "early_stopping": {"interval": 256, "count": 400}}
    recipe = {"batch_size": 64, "stages": [stage], "critic": {"learning_rate": 0.1}}
    model, _ = train(language, 2000, recipe=recipe)
    assert model.reranker.calibration != UNFITTED
    model.save(tmp_path / "bare", critics=False)
    stages = {"estimator": {"kind": "importance"}, "stages": [{"kind": "generator"}]}
    recipe = {"batch_size": 64, **stages}
    _, other = train(language, 64, "other", recipe=recipe, init=tmp_path / "bare")
    state = load_file(checkpoint(other) / "best_critics.safetensors")
    assert state["figures"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"kind": "game", "early_stopping": {}}, "this one is of the kind game"),
        ({"kind": "critics", "early_stopping": {}}, "overlaps with the part"),
        (
            {"kind": "critics", "items": 5000, "part": [0, 0.5], "early_stopping": {}},
            "is longer than its stage",
        ),
        (
            {"kind": "critics", "part": [0, 0.5], "early_stopping": {"part": [0.9, 0.8]}},
            "is empty",
        ),
    ],
)
def test_stages_that_cannot_stop_early_are_refused(stage, says, tmp_path):
    stages = [stage, {"kind": "game"}] if "items" in stage else [stage]
    with pytest.raises(ConfigError, match=says):
        genkit.train(language, out=tmp_path / "run", items=64, recipe={"stages": stages})


def test_items_that_an_earlier_stage_learns_are_not_held_out(train):
    early = {"kind": "critics", "part": [0, 0.9], "early_stopping": {}}
    stages = [{"kind": "pretrain", "items": 64}, early]
    with pytest.raises(ConfigError, match="of a stage 'pretrain', which learns these items"):
        train(language, 64, recipe={"stages": stages})


def test_too_few_held_out_items_are_refused(train):
    stopping = {"part": [0.9999, 1]}
    stages = [{"kind": "critics", "part": [0, 0.9], "early_stopping": stopping}]
    with pytest.raises(DataError, match="holds out 20 items"):
        train(language, 64, recipe={"stages": stages})


def test_a_critic_of_several_heads_is_scored_as_the_estimator_scores_it():
    """The scale is fitted to what it multiplies."""
    best = BestCritics({"slope": Twice()}, {"slope": 0.5})
    (scores, _), sample = best.score(pairs(1.0)), next(pairs(1.0))[0]
    assert set(scores[:, 1]) == {1.0}  # samples without steps
    assert torch.allclose(torch.from_numpy(scores[:100, 0]).float(), 0.75 * (sample.x[:, 0] - 0.5))


@pytest.mark.parametrize("entry", ["high", {"scale": "high"}, {"scale": math.inf}, {"a": 1}])
def test_a_damaged_calibration_of_a_model_is_one_sentence(train, entry):
    _, out = train(language, 64)
    file = out / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "calibration": entry}))
    with pytest.raises(ModelError, match="two numbers are needed"):
        genkit.load(out, modality=language).generate(1, best_of=2, choose="sample")

"""How numbers are computed: measured without touching the game, remembered, written down, kept."""

import json
from typing import ClassVar

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from genkit import config
from genkit.engine import plan
from genkit.engine.game import Game
from genkit.errors import ConfigError
from genkit.plugin import Critique, Modality, ModalityPlugin, Networks, Noise, Preset, Sample
from genkit.recipe import PLANS
from genkit.system.runtime import Runtime, lay_out


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = {"z": Noise((8,))}
        self.body = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1)
        )

    def forward(self, noise, condition=None, controls=None):
        return Sample(self.body(noise["z"][:, :, None, None]))


class Critic(nn.Module):
    seen: ClassVar[list[tuple[bool, torch.dtype]]] = []

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1)
        )

    def forward(self, sample):
        logits = self.body(sample.x)[:, 0]
        self.seen.append((torch.is_autocast_enabled("cpu"), logits.dtype))
        return Critique((logits,))


class Squares(ModalityPlugin):
    """Pieces of noise [1, 8, 8] in a square."""

    def networks(self):
        return Networks(Generator(), {"critic": Critic()})


RECIPE = {"batch_size": 8, "loss": "hinge", "penalties": {"r1": {"weight": 0.1, "interval": 2}}}
squares = Modality(
    id="squares", title="Squares", plugin=Squares, presets={"default": Preset(recipe=RECIPE)}
)
DATA = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def game(**run):
    chosen = config.build(squares, None, DATA, [{"run": run}])
    return Game(chosen, Squares(), DATA, Runtime("cpu"))


def tensors(game):
    return {
        f"{group}/{name}": value.clone()
        for group, all in game.state()[1].items()
        for name, value in all.items()
    }


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_measuring_leaves_the_game_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    played, fresh = game(), game()
    told, forecast = plan.choose(played)
    assert forecast.startswith("forecast: ")
    assert told.startswith(f"plan: {played.runtime.plan}, ")
    assert played.runtime.plan in PLANS
    assert equal(tensors(played), tensors(fresh))
    fresh.runtime.plan = played.runtime.plan
    fresh.lay_out()
    for _ in range(3):
        played.play_round()
        fresh.play_round()
    assert equal(tensors(played), tensors(fresh))


def test_a_choice_is_remembered_for_this_machine_and_game(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = game()
    plan.choose(first)
    (key, way) = next(iter(json.loads((tmp_path / "genkit" / "plans.json").read_text()).items()))
    assert (way["plan"], way["threads"]) == (first.runtime.plan, first.runtime.threads)
    other = next(name for name in PLANS if name != first.runtime.plan)
    (tmp_path / "genkit" / "plans.json").write_text(
        json.dumps({key: {"plan": other, "threads": 1, "seconds": 0.02, "peak": 3 * 10**8}})
    )
    second = game()
    with monkeypatch.context() as patch:
        patch.setattr(plan, "_measure", lambda _: pytest.fail("it was measured again"))
        note, forecast = plan.choose(second)
    assert "remembered" in note
    assert forecast.endswith(", with 0.3 GB of memory")
    assert second.runtime.plan == other
    (tmp_path / "genkit" / "plans.json").write_text("no JSON")
    third = game()
    assert "remembered" not in plan.choose(third)[0]


def test_a_memory_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "genkit").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plan.choose(game())[0].startswith("plan: ")


@pytest.mark.parametrize(
    ("run", "seconds", "told"),
    [
        ({"items": 40}, 1.0, "40 items in about 5 s"),
        ({"items": 8000}, 1.0, "8,000 items in about 17 min"),
        ({"items": 80_000}, 1.32, "80,000 items in about 3 h 40 min"),
        ({"items": 8_000_000}, 1.0, "8,000,000 items in about 11 d 13 h"),
        ({"items": None, "minutes": 10}, 0.002, "about 2,400,000 items in 10 minutes"),
    ],
)
def test_a_forecast_says_how_long_the_run_takes(run, seconds, told):
    """The recipe of these tests takes 8 items a round."""
    played = game(**run)
    assert played.config.recipe.batch_size == 8
    assert plan.forecast(played, seconds, 0) == f"forecast: {told}"


def test_a_run_writes_its_plan_down_and_keeps_it(train):
    _, out = train(squares, 64, data=DATA)
    chosen = yaml.safe_load((out / "config.yaml").read_text())["run"]["plan"]
    assert chosen in PLANS
    notes = []
    train(
        squares, 128, data=DATA, resume=True, progress=lambda progress: notes.append(progress.note)
    )
    assert yaml.safe_load((out / "config.yaml").read_text())["run"]["plan"] == chosen
    assert not any(note and note.startswith("plan:") for note in notes)


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_run_equals_one_that_never_stopped_under_every_plan(train, checkpoint, name):
    train(squares, 128, "whole", data=DATA, run={"plan": name})
    train(squares, 64, "parts", data=DATA, run={"plan": name})
    _, parts = train(squares, 128, "parts", data=DATA, resume=True)
    folders = [checkpoint(out) for out in (parts.parent / "whole", parts)]
    for stem in ("players", "averages", "optimizers"):
        one, other = (load_file(folder / f"{stem}.safetensors") for folder in folders)
        assert equal(one, other)


def test_memory_formats_compute_the_same_game():
    one, other = game(), game()
    other.runtime.plan = "fp32-channels-last"
    other.lay_out()
    assert next(other.networks.critics["critic"].parameters()).is_contiguous(
        memory_format=torch.channels_last
    )
    for _ in range(3):
        one.play_round()
        other.play_round()
    for name, value in tensors(one).items():
        torch.testing.assert_close(tensors(other)[name], value, rtol=1e-3, atol=1e-5)


def test_half_precision_is_bf16_and_never_where_a_penalty_acts():
    played = game()
    played.runtime.plan = "bf16"
    for number in range(4):
        Critic.seen.clear()
        played.play_round()
        expected = (False, torch.float32) if number % 2 == 0 else (True, torch.bfloat16)
        assert Critic.seen[0] == expected  # an update of the critic
        assert Critic.seen[-1] == (True, torch.bfloat16)  # the generator's
    assert all(
        value.dtype == torch.float32
        for name, value in tensors(played).items()
        if value.is_floating_point()
    )


def test_an_unknown_plan_is_named(train):
    with pytest.raises(ConfigError, match=r"run.plan = 'fp16'"):
        train(squares, 64, data=DATA, run={"plan": "fp16"})


@pytest.mark.parametrize(
    ("rank", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)]
)
def test_samples_of_one_channel_are_computed_in_the_memory_format_of_all_others(rank, layout):
    """A tensor with one channel is in both formats at once: what counts for torch are the strides of the weights."""
    convolution = (nn.Conv2d if rank == 2 else nn.Conv3d)(1, 8, 4, 2, 1)
    x = torch.randn(2, 1, *[8] * rank)
    expected = convolution(x)
    assert expected.is_contiguous()
    lay_out(convolution, channels_last=True)
    y = convolution(x)
    assert y.is_contiguous(memory_format=layout)
    assert not y.is_contiguous()
    torch.testing.assert_close(y, expected)
    lay_out(convolution, channels_last=False)
    assert convolution(x).is_contiguous()

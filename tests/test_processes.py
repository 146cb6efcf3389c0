"""Several processes play the game of one: equal weights, and the same order of data on any number of them.

Run as a program by torchrun, this file is one of those processes. It holds where nothing looks across a batch or draws
from the global generator, in float64: float32 sums of other groupings differ, and Adam's first steps are signs.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import LanguageOptions, Mixture, StepLanguage, language, ring

import genkit
from genkit import config
from genkit.engine.game import Game
from genkit.errors import ConfigError
from genkit.plugin import Modality, Networks, Preset
from genkit.system.runtime import Runtime


class ExactRing(Mixture):
    """Points on a ring in float64."""

    def dataset(self, source):
        return super().dataset(source).double()

    def networks(self):
        return in_double(super().networks())


class TaughtRing(ExactRing):
    """Points on a ring in float64; the generator is initialised at random."""

    def initialise(self, networks):
        for parameter in networks.generator.parameters():
            torch.nn.init.normal_(parameter, std=0.1)


class ExactLanguage(StepLanguage):
    """The tiny language of variable length, its critic scoring every step, in float64."""

    def networks(self):
        return in_double(super().networks())


def in_double(networks: Networks) -> Networks:
    generator = networks.generator.double()
    generator.noise = {
        part: replace(spec, dtype="float64") for part, spec in generator.noise.items()
    }
    return Networks(generator, {name: critic.double() for name, critic in networks.critics.items()})


exact_ring = Modality(
    id="exact_ring", title="Ring", plugin=ExactRing, options=ring.options, presets=ring.presets
)
taught_ring = replace(
    exact_ring, id="taught_ring", plugin=TaughtRing, presets={"default": Preset()}
)
exact_language = Modality(
    id="exact_language",
    title="Language",
    plugin=ExactLanguage,
    options=LanguageOptions,
    presets=language.presets,
)
SMALL = {"batch_size": 8, "ema_halflife_items": 50}
GAMES = {
    "penalties, Adam": (exact_ring, SMALL | {"penalties": {"r1": {"weight": 0.1, "interval": 2}}}),
    "parts, SGD": (
        exact_ring,
        SMALL | {"gradient_accumulation": 2, "generator": {"optimizer": "sgd"}},
    ),
    "attacks": (
        exact_ring,
        SMALL | {"gradient_accumulation": 2, "critic": {"attack": {"bound": 0.1, "steps": 2}}},
    ),
    "groups": (
        exact_language,
        SMALL | {"gradient_accumulation": 2, "estimator": {"kind": "score_function", "group": 2}},
    ),
    "critics that stop early": (
        exact_language,
        SMALL
        | {
            "gradient_accumulation": 2,
            "critic": {"learning_rate": 0.1},
            "estimator": {"kind": "importance", "group": 2, "real": 0.5},
            "stages": [
                {
                    "kind": "critics",
                    "items": 64,
                    "part": [0, 0.5],
                    "early_stopping": {"interval": 8, "count": 100, "patience": 2},
                },
                {"kind": "generator"},
            ],
        },
    ),
    "initialised": (taught_ring, SMALL),
    "masked steps": (
        exact_language,
        SMALL | {"estimator": {"kind": "score_function", "baseline": "none"}},
    ),
}


def play(folder: Path, name: str, items: int, **arguments) -> None:
    modality, recipe = GAMES[name]
    genkit.train(
        modality,
        out=folder / name,
        items=items,
        recipe=recipe,
        device="cpu",
        threads=1,
        **arguments,
    )


def main(folder: Path) -> None:
    """What each of the two processes does."""
    for name in GAMES:
        play(folder, name, 80)
    play(folder, "masked steps", 120, resume=True)
    drawn_by(folder, "penalties, Adam", folder / "samples", shard="auto")


def drawn_by(folder: Path, name: str, out: Path, **arguments) -> None:
    """Samples of a model, as tar files; of all processes at once with a `shard`."""
    model = genkit.load(folder / name, modality=GAMES[name][0])
    model.generate_to(out, 300, per_tar=50, **arguments)


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / (run / "latest").read_text().strip()
    return load_file(folder / "players.safetensors") | load_file(folder / "averages.safetensors")


@pytest.fixture(scope="module")
def two(tmp_path_factory, process):
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = process(*torchrun, __file__, folder, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", GAMES)
def test_two_processes_play_the_game_of_one(two, tmp_path, name):
    play(tmp_path, name, 120 if name == "masked steps" else 80)
    one, other = weights(tmp_path / name), weights(two / name)
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-9, atol=1e-11, msg=key)


def test_two_processes_write_the_samples_of_one(two, tmp_path):
    drawn_by(two, "penalties, Adam", tmp_path / "one")
    one, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "one", two / "samples")
    )
    assert len(one) == 6 + 1
    assert other == one


def test_a_run_of_two_processes_goes_on_in_one(two, tmp_path):
    play(two, "parts, SGD", 160, resume=True)
    play(tmp_path, "parts, SGD", 160)
    one, other = weights(tmp_path / "parts, SGD"), weights(two / "parts, SGD")
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-9, atol=1e-11, msg=key)


def test_a_batch_that_processes_cannot_share_is_named():
    runtime, chosen = Runtime("cpu"), config.build(ring, settings=[{"recipe": {"batch_size": 8}}])
    runtime.processes = 3
    plugin = Mixture(chosen.options)
    with pytest.raises(ConfigError, match="cannot be divided among 3 processes"):
        Game(chosen, plugin, plugin.dataset(None), runtime)
    grouped = {"batch_size": 12, "estimator": {"kind": "score_function", "group": 3}}
    runtime.processes, chosen = 2, config.build(exact_language, settings=[{"recipe": grouped}])
    plugin = ExactLanguage(chosen.options)
    Game(chosen, plugin, plugin.dataset(None), runtime)
    runtime.processes = 3
    with pytest.raises(
        ConfigError, match=r"cannot be divided among 3 processes, each in 1 parts .* groups of 3"
    ):
        Game(chosen, plugin, plugin.dataset(None), runtime)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

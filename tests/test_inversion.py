"""Samples are found again: noise that was found stands where a seed stands, and a known inverse is found."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from torch import nn

import genkit
from genkit.cli import main
from genkit.errors import ConfigError, DataError, ModelError
from genkit.plugin import FeatureNetwork, Noise, Posterior, Sample
from genkit.sampling import inversion
from genkit.sampling.inversion import Search
from genkit.sampling.noise import Latents, draw

FP32 = {"run": {"plan": "fp32"}}


class Linear(nn.Module):
    """x = A z, with z uniform or normal; the inverse is known."""

    def __init__(self, distribution, steps=None, infers=False):
        super().__init__()
        self.noise = {"z": Noise((4,), distribution, steps)}
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(4, 6) / 2, requires_grad=False)
        if infers:
            self.infer = lambda sample, controls: {
                "z": Posterior(sample.x @ torch.linalg.pinv(self.matrix))
            }

    def forward(self, noise, condition=None, controls=None):
        x = noise["z"] @ self.matrix
        return Sample(x if condition is None else x + condition[:, None])


def drawn(spec, seed="targets", rows=70):
    return torch.from_numpy(draw(spec, "z", seed, range(rows)))


def no_views(sample):
    return ()


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("steps", [None, 3])
def test_a_search_finds_the_inverse_of_a_linear_generator(distribution, steps):
    generator = Linear(distribution, steps)
    z = drawn(generator.noise["z"])
    targets = generator({"z": z})
    latents, variance = inversion.search(generator, targets, no_views, Search())
    assert np.abs(latents.parts["z"] - z.numpy()).max() < 1e-3
    assert variance == pytest.approx(float(targets.x.var(0).mean()), rel=0.3)


def test_a_search_heeds_conditions_features_and_the_typical_length_of_noise():
    generator = Linear("normal")
    z, condition = drawn(generator.noise["z"], rows=5), torch.arange(5.0)
    targets = Sample(generator({"z": z}, condition).x, condition)
    latents, _ = inversion.search(
        generator, targets, lambda sample: [sample.x.abs()], Search(300, 4)
    )
    assert np.abs(latents.parts["z"] - z.numpy()).max() < 1e-2
    far = generator({"z": 100 * z})
    latents, _ = inversion.search(generator, far, no_views, Search(100, 2))
    lengths = np.square(latents.parts["z"]).sum(1)
    tail = math.exp(-lengths.max() / 2) * (
        1 + lengths.max() / 2
    )  # of a chi-square with 4 degrees of freedom
    assert tail == pytest.approx(3.2e-5, rel=0.5)


def test_a_search_starts_from_what_the_generator_infers():
    generator = Linear("normal", infers=True)
    z = drawn(generator.noise["z"], rows=5)
    latents, _ = inversion.search(generator, generator({"z": z}), no_views, Search(0, 1))
    assert np.abs(latents.parts["z"] - z.numpy()).max() < 1e-5


def test_a_search_tells_how_far_it_is():
    calls, generator = [], Linear("normal")
    targets = generator({"z": drawn(generator.noise["z"])})
    inversion.search(generator, targets, no_views, Search(20, 1), None, lambda *n: calls.append(n))
    assert calls == sorted(calls)
    assert calls[-1] == (40, 40)


def test_samples_of_another_shape_are_refused():
    with pytest.raises(
        ConfigError, match=r"samples of this model are \[6\], those that were given \[5\]"
    ):
        inversion.search(Linear("normal"), Sample(torch.zeros(1, 5)), no_views, Search(1, 1))
    for settings in ({"steps": -1}, {"starts": 0}, {"starts": 257}, {"rate": 0}, {"features": -1}):
        with pytest.raises(ConfigError, match="are needed"):
            Search(**settings)


def test_steps_behind_those_of_found_noise_are_drawn():
    spec = Noise((2,), steps=5)
    latents = Latents({"z": np.ones((3, 4, 2), np.float32)})
    whole = latents.rows(spec, "z", [2, 9], 0)
    assert (whole[:, :4] == 1).all()
    assert (whole[0] == whole[1]).all(), "behind the last row its noise is repeated"
    assert (latents.rows(Noise((2,), steps=2), "z", [2], 3)[0] == whole[0, 3:]).all()
    assert not (latents.rows(spec, "z", [1], 0)[0, 4] == whole[0, 4]).any()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"y": np.zeros((1, 4))}, "has the parts y; this model takes z"),
        ({"z": np.zeros((1, 5))}, "is 1x5; this model takes Nx4"),
        ({"z": np.zeros((0, 4))}, "is 0x4"),
        ({"z": np.zeros((1, 4), complex)}, "is of complex128; numbers are needed"),
        ({"z": np.full((1, 4), np.nan)}, "not finite"),
    ],
)
def test_noise_that_does_not_fit_is_refused(parts, says):
    with pytest.raises(ConfigError, match=says):
        Latents.of(parts).fitted({"z": Noise((4,))})
    with pytest.raises(ConfigError, match="not between 0 and 1"):
        Latents.of({"z": np.ones((1, 4))}).fitted({"z": Noise((4,), "uniform")})
    half = Latents.of({"z": np.full((1, 4), 0.5, np.float32)})
    with pytest.raises(ConfigError, match="is float32; its last digits count: float64 is needed"):
        half.fitted({"z": Noise((4,), "uniform", dtype="float64")})
    with pytest.raises(ConfigError, match="not between 0 and 1"):  # once it is float32
        Latents.of({"z": np.full((1, 4), 1 - 1e-12)}).fitted({"z": Noise((4,), "uniform")})


def test_noise_may_be_tensors_of_any_precision():
    z = torch.randn(2, 4, requires_grad=True)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        latents = Latents.of({"z": z.to(dtype)}).fitted({"z": Noise((4,))})
        assert latents.parts["z"].dtype == np.float32
        assert np.allclose(latents.parts["z"], z.detach(), atol=0.02)


# Models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    path = tmp_path_factory.mktemp("ring")
    return genkit.train(toys.ring, items=2_000, out=path / "run", settings=[FP32])


def test_a_model_finds_its_own_samples_and_draws_them_again(ring, tmp_path):
    own = ring.generate(5, seed=3)
    found = ring.project(own.x, steps=100)
    assert len(found) == 5
    assert float(found.distances.max()) < 1e-4
    folder = found.save(tmp_path / "found")
    again = ring.generate(noise=folder / "noise.safetensors")
    assert torch.equal(again.x, found.samples.x)
    assert torch.equal(ring.generate(indices=[3], noise=found.noise).x[0], found.samples.x[3])
    path = ring.interpolate([1, 4], steps=4, noise=found.noise).x
    assert torch.equal(path[[0, -1]], found.samples.x[[1, 4]])
    rows = json.loads((folder / "samples.json").read_text())["samples"]
    assert rows[4]["noise"] == found.noise.sha256
    assert "seed" not in rows[4]
    assert len(json.loads((folder / "distances.json").read_text())["distances"]) == 5


def test_a_search_compares_by_the_maps_of_feature_networks_and_by_what_critics_see(ring, tmp_path):
    """Points beyond the ring: the nearest that is drawn lies towards them, or below them where x weighs all."""

    class Looking(toys.Mixture):
        def feature_networks(self, weights, training):
            return {
                "x": FeatureNetwork(
                    lambda sample: sample.x, "fd-x", maps=lambda sample: [sample.x[:, 0]]
                ),
                "blind": FeatureNetwork(lambda sample: sample.x, "fd-blind"),
            }

    bare = ring.save(tmp_path / "bare", critics=False)
    model = genkit.load(bare, modality=replace(toys.ring, plugin=Looking))
    reach = ring.generate(256, seed=0).x.norm(dim=1).mean()
    targets = reach * torch.tensor([[0.6, 1.6]])
    errors = []
    for weight in (0.0, 1e4):
        found = model.project(targets, steps=100, starts=4, features=weight)
        errors.append((found.samples.x - targets).abs()[0])
    assert errors[1][0] < 0.02 < errors[0][0]
    assert errors[1][1] > errors[0][1]


def test_noise_that_is_given_has_limits(ring):
    noise = Latents({"z": np.zeros((2, 2))})
    with pytest.raises(ConfigError, match="index 2: the noise is that of 2 samples"):
        ring.generate(indices=[0, 2], noise=noise)
    with pytest.raises(ConfigError, match="best_of draws candidates of other noise"):
        ring.generate(noise=noise, best_of=2)
    with pytest.raises(ConfigError, match=r"cannot infer noise: project\(\) searches for it"):
        ring.infer(torch.zeros(1, 2))
    with pytest.raises(ModelError, match="no whole safetensors file"):
        ring.generate(noise="no-such-file")
    with pytest.raises(DataError, match="no items that could be found"):
        ring.project(torch.zeros(0, 2))


def test_sentences_are_inferred_exactly(tmp_path):
    model = genkit.train(toys.language, items=512, out=tmp_path / "run", settings=[FP32])
    own = model.generate(20, seed=1)
    found = model.project(own.sample)
    assert found.distances.tolist() == [0.0] * 20
    steps = model.generator.log_prob(own.sample)
    assert torch.allclose(found.log_probs, steps.double().sum(1), atol=1e-4)
    saved = json.loads((found.save(tmp_path / "found") / "distances.json").read_text())
    assert saved["log_probs"] == pytest.approx(found.log_probs.tolist(), abs=1e-4)
    assert torch.equal(model.reconstruct(own.sample).x, own.x)


# The command -----------------------------------------------------------------------------------------------------


def run(*words):
    with pytest.raises(SystemExit) as exit_info:
        main(list(map(str, words)))
    return exit_info.value.code or 0


def test_the_command_finds_files_and_generates_from_what_it_found(tmp_path, capsys):
    assert run("generate", "image", "-n", 2, "--seed", 5, "--out", f"{tmp_path}/in/") == 0
    out = tmp_path / "out"
    steps = ("--steps", 10, "--starts", 2, "--json")
    assert (
        run(
            "project",
            "image",
            tmp_path / "in/000000.png",
            tmp_path / "in/000001.png",
            "--out",
            out,
            *steps,
        )
        == 0
    )
    distances = json.loads(capsys.readouterr().out.partition("\n")[2])["distances"]
    assert len(distances) == 2
    assert max(distances) < 1, "nearer than a sample of no relation, which is at 2"
    noise = out / "noise.safetensors"
    assert run("generate", "image", "--noise", noise, "--out", f"{tmp_path}/again/") == 0
    assert (tmp_path / "again/000001.png").read_bytes() == (out / "000001.png").read_bytes()
    assert (
        run(
            "generate",
            "image",
            "--noise",
            noise,
            "--interpolate",
            "0,1",
            "--out",
            tmp_path / "a.png",
        )
        == 0
    )
    for wrong in (("--seed", 0), ("--best-of", 2), ("--resume",), ("--start", 2)):
        assert run("generate", "image", "--noise", noise, *wrong, "--out", f"{tmp_path}/no/") == 2
    assert run("project", "image", tmp_path / "missing.png", "--out", out) == 2
    assert "missing.png" in capsys.readouterr().err
    assert (
        run(
            "project",
            "image",
            tmp_path / "in/",
            out / "000000.png",
            *steps,
            "--out",
            tmp_path / "three",
        )
        == 0
    )
    assert len(json.loads(capsys.readouterr().out)["distances"]) == 3
    assert run("project", "image", out / "000000.png", "--out", tmp_path / "one.png") == 2

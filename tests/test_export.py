"""Exported models draw genkit's samples: the file, the reader beside it, the report, and what is refused."""

import importlib.util
import json
import math
import wave
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import toys
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from toy_curves import curves
from toys import duet, language

from genkit import config
from genkit.discovery import registry
from genkit.errors import ConfigError, GenkitError, PluginError
from genkit.plugin import Facts, Noise, Sample
from genkit.sampling import exporting, onnx_reader
from genkit.sampling.exporting import export_model
from genkit.sampling.model import Model
from genkit.sampling.noise import draw
from genkit.sampling.parity import Parity
from genkit.testing.findings import FIRM, perturbed


def untrained(modality, generator=None, facts=None, options=None, firmness=FIRM):
    """A model with weights of its own, as if it had been trained; `generator` replaces the modality's."""
    settings = config.build(modality, None, None, [{"options": options or {}}]).options
    plugin_class = registry.load(modality)
    plugin = plugin_class(settings, facts or plugin_class.inspect(None, settings))
    torch.manual_seed(0)
    network = generator or plugin.networks().generator
    network = perturbed(network.eval(), firmness).requires_grad_(False)
    return Model(modality, plugin, network, {}, torch.device("cpu"))


def points(generator):
    """A model of points with a generator of its own."""
    return untrained(toys.ring, generator)


def opened(content):
    """The session that a reader draws from, of an export or a file."""
    content = content.content if isinstance(content, exporting.Export) else str(content)
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


# The reader ------------------------------------------------------------------------------------------------------


SPECS = {
    "normal": Noise((5,)),
    "one number": Noise(()),
    "uniform": Noise((2, 3), "uniform"),
    "steps": Noise((3,), steps=7),
    "symbols": Noise((), "uniform", steps=6, dtype="float64"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_reader_draws_genkits_noise(spec):
    part = json.loads(json.dumps(exporting._noise_part("content.path", spec, None, None)))
    indices = [0, 1, 7, 10**12]
    rows = np.stack([onnx_reader.noise(part, 3, index) for index in indices])
    wanted = draw(spec, "content.path", 3, indices)
    assert (rows.dtype, rows.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(rows, wanted)


class HighestWords:
    """Philox, if all of its words were the highest."""

    def __init__(self, key, counter):
        pass

    def random_raw(self, count):
        return np.full(count, 2**64 - 1, np.uint64)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_readers_highest_numbers_are_genkits(spec, monkeypatch):
    monkeypatch.setattr(np.random, "Philox", HighestWords)
    row = onnx_reader.noise(exporting._noise_part("z", spec, None, None), 0, 0)
    np.testing.assert_array_equal(row, draw(spec, "z", 0, [0])[0])
    assert np.isfinite(row).all()
    assert spec.distribution == "normal" or (row < 1).all()


def test_the_reader_is_one_short_file_that_imports_neither_torch_nor_genkit():
    text = exporting._reader_text()
    assert len(text.splitlines()) <= 60
    imports = {line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))}
    assert imports == {"json", "sys", "hashlib", "statistics", "typing", "numpy", "onnxruntime"}


# A model that leaves ---------------------------------------------------------------------------------------------

DRAWN_ALONE = """
import runpy, sys
sys.argv = ["draw.py", *sys.argv[1:]]
runpy.run_path("draw.py", run_name="__main__")
print(sorted({"torch", "genkit"} & set(sys.modules)))
"""


def test_an_exported_model_draws_the_samples_of_genkit_where_genkit_is_not(
    train, command, process, tmp_path
):
    model, run = train(duet, 64)
    registry.register(duet)
    try:
        result = command("export", run, "scale=0.5", "--out", tmp_path / "new/duet.onnx", "--json")
    finally:
        registry.unregister("duet")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    figures, about = report["parity"], report["about"]
    assert (figures["samples"], figures["equal"], figures["passed"]) == (1000, 1.0, True)
    assert 0 < figures["mean"] <= figures["largest"] < 1e-5
    assert list(about["inputs"]) == ["noise.z", "noise.tail", "condition", "scale"]
    assert about["controls"] == {"scale": 0.5}
    assert about["labels"] == {"class0": 0, "class1": 1, "class2": 2}
    assert (about["facts"]["axes"], about["sha256"]) == (["coordinates"], model.sha256)
    arguments = ("duet.onnx", "out.npy", 3, 4, 999, "condition=class1", "scale=2")
    result = process("-c", DRAWN_ALONE, *arguments, cwd=tmp_path / "new")
    assert (result.stdout, result.stderr) == ("[]\n", "")
    chosen = {"label": "class1", "controls": {"scale": 2.0}}
    samples = model.generate(indices=[4, 999], seed=3, **chosen)
    np.testing.assert_allclose(np.load(tmp_path / "new/out.npy"), samples.x, atol=1e-5)
    content = (tmp_path / "new/duet.onnx").read_bytes()
    assert b".py" not in content  # nothing of where it was made
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "duet.onnx",
        "draw.py",
        "out.npy",
    }


class Counting:
    """A session as of ONNX Runtime, whose step counts on from what it was forced to: x = state + 1 + noise."""

    about = {
        "noise": [], "labels": {}, "conditions": [], "facts": {"vocabulary": ["-", "\xc3", "\xa4", "c"]},
        "inputs": {"state.last": "int64", "forced": "int64"}, "outputs": ["x", "mask", "next.last"],
        "controls": {"prefix": [0]}, "loop": {"length": 3, "joined": True, "noise": [], "state": {"last": -1}},
    }  # fmt: skip

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={"genkit": json.dumps(self.about)})

    def run(self, outputs, inputs):
        forced, last = inputs["forced"], inputs["state.last"]
        x = np.where(forced < 0, last + 1, forced)
        return [x, last < 2, x]


def test_the_reader_runs_the_loop_behind_the_prefix_and_writes_lines():
    x, mask, lines = onnx_reader.draw(Counting(), [0, 1])
    np.testing.assert_array_equal(x, [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(mask, [[True, True, False]] * 2)
    assert lines == ["ä", "ä"]
    x, mask, lines = onnx_reader.draw(Counting(), [0], prefix=[5, 1])
    np.testing.assert_array_equal(x, [[2, 3, 4]])
    with pytest.raises(SystemExit, match=r"no control prefixes: the file has \{'prefix'"):
        onnx_reader.draw(Counting(), [0], prefixes=[5])


# What is refused -------------------------------------------------------------------------------------------------


class Branches(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        sample = super().forward(noise)
        return sample if sample.x.sum() > 0 else sample.with_x(-sample.x)


class CountsRows(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        sample = super().forward(noise)
        return sample.with_x(sample.x + torch.zeros(len(noise["z"]), 2))


class OtherwiseOutside(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        return Sample(super().forward(noise).x + 0.01 * torch.compiler.is_exporting())


FAULTS = {
    Branches: "cannot be traced: a number or a branch in Python depends on the values of a tensor in line",
    CountsRows: r"cannot be traced: it takes the number of rows as a plain number, by len\(x\) say",
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_generator_that_cannot_be_exported_says_why(kind, capfd):
    with pytest.raises(PluginError, match=FAULTS[kind]):
        export_model(points(kind(8, 2)))
    assert capfd.readouterr() == ("", "")


def test_a_file_that_draws_other_samples_is_not_written(tmp_path):
    parity = Parity(100, 1.5e-3, 1e-4, 0.99, 1e-3, 1.0, 1.0)
    with pytest.raises(GenkitError, match="is not written, since it would not draw the samples"):
        exporting.Export(b"content", {}, parity).save(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert Parity(2000, None, None, 0.9905, 1e-3, 1.0, 1.0).passed
    assert not Parity(2000, None, None, 0.98, 1e-3, 1.0, 1.0).passed


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_found(tmp_path):
    with pytest.raises(
        GenkitError, match=r"draw the samples of genkit: 100 samples differ by 1.0e-02"
    ):
        points(OtherwiseOutside(8, 2)).export(tmp_path / "model.onnx", samples=100)
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_would_replace_and_numbers_that_cannot_be_are_said_at_once(tmp_path):
    model = points(toys.PointGenerator(8, 2))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/draw.py").write_text("print('mine')\n")
    wrong = [
        ({"path": tmp_path}, "is a folder: name a file"),
        ({"path": tmp_path / "model.safetensors"}, r"does not end in \.onnx"),
        ({"path": tmp_path / "own/model.onnx"}, "draw.py is a file of your own"),
        ({"opset": 7}, "opset = 7: from 18 to"),
        ({"opset": 99}, "opset = 99: from 18 to"),
        ({"samples": 0}, "at least one sample"),
        ({"tolerance": math.nan}, "a tolerance above 0"),
        ({"label": "a"}, "this model is unconditional"),
        ({"controls": {"scale": 1}}, "ring has no controls"),
    ]
    for arguments, says in wrong:
        with pytest.raises(ConfigError, match=says):
            model.export(**{"path": tmp_path / "model.onnx", **arguments})
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert (tmp_path / "own/draw.py").read_text() == "print('mine')\n"


def test_without_the_extra_it_says_what_to_install(tmp_path, command, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "onnx" else find_spec(name, *more),
    )
    result = command("export", "nowhere", "--out", tmp_path / "model.onnx")
    says = "exporting needs onnx, which is not installed: pip install 'genkit-gan[export]'"
    assert (result.returncode, result.stderr) == (2, f"genkit: {says}\n")


def test_a_plugin_says_that_its_model_cannot_be_exported():
    class Refuses(toys.Mixture):
        def export_facts(self):
            raise ConfigError("points on a ring stay here")

    class Mutters(toys.Mixture):
        def export_facts(self):
            return {"points": object()}

    for plugin, kind, says in (
        (Refuses, ConfigError, "^points on a ring stay here$"),
        (Mutters, PluginError, "failed at export_facts: it returned no JSON data"),
    ):
        with pytest.raises(kind, match=says):
            export_model(untrained(replace(toys.ring, plugin=plugin)))


# What else is exported: minutes of work --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_loop_over_steps_draws_the_same_symbols_and_takes_those_that_it_is_given():
    model = untrained(language)
    export = export_model(model, samples=130)
    assert (export.parity.equal, export.parity.largest) == (1.0, None)
    assert export.about["loop"]["length"] == 3
    session = opened(export)
    x, mask, lines = onnx_reader.draw(session, range(70), 5)
    sample = model.generate(70, seed=5).sample
    np.testing.assert_array_equal(x, sample.x)
    np.testing.assert_array_equal(mask, sample.mask)
    assert lines == []


class Fickle(toys.DuetGenerator):
    """A scale that is no tensor, and a gain that is one."""

    def forward(self, noise, condition=None, controls=None):
        sample = super().forward(
            noise, condition, controls and duet_controls(float(controls.scale))
        )
        return sample.with_x(sample.x * (1.0 if controls is None else controls.gain))


def duet_controls(scale):
    return toys.DuetControls(scale=scale)


class FickleControls(toys.DuetControls):
    gain: float = 2.0
    count: int = 3


@pytest.mark.slow
def test_numbers_become_inputs_where_the_generator_computes_with_them():
    facts, options = Facts({"labels": ["class0", "class1", "class2"]}), toys.DuetOptions()
    modality = replace(duet, controls=FickleControls)
    model = untrained(modality, Fickle(options), facts)
    export = export_model(model, {"scale": 0.5}, samples=100)
    assert export.about["controls"] == {"gain": 2.0}
    assert export.about["fixed"] == {"scale": 0.5, "count": 3}
    x, _, _ = onnx_reader.draw(opened(export), range(4), gain=-1.0)
    controls = {"scale": 0.5, "gain": -1.0}
    np.testing.assert_allclose(x, model.generate(4, controls=controls).x, atol=1e-5)


@pytest.mark.slow
def test_a_sample_of_any_length_is_exported_in_the_length_that_is_asked_for():
    model = untrained(curves)
    export = export_model(model, {"steps": 50, "motion_seed": 4}, samples=100)
    assert export.parity.passed
    session = opened(export)
    for seeds in ({}, {"motion_seed": 7}, {"content_seed": 1, "motion_seed": None}):
        x, _, _ = onnx_reader.draw(session, [2, 9], 3, **seeds)
        controls = {"steps": 50, "motion_seed": 4} | seeds
        wanted = model.generate(indices=[2, 9], seed=3, controls=controls).x
        assert wanted.shape == (2, 1, 50)
        np.testing.assert_allclose(x, wanted, atol=1e-5)


class Parametrized(nn.Module):
    """Tied weights, spectral and weight norm, convolutions: [B, 1, 8, 8]."""

    def __init__(self):
        super().__init__()
        self.noise = {"z": Noise((16,)), "unused": Noise((2,))}
        self.into, self.back = nn.Linear(16, 16), nn.Linear(16, 16)
        self.back.weight = self.into.weight
        self.norm = weight_norm(nn.Conv2d(1, 4, 3, padding=1))
        self.up = spectral_norm(nn.ConvTranspose2d(4, 1, 4, 2, 1))

    def forward(self, noise, condition=None, controls=None):
        x = self.back(self.into(noise["z"]).relu()).view(-1, 1, 4, 4)
        return Sample(self.up(self.norm(x).relu()).tanh())


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_parametrized_and_tied_weights_are_exported(opset):
    export = export_model(points(Parametrized()), samples=100, opset=opset)
    assert export.parity.largest < 1e-5
    file = onnx.load_from_string(export.content)
    assert file.opset_import[0].version == export.about["opset"] == opset
    assert [value.name for value in file.graph.input] == ["noise.z"]
    onnx.checker.check_model(file, full_check=True)


class NoSuchOperator(toys.PointGenerator):
    """Computes with an operator that ONNX Runtime has for float32 alone."""

    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise).x
        return Sample(torch.special.ndtr(x.double()).float())


@pytest.mark.slow
def test_what_onnx_runtime_cannot_run_is_said():
    with pytest.raises(PluginError, match=r"ONNX Runtime cannot run it: .*Erf"):
        export_model(points(NoSuchOperator(8, 2)))


# All presets -----------------------------------------------------------------------------------------------------

FACTS = {
    "image": {"channels": 3, "labels": ["cat", "dog", "hen"], "augment": False},
    "audio": {"rate": 16_000, "labels": []},
    "video": {"channels": 1, "rate": 8.0, "labels": []},
}
LINES = ["the cat sat on the mat.", "a dog, a hen", "the hen is a cat"]
DECODER = {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2}
DECODER |= {"bos_token_id": 0, "eos_token_id": 0}
SMALL = {
    "image": {"size": 16, "features": 4, "features_max": 16, "latent": 8},
    "audio": {"samples": 4096, "features": 2},
    "video": {"size": 16, "features": 4},
    "text": {},
}
CASES = [(id, preset) for id in SMALL for preset in registry.describe(id).presets]


def of_preset(id, preset, labels=None, **options):
    """A small model of a preset with weights of its own, as if it had been trained."""
    manifest = registry.describe(id)
    settings = config.build(manifest, preset, None, [{"options": SMALL[id] | options}]).options
    plugin_class = registry.load(manifest)
    if id in FACTS:
        facts = Facts(FACTS[id] | ({} if labels is None else {"labels": labels}))
    else:  # as of a language model from the Hub, whose configuration is among the facts
        facts = plugin_class.inspect(LINES, settings.model_copy(update={"pretrained": None}))
        decoder = DECODER | {"vocab_size": facts["symbols"]} if settings.pretrained else None
        facts = Facts({**facts.values, "decoder": decoder}, facts.files)
    torch.manual_seed(0)
    plugin = plugin_class(settings, facts)
    generator = perturbed(plugin.networks().generator.eval(), 0.1).requires_grad_(False)
    info = {"preset": preset, "options": settings.model_dump(mode="json")}
    return Model(manifest, plugin, generator, info, torch.device("cpu"))


def tone(folder):
    """The path of a sound file that does not end with a whole frame."""
    path = folder / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(5000) / 7)).astype("<i2").tobytes())
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(("id", "preset"), CASES)
def test_every_preset_is_exported(id, preset, tmp_path):
    """1,000 samples each, of small networks with random weights: the table of docs/guides/export.md."""
    is_vocoder = preset == "vocoder"
    model = of_preset(id, preset, **({"width": 16, "blocks": 2} if is_vocoder else {}))
    label = tone(tmp_path) if is_vocoder else None
    export = model.export(tmp_path / "model.onnx", label=label)
    figures, inputs = export.parity, ", ".join(export.about["inputs"])
    seconds = f"genkit {figures.genkit_seconds:.1f} s, the reader {figures.reader_seconds:.1f} s"
    print(
        f"\n{id} {preset}: {figures}; {inputs}; {seconds}; {len(export.content) / 2**10:,.0f} KiB"
    )
    assert figures.equal == 1


VARIANTS = {
    "truncated": ("image", "compact", {}, {"truncation": 0.5}),
    "truncated without classes": ("image", "compact", {"labels": []}, {"truncation": 0.5}),
    "clips by class": ("video", "stream", {"labels": ["up", "down"]}, {"seconds": 3, "fps": 12}),
    "clips with a beginning": ("video", "stream", {"cut": "start"}, {"content_seed": 1}),
    "found categories": ("video", "mocogan", {"categories": 3}, {}),
    "short clips": ("video", "tgan-small", {}, {"seconds": 1, "fps": 16}),
    "sounds by class": ("audio", "wavegan-small", {"labels": ["a", "b"]}, {"seconds": 0.1}),
    "endless sounds": ("audio", "stream", {}, {"seconds": 1, "texture_seed": 3}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("id", "preset", "options", "controls"), VARIANTS.values(), ids=VARIANTS)
def test_controls_and_conditions_are_exported(id, preset, options, controls):
    model = of_preset(id, preset, **options)
    export = export_model(model, controls, samples=100)
    assert export.parity.passed, str(export.parity)
    assert ("condition" in export.about["inputs"]) == bool(model.plugin.facts["labels"])
    if "truncation" in controls:
        assert export.about["controls"] == {"truncation": 0.5}
        x, _, _ = onnx_reader.draw(opened(export), [3, 4], truncation=0.9)
        wanted = model.generate(indices=[3, 4], controls={"truncation": 0.9}).x
        np.testing.assert_allclose(x, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_spectrum_that_a_file_does_not_know_is_passed_to_it(tmp_path):
    model = of_preset("audio", "vocoder", width=16, blocks=2)
    path = tone(tmp_path)
    session = opened(export_model(model, label=path))
    row = model.plugin.condition(path, [0])[0].numpy()
    x, _, _ = onnx_reader.draw(session, [0], condition=row)
    np.testing.assert_allclose(x, model.generate(1, label=path).x, atol=1e-3)

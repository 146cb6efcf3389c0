"""What names a model, and what is told of it: bundled models of a stranger's plugin, lists, cards, half precision."""

import contextlib
import json
import re
import shlex
import shutil
import sys
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
import yaml

import genkit
from conftest import Site, on_the_path
from genkit import config as configuration
from genkit.discovery import bundled, registry
from genkit.discovery.doctor import load_faults
from genkit.errors import ConfigError, ModelError, PluginError, UnknownModality
from genkit.sampling import card
from genkit.sampling.model_folder import read_critics, read_model, read_model_config
from genkit.sampling.model_names import find_model, known_models

MANIFEST = """
from genkit.plugin import Modality, Preset
modality = Modality(
    id="dots", title="Dots & <b>more</b>", plugin="toys:Mixture", options="toys:RingOptions",
    data="builtin:dots", pipeline_tag="dot-generation",
    presets={"default": Preset(recipe={"batch_size": 16}, run={"plan": "fp32"})},
    models={"first": "fake_dots_models:first", "second": "fake_dots_models:deeper/second"},
)
"""
ENTRIES = {
    "license": "Apache-2.0",
    "data_license": "CC0 1.0",
    "limits": "Points <script>alert(1)</script> in a | plane.",
    "scores": [{"name": "fd-toy", "value": 1.25, "low": 1.0, "high": 1.5, "data": "dots/test", "protocol": "10 of 10"}],
}  # fmt: skip
STILL = {player: {"learning_rate": 0.0} for player in ("generator", "critic")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `runs/dots`, and a plugin in `site` with which two models ship that the run has made."""
    folder = tmp_path_factory.mktemp("made")
    site, package = Site(folder / "site"), folder / "site" / "fake_dots_models"
    site.install("genkit-dots", {"dots": "fake_dots:modality"}, {"fake_dots": MANIFEST})
    (package / "deeper").mkdir(parents=True)
    (package / "__init__.py").touch()
    settings = {"threads": 1, "options": {"width": 16, "depth": 1}, "recipe": {"loss": "hinge"}}
    with on_path(site.folder):
        run = genkit.train("dots", items=32, out=folder / "runs/dots", seed=5, **settings)
        run.save(package / "first", dtype="float16", critics=False, card=ENTRIES)
        run.save(package / "deeper" / "second")
    return folder


@pytest.fixture
def dots(made, tmp_path, monkeypatch):
    """The package of the models of an installed plugin; the working folder has a run of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", on_the_path(tmp_path / "site"))
    monkeypatch.syspath_prepend(tmp_path / "site")  # a test may prepend another: both end together
    yield tmp_path / "site" / "fake_dots_models"
    forget_modules()


@contextlib.contextmanager
def on_path(folder):
    """A context in which a folder is in front of sys.path, and after which none of its modules is imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget_modules()


def forget_modules():
    for name in [name for name in sys.modules if name.startswith("fake_dots")]:
        del sys.modules[name]


def same(*models):
    first, *others = (model.generate(4, seed=2).x for model in models)
    return all(torch.equal(first, other) for other in others)


def first_value(x, facts):
    return x[:, :1]


def packed_size(model):
    """Bytes of a model's files in a wheel."""
    files = (path for path in Path(model.path).rglob("*") if path.is_file())
    return sum(len(zlib.compress(path.read_bytes())) for path in files)


def missing(model):
    """What a model that ships lacks: an entry of its card, or that it is small."""
    entries = card.of(read_model_config(Path(model.path)))
    names = ("license", "data_license", "data", "seed", "limits", "command", "scores")
    return [
        *(name for name in names if name not in entries),
        *(["size"] if packed_size(model) > 3e6 else []),
    ]


def test_the_models_that_ship_with_the_project_s_plugins_are_small_and_have_whole_cards(dots):
    ours = registry.project_distributions()
    models = [model for model in known_models() if model.place == "bundled"]
    assert {model.name: missing(model) for model in models if model.modality not in ours} == {
        "dots": [],
        "dots:second": ["license", "data_license", "limits", "scores"],
    }
    lacking = {model.name: missing(model) for model in models if model.modality in ours}
    assert {name: entries for name, entries in lacking.items() if entries} == {}


# Names -----------------------------------------------------------------------------------------------------------


def test_a_modality_s_id_is_its_bundled_model_and_names_lead_to_the_others(dots, command):
    for name in ("dots", "dots:first", "genkit-dots:dots", "Genkit_Dots:dots:first"):
        assert find_model(name) == dots / "first"
    assert (
        find_model("dots:second") == find_model("genkit-dots:dots:second") == dots / "deeper/second"
    )
    assert genkit.load("dots").path == dots / "first"
    assert torch.equal(
        genkit.generate("dots", 3, seed=4).x, genkit.load(dots / "first").generate(3, seed=4).x
    )
    assert same(genkit.load("dots:second"), genkit.load("runs/dots"))
    done = command("generate", "dots", "-n", 2, "--out", "some/")
    assert (done.returncode, len(list(Path("some").glob("*.npy")))) == (0, 2)
    assert f"model:                  {dots / 'first'}" in command("info", "dots").stdout
    assert "models that ship with it: first, second" in command("plugins", "show", "dots").stdout


def test_a_folder_that_holds_a_model_comes_before_a_modality_of_its_name(dots):
    Path("dots").mkdir()
    assert find_model("dots") == dots / "first"
    shutil.copytree("runs/dots/model", "dots", dirs_exist_ok=True)
    assert find_model("dots") == Path("dots")
    assert find_model("./dots") == Path("dots")
    assert find_model("dots:first") == dots / "first"


def test_what_is_no_name_of_a_model_is_answered_with_what_there_is(dots):
    for name, message in {
        "dot": "does not exist.* Did you mean 'dots'",
        "runs/dot": r"does not exist.* Did you mean 'runs/dots'.*hub:runs/dot",
        "./dots": "does not exist",
        "dots:frist": r"no model 'frist' that ships with it\. Did you mean 'first'",
        "dots:a:b": "no model 'a:b'",
        "site": "neither a model folder",
    }.items():
        with pytest.raises(ModelError, match=message):
            find_model(name)
    with pytest.raises(ConfigError, match=r"dots is no model on the Hub"):
        genkit.load("dots", revision="v2")


def test_a_plugin_without_models_or_that_is_not_there_says_what_to_do(site, monkeypatch):
    site.plugin("bare")
    with pytest.raises(
        ModelError,
        match=r"genkit-bare 1\.0 \(bare\) ships no model: train one with `genkit train bare`",
    ):
        find_model("bare")
    site.plugin("odd", before="raise RuntimeError('odd')\n")
    with pytest.raises(PluginError, match="odd"):
        find_model("odd")
    monkeypatch.setattr(registry, "project_distributions", lambda: {"smells": "genkit-gan-smells"})
    with pytest.raises(UnknownModality, match="pip install genkit-gan-smells"):
        find_model("smells")


def test_training_goes_on_from_a_bundled_model(dots, command):
    genkit.train("dots", items=32, out="runs/still", init="dots", threads=1, recipe=STILL)
    assert same(genkit.load("runs/still"), genkit.load("dots"))
    words = ["--threads", "1", "recipe.generator.learning_rate=0", "recipe.critic.learning_rate=0"]
    done = command(
        "train", "dots", "--items", 32, "--out", "runs/second", "--init", "dots:second", *words
    )
    assert "fresh weights" not in done.stderr  # this one has its critics
    assert same(genkit.load("runs/second"), genkit.load("dots:second"))
    one, other = (read_critics(Path(run, "model")) for run in ("runs/second", "runs/dots"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_model_config(Path("runs/second/model"))["card"]["init"] == "dots:second"


# Broken ones -----------------------------------------------------------------------------------------------------

FAULTS = {
    "gone": (lambda folder: shutil.rmtree(folder), "is missing: reinstall genkit-dots"),
    "empty": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
    "cut": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"cut"),
        "no whole safetensors file",
    ),
    "of another modality": (
        lambda folder: change(folder, modality="lines"),
        "does not describe a model of 'dots'",
    ),
    "of another plugin": (
        lambda folder: change(folder, plugin={"distribution": "dots-gan", "version": "1"}),
        "was made with dots-gan, not with genkit-dots",
    ),
}


def change(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_bundled_model_is_a_fault_of_its_plugin(dots, name):
    assert list(bundled.faults(registry.describe("dots"))) == []
    spoil, message = FAULTS[name]
    spoil(dots / "first")
    (fault,) = bundled.faults(registry.describe("dots"))
    assert fault.startswith("its model 'first': ")
    assert message in fault


def test_the_doctor_names_a_broken_bundled_model_and_lists_go_on_without_it(dots, command):
    shutil.rmtree(dots / "deeper")
    assert load_faults("fake_dots:modality") == [
        f"its model 'second': {dots / 'deeper/second'} is missing: reinstall genkit-dots"
    ]
    rows = {model.name: model.fault for model in known_models()}
    assert rows["dots"] == rows["runs/dots"] == ""
    assert "is missing" in rows["dots:second"]
    with pytest.raises(PluginError, match="failed at its model 'second'"):
        genkit.load("dots:second")


def test_a_package_in_an_archive_is_told_to_be_installed_as_files(dots, tmp_path, monkeypatch):
    shutil.make_archive(str(tmp_path / "zipped"), "zip", dots.parent, "fake_dots_models")
    shutil.rmtree(dots)
    monkeypatch.syspath_prepend(tmp_path / "zipped.zip")
    with pytest.raises(
        PluginError, match="fake_dots_models is inside an archive: install it as files"
    ):
        find_model("dots")


# Lists -----------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_what_is_known_of_them(dots, command):
    (Path("runs/broken/model")).mkdir(parents=True)
    Path("runs/broken/model/config.json").write_text("{")
    document = json.loads(command("models", "--json").stdout)
    rows = {row.pop("name"): row for row in document["models"]}
    assert [name for name in rows if "dots" in name] == ["dots", "dots:second", "runs/dots"]
    size = sum(file.stat().st_size for file in (dots / "first").rglob("*"))
    assert rows["dots"] == {
        "place": "bundled", "modality": "dots", "bytes": size, "license": "Apache-2.0",
        "scores": "fd-toy 1.25 [1, 1.5]", "path": str(dots / "first"), "fault": "",
    }  # fmt: skip
    assert rows["dots:second"]["bytes"] > size
    assert rows["runs/dots"]["place"] == "local"
    assert "cannot be read" in rows["runs/broken"]["fault"]
    table = command("models").stdout
    assert re.search(r"^dots +bundled +dots +0\.0 +Apache-2\.0 +fd-toy 1\.25", table, re.M)


def test_names_are_resolved_and_listed_without_torch(dots, python):
    code = """
import sys
from genkit.cli import main
for words in (["models"], ["info", "dots"], ["card", "dots"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
assert not {"torch", "huggingface_hub.hf_api"} & set(sys.modules)
"""
    assert "fd-toy" in python(code)


# Half precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_stored_in_half_precision_is_what_is_drawn(dots, tmp_path, dtype):
    model = genkit.load("runs/dots")
    halved = genkit.load(model.save(tmp_path / "half", dtype=dtype))
    _, stored, _ = read_model(tmp_path / "half")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert {parameter.dtype for parameter in halved.generator.parameters()} == {torch.float32}
    for name, tensor in halved.generator.state_dict().items():
        assert torch.equal(tensor, stored[name].float())
    assert not same(halved, model)
    again = genkit.load(halved.save(tmp_path / "again"))  # as it is stored
    assert same(halved, again)
    assert read_model(tmp_path / "again")[0]["dtype"] == dtype
    assert same(halved, genkit.load(halved.save(tmp_path / "whole", dtype="float32")))
    assert halved.generate(4, best_of=2).x.isfinite().all()  # its critics are halved, too


def test_a_precision_that_cannot_hold_a_weight_is_refused(dots, tmp_path):
    model = genkit.load("runs/dots")
    with pytest.raises(ConfigError, match=r"dtype = 'float32x'.* Did you mean 'float32'"):
        model.save(tmp_path / "half", dtype="float32x")
    next(model.generator.parameters()).fill_(1e6)
    with pytest.raises(
        ConfigError, match=r"body\.0\.weight has values that it cannot hold: take bfloat16"
    ):
        model.save(tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    model.save(tmp_path / "half", dtype="bfloat16")


def test_copy_makes_what_ships(dots, command, tmp_path):
    done = command("copy", "runs/dots", "out", "--dtype", "float16", "--no-critics")
    assert done.stdout.strip() == "out"
    assert {path.name for path in Path("out").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert same(genkit.load("out"), genkit.load("dots"))
    with pytest.raises(ConfigError, match="critics"):
        genkit.load("out").generate(1, best_of=2)


# Defaults of controls --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def duet(tmp_path_factory):
    """A copy of a model of the duet whose noise has half its scale unless somebody says otherwise, and the model."""
    folder = tmp_path_factory.mktemp("duet")
    model = genkit.train(toys.duet, items=32, out=folder / "run", threads=1)
    path = model.save(folder / "half", controls={"scale": 0.5})
    return genkit.load(path, modality=toys.duet), model


def test_a_copy_draws_with_defaults_of_its_own(duet, tmp_path):
    half, model = duet
    wanted = model.generate(4, controls={"scale": 0.5})
    assert torch.equal(half.generate(4).x, wanted.x)
    assert torch.equal(half.generate(4, controls={"scale": 1.0}).x, model.generate(4).x)
    assert not torch.equal(model.generate(4).x, wanted.x)
    assert half.generate(4).controls.scale == 0.5
    pairs = [
        one.interpolate([0, 3], 3, controls=values).x
        for one, values in ((half, None), (model, {"scale": 0.5}))
    ]
    assert torch.equal(*pairs)
    again = genkit.load(half.save(tmp_path / "again"), modality=toys.duet)
    assert torch.equal(again.generate(4).x, wanted.x)
    rows = genkit.evaluate({"half": half, "whole": model}, "x", 40, features=first_value).rows
    assert [row.controls["scale"] for row in rows if row.kind == "model"] == [0.5, 1.0]
    half.generate_to(tmp_path / "files", 4)
    assert json.loads((tmp_path / "files/samples.json").read_text())["controls"] == {"scale": 0.5}


def test_other_defaults_leave_the_scores_behind_and_are_on_the_card(duet, tmp_path):
    half, _ = duet
    scored = genkit.load(
        half.save(tmp_path / "scored", card={"scores": [{"name": "fd", "value": 1.0}]}),
        modality=toys.duet,
    )
    assert "## Scores" in card.markdown(scored.info, "it")
    assert "| controls | scale 0.5 |" in card.markdown(scored.info, "it")
    other = genkit.load(
        scored.save(tmp_path / "other", controls={"scale": 0.25}), modality=toys.duet
    )
    assert "## Scores" not in card.markdown(other.info, "it")


def test_scores_are_those_of_the_copy_with_these_defaults(duet, tmp_path):
    half, model = duet
    whole = genkit.load(model.save(tmp_path / "whole"), modality=toys.duet)
    evaluation = genkit.evaluate({"whole": whole, "half": half}, "x", 40, features=first_value)
    scores = {}
    for name, one in (("whole", whole), ("half", half)):
        one.save(tmp_path / name, card={"scores": evaluation.to_json()})
        rows = read_model_config(tmp_path / name)["card"]["scores"]
        scores[name] = next(row["value"] for row in rows if row["name"] == "fd-first_value")
        assert scores[name] == evaluation.row(name).figures["fd-first_value"].value
    assert scores["whole"] != scores["half"]


def test_defaults_are_kept_as_plain_data_and_drawn_with_before_they_are_written(duet, tmp_path):
    half, _ = duet
    for value in ("0.25", np.float32(0.25), Fraction(1, 4)):
        path = half.save(tmp_path / "copy", controls={"scale": value})
        assert read_model_config(path)["controls"] == {"scale": 0.25}

    class Picky(toys.DuetGenerator):
        def forward(self, noise, condition=None, controls=None):
            if controls.scale > 2:
                raise ConfigError("scale > 2 is for other models: leave it out")
            return super().forward(noise, condition, controls)

    picky = replace(half, generator=Picky(half.plugin.options).eval())
    with pytest.raises(ConfigError, match="scale > 2 is for other models"):
        picky.save(tmp_path / "loud", controls={"scale": 3.0})
    assert not (tmp_path / "loud").exists()


def test_defaults_that_cannot_be_are_refused(duet, tmp_path):
    half, _ = duet
    with pytest.raises(ConfigError, match=r"scael.*Did you mean"):
        half.save(tmp_path / "bad", controls={"scael": 2.0})
    assert not (tmp_path / "bad").exists()
    path = half.save(tmp_path / "foreign")
    content = json.loads((path / "config.json").read_text())
    for controls, says in (
        ({"scale": "loud"}, "controls: scale"),
        ([1], "controls missing or of the wrong type"),
    ):
        (path / "config.json").write_text(json.dumps({**content, "controls": controls}))
        with pytest.raises(ModelError, match=says):
            genkit.load(path, modality=toys.duet)


# Cards -----------------------------------------------------------------------------------------------------------


def test_a_run_writes_what_it_knows_on_the_card(dots):
    known = read_model_config(Path("runs/dots/model"))["card"]
    command = (
        "genkit train dots --preset default --data builtin:dots --items 32 --seed 5 --plan fp32 --threads 1 "
        "options.width=16 options.depth=1 recipe.loss=hinge"
    )
    assert known["command"] == command
    assert known["seed"] == 5
    assert known["recipe"] == {"batch_size": 16, "loss": "hinge"}
    assert (known["device"], known["plan"], known["threads"]) == ("cpu", "fp32", 1)
    assert known["torch"] == torch.__version__
    assert known["pipeline_tag"] == "dot-generation"
    assert known["parameters"] == sum(p.numel() for p in genkit.load("dots").generator.parameters())
    assert 0 < known["seconds"] < 60


def test_the_command_of_a_card_makes_the_model_again(dots, command):
    words = read_model_config(Path("runs/dots/model"))["card"]["command"].split()[1:]
    assert command(*words, "--out", "runs/again").returncode == 0
    assert same(genkit.load("runs/dots"), genkit.load("runs/again"))


def test_a_command_tells_lists_and_mappings_whole_and_paths_without_their_place(tmp_path):
    photos = tmp_path / "secret" / "photos"
    photos.mkdir(parents=True)
    schedule = {"start": 1e-3, "end": 1e-4, "items": 200_000}  # the preset's is in shares
    recipe = {"penalties": {"r2": {"weight": 2.0}}, "critics": {"critic": {"steps": 2}}}
    recipe["critic"] = {"learning_rate": schedule}
    built = configuration.build("image", "compact", photos, [{"recipe": recipe}])
    line = configuration.command(built)
    assert "--data photos" in line
    assert "secret" not in line
    words = shlex.split(line)
    overrides = configuration.parse_overrides([word for word in words if "=" in word])
    again = configuration.build("image", "compact", photos, [overrides])
    assert again.recipe == built.recipe
    assert (
        configuration.command(configuration.build("image", data=torch.zeros(2, 3, 16, 16))) is None
    )


def test_the_readme_has_the_hub_s_metadata_and_what_is_known(dots):
    text = (dots / "first" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "genkit",
        "pipeline_tag": "dot-generation",
        "license": "apache-2.0",
        "tags": ["gan", "dots"],
        "model-index": [
            {
                "name": "Dots & <b>more</b>",
                "results": [
                    {
                        "task": {"type": "dot-generation"},
                        "dataset": {"name": "dots/test", "type": "dots/test"},
                        "metrics": [{"type": "fd-toy", "value": 1.25, "name": "fd-toy (10 of 10)"}],
                    }
                ],
            }
        ],
    }
    for line in (
        "    genkit generate PATH-OF-THIS-FOLDER -n 16 --seed 0 --out samples/",
        "| stored as | float16 |",
        "| licence of the data | CC0 1.0 |",
        "| fd-toy | 1.25 \\[1, 1.5\\] |  | dots/test | 10 of 10 |",
        "Points &lt;script&gt;alert(1)&lt;/script&gt; in a \\| plane.",
    ):
        assert line in text.splitlines()


def test_the_hub_s_own_library_reads_the_metadata(dots):
    from huggingface_hub import ModelCard

    data = ModelCard.load(dots / "first" / "README.md").data
    (result,) = data.eval_results
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "apache-2.0",
        "dot-generation",
        "genkit",
    )
    assert (result.metric_type, result.metric_value) == ("fd-toy", 1.25)


@pytest.mark.parametrize(
    ("entries", "front"),
    [
        ({"license": "CC0 1.0 and MIT"}, {"license": "other", "license_name": "CC0 1.0 and MIT"}),
        ({"data": "hub:user/data:part"}, {"datasets": ["user/data"]}),
        ({"init": "user/name@v1"}, {"base_model": "user/name"}),
        ({"init": "dots:second", "data": "builtin:x", "license": ""}, {}),
    ],
)
def test_metadata_is_of_the_hub_s_kinds(entries, front):
    found = card.metadata({"modality": "dots", "card": entries})
    assert found == {"library_name": "genkit", "tags": ["gan", "dots"], **front}


def test_card_prints_and_adds_and_keeps_what_was_there(dots, command, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(ENTRIES["scores"]))
    model = Path("runs/dots/model")
    assert command("card", "runs/dots", "--license", "mit").stdout.strip() == str(
        model / "README.md"
    )
    (model / "README.md").write_text((model / "README.md").read_text() + "Thanks to all dots.\n")
    done = command("card", "runs/dots", "--scores", "scores.json", "--limits", "flat")
    assert done.returncode == 0
    known = read_model_config(model)["card"]
    assert (known["license"], known["limits"], known["seed"]) == ("mit", "flat", 5)
    assert known["scores"] == ENTRIES["scores"]
    assert (model / "README.md").read_text().endswith("keeps this. -->\nThanks to all dots.\n")
    assert "| fd-toy | 1.25" in command("card", "runs/dots").stdout
    copy = genkit.load("runs/dots").save("copy", card={"limits": None})
    assert "limits" not in read_model_config(copy)["card"]
    assert (copy / "README.md").read_text().endswith("Thanks to all dots.\n")


def evaluation(sha256, data):
    """What `genkit evaluate --json` writes of two models, one of which has these weights."""

    def row(name, kind, value, digest=None):
        figures = {
            "fd-toy": {"value": value, "low": value - 1, "high": value + 1, "protocol": f"10 real of {data}@ab"},
            "recall-toy": {"value": None, "low": None, "high": None, "protocol": ""},
        }  # fmt: skip
        model = {"sha256": digest, "path": "/home/somebody/x"} if digest else None
        return {"name": name, "kind": kind, "real": 1, "figures": figures, "model": model}

    rows = [row("real", "real", 2.5), row("noise", "noise", 90.0), row("a", "model", 40.0, "00")]
    rows.append(row("b", "model", 30.0, sha256))
    return {"schema": 1, "protocol": {"data": data}, "rows": rows}


def test_the_scores_of_an_evaluation_are_those_of_the_stored_weights(dots, command, tmp_path):
    model = genkit.load("runs/dots")
    document = evaluation(model.sha256, str(tmp_path / "secret" / "photos"))
    Path("scores.json").write_text(json.dumps(document))
    assert command("card", "runs/dots", "--scores", "scores.json").returncode == 0
    (score,) = read_model_config(Path("runs/dots/model"))["card"]["scores"]
    assert score == {
        "name": "fd-toy", "value": 30.0, "low": 29.0, "high": 31.0, "real": 2.5, "data": "photos",
        "protocol": "10 real of photos@ab",
    }  # fmt: skip
    model = genkit.load("runs/dots")
    assert "scores" in read_model_config(model.save("kept"))["card"]
    assert "scores" not in read_model_config(model.save("half", dtype="float16"))["card"]
    for place in ("half", str(dots / "first")):
        done = command("card", place, "--scores", "scores.json")
        assert (done.returncode, done.stderr) == (
            2,
            "genkit: card.scores: the evaluation has no row of these weights and defaults: evaluate the model as it is "
            "stored\n",
        )
    with pytest.raises(ConfigError, match="no row of these weights"):
        model.save("again", dtype="float16", card={"scores": document})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dots", "--license", "mit"], "dots is no folder of a model"),
        (["runs/dots", "--license", " "], "card.license = ' ': a text is needed"),
        (["runs/dots", "--scores", "runs/dots/config.yaml"], "no readable JSON"),
        (
            ["runs/dots", "--scores", "list.json"],
            "card.scores: what `genkit evaluate --json` writes, or a list of mappings",
        ),
    ],
)
def test_what_is_no_entry_of_a_card_changes_nothing(dots, command, words, message):
    Path("list.json").write_text('[{"name": "fd-toy", "value": "low"}]')
    before = {path: path.read_bytes() for path in Path("runs/dots/model").iterdir()}
    done = command("card", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert {path: path.read_bytes() for path in Path("runs/dots/model").iterdir()} == before
    with pytest.raises(ConfigError, match=r"card\.licence: .* Did you mean 'license'"):
        card.extended({}, {"licence": "mit"})


HOSTILE = [
    {"card": {"scores": 5, "recipe": [1], "seconds": 10**400, "license": {"a": 1}, "data": ["x"]}},
    {"card": {"scores": [{"name": "x", "value": 10**400}, {"name": 5, "value": 1}, None], "init": {}}},
    {"facts": {"labels": [{"a": "b"}, None, "<i>"]}, "conditional": 1, "title": ["<script>"], "genkit": {}},
    {"preset": "a\n---\nb: c\n`", "card": {"limits": "\n---\n", "command": "a\n\n# b", "summary": 7}},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_stranger_s_description_is_told_as_text_whatever_it_holds(number):
    config = {"modality": "<script>", "plugin": {}, "items": 1, **HOSTILE[number]}
    text, shown = card.readme(config), card.as_html(config)
    assert "<script>" not in shown.replace("&lt;script&gt;", "")
    assert "<script>" not in text.split("---\n", 2)[2]
    assert isinstance(yaml.safe_load(text.split("---\n")[1]), dict)
    assert card.scores_line(config) == card.license_of({}) == ""


@pytest.mark.parametrize("key", ["card", "dtype"])
def test_a_description_whose_card_has_the_wrong_type_is_refused(dots, key):
    change(dots / "first", **{key: [5]})
    with pytest.raises(
        ModelError, match=rf"config\.json is not genkit's: {key} missing or of the wrong type"
    ):
        genkit.load("dots")


def test_a_notebook_shows_the_card(dots):
    model = genkit.load("dots")
    assert repr(model) == f"<model of dots, 32 items seen, {dots / 'first'}>"
    shown = model._repr_html_()
    assert "<strong>Dots &amp; &lt;b&gt;more&lt;/b&gt;</strong>" in shown
    for text in (
        "Apache-2.0",
        "1.25 [1, 1.5] on dots/test",
        "&lt;script&gt;",
        "recipe.loss=hinge",
    ):
        assert text in shown
    assert model._repr_markdown_().startswith("# Dots &amp; &lt;b&gt;more&lt;/b&gt;\n")

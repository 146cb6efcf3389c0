"""Models on the Hub: pushed and opened through a fake one on loopback, without a network, and from strangers."""

import json
import shutil
from pathlib import Path

import fake_hub
import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from toys import ring

import genkit
from genkit.errors import ConfigError, ModelError
from genkit.sampling import hub
from genkit.sampling.model_names import find_model, known_models

REFUSALS = {
    401: r"user/ring on the Hub cannot be used: .*`hf auth login`",
    403: r"user/ring on the Hub cannot be used: it refuses \(HTTP 403\): log in with `hf auth login`",
    500: r"user/ring on the Hub cannot be used: it answers .*\(HTTP 500\)",
}


@pytest.fixture(scope="module")
def server():
    with fake_hub.serving() as server:
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def online(server, tmp_path, monkeypatch):
    """The fake Hub, empty, and an empty cache; the toy is registered."""
    for store in (server.branches, server.commits, server.private, server.log):
        store.clear()
    server.refuse = None
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        "https://huggingface.co", server.address
    )
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.chdir(tmp_path)
    genkit.register(ring)
    yield server
    genkit.unregister("ring")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the toy."""
    folder = tmp_path_factory.mktemp("hub") / "run"
    settings = {"options": {"width": 8, "depth": 1}, "recipe": {"batch_size": 16}}
    genkit.train(ring, items=32, out=folder, threads=1, **settings)
    return folder


@pytest.fixture
def model(run):
    return genkit.load(run, modality=ring)


def same(one, other):
    return torch.equal(one.generate(4, seed=2).x, other.generate(4, seed=2).x)


def requests(server, *words):
    """The paths of requests that have one of these words in them."""
    return [path for _, path in server.log if any(word in path for word in words)]


# Pushing and opening ---------------------------------------------------------------------------------------------


def test_what_is_pushed_is_opened_by_its_name(online, model):
    address = model.push_to_hub("user/ring", private=True)
    assert address.startswith(f"{online.address}/user/ring/commit/")
    assert online.private == {"user/ring": "private"}
    files = online.files("user/ring")
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert b"genkit generate user/ring -n 16" in files["README.md"]
    for name in ("user/ring", "hub:user/ring", "user/ring@main"):
        assert same(genkit.load(name), model)
    assert genkit.generate("user/ring", 2, seed=2).x.shape == (2, 2)
    assert len(requests(online, "/resolve/")) == 2 * 3  # each file once, by HEAD and GET


def test_critics_and_half_precision_travel_if_asked_and_stale_files_go(online, model):
    model.push_to_hub("user/ring", critics=True)
    online.put(
        "user/ring", {**online.files("user/ring"), "assets/old.txt": b"", "notes.md": b"mine"}
    )
    opened = genkit.load("user/ring")
    assert opened.generate(2, best_of=2).best_of == 2
    tuned = genkit.train("ring", items=16, out="tuned", init="user/ring", threads=1)
    assert (
        yaml.safe_load((tuned.path / "README.md").read_text().split("---\n")[1])["base_model"]
        == "user/ring"
    )
    model.push_to_hub("user/ring", dtype="float16", message="smaller")
    assert set(online.files("user/ring")) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "notes.md",
    }  # fmt: skip
    smaller = genkit.load("user/ring")
    assert (smaller.info["dtype"], same(smaller, model)) == ("float16", False)


def test_revisions_are_branches_and_commits(online, model, command, run):
    model.push_to_hub("user/ring")
    first = online.branches["user/ring"]["main"]
    done = command("push", run, "user/ring", "--revision", "small", "--dtype", "bfloat16")
    assert done.stdout.startswith(online.address)
    for name, revision, dtype in (
        ("user/ring", None, "float32"),
        ("user/ring", "small", "bfloat16"),
        ("user/ring@small", None, "bfloat16"),
        (f"user/ring@{first}", None, "float32"),
    ):
        assert genkit.load(name, revision=revision).info["dtype"] == dtype
    with pytest.raises(ModelError, match="user/ring on the Hub has no revision 'large'"):
        genkit.load("user/ring@large")
    names = [model.name for model in known_models() if model.place == "hub"]
    assert sorted(names) == ["user/ring", "user/ring@small"]


def test_a_folder_here_comes_before_the_hub(online, model):
    model.push_to_hub("user/ring")
    Path("user").mkdir()
    online.log.clear()
    with pytest.raises(ModelError, match=r"no model at user/ring: .*name it hub:user/ring"):
        find_model("user/ring")
    assert online.log == []
    assert find_model("hub:user/ring").name == online.branches["user/ring"]["main"]
    assert find_model("user/ring", revision="main").name == online.branches["user/ring"]["main"]
    shutil.copytree(model.path, "user/ring")
    assert find_model("user/ring") == Path("user/ring")


# Without a network -----------------------------------------------------------------------------------------------


def test_without_a_network_the_cache_is_used_or_a_sentence_says_so(
    online, model, monkeypatch, command
):
    model.push_to_hub("user/ring")
    cached = find_model("user/ring")
    for cause, attribute, value in (
        (r"HF_HUB_OFFLINE is set", "HF_HUB_OFFLINE", True),
        (
            r"no answer from http://127\.0\.0\.1:9 \(ConnectError.*\)",
            "ENDPOINT",
            "http://127.0.0.1:9",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(constants, attribute, value)
            assert find_model("user/ring") == cached
            done = command("generate", "other/ring")
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert (
                "there is no folder other/ring, and other/ring on the Hub cannot be used: "
                in done.stderr
            )
            with pytest.raises(
                ModelError, match=rf"other/ring@v1 .*{cause}, and it is not in the cache of this"
            ):
                find_model("other/ring@v1")
            with pytest.raises(ModelError, match=rf"user/ring on the Hub cannot be used: {cause}$"):
                model.push_to_hub("user/ring")


@pytest.mark.parametrize("status", REFUSALS)
def test_what_the_hub_refuses_is_one_sentence(online, model, status):
    online.refuse = status
    for call in (lambda: genkit.load("hub:user/ring"), lambda: model.push_to_hub("user/ring")):
        with pytest.raises(ModelError, match=REFUSALS[status]) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_without_the_package_a_sentence_says_what_to_install(online, model, monkeypatch):
    monkeypatch.setattr(hub, "is_available", lambda: False)
    with pytest.raises(
        ModelError, match=r'needs the package huggingface_hub: pip install "genkit-gan\[hub\]"'
    ):
        genkit.load("user/ring")
    assert list(hub.cached()) == []


@pytest.mark.parametrize("name", ["ring", "a/b/c", "-user/ring", "user/ring/", "user/rïng", ""])
def test_what_is_no_name_on_the_hub_is_refused(online, model, name):
    with pytest.raises(ConfigError, match="names no model on the Hub: user/name is needed"):
        model.push_to_hub(name)
    assert online.log == []


def test_a_name_that_the_hub_does_not_take_is_one_sentence(online, model):
    for name in ("user/a--b", "user/a..b", "user/ring.git"):
        with pytest.raises(ModelError, match="on the Hub cannot be used"):
            find_model(name)


# Strangers -------------------------------------------------------------------------------------------------------


def test_of_a_stranger_s_repository_only_a_model_s_files_are_read_and_nothing_is_run(
    online, model, tmp_path
):
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')"
    online.put(
        "evil/ring",
        {
            **{file.name: file.read_bytes() for file in model.path.iterdir()},
            **{
                name: trap.encode()
                for name in ("modeling.py", "__init__.py", "assets.py", "sub/config.json")
            },
            "pytorch_model.bin": b"\x80\x04.",
        },
    )
    folder = find_model("evil/ring")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "critics.safetensors", "model.safetensors",
    }  # fmt: skip
    assert same(genkit.load("evil/ring"), model)
    assert not (tmp_path / "sprung").exists()


def test_of_another_library_s_repository_only_config_json_is_read(online):
    config = {"architectures": ["BertModel"], "model_type": "bert"}
    online.put(
        "big/bert", {"config.json": json.dumps(config).encode(), "model.safetensors": b"70 GB"}
    )
    online.put("big/old", {"pytorch_model.bin": b"70 GB"})
    with pytest.raises(ModelError, match=r"config\.json is not genkit's: .*modality"):
        genkit.load("big/bert")
    with pytest.raises(
        ModelError, match=r"big/old on the Hub is no model of genkit's: it has no config\.json"
    ):
        genkit.load("big/old")
    assert requests(online, "safetensors", ".bin") == []
    assert list(hub.cached()) == []


HOSTILE = {
    "cut weights": ("model.safetensors", lambda content: content[:-1]),
    "no weights": ("model.safetensors", lambda content: b""),
    "other networks": (
        "config.json",
        lambda content: content.replace(b'"width": 8', b'"width": 9'),
    ),
    "code": (
        "config.json",
        lambda content: content.replace(b'"width": 8', b'"generator": "os:system"'),
    ),
    "a plugin that is not here": (
        "config.json",
        lambda content: content.replace(b'"ring"', b'"wring"'),
    ),
    "no JSON": ("config.json", lambda content: content[1:]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_repository_is_one_sentence(online, model, name):
    model.push_to_hub("evil/ring")
    files = dict(online.files("evil/ring"))
    file, change = HOSTILE[name]
    assert change(files[file]) != files[file]
    online.put("evil/ring", {**files, file: change(files[file])})
    with pytest.raises(ModelError) as caught:
        genkit.load("evil/ring")
    assert "\n" not in str(caught.value)

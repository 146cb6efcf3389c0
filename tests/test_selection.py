"""A user's choice among the installed plugins: by a variable, by a command, by a full name, strictly."""

import json
import sys

import pytest
import toys

import genkit
from genkit.cli import main
from genkit.discovery import registry, selection
from genkit.errors import ConfigError, ModelError, PluginError, StorageError, UnknownModality


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    return tmp_path / "configuration" / "genkit" / "plugins.json"


@pytest.fixture
def rivals(site):
    for name in ("acme-one", "acme-two"):
        module = f"fake_{name[5:]}"
        source = site.MANIFEST.format(id="alpha", module=module)
        site.install(name, {"alpha": f"{module}:modality"}, {module: source})


def status(*ids):
    return {row.name: row.status for row in registry.found(strict=False) if row.id in ids}


@pytest.mark.parametrize(
    ("allowed", "ok"),
    [
        (None, {"alpha", "beta", "image"}),
        ("", set()),
        (" , ", set()),
        ("alpha", {"alpha"}),
        ("Genkit_Alpha, image", {"alpha", "image"}),
        ("genkit-beta:beta,genkit-gan-image", {"beta", "image"}),
        ("other:alpha", set()),
    ],
)
def test_the_variable_decides_alone_and_over_the_projects_own_too(site, monkeypatch, allowed, ok):
    for id in ("alpha", "beta"):
        site.plugin(id)
    if allowed is not None:
        registry.disable("alpha")
        monkeypatch.setenv(selection.ALLOWED, allowed)
    found = {row.id: row for row in registry.found() if row.id in ("alpha", "beta", "image")}
    assert {id for id, row in found.items() if row.status == "ok"} == ok
    assert {row.status for id, row in found.items() if id not in ok} <= {"disabled"}
    for id in {"alpha", "beta", "image"} - ok:
        with pytest.raises(PluginError, match="GENKIT_PLUGINS does not name it"):
            registry.describe(id)


def test_what_the_variable_names_in_vain_is_said(site, monkeypatch):
    monkeypatch.setenv(selection.ALLOWED, "image,imgae")
    assert selection.complaints(["genkit-gan-image:image"]) == [
        "GENKIT_PLUGINS names 'imgae', which is no installed plugin"
    ]


def test_a_disabled_plugin_says_how_it_comes_back_and_does(site, home):
    site.plugin("alpha")
    assert registry.disable("alpha") == ["genkit-alpha:alpha"]
    assert json.loads(home.read_text()) == {"disabled": ["genkit-alpha:alpha"]}
    with pytest.raises(
        PluginError, match="it is disabled: genkit plugins enable genkit-alpha:alpha"
    ):
        registry.describe("alpha")
    assert registry.describe("image").id == "image"
    assert selection.enable("genkit_alpha") == ["genkit-alpha:alpha"]
    assert registry.describe("alpha").id == "alpha"


def test_an_unknown_name_is_not_disabled_and_one_that_is_gone_can_be_enabled(home):
    with pytest.raises(UnknownModality, match="Did you mean 'image'"):
        registry.disable("imgae")
    assert not home.exists()
    selection.disable(["genkit-gone:gone"])
    assert selection.enable("gone") == ["genkit-gone:gone"]


def test_disabling_one_of_two_rivals_settles_their_conflict(rivals):
    assert set(status("alpha").values()) == {"conflict"}
    registry.disable("acme-two")
    assert status("alpha") == {"acme-one:alpha": "ok", "acme-two:alpha": "disabled"}
    assert registry.provider("alpha").distribution == "acme-one"


def test_a_full_name_reaches_a_plugin_that_another_keeps_from_its_id(rivals, site):
    site.install(
        "acme-pictures",
        {"image": "fake_image:modality"},
        {"fake_image": site.MANIFEST.format(id="image", module="x")},
    )
    for name in (
        "acme-one:alpha",
        "Acme.Two:alpha",
        "acme-pictures:image",
        "genkit-gan-image:image",
    ):
        manifest = registry.describe(name)
        assert registry.home_of(manifest).name == name.replace("Acme.Two", "acme-two")
    assert registry.provider("image").distribution == "genkit-gan-image"
    with pytest.raises(UnknownModality, match="Did you mean 'acme-one:alpha'"):
        registry.describe("acme-on:alpha")


def test_a_model_opens_by_the_distribution_that_made_it(site, tmp_path):
    source = (
        "from toys import ring as toy\nimport dataclasses\nmodality = dataclasses.replace(toy)\n"
    )
    for name in ("acme-one", "acme-two"):
        site.install(name, {"ring": f"fake_{name[5:]}:modality"}, {f"fake_{name[5:]}": source})
    model = genkit.train("acme-one:ring", out=tmp_path / "run", items=64, threads=1)
    assert model.modality is sys.modules["fake_one"].modality
    assert genkit.load(tmp_path / "run").modality is model.modality
    registry.disable("acme-one")
    with pytest.raises(PluginError, match="genkit plugins enable acme-one:ring"):
        genkit.load(tmp_path / "run")
    assert genkit.load(tmp_path / "run", modality=toys.ring).modality is toys.ring
    config = tmp_path / "run" / "model" / "config.json"
    config.write_text(config.read_text().replace('"acme-one"', '"acme-none"'))
    with pytest.raises(
        ModelError, match=r"acme-none .* is not installed here: .*Did you mean 'acme-one:ring'"
    ):
        genkit.load(tmp_path / "run")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"disabled": "image"}', b'{"disabled": [1]}', b"\xff", b"[" * 99999]
)
def test_a_damaged_file_disables_nothing_and_is_said_but_not_overwritten(home, content):
    home.parent.mkdir(parents=True)
    home.write_bytes(content)
    assert status("image") == {"genkit-gan-image:image": "ok"}
    assert "cannot be read and disables nothing" in selection.complaints([])[0]
    for change in (registry.disable, selection.enable):
        with pytest.raises(ConfigError, match="delete it"):
            change("image")
    assert home.read_bytes() == content


def test_a_choice_that_cannot_be_kept_is_an_error(home):
    home.parent.parent.mkdir()
    home.parent.write_text("a file where the folder should be")
    with pytest.raises((ConfigError, StorageError), match=r"plugins\.json"):
        registry.disable("image")


def test_strictly_one_plugin_that_is_not_well_is_an_error_for_all(site, monkeypatch, capsys):
    site.install("genkit-odd", {"odd": "fake_no_such:modality"})
    monkeypatch.setenv(selection.STRICT, "0")
    assert registry.describe("image").id == "image"
    monkeypatch.setenv(selection.STRICT, "1")
    for call in (registry.found, registry.probed, lambda: registry.describe("image")):
        with pytest.raises(
            PluginError, match=r"genkit-odd 1\.0 \(odd\).*GENKIT_STRICT_PLUGINS is set"
        ):
            call()
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "disable", "odd"])
    assert ended.value.code == 0
    assert registry.describe("image").id == "image"
    assert "disabled: genkit-odd:odd" in capsys.readouterr().out


def test_strictly_a_fault_at_import_is_told_with_its_traceback(site, monkeypatch, capsys):
    site.plugin("alpha", before="def inner():\n    raise RuntimeError('deep')\ninner()\n")
    monkeypatch.setattr(registry, "PROBE_SECONDS", 2.5)
    monkeypatch.setenv(selection.STRICT, "1")
    with pytest.raises(PluginError, match="RuntimeError: deep"):
        registry.probed()
    with pytest.raises(SystemExit):
        main(["plugins", "show", "alpha"])
    assert "in inner" in capsys.readouterr().err


def test_the_commands_say_what_they_changed(site, monkeypatch, capsys):
    for words, said in (
        (["enable", "image"], "enabled: nothing, it was not disabled"),
        (["disable", "image"], "disabled: genkit-gan-image:image"),
        (["enable", "genkit-gan-image"], "enabled: genkit-gan-image:image"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["plugins", *words])
        assert (ended.value.code, capsys.readouterr().out.strip()) == (0, said)
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "enable", "imgae"])
    assert ended.value.code == 2
    monkeypatch.setenv(selection.ALLOWED, "image")
    with pytest.raises(SystemExit):
        main(["plugins", "disable", "image"])
    assert "GENKIT_PLUGINS is set and decides alone" in capsys.readouterr().err

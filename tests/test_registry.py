"""Plugins enter through package metadata; whatever is wrong with one, the rest go on working.

Discovery is real: each test puts fake distributions on the path, of this process and of those that it starts.
"""

import dataclasses
import importlib
import json
import sys

import pytest

from genkit.discovery import registry, soundness
from genkit.errors import PluginError, UnknownModality
from genkit.plugin import Modality, ModalityPlugin, Preset

V1 = "genkit.modality.v1"
OURS = {row.id: row.status for row in registry.found()}
"""The project's own plugins, as many as are installed: all of them well."""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(registry, "PROBE_SECONDS", 2.5)


@pytest.fixture
def local():
    yield registry.register
    for id in list(registry._registered):
        registry.unregister(id)


def rows(found):
    return {row.id: row for row in found}


def mine(id="mine", **named):
    return Modality(id=id, title="Mine", plugin="no_such_module:Plugin", **named)


# Found -----------------------------------------------------------------------------------------------------------


def test_an_installed_plugin_is_found_with_its_home(site):
    path = site.plugin("alpha", version="2.3")
    row = rows(registry.found())["alpha"]
    assert row == registry.Found("alpha", "fake_alpha:modality", "genkit-alpha", "2.3", str(path))
    assert str(row) == "genkit-alpha 2.3 (alpha)"
    assert registry.provider("alpha") == row


def test_rows_are_sorted_and_the_projects_own_are_among_them(site):
    for id in ("zeta", "alpha", "middle"):
        site.plugin(id)
    found = registry.found()
    assert [row.id for row in found] == sorted(["alpha", "middle", "zeta", *OURS])
    assert "image" in OURS
    assert all(row.status == "ok" for row in found)


def test_listing_imports_no_plugin_and_no_torch(site, python, tmp_path):
    site.plugin("alpha", before="raise RuntimeError('imported')\n")
    out = python(
        "import sys, genkit\n"
        "rows = genkit.plugins()\n"
        "print(*sorted(row.id for row in rows if row.status == 'ok'))\n"
        "print(*({'torch', 'numpy', 'pydantic', 'fake_alpha', 'genkit_image'} & set(sys.modules)))",
        cwd=tmp_path,
    )
    assert out == f"{' '.join(sorted(['alpha', *OURS]))}\n\n"


def test_describing_imports_one_manifest_and_no_torch(site, python, tmp_path):
    site.plugin("alpha")
    site.plugin("beta")
    out = python(
        "import sys\nfrom genkit.discovery import registry\n"
        "print(registry.describe('alpha').title)\n"
        "print(*({'torch', 'numpy', 'fake_alpha', 'fake_beta', 'genkit_image'} & set(sys.modules)))",
        cwd=tmp_path,
    )
    assert out == "A third party's\nfake_alpha\n"


def test_several_plugins_of_one_distribution_are_rows_of_their_own(site):
    sources = {
        f"fake_{id}": site.MANIFEST.format(id=id, module=f"fake_{id}") for id in ("alpha", "beta")
    }
    site.install(
        "genkit-both", {"alpha": "fake_alpha:modality", "beta": "fake_beta:modality"}, sources
    )
    found = rows(registry.found())
    assert found["alpha"].distribution == found["beta"].distribution == "genkit-both"
    assert [registry.describe(id).id for id in ("alpha", "beta")] == ["alpha", "beta"]


def test_the_entry_points_of_others_are_nobodys_plugins(site):
    site.install("other", {"alpha": "fake_alpha:x"}, group="console_scripts")
    site.install("other2", {"alpha": "fake_alpha:x"}, group="genkit.modality.vX")
    site.install("other3", {"alpha": "fake_alpha:x"}, group="not.genkit.modality.v1")
    assert rows(registry.found()).keys() == OURS.keys()


def test_extras_and_comments_in_entry_points_are_read_as_the_standard_says(site):
    metadata = site.plugin("alpha")
    (metadata / "entry_points.txt").write_text(
        f"# ours\n[console_scripts]\nx = y:z\n\n[{V1}]\n; a comment\n"
        "alpha=fake_alpha:modality [extra1,extra2]\n\n[other]\nb = c:d\n"
    )
    assert registry.provider("alpha").target == "fake_alpha:modality"
    assert rows(registry.found()).keys() == {"alpha", *OURS}


# Faulty metadata -------------------------------------------------------------------------------------------------


def test_broken_metadata_of_others_do_no_harm(site):
    site.plugin("alpha")
    for number, content in enumerate(
        [b"[[[ \n = = \n[unclosed\n", b"\xff\xfe\x00genkit.modality.v1", b"", b"no section\n"]
    ):
        metadata = site.install(f"broken-{number}", {})
        (metadata / "entry_points.txt").write_bytes(content)
    (site.folder / "stray-1.0.dist-info").mkdir()
    (site.folder / "file-1.0.dist-info").write_text("a file, not a folder")
    (site.folder / "odd.dist-info").mkdir()
    (site.folder / "odd.dist-info" / "entry_points.txt").mkdir()
    importlib.invalidate_caches()
    assert {row.id: row.status for row in registry.found()} == {"alpha": "ok", **OURS}


def test_a_plugin_whose_metadata_lack_a_name_is_listed_all_the_same(site):
    metadata = site.plugin("alpha")
    (metadata / "METADATA").unlink()
    assert registry.provider("alpha").distribution == "unknown"
    (metadata / "METADATA").write_bytes(b"\xff\xfe\x00")
    assert registry.provider("alpha").id == "alpha"


def test_lines_that_are_no_entry_are_passed_over(site):
    metadata = site.plugin("alpha")
    (metadata / "entry_points.txt").write_text(
        f"[{V1}]\nno entry at all\nalpha = fake_alpha:modality\n[unclosed\n"
    )
    assert {row.id: row.status for row in registry.found()} == {"alpha": "ok", **OURS}


def test_an_entry_point_that_names_nothing_is_a_broken_row(site, quick):
    site.install(
        "genkit-odd",
        {
            "a": "",
            "b": ":modality",
            "c": ".relative:x",
            "d": "json",
            "e": "json:",
            "f": "json:no.such",
        },
    )
    found = rows(registry.probed())
    assert {id: found[id].status for id in "abcdef"} == dict.fromkeys("abcdef", "broken")
    assert all(found[id].reason for id in "abcdef")
    assert found["image"].status == "ok"
    for id in "abcdef":
        with pytest.raises(PluginError, match=rf"genkit-odd 1\.0 \({id}\)"):
            registry.describe(id)


# Copies and conflicts --------------------------------------------------------------------------------------------


@pytest.fixture
def second(tmp_path, monkeypatch, site):
    """A folder that comes later on the path."""
    made = type(site)(tmp_path / "second")
    monkeypatch.syspath_prepend(made.folder)
    monkeypatch.syspath_prepend(site.folder)
    return made


def test_copies_of_one_distribution_count_once_and_the_first_on_the_path_is_it(site, second):
    second.plugin("alpha", version="0.9")
    path = site.plugin("alpha", version="1.1")
    found = [row for row in registry.found() if row.id == "alpha"]
    assert [(row.status, row.version, row.path) for row in found] == [("ok", "1.1", str(path))]


def test_an_older_copy_with_another_layout_is_no_rival(site, second):
    second.install(
        "genkit-alpha",
        {"alpha": "fake_alpha.old:modality", "gone": "fake_alpha:gone"},
        version="0.9",
    )
    site.plugin("alpha", version="1.1")
    assert [
        (row.id, row.status, row.version) for row in registry.found() if row.id not in OURS
    ] == [("alpha", "ok", "1.1")]


def test_one_distribution_has_one_name_however_it_is_spelled(site, second):
    second.plugin("alpha", name="Genkit_Alpha", version="0.9")
    site.plugin("alpha", name="genkit-alpha", version="1.1")
    assert [(row.status, row.version) for row in registry.found() if row.id == "alpha"] == [
        ("ok", "1.1")
    ]


def test_another_plugin_that_claims_our_id_is_named_beside_ours_which_goes_on(site):
    site.install(
        "acme-pictures",
        {"image": "fake_image:modality"},
        {"fake_image": site.MANIFEST.format(id="image", module="x")},
    )
    ours, theirs = sorted(
        (row for row in registry.found() if row.id == "image"),
        key=lambda row: row.status,
        reverse=True,
    )
    assert (ours.distribution, ours.status) == ("genkit-gan-image", "ok")
    assert (theirs.distribution, theirs.status) == ("acme-pictures", "conflict")
    assert f"genkit-gan-image {ours.version}" in theirs.reason
    assert "acme-pictures" in str(theirs)
    assert registry.describe("image").plugin == "genkit_image.plugin:ImagePlugin"


def test_two_third_parties_with_one_id_are_both_refused_and_both_named(site):
    for name in ("acme-one", "acme-two"):
        module = f"fake_{name[5:]}"
        site.install(
            name,
            {"alpha": f"{module}:modality"},
            {module: site.MANIFEST.format(id="alpha", module=module)},
        )
    found = [row for row in registry.found() if row.id == "alpha"]
    assert [(row.distribution, row.status) for row in found] == [
        ("acme-one", "conflict"),
        ("acme-two", "conflict"),
    ]
    assert "acme-two 1.0" in found[0].reason
    assert "acme-one 1.0" in found[1].reason
    with pytest.raises(PluginError, match=r"acme-one .*acme-two"):
        registry.describe("alpha")
    assert not {"fake_one", "fake_two"} & set(sys.modules)


def test_the_order_of_installation_settles_nothing(site, second):
    for place, name in ((second, "acme-one"), (site, "acme-two")):
        place.install(name, {"alpha": "json:x"})
    assert {row.status for row in registry.found() if row.id == "alpha"} == {"conflict"}


@pytest.mark.parametrize(
    ("group", "blamed"),
    [("genkit.modality.v2", "genkit-gan"), ("genkit.modality.v0", "genkit-alpha")],
)
def test_a_plugin_of_another_contract_is_incompatible_and_never_imported(
    site, quick, tmp_path, group, blamed
):
    mark = tmp_path / "imported"
    site.plugin("alpha", before=f"open({str(mark)!r}, 'w')\n", group=group)
    row = rows(registry.probed())["alpha"]
    assert row.status == "incompatible"
    assert row.reason.endswith(f"upgrade {blamed}")
    with pytest.raises(PluginError, match="plugin API v"):
        registry.describe("alpha")
    assert not mark.exists()


def test_an_incompatible_plugin_is_no_rival(site):
    site.install("acme-next", {"alpha": "fake_next:modality"}, group="genkit.modality.v2")
    site.plugin("alpha")
    assert registry.describe("alpha").id == "alpha"


def test_a_manifest_that_says_more_than_this_genkit_knows_is_broken_and_named(site, quick):
    source = (
        "from genkit.plugin import Modality\nmodality = Modality('alpha', 'T', 'm:P', smell='rose')"
    )
    site.install("genkit-alpha", {"alpha": "fake_alpha:modality"}, {"fake_alpha": source})
    row = rows(registry.probed())["alpha"]
    assert row.status == "broken"
    assert row.reason.endswith("got an unexpected keyword argument 'smell'")
    with pytest.raises(PluginError, match=r"genkit-alpha 1\.0 .*argument 'smell'"):
        registry.describe("alpha")
    assert registry.describe("image").id == "image"


# Described -------------------------------------------------------------------------------------------------------

FAULTS = {
    "missing": (None, "its module fake_missing is missing: reinstall genkit-missing"),
    "raising": ("raise ImportError('needs libfoo\\nsecond line')", "ImportError: needs libfoo"),
    "syntax": ("def", "SyntaxError"),
    "exiting": ("import sys; sys.exit(0)", "SystemExit"),
    "killing": ("import os; os._exit(0)", "its import ended the process (exit code 0)"),
    "crashing": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "its import ended the process (exit code -9)",
    ),
    "interrupting": ("raise KeyboardInterrupt", "its import ended the process"),
    "lacking": ("", "AttributeError"),
    "misnamed": (
        "from genkit.plugin import Modality\nmodality = Modality('other', 'T', 'm:P')",
        "calls itself 'other', its entry point 'misnamed'",
    ),
    "number": ("modality = 5", "names a int, not a genkit.plugin.Modality"),
    "klass": (
        "from genkit.plugin import Modality as modality",
        "names a type, not a genkit.plugin.Modality",
    ),
    "unplain": (
        "from genkit.plugin import Modality\nmodality = Modality('unplain', 'T', 'm:P', options=lambda: 0)",
        "not plain data",
    ),
    "classy": (
        "from genkit.plugin import Modality, ModalityPlugin\nmodality = Modality('classy', 'T', ModalityPlugin)",
        "not plain data",
    ),
    "presetless": (
        "from genkit.plugin import Modality\nmodality = Modality('presetless', 'T', 'm:P', presets={})",
        "no presets",
    ),
    "listed": (
        "from genkit.plugin import Modality\nmodality = Modality('listed', 'T', 'm:P', presets=['dcgan'])",
        "",
    ),
    "hanging": ("import time; time.sleep(600)", "did not end within"),
}
FINE = {
    "printing": "print('hello', flush=True)\n",
    "shouting": "import sys; sys.stderr.write('hello\\n')\n",
    "writing": "import os; os.write(1, b'hello\\n')\n",
    "mumbling": "import os; os.write(1, b'no end of line')\n",
    "binary": "import os; os.write(1, b'\\xff\\xfe\\n'); os.write(2, b'\\xff\\xfe\\n')\n",
    "closing": "import sys; sys.stdout = None\n",
    "threading": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()\n",
    "lingering": "import atexit, time; atexit.register(time.sleep, 600)\n",
    "forking": "import os, time; os.fork() or time.sleep(600)\n",
    "leaving": "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n",
    "clearing": (
        "import sys\n"
        "for name in ('json', 'genkit.discovery.registry', 'genkit.errors', 'os'): del sys.modules[name]\n"
    ),
}


def install_fault(site, id):
    source, _ = FAULTS[id]
    site.install(
        f"genkit-{id}",
        {id: f"fake_{id}:modality"},
        {} if source is None else {f"fake_{id}": source},
    )


def test_whatever_is_wrong_with_one_plugin_it_is_a_row_with_a_reason_and_the_others_are_ok(
    site, quick
):
    for id in FAULTS:
        install_fault(site, id)
    for id in ("aaa", "mmm", "zzz"):
        site.plugin(id)
    found = rows(registry.probed())
    assert {id for id, row in found.items() if row.status == "ok"} == {"aaa", "mmm", "zzz", *OURS}
    for id, (_, reason) in FAULTS.items():
        assert (id, found[id].status) == (id, "broken")
        assert reason in found[id].reason
        assert "\n" not in found[id].reason


@pytest.mark.parametrize("id", FINE)
def test_what_a_plugin_prints_at_import_is_its_own_affair(site, quick, id):
    for neighbour in ("aaa", "zzz"):
        site.plugin(neighbour)
    site.plugin(id, before=FINE[id])
    found = registry.probed()
    assert [(row.id, row.status, row.reason) for row in found] == [
        (row.id, "ok", "") for row in found
    ]
    assert {"aaa", id, "zzz", *OURS} == {row.id for row in found}


@pytest.mark.parametrize("after", ["", "time.sleep(600)", "os._exit(1)"])
def test_what_a_plugin_starts_at_import_ends_with_the_look_at_it(
    site, monkeypatch, tmp_path, ends, after
):
    monkeypatch.setattr(registry, "PROBE_SECONDS", 1.0)
    code = "import time; time.sleep(600)"
    start = f"child = subprocess.Popen([sys.executable, '-c', {code!r}])"
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))"
    site.plugin("alpha", before=f"import os, subprocess, sys, time\n{start}\n{note}\n", after=after)
    assert rows(registry.probed())["alpha"].status == ("broken" if after else "ok")
    assert ends((tmp_path / "pid").read_text())


def test_a_hanging_plugin_that_has_printed_bytes_is_broken_and_nothing_worse(site, monkeypatch):
    monkeypatch.setattr(registry, "PROBE_SECONDS", 1.5)
    site.plugin(
        "hanging", before="import os, time; os.write(1, b'\\xff\\xfe\\n'); time.sleep(600)\n"
    )
    assert {row.id: row.status for row in registry.probed()} == {"hanging": "broken", **OURS}


def test_a_plugin_reads_nothing_of_what_is_typed_to_the_command(site, python, tmp_path):
    site.plugin("reading", before="import sys; assert sys.stdin.read() == ''\n")
    code = "from genkit.discovery import registry\nprint(*(row.status for row in registry.probed()))\nprint(input())"
    output = python(code, cwd=tmp_path, typed="typed\n")
    assert output == f"{' '.join(['ok', *OURS.values()])}\ntyped\n"


def test_a_slow_plugin_takes_none_of_its_neighbours_time(site, monkeypatch):
    monkeypatch.setattr(registry, "PROBE_SECONDS", 2.4)
    for id in ("slow_one", "slow_two"):
        site.plugin(id, before="import time; time.sleep(1.25)\n")
    assert {row.id: row.status for row in registry.probed()} == {
        "slow_one": "ok",
        "slow_two": "ok",
        **OURS,
    }


def test_each_of_two_names_for_one_manifest_is_judged_by_itself(site, quick):
    entries = {"alpha": "fake_both:modality", "beta": "fake_both:modality"}
    site.install(
        "genkit-both", entries, {"fake_both": site.MANIFEST.format(id="alpha", module="x")}
    )
    assert {row.id: row.status for row in registry.probed()} == {
        "alpha": "ok",
        "beta": "broken",
        **OURS,
    }


def test_the_files_in_the_working_folder_are_no_part_of_a_plugin(
    site, quick, tmp_path, monkeypatch
):
    """A user's own token.py or copy.py beside the data is no fault of any plugin."""
    site.plugin("alpha")
    for module in ("token", "copy", "dataclasses", "json"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('a script of the user')\n")
    monkeypatch.chdir(tmp_path)
    assert {row.id: row.status for row in registry.probed()} == {"alpha": "ok", **OURS}


@pytest.mark.parametrize(
    "id", [id for id in FAULTS if id not in ("killing", "crashing", "interrupting", "hanging")]
)
def test_a_faulty_plugin_that_is_asked_for_is_an_error_that_names_it(site, id):
    install_fault(site, id)
    with pytest.raises(PluginError) as caught:
        registry.describe(id)
    assert caught.value.plugin == f"genkit-{id} 1.0 ({id})"
    assert FAULTS[id][1] in str(caught.value)
    assert registry.describe("image").id == "image"


def test_probing_imports_no_plugin_here(site, quick):
    site.plugin("alpha")
    assert rows(registry.probed())["alpha"].status == "ok"
    assert "fake_alpha" not in sys.modules


def test_a_preset_is_judged_in_the_words_of_a_configuration():
    wrong = mine(presets={"a": Preset(recipe={"batchsize": 3})})
    assert soundness.preset_fault(wrong) == (
        "its preset 'a': recipe.batchsize: no such setting. Did you mean 'batch_size'?"
    )


def test_an_id_that_is_only_a_little_like_another_is_not_taken_for_it(site):
    site.plugin("text2")
    with pytest.raises(UnknownModality, match=r"modality 'tone'\. Installed: "):
        registry.describe("tone")


def test_a_manifest_is_checked_by_all_its_musts():
    assert registry.check_manifest("mine", mine()) == ""
    for id in ("Mine", "my-own", "1st", "", "x" * 33, "a b"):
        assert "not lower-case letters" in registry.check_manifest(id, mine(id))


def test_an_unknown_id_is_answered_with_the_nearest(site):
    site.plugin("spectra")
    for wrong, right in (("spektra", "spectra"), ("imgae", "image")):
        with pytest.raises(UnknownModality, match=f"modality '{wrong}'. Did you mean '{right}'"):
            registry.describe(wrong)
    with pytest.raises(
        UnknownModality, match=f"Installed: {', '.join(sorted(['spectra', *OURS]))}"
    ):
        registry.describe("qqqq")


def test_one_of_our_own_that_is_not_installed_is_answered_with_what_to_install(monkeypatch):
    monkeypatch.setattr(
        registry, "project_distributions", lambda: {"hologram": "genkit-gan-hologram"}
    )
    with pytest.raises(UnknownModality, match="pip install genkit-gan-hologram"):
        registry.describe("hologram")


def test_our_own_distributions_are_the_extras_of_the_core():
    own = registry.project_distributions()
    assert own["image"] == "genkit-gan-image"
    assert not {"dev", "docs"} & set(own)
    assert all(home == f"genkit-gan-{id}" for id, home in own.items())


# Loaded ----------------------------------------------------------------------------------------------------------

PLUGIN = """
from genkit.plugin import ModalityPlugin
class Plugin(ModalityPlugin):
    def networks(self): ...
number = 5
"""


def test_the_class_of_a_plugin_is_loaded_by_its_name(site):
    site.plugin("alpha")
    (site.folder / "fake_alpha_heavy.py").write_text(PLUGIN)
    manifest = registry.describe("alpha")
    assert "fake_alpha_heavy" not in sys.modules
    assert registry.load(manifest).__name__ == "Plugin"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("fake_alpha_heavy:number", "not a subclass of ModalityPlugin"),
        ("fake_alpha_heavy:nothing", "AttributeError"),
        ("fake_no_such_module:Plugin", "No module named"),
        ("fake_alpha_heavy", "not of the form module:attribute"),
        ("fake_exiting:Plugin", "SystemExit"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_with_the_reason(site, target, reason):
    site.plugin("alpha")
    (site.folder / "fake_alpha_heavy.py").write_text(PLUGIN)
    (site.folder / "fake_exiting.py").write_text("import sys; sys.exit()")
    manifest = dataclasses.replace(registry.describe("alpha"), plugin=target)
    with pytest.raises(PluginError, match=reason):
        registry.load(manifest)


def test_parts_of_a_manifest_are_named_classes_themselves_or_nothing():
    assert registry.named_class(mine(), "options") is None
    assert registry.named_class(mine(options=dict), "options") is dict
    assert (
        registry.named_class(mine(options="collections:OrderedDict"), "options").__name__
        == "OrderedDict"
    )
    with pytest.raises(
        PluginError, match=r"local 0 \(mine\) failed at import of its controls json:nothing"
    ):
        registry.named_class(mine(controls="json:nothing"), "controls")


def test_the_home_of_a_manifest_is_the_distribution_that_brought_it(site):
    site.plugin("alpha", version="3.1")
    assert registry.origin(registry.describe("alpha")) == "genkit-alpha 3.1 (alpha)"
    assert (
        registry.origin(mine("alpha")) == "local 0 (alpha)"
    )  # one's own of the same id was not brought by it


def test_the_home_of_a_manifest_is_looked_up_once(monkeypatch):
    manifest = mine("alpha")
    home = registry.home_of(manifest)
    monkeypatch.setattr(registry, "_scan", lambda: pytest.fail("looked up again"))
    assert registry.home_of(manifest) is home
    with pytest.raises(pytest.fail.Exception):
        registry.home_of(mine("alpha"))


def test_the_home_of_a_manifest_inside_a_class_is_found_as_well(site):
    source = site.MANIFEST.format(id="alpha", module="x") + "class Box:\n    inner = modality\n"
    site.install("genkit-alpha", {"alpha": "fake_alpha:Box.inner"}, {"fake_alpha": source})
    assert registry.origin(registry.describe("alpha")) == "genkit-alpha 1.0 (alpha)"


# Registered in this process --------------------------------------------------------------------------------------


def test_what_is_registered_is_found_and_described_and_forgotten(local):
    modality = Modality(id="mine", title="Mine", plugin="json:JSONDecoder")
    assert local(modality) is modality
    assert registry.describe("mine") is modality
    row = rows(registry.found())["mine"]
    assert row.distribution == "local"
    registry.unregister("mine")
    registry.unregister("mine")
    with pytest.raises(UnknownModality):
        registry.describe("mine")


class LocalPlugin(ModalityPlugin):
    def networks(self):
        raise NotImplementedError


def test_what_is_registered_may_hold_its_class_itself(local):
    modality = local(Modality(id="mine", title="Mine", plugin=LocalPlugin))
    assert rows(registry.found())["mine"].status == "ok"
    assert registry.describe("mine") is modality
    assert registry.load(modality) is LocalPlugin


def test_an_id_is_taken_until_it_is_replaced(local):
    first, other = local(mine()), mine(presets={"other": Preset()})
    assert local(mine()) == first  # the same again is no conflict: a notebook's cell is run twice
    with pytest.raises(PluginError, match="replace=True"):
        local(other)
    assert registry._registered["mine"] == first
    local(other, replace=True)
    assert registry._registered["mine"] is other


def test_what_is_registered_wins_over_what_is_installed(site, local):
    site.plugin("alpha")
    mine = Modality(id="alpha", title="Mine", plugin="json:JSONDecoder")
    with pytest.raises(PluginError, match="replace=True"):
        local(mine)
    modality = local(mine, replace=True)
    assert registry.describe("alpha") is modality
    assert {row.distribution: row.status for row in registry.found() if row.id == "alpha"} == {
        "genkit-alpha": "conflict",
        "local": "ok",
    }


def test_registering_an_id_of_ours_takes_a_replace(local):
    """Refused, unless it is said to be meant."""
    modality = Modality(id="image", title="My own pictures", plugin="json:JSONDecoder")
    with pytest.raises(PluginError, match="replace=True"):
        local(modality)
    local(modality, replace=True)
    assert registry.describe("image") is modality


def test_a_registered_modality_is_not_probed(local, quick):
    local(Modality(id="mine", title="Mine", plugin="json:JSONDecoder"))
    assert rows(registry.probed())["mine"].status == "ok"


# As JSON, and through the command line ---------------------------------------------------------------------------


def test_rows_are_json_of_a_versioned_layout(site):
    site.plugin("alpha")
    found = registry.found()
    document = json.loads(registry.rows_as_json(found))
    assert document["schema"] == 1
    assert document["api"].split(".")[0] == "1"
    assert [registry.Found(**row) for row in document["plugins"]] == found


def test_the_list_of_plugins_survives_all_faulty_plugins_together(site, python, tmp_path):
    for id in FAULTS:
        install_fault(site, id)
    for id, before in FINE.items():
        if id not in ("mumbling", "binary"):  # each has a distribution of its own above
            site.plugin(id, before=before)
    site.install("acme-pictures", {"image": "json:x"})
    site.install("genkit-next", {"next": "json:x"}, group="genkit.modality.v2")
    (site.folder / "stray-1.0.dist-info").mkdir()
    code = (
        "from genkit.discovery import registry; registry.PROBE_SECONDS = 5\n"
        "from genkit.cli import main; main(['plugins', 'list', '--json'])"
    )
    document = json.loads(python(code, "-W", "error", cwd=tmp_path))
    status = {(row["id"], row["distribution"]): row["status"] for row in document["plugins"]}
    assert {id for (id, _), state in status.items() if state == "broken"} == set(FAULTS)
    assert status["image", "acme-pictures"] == "conflict"
    assert status["next", "genkit-next"] == "incompatible"
    ok = {id for (id, _), state in status.items() if state == "ok"}
    assert ok == {*OURS, *FINE} - {"mumbling", "binary"}


def test_the_commands_list_and_show_work_beside_faulty_plugins(site, command, process, tmp_path):
    for id in ("missing", "raising", "exiting", "killing"):
        install_fault(site, id)
    for words, expected in (
        (["list"], "killing"),
        (["list", "--json"], '"status": "broken"'),
        (["show", "image"], "dcgan"),
    ):
        end = command("plugins", *words, cwd=tmp_path)
        assert (end.returncode, end.stderr) == (0, "")
        assert expected in end.stdout
    end = process("-m", "genkit", "plugins", "show", "raising", cwd=tmp_path)
    assert end.returncode == 1
    assert end.stderr == (
        "genkit: plugin genkit-raising 1.0 (raising) failed at import of fake_raising:modality: "
        "ImportError: needs libfoo (`genkit plugins doctor raising` tells more)\n"
    )

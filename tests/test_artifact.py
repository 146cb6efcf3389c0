"""What lies on disk is whole or not there, comes back as it was, and is refused in plain words where it is damaged."""

import builtins
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from genkit.engine import run_folder
from genkit.engine.run_folder import LOCK, SCHEMA, RunFolder
from genkit.errors import ModelError, RunError, StorageError
from genkit.sampling.model_folder import read_critics, read_model, save_model
from genkit.sampling.model_names import find_model
from genkit.system.files import (
    file_hash,
    make_folder,
    read_json,
    write_files,
    write_json,
    write_whole,
)
from genkit.system.tensors import build, load_state, read_tensors, write_tensors

laws = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def tree(folder):
    """Everything under a folder: path -> content, None for folders; genkit's lock left out."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.name != LOCK
    }
    return {name: path.read_bytes() if path.is_file() else None for name, path in files.items()}


def fail_at(monkeypatch, number, where=os, name="fsync", code=errno.ENOSPC):
    """Make the so-many-th call of a function fail as a full disk does; returns the list of calls."""
    real, calls = getattr(where, name), []

    def failing(*arguments, **named):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    monkeypatch.setattr(where, name, failing)
    return calls


class FullDisk:
    """A file that takes half of what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Files -----------------------------------------------------------------------------------------------------------


@laws
@given(st.binary(max_size=200), st.booleans())
def test_what_is_written_whole_is_what_is_there(tmp_path, content, durable):
    write_whole(tmp_path / "a.bin", content, durable)
    assert tree(tmp_path) == {"a.bin": content}


@pytest.mark.parametrize("old", [None, b"old content"], ids=["new", "over an old one"])
@pytest.mark.parametrize("fault", ["write", "fsync", "rename", "open"])
def test_a_write_that_fails_changes_nothing_and_leaves_nothing(tmp_path, monkeypatch, old, fault):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    before = tree(tmp_path)
    if fault == "write":
        real = open
        monkeypatch.setattr(
            "builtins.open", lambda *arguments, **named: FullDisk(real(*arguments, **named))
        )
    elif fault == "fsync":
        fail_at(monkeypatch, 1)
    elif fault == "rename":
        fail_at(monkeypatch, 1, os, "replace", errno.EACCES)
    else:
        fail_at(monkeypatch, 1, builtins, "open", errno.EROFS)
    with pytest.raises(StorageError, match="Nothing of it was changed") as caught:
        write_whole(path, b"new content that is longer")
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["missing/a.bin", "file/a.bin", "folder", "n" * 300, "n" * 250])
def test_where_nothing_can_be_written_the_error_is_ours(tmp_path, place):
    (tmp_path / "file").write_bytes(b"a file")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    with pytest.raises(StorageError):
        write_whole(tmp_path / place, b"content")
    assert tree(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    for place in ("file", "file/b"):
        with pytest.raises(StorageError, match="cannot make the folder"):
            make_folder(tmp_path / place)


def test_readers_see_the_old_or_the_new_content_and_nothing_between(tmp_path):
    path, contents = tmp_path / "a.bin", [bytes([number]) * 50_000 for number in range(2)]
    write_whole(path, contents[0])
    done = threading.Event()

    def write():
        for number in range(1, 60):
            write_whole(path, contents[number % 2], durable=False)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= set(contents)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@laws
@given(plain)
def test_json_comes_back_as_it_was(tmp_path, data):
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b"{'a': 1}"], ids=repr
)
def test_what_is_no_json_is_a_model_error_that_names_it(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")


def test_ordinary_files_are_written_by_name_and_in_order(tmp_path):
    names = write_files(
        tmp_path / "new", ((f"{number}.txt", b"%d" % number) for number in range(3))
    )
    assert names == ["0.txt", "1.txt", "2.txt"]
    assert tree(tmp_path / "new") == {"0.txt": b"0", "1.txt": b"1", "2.txt": b"2"}


UNSAFE = ["../a", "a/b", "/a", ".", "..", "", ".hidden", "a/../../b"]


@pytest.mark.parametrize("name", UNSAFE)
def test_no_file_is_written_outside_its_folder(tmp_path, name):
    with pytest.raises(ModelError, match="is no plain file name"):
        write_files(tmp_path / "in", [(name, b"x")])
    assert tree(tmp_path) in ({}, {"in": None})


def test_a_files_hash_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        file_hash(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# Tensors ---------------------------------------------------------------------------------------------------------

BASE = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
TENSORS = {
    "plain": BASE,
    "transposed": BASE.t(),
    "slice": BASE[1:3],
    "another slice of it": BASE[2:4],
    "strided": BASE[::2, ::3],
    "expanded": torch.ones(1).expand(5, 2),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "tied": BASE,
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "half": BASE.half(),
    "bfloat16": BASE.bfloat16(),
    "double": BASE.double(),
    "bool": BASE > 0,
    "int64": torch.arange(5),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "scalar": torch.tensor(3.5),
    "count": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "another empty": torch.empty(0),
    "not finite": torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]),
}


def equal(a, b):
    """Bit for bit, type and shape included."""
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def bits(tensor):
    return (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
        if tensor.numel()
        else []
    )


def test_tensors_come_back_bit_for_bit(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"items": "5"})
    back = read_tensors(tmp_path / "a.safetensors")
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert equal(back[name], tensor), name
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["items"] == "5"


@laws
@given(st.permutations(sorted(TENSORS)))
def test_tensors_come_back_in_whatever_order_they_were_given(tmp_path, names):
    write_tensors(tmp_path / "a.safetensors", {name: TENSORS[name] for name in names[:8]})
    back = read_tensors(tmp_path / "a.safetensors")
    assert all(equal(back[name], TENSORS[name]) for name in names[:8])
    assert len(back) == 8


def test_tied_tensors_come_back_as_two(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": BASE, "b": BASE})
    back = read_tensors(tmp_path / "a.safetensors")
    back["a"].zero_()
    assert torch.equal(back["b"], BASE)


def test_equal_tensors_are_equal_files(tmp_path):
    contents = set()
    for _ in range(12):  # an order of chance would be the same in one of two thousand
        write_tensors(tmp_path / "a", {"x": BASE, "y": BASE.t()}, {"items": "5"})
        contents.add((tmp_path / "a").read_bytes())
    (content,) = contents
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_no_tensors_at_all_are_a_file_too(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {})
    assert read_tensors(tmp_path / "a.safetensors") == {}


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    write_tensors(tmp_path / "whole", {"a": BASE, "b": BASE > 0})
    whole = (tmp_path / "whole").read_bytes()
    assert len(whole) > 200
    for length in range(0, len(whole), 3):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="is no whole safetensors file"):
            read_tensors(tmp_path / "cut")


@laws
@given(
    st.binary(max_size=100)
    | st.builds(lambda n, rest: n.to_bytes(8, "little") + rest, st.integers(0, 99), st.binary())
)
def test_bytes_that_are_no_tensors_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    try:
        back = read_tensors(tmp_path / "a")
    except ModelError:
        return
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(back) == set(header) - {"__metadata__"}


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match="is no whole safetensors file"):
            read_tensors(path)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def trapped(path):
    return pickle.dumps(Trap(path))


def test_a_pickle_is_refused_and_nothing_of_it_runs(tmp_path):
    sprung = tmp_path / "sprung"
    pickle.loads(trapped(sprung)).close()
    assert sprung.exists()  # the trap works
    sprung.unlink()
    (tmp_path / "a.safetensors").write_bytes(trapped(sprung))
    torch.save({"x": Trap(sprung)}, tmp_path / "b.safetensors")
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(ModelError, match="is no whole safetensors file"):
            read_tensors(tmp_path / name)
    assert not sprung.exists()


def test_tensors_that_do_not_fit_a_module_are_named(tmp_path):
    module = torch.nn.Linear(3, 2)
    load_state(module, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "m")
    assert module.weight.sum() == 6
    for wrong in (
        {"weight": torch.ones(2, 4), "bias": torch.zeros(2)},
        {"bias": torch.zeros(2)},
        {"weight": torch.ones(2, 3), "bias": torch.zeros(2), "extra": torch.zeros(1)},
    ):
        with pytest.raises(ModelError, match=r"m does not fit the network .*(weight|extra)"):
            load_state(module, wrong, tmp_path / "m")


class Drawn(TorchFunctionMode):
    """Notes on which devices initial weights are drawn."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.normal_, torch.nn.init.normal_, torch.nn.init.kaiming_uniform_):
            self.devices.append((args or kwargs["tensor"][None])[0].device.type)
        return func(*args, **(kwargs or {}))


def test_to_see_shapes_no_weights_are_drawn(tmp_path):
    """On the meta device `normal_` would import torch's compiler, which takes a second."""
    tensors = {f"{n}.weight": torch.ones(2, 3) for n in "ab"} | {"a.bias": torch.ones(2)}
    with Drawn() as drawn:
        modules = build(
            lambda: {"a.": torch.nn.Linear(3, 2), "b.": torch.nn.Embedding(2, 3)}, tensors, tmp_path
        )
    assert set(drawn.devices) == {"cpu"}
    assert modules["b."].weight.sum() == 6
    with pytest.raises(
        ModelError, match=r"b\.weight is \(2, 3\) in the file and \(2, 4\) in the net"
    ):
        build(
            lambda: {"a.": torch.nn.Linear(3, 2), "b.": torch.nn.Embedding(2, 4)}, tensors, tmp_path
        )


# The run folder --------------------------------------------------------------------------------------------------

CONFIG = {
    "modality": "image",
    "plugin": "genkit-gan-image 0 (image)",
    "preset": "dcgan",
    "data": None,
}
CONFIG |= {"options": {}, "recipe": {"batch_size": 4}, "run": {"items": 9}}


@pytest.fixture
def run(tmp_path):
    """A run folder with something of everything, closed."""
    folder = RunFolder(tmp_path / "run")
    folder.config = CONFIG
    folder.log({"items": 1})
    for items in (10, 20):
        save(folder, items)
    make_folder(folder.path / "samples")
    write_whole(folder.path / "samples" / "1.png", b"png")
    save_model(folder.path / "model", MODEL, {"w": BASE}, {"labels.txt": b"a"}, {})
    folder.close()
    return folder.path


def save(folder, items, keep=3, value=None):
    tensors = {"x": torch.full((3,), float(items if value is None else value))}
    return folder.save_checkpoint(
        items, {"items": items}, {"players": tensors, "averages": tensors}, keep
    )


def names(folder):
    return [path.name for path in folder.checkpoints()]


def whole(checkpoint, items):
    state = read_json(checkpoint / "state.json")
    players = read_tensors(checkpoint / "players.safetensors")["x"]
    averages = read_tensors(checkpoint / "averages.safetensors")["x"]
    return state["items"] == items and players.tolist() == averages.tolist() == [items] * 3


def test_a_new_run_makes_its_folder(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    assert folder.path.is_dir()
    assert (folder.config, folder.latest(), folder.checkpoints(), folder.log_size()) == (
        None,
        None,
        [],
        0,
    )
    folder.close()
    RunFolder(tmp_path / "a" / "b").close()  # nothing was begun: anyone may begin


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = sorted(os.listdir(tmp_path))
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RunError, match="is not empty and holds no genkit run"):
            RunFolder(tmp_path, **how)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "config", ["database: {host: localhost}\n", "- a\n- b\n", "", "{{ template }}\n"]
)
def test_anothers_folder_with_a_config_file_is_refused_and_left_alone(tmp_path, config):
    """`config.yaml` is a common name; --overwrite must not empty somebody's project for it."""
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)
    for how in ({}, {"overwrite": True}):
        with pytest.raises(RunError):
            RunFolder(tmp_path, **how).close()
        assert tree(tmp_path) == before


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(RunError, match="is a file; a run needs a folder"):
        RunFolder(tmp_path / "file", overwrite=True)
    with pytest.raises(StorageError):
        RunFolder(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "text"


def test_a_run_that_is_there_needs_a_word(run):
    before = tree(run)
    with pytest.raises(
        RunError, match=r"already holds a run: continue it with --resume, .* --overwrite, .* --out"
    ):
        RunFolder(run)
    assert tree(run) == before
    RunFolder(run, resume=True).close()  # the refusal has let go of the lock


def test_resuming_finds_everything_as_it_was(run):
    before = tree(run)
    folder = RunFolder(run, resume=True)
    assert tree(run) == before
    assert folder.config == {"genkit_run": 1, **CONFIG}
    assert whole(folder.latest(), 20)
    folder.close()


def test_overwriting_leaves_nothing_of_the_old_run(run):
    shutil.rmtree(run / "samples")
    (run / "samples").symlink_to(run.parent)
    (run / "notes.txt").write_text("mine")
    folder = RunFolder(run, overwrite=True)
    assert "checkpoints" in tree(run)  # nothing is deleted before a new run really begins
    folder.begin(CONFIG)
    assert set(tree(run)) == {"config.yaml", "notes.txt"}
    folder.close()
    assert run.parent.is_dir()  # a link is removed, not what it leads to


def test_overwriting_nothing_and_resuming_nothing_begin_anew(tmp_path):
    for number, how in enumerate(({"overwrite": True}, {"resume": True})):
        folder = RunFolder(tmp_path / str(number), **how)
        assert folder.config is None
        folder.close()


HOLD = """
import sys
from genkit.engine.run_folder import RunFolder
folder = RunFolder(sys.argv[1], resume=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_is_held_by_one_process_at_a_time(run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        before = tree(run)
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(RunError, match="is in use by another training"):
                RunFolder(run, **how)
        assert tree(run) == before
    finally:
        holder.kill()  # a crash lets go of it, too
        holder.communicate()
    RunFolder(run, resume=True).close()


def test_a_run_is_held_once_within_a_process(run):
    folder = RunFolder(run, resume=True)
    with pytest.raises(RunError, match="is in use"):
        RunFolder(run, resume=True)
    folder.close()
    RunFolder(run, resume=True).close()


@pytest.mark.parametrize(
    "content",
    [b"a: [1\n", b"\xff\xfe\x00", b"- a\n- b\n", b"words\n", b"!!python/name:os.getcwd\n"],
)
def test_a_damaged_configuration_of_a_run_is_named(run, content):
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.yaml"):
        RunFolder(run, resume=True)


def test_the_configuration_is_yaml_in_the_order_it_was_given(run):
    assert yaml.safe_load((run / "config.yaml").read_text()) == {"genkit_run": 1, **CONFIG}
    assert list(yaml.safe_load((run / "config.yaml").read_text())) == ["genkit_run", *CONFIG]


# Checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.config = CONFIG
    yield made
    made.close()


def test_the_latest_checkpoint_is_the_last_one_saved(folder):
    for items in (0, 64, 128):
        assert save(folder, items) == folder.latest()
        assert whole(folder.latest(), items)
    assert names(folder) == ["000000000000", "000000000064", "000000000128"]
    assert read_json(folder.latest() / "state.json")["schema"] == SCHEMA


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_checkpoints_are_kept(folder, keep):
    for items in range(8, 16):
        save(folder, items, keep)
    assert [int(name) for name in names(folder)] == list(range(16 - keep, 16))
    assert all(whole(path, int(path.name)) for path in folder.checkpoints())


def test_the_same_place_reached_again_gets_a_name_of_its_own(folder):
    paths = [save(folder, 5, keep=20, value=number) for number in range(12)]
    assert len(set(paths)) == 12
    assert folder.checkpoints() == paths  # in order of writing, the tenth after the ninth
    for number, path in enumerate(paths):
        assert read_tensors(path / "players.safetensors")["x"].tolist() == [number] * 3
    assert folder.latest() == paths[-1]
    save(folder, 6, keep=2)
    assert names(folder) == ["000000000005-11", "000000000006"]


def test_a_checkpoint_of_fewer_items_than_others_is_the_latest_and_is_kept(folder):
    """After a roll-back."""
    for items in (10, 20, 30):
        save(folder, items)
    back = save(folder, 5, keep=1)
    assert folder.latest() == back
    assert whole(back, 5)


@pytest.mark.parametrize(
    "pointer",
    [None, b"", b"000000000099\n", b"../../secret\n", b"..\n", b".\n", b"\0" * 13, b"\xff\xfe\n"],
)
def test_a_broken_pointer_falls_back_to_the_newest_checkpoint(folder, pointer):
    """A power cut may leave a file of zeros."""
    for items in (10, 20):
        save(folder, items)
    (folder.path / "latest").unlink()
    if pointer is not None:
        (folder.path / "latest").write_bytes(pointer)
    assert folder.latest().name == "000000000020"


def test_the_pointer_decides_where_it_is_whole(folder):
    for items in (10, 20):
        save(folder, items)
    (folder.path / "latest").write_text("000000000010\n")
    assert folder.latest().name == "000000000010"


def test_what_a_killed_process_left_half_written_is_not_there_and_is_removed(run):
    before = tree(run)
    half = run / "checkpoints" / ".000000000030.tmp"
    half.mkdir()
    (half / "players.safetensors").write_bytes(b"half")
    for place in (run, run / "model", run / "samples"):
        (place / ".config.json.123.tmp").write_bytes(b"half")
    (run / "latest").unlink()
    folder = RunFolder(run, resume=True)
    assert whole(folder.latest(), 20)
    folder.close()
    assert tree(run) == {name: content for name, content in before.items() if name != "latest"}


def test_a_stray_file_is_no_checkpoint(folder):
    save(folder, 10)
    (folder.path / "checkpoints" / "notes.txt").write_text("the good one")
    (folder.path / "latest").unlink()
    assert names(folder) == ["000000000010"]
    assert folder.latest().name == "000000000010"


# Every call that writes a checkpoint of two groups: three files and the pointer, and once a folder.
FAULTS = [
    (name, number)
    for name, calls in (("fsync", 6), ("replace", 5))
    for number in range(1, calls + 1)
]


@pytest.mark.parametrize(("name", "number"), FAULTS)
def test_a_disk_that_fills_up_in_a_checkpoint_leaves_a_whole_one(folder, monkeypatch, name, number):
    save(folder, 10)
    fail_at(monkeypatch, number, os, name)
    with pytest.raises(StorageError):
        save(folder, 20)
    monkeypatch.undo()
    assert [entry for entry in tree(folder.path) if ".tmp" in entry] == []
    assert whole(folder.latest(), int(folder.latest().name))
    assert all(whole(path, int(path.name)) for path in folder.checkpoints())
    save(folder, 30)
    assert whole(folder.latest(), 30)


def test_there_are_as_many_fault_points_as_calls(folder, monkeypatch):
    for name in ("fsync", "replace"):
        calls = fail_at(monkeypatch, 0, os, name)
        save(folder, 10)
        assert len(calls) == len([point for point in FAULTS if point[0] == name])


def test_a_checkpoint_interrupted_between_two_files_leaves_nothing(folder, monkeypatch):
    save(folder, 10)
    before = tree(folder.path)
    calls = []

    def interrupted(path, tensors, metadata=None, real=write_tensors):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, tensors, metadata)

    monkeypatch.setattr(run_folder, "write_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(folder, 20)
    assert tree(folder.path) == before


# The log ---------------------------------------------------------------------------------------------------------


def test_the_log_is_one_json_line_per_row(folder):
    rows = [{"items": number, "text": "a\nb", "loss": 0.1 * number} for number in range(5)]
    for row in rows:
        folder.log(row)
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


@laws
@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2), max_size=5),
    st.data(),
)
def test_cutting_the_log_brings_back_what_was_there(tmp_path, rows, data):
    (tmp_path / "run" / "metrics.jsonl").unlink(missing_ok=True)
    folder = RunFolder(tmp_path / "run")
    sizes = [folder.log_size()]
    for row in rows:
        folder.log(row)
        sizes.append(folder.log_size())
    kept = data.draw(st.integers(0, len(rows)))
    content = (folder.path / "metrics.jsonl").read_bytes() if rows else b""
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"half a li')
    folder.cut_log(sizes[kept])
    assert (folder.path / "metrics.jsonl").read_bytes() == content[: sizes[kept]]
    assert folder.log_size() == sizes[kept]
    folder.cut_log(sizes[kept] + 100)  # never makes it longer
    assert folder.log_size() == sizes[kept]
    folder.close()


def test_cutting_a_log_that_is_not_there_is_nothing(folder):
    folder.cut_log(0)
    folder.cut_log(10)
    assert folder.log_size() == 0


def test_a_log_on_a_full_disk_is_a_storage_error(folder, monkeypatch):
    fail_at(monkeypatch, 1, Path, "open")
    with pytest.raises(StorageError, match="No space left"):
        folder.log({"items": 1})


# The model folder ------------------------------------------------------------------------------------------------

MODEL = {
    "genkit": "0.1.0",
    "modality": "image",
    "title": "Pictures",
    "plugin": {"distribution": "genkit-gan-image", "version": "0.1.0"},
    "preset": "dcgan",
    "options": {"size": 32},
    "facts": {"channels": 1},
    "items": 1234,
}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model"
    save_model(
        path, MODEL, {"w": BASE}, {"labels.txt": b"a\nb", "vocab.json": b"{}"}, {"items": "1234"}
    )
    return path


def test_a_model_folder_comes_back_as_it_was(model):
    config, tensors, assets = read_model(model)
    assert config == {"schema": SCHEMA, **MODEL}
    assert tensors.keys() == {"w"}
    assert torch.equal(tensors["w"], BASE)
    assert assets == {"labels.txt": b"a\nb", "vocab.json": b"{}"}
    assert set(tree(model)) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "assets",
        "assets/labels.txt",
        "assets/vocab.json",
    }


def test_a_model_card_says_what_it_is_of(model):
    card = (model / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "genkit",
        "tags": ["gan", "image"],
    }
    for word in ("Pictures", "genkit-gan-image 0.1.0", "dcgan", "1,234 items"):
        assert word in card


def test_a_model_without_assets_has_no_folder_for_them(tmp_path):
    save_model(tmp_path / "m", MODEL, {"w": BASE}, {}, {})
    assert not (tmp_path / "m" / "assets").exists()
    assert read_model(tmp_path / "m")[2] == {}


def test_a_model_written_over_another_comes_back_as_it_was_written(model):
    save_model(model, {**MODEL, "items": 5}, {"v": BASE[:1]}, {"words.txt": b"new"}, {})
    config, tensors, assets = read_model(model)
    assert config["items"] == 5
    assert tensors.keys() == {"v"}
    assert assets == {"words.txt": b"new"}


def test_a_model_is_found_by_its_folder_and_by_its_run(run, model):
    assert find_model(run) == run / "model"
    assert find_model(str(model)) == model


def test_where_there_is_no_model_the_error_says_what_there_is(tmp_path, folder):
    with pytest.raises(ModelError, match="does not exist"):
        find_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match="has no model yet"):
        find_model(folder.path)
    (tmp_path / "other").mkdir()
    for other in (tmp_path / "other", folder.path / "config.yaml"):
        with pytest.raises(ModelError, match="neither a model folder"):
            find_model(other)


def spoil(path, change):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(change(config)))


@pytest.mark.parametrize("key", ["modality", "plugin", "options", "facts"])
def test_a_configuration_that_lacks_a_key_names_it(model, key):
    spoil(model, lambda config: {name: value for name, value in config.items() if name != key})
    with pytest.raises(ModelError, match=rf"config\.json is not genkit's: {key} missing"):
        read_model(model)
    spoil(model, lambda config: {**config, key: 5})
    with pytest.raises(ModelError, match=key):
        read_model(model)


@pytest.mark.parametrize("document", [[], "text", None, 5])
def test_a_configuration_that_is_no_mapping_is_refused(model, document):
    spoil(model, lambda config: document)
    with pytest.raises(ModelError, match="is not genkit's"):
        read_model(model)


def test_a_configuration_that_is_no_json_is_refused(model):
    (model / "config.json").write_text("{'modality': ")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        read_model(model)


def test_a_newer_layout_is_answered_with_an_upgrade(model):
    spoil(model, lambda config: {**config, "schema": 2})
    with pytest.raises(
        ModelError, match="has layout 2, but this genkit reads layout 1: upgrade genkit"
    ):
        read_model(model)


def test_a_newer_layout_is_known_as_such_whatever_keys_it_has(model):
    spoil(model, lambda config: {"schema": 2, "kind": {"modality": "image"}})
    with pytest.raises(ModelError, match="upgrade genkit"):
        read_model(model)


def test_a_model_whose_weights_are_missing_cut_or_pickled_is_refused(model, tmp_path):
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (
        content[:-1],
        content[: len(content) // 2],
        b"",
        trapped(tmp_path / "sprung"),
        None,
    ):
        weights.unlink()
        if damaged is not None:
            weights.write_bytes(damaged)
            assert find_model(model) == model
        with pytest.raises(ModelError, match=r"model\.safetensors is no whole safetensors file"):
            read_model(model)
        weights.touch()
    assert not (tmp_path / "sprung").exists()


def test_nothing_beside_the_model_is_executed(model, tmp_path):
    for name in ("__init__.py", "modeling.py", "assets/__init__.py"):
        (model / name).write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    (model / "pytorch_model.bin").write_bytes(trapped(tmp_path / "sprung"))
    read_model(model)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", UNSAFE)
def test_assets_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ModelError, match="is no plain file name"):
        save_model(tmp_path / "m", MODEL, {"w": BASE}, {name: b"x"}, {})
    assert not (tmp_path / "m" / "config.json").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("entry", [".ipynb_checkpoints", "__pycache__"])
def test_a_folder_among_the_assets_is_no_asset(model, entry):
    """Left by other programs."""
    (model / "assets" / entry).mkdir()
    assert set(read_model(model)[2]) == {"labels.txt", "vocab.json"}


def test_what_a_killed_process_left_among_the_assets_is_no_asset(model):
    (model / "assets" / ".labels.txt.123.tmp").write_bytes(b"half")
    assert set(read_model(model)[2]) == {"labels.txt", "vocab.json"}


@pytest.mark.parametrize("number", range(1, 7))
def test_a_disk_that_fills_up_in_a_model_is_a_storage_error_and_leaves_readable_files(
    model, monkeypatch, number
):
    fail_at(monkeypatch, number)
    files = {"labels.txt": b"c", "vocab.json": b"[]"}
    with pytest.raises(StorageError):
        save_model(model, {**MODEL, "items": 9}, {"w": -BASE}, files, {}, {"critic.w": BASE})
    monkeypatch.undo()
    assert [name for name in tree(model) if name.endswith(".tmp")] == []
    config, tensors, assets = read_model(model)
    assert config["items"] in (1234, 9)
    assert torch.equal(tensors["w"].abs(), BASE.abs())
    assert read_critics(model).keys() <= {"critic.w"}
    assert assets["labels.txt"] in (b"a\nb", b"c")

"""Many samples in turn: equal files whoever writes them, killed and resumed at any moment, in constant memory.

Run as a program, this file forks processes that write the samples of a model and kills some: see `main`.
"""

import contextlib
import gc
import importlib.util
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tarfile
import tracemalloc
from collections import Counter
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_curves import curves
from toys import duet

import genkit
from genkit.errors import ConfigError, GenkitError, StorageError
from genkit.sampling.drawing import CHUNK
from genkit.sampling.jobs import Share, share_of
from genkit.sampling.ledger import Ledger
from genkit.sampling.listing import Files, Names, read_listing, write_listing
from genkit.sampling.samples import save
from genkit.system.runtime import pick_device

COUNT, START = 330, 30
KINDS = {"single": {}, "tars": {"per_tar": 50}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return genkit.train(duet, out=tmp_path_factory.mktemp("duet") / "run", items=64, threads=1)


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_finished(name):
    return name[0].isdigit()


# Shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_a_job_are_together_what_one_process_writes(model, tmp_path, kind):
    arguments = {"n": COUNT, "start": START, "seed": 3, **KINDS[kind]}
    whole = model.generate_to(tmp_path / "whole", **arguments)
    assert sorted(path.name for path in whole) == sorted(tree(tmp_path / "whole"))
    names = []
    for number in (4, 1, 3, 2):
        assert not (tmp_path / "shares" / "samples.json").exists()
        share = model.generate_to(tmp_path / "shares", **arguments, shard=f"{number}/4")
        names.append({path.name for path in share} - {"samples.json"})
    assert tree(tmp_path / "shares") == tree(tmp_path / "whole")
    assert not any(one & other for one, other in itertools.combinations(names, 2))
    assert max(map(len, names)) - min(map(len, names)) <= (1 if kind == "tars" else CHUNK + START)


def test_a_sample_of_a_share_of_a_million_is_that_of_any_other_way(model, tmp_path):
    (tar,) = model.generate_to(tmp_path, 1_000_000, seed=5, per_tar=64, shard=f"{12_346}/{15_625}")
    with tarfile.open(tar) as archive:
        content = archive.extractfile("000790100.npy").read()
        told = json.load(archive.extractfile("000790100.json"))
    assert tar.name == "012345.tar"
    assert content == model.generate(1, seed=5, start=790_100).encode()[0]
    assert told == {"seed": 5, "index": 790_100, "label": None, "condition": 790_100 % 3}


def test_shares_of_several_folders_are_joined_where_they_are_copied_to(model, tmp_path):
    arguments = {"n": COUNT, "per_tar": 50}
    for number in (1, 2):
        model.generate_to(tmp_path / str(number), **arguments, shard=f"{number}/2")
        shutil.copytree(tmp_path / str(number), tmp_path / "both", dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "both").glob("*.tar")}
    model.generate_to(tmp_path / "both", **arguments, resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    model.generate_to(tmp_path / "whole", **arguments)
    assert tree(tmp_path / "both") == tree(tmp_path / "whole")


def test_a_share_without_pieces_writes_nothing(model, tmp_path):
    for number in range(1, 6):
        files = model.generate_to(tmp_path / "many", 130, shard=f"{number}/5")
        assert (
            len(files) == [CHUNK, CHUNK, 2 + 1, 0 + 1, 0 + 1][number - 1]
        )  # + 1: samples.json is there
    model.generate_to(tmp_path / "one", 130)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


ENVIRONMENTS = {
    "torchrun": ({"RANK": "2", "WORLD_SIZE": "4"}, Share(3, 4)),
    "an array from 0": (
        {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"},
        Share(1, 8),
    ),
    "an array from 1, in steps of 2": (
        {
            "SLURM_ARRAY_TASK_ID": "5",
            "SLURM_ARRAY_TASK_COUNT": "4",
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_STEP": "2",
        },
        Share(3, 4),
    ),
    "torchrun in an array": (
        {
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_COUNT": "3",
            "SLURM_ARRAY_TASK_MIN": "1",
            "RANK": "1",
            "WORLD_SIZE": "2",
        },
        Share(6, 6),
    ),
    "some tasks of an array": (
        {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"},
        "the task 7 has no place among the 2",
    ),
    "nobody": ({"WORLD_SIZE": "4"}, "neither torchrun"),
    "nonsense": ({"RANK": "x", "WORLD_SIZE": "4"}, "RANK = 'x'"),
}


@pytest.mark.parametrize("launcher", ENVIRONMENTS)
def test_the_share_of_a_process_is_what_its_launcher_says(monkeypatch, launcher):
    variables, expected = ENVIRONMENTS[launcher]
    for name in [name for name in os.environ if name.startswith(("RANK", "WORLD", "SLURM"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, Share):
        assert share_of("auto") == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            share_of("auto")


def test_each_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert [str(pick_device(name)) for name in ("auto", "cuda")] == ["cuda", "cuda"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    names = ("auto", "cuda", "cuda:1", "cpu")
    assert [str(pick_device(name)) for name in names] == ["cuda:2", "cuda:2", "cuda:1", "cpu"]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", ""])
def test_a_share_is_one_of_several_counted_from_1(shard):
    with pytest.raises(ConfigError, match=r"K/N is needed with K from 1 to N"):
        share_of(shard)


# Tar files -------------------------------------------------------------------------------------------------------


def test_a_tar_file_is_what_the_standard_library_would_write(model, tmp_path):
    files = model.generate_to(tmp_path, 100, start=20, label="class1", per_tar=64)
    assert [path.name for path in files] == ["000000.tar", "000001.tar", "samples.json"]
    samples, buffer = model.generate(44, start=20, label="class1"), BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for index, content in zip(samples.indices, samples.encode(), strict=True):
            row = {"seed": 0, "index": index, "label": "class1", "condition": 1}
            for name, member in (
                (f"{index:09d}.npy", content),
                (f"{index:09d}.json", json.dumps(row).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(member)
                archive.addfile(info, BytesIO(member))
    assert files[0].read_bytes() == buffer.getvalue()


def test_the_list_of_tar_files_says_what_each_holds(model, tmp_path):
    import hashlib

    model.generate_to(tmp_path, 100, seed=2, start=20, label="class1", per_tar=64)
    told = json.loads((tmp_path / "samples.json").read_text())
    content = (tmp_path / "000001.tar").read_bytes()
    assert told["tars"][1] == {
        "file": "000001.tar", "seed": 2, "start": 64, "count": 56, "label": "class1",
        "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    assert told["job"] == {
        "n": 100, "seed": 2, "start": 20, "label": "class1", "format": "npy", "per_tar": 64,
    }  # fmt: skip


def test_a_later_job_adds_tar_files_and_loses_no_sample(model, tmp_path):
    model.generate_to(tmp_path / "a", 150, per_tar=50)
    model.generate_to(tmp_path / "a", 170, start=150, per_tar=50)
    model.generate_to(tmp_path / "b", 320, per_tar=50)
    assert {name: content for name, content in tree(tmp_path / "a").items() if ".tar" in name} == {
        name: content for name, content in tree(tmp_path / "b").items() if ".tar" in name
    }
    rows = [json.loads((tmp_path / name / "samples.json").read_text())["tars"] for name in "ab"]
    assert rows[0] == rows[1]
    before = tree(tmp_path / "a")
    others = ({"n": 310}, {"n": 100, "start": 320}, {"per_tar": 40}, {"per_tar": 400})
    for arguments in others:
        with pytest.raises(ConfigError, match="which the new tar files would divide otherwise"):
            model.generate_to(tmp_path / "a", **{"n": 320, "per_tar": 50, **arguments})
    assert tree(tmp_path / "a") == before
    model.generate_to(tmp_path / "a", 350, per_tar=50)  # its last tar file holds more than before


# Resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_finished_is_not_drawn_and_not_written_again(model, tmp_path, monkeypatch, kind):
    arguments = {"n": COUNT, "start": START, **KINDS[kind]}
    model.generate_to(tmp_path / "whole", **arguments)
    folder = tmp_path / "job"
    for number in (1, 3):
        model.generate_to(folder, **arguments, shard=f"{number}/3")
    lost = sorted(filter(is_finished, tree(folder)))[3]
    (folder / lost).unlink()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    drawn = Counter()
    draw = type(model).generate

    def counted(self, n, seed, start, *arguments, **more):
        drawn[start // CHUNK] += 1
        return draw(self, n, seed, start, *arguments, **more)

    monkeypatch.setattr(type(model), "generate", counted)
    assert len(model.generate_to(folder, **arguments, resume=True)) == len(tree(tmp_path / "whole"))
    assert tree(folder) == tree(tmp_path / "whole")
    new = {path.name for path in folder.iterdir() if path.stat().st_mtime != 1}
    assert lost in new
    assert len(new - {"samples.json"}) < 0.5 * len(tree(folder))
    assert set(drawn.values()) == {1}
    assert len(drawn) < 6 == -(-(START + COUNT) // CHUNK)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    drawn.clear()
    model.generate_to(folder, **arguments, resume=True)
    assert not drawn
    assert {path.stat().st_mtime for path in folder.iterdir()} == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_stopped_lists_what_there_is_and_goes_on(model, tmp_path, kind):
    arguments = {"n": COUNT, **KINDS[kind]}

    def stop(count, total):
        assert total == COUNT
        if count >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate_to(tmp_path / "job", **arguments, progress=stop)
    told = json.loads((tmp_path / "job" / "samples.json").read_text())
    (rows,) = (told[key] for key in ("samples", "tars") if key in told)
    assert "job" not in told
    assert {row["file"] for row in rows} == set(filter(is_finished, tree(tmp_path / "job")))
    assert 0 < len(rows) < COUNT
    model.generate_to(tmp_path / "job", **arguments, resume=True)
    model.generate_to(tmp_path / "whole", **arguments)
    assert tree(tmp_path / "job") == tree(tmp_path / "whole")


JOB = {"n": 130, "seed": 1, "start": 40, "per_tar": 50}
OTHERS = {
    "n": ({"n": 140}, "n = 130, and this has n = 140"),
    "seed": ({"seed": 2}, "seed = 1, and this has seed = 2"),
    "start": ({"start": 0}, "start = 40, and this has start = 0"),
    "label": ({"label": "class1"}, 'label = null, and this has label = "class1"'),
    "controls": ({"controls": {"scale": 0.5}}, r'controls = {"scale": 1.0}, and this has'),
    "best_of": ({"best_of": 2}, "best_of = null, critics_sha256 = null, and this has best_of = 2"),
    "choose": (
        {"best_of": 2, "choose": "sample"},
        'best_of = null, choose = null, .* choose = "sample"',
    ),
    "per_tar": ({"per_tar": 40}, "per_tar = 50, and this has per_tar = 40"),
    "single files": ({"per_tar": None}, "per_tar = 50, and this has per_tar = null"),
    "model": ({}, r"another model \(.*duet0/run/model\)"),
}


@pytest.fixture(scope="module")
def begun(model, tmp_path_factory):
    """A folder with a part of a job, and one with all of it."""
    folder = tmp_path_factory.mktemp("begun")
    model.generate_to(folder / "unfinished", **JOB, shard="1/2")
    model.generate_to(folder / "finished", **JOB)
    return folder


@pytest.mark.parametrize("state", ["unfinished", "finished"])
@pytest.mark.parametrize("difference", OTHERS)
def test_another_job_is_not_resumed(model, begun, tmp_path, state, difference):
    arguments, message = OTHERS[difference]
    if difference == "model":
        shutil.copytree(model.path, tmp_path / "twin")
        model = genkit.load(tmp_path / "twin", modality=duet)
        model = replace(model, sha256="another")
    folder, before = begun / state, tree(begun / state)
    with pytest.raises(ConfigError, match=f"{state} was begun with {message}") as error:
        model.generate_to(folder, **{**JOB, **arguments}, resume=True)
    assert "repeat the first command with --resume" in str(error.value)
    assert tree(folder) == before


def test_other_files_of_the_same_samples_are_another_job(tmp_path):
    model = genkit.train(curves, out=tmp_path / "run", items=320, threads=1)
    model.generate_to(tmp_path / "s", 3, format="raw", shard="2/3")
    with pytest.raises(ConfigError, match='format = "raw", and this has format = "csv"'):
        model.generate_to(tmp_path / "s", 3, format="csv", resume=True)
    # A sample of any length is a piece of its own.
    assert sorted(filter(is_finished, tree(tmp_path / "s"))) == ["000001.raw"]


def test_what_a_job_is_begun_beside(model, begun, tmp_path):
    folder = shutil.copytree(begun / "unfinished", tmp_path / "job")
    for arguments in ({"seed": 2}, {"per_tar": None}, {"controls": {"scale": 0.5}}):
        with pytest.raises(ConfigError, match="was begun with"):
            model.generate_to(folder, **{**JOB, **arguments})
    assert tree(folder) == tree(begun / "unfinished")
    model.generate_to(folder, 50, seed=1, start=300, per_tar=50, resume=True)  # other samples
    assert len(list(folder.glob("*.part"))) == 1
    model.generate_to(folder, **{**JOB, "n": 260})  # the same samples, and more
    assert len(tree(folder)) == 7 + 1  # no notes are left, those of the shorter job neither
    folder = shutil.copytree(begun / "finished", tmp_path / "single")
    with pytest.raises(ConfigError, match=r"holds 4 tar files of an earlier job, 000000\.tar"):
        model.generate_to(folder, 130, seed=1)
    assert tree(folder) == tree(begun / "finished")
    model.generate_to(folder, 100, seed=1, start=200, per_tar=50, resume=True)  # other samples
    model.generate(3).save(tmp_path / "few")
    with pytest.raises(ConfigError, match="3 samples of an earlier job without --per-tar"):
        model.generate_to(tmp_path / "few", 130, per_tar=50)


@pytest.mark.parametrize("resume", [False, True])
def test_a_share_replaces_no_file_of_the_users_own(model, tmp_path, resume):
    (tmp_path / "000002.tar").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"holds 1 files that the new .* 000002\.tar for one"):
        model.generate_to(tmp_path, 200, per_tar=50, shard="1/2", resume=resume)
    assert tree(tmp_path) == before
    model.generate_to(tmp_path, 200, per_tar=50, shard="2/2", resume=resume)


MISTAKES = {
    "label": ({"label": "clas1"}, "Did you mean 'class1'"),
    "control": ({"controls": {"scal": 1}}, "Did you mean 'scale'|'scale'"),
    "n": ({"n": 0}, "at least one sample"),
    "best_of": ({"best_of": 0}, "at least one candidate"),
    "choose": ({"choose": "sample"}, "give best_of"),
    "per_tar": ({"per_tar": 0}, "at least one sample"),
    "format": ({"format": "wav"}, "duet writes npy"),
    "shard": ({"shard": "0/2"}, "K from 1 to N"),
    "path": ({"path": "points.txt"}, "points.txt is one file: name a folder, such as points/"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_is_written(model, tmp_path, mistake):
    arguments, message = MISTAKES[mistake]
    name = arguments.pop("path", "folder") if mistake == "path" else "folder"
    with pytest.raises(ConfigError, match=message):
        model.generate_to(tmp_path / name, **{"n": 10, **arguments})
    assert not tree(tmp_path)


def test_what_a_power_failure_or_a_copy_spoilt_is_written_again(model, begun, tmp_path):
    folder = shutil.copytree(begun / "unfinished", tmp_path / "tars")
    (notes,) = folder.glob("*.part")
    lines = notes.read_text().splitlines(keepends=True)
    notes.write_text("".join([*lines[:2], "\n", '{"piece": 2}\n', "[1]\n", '{"pie']))
    first, second = sorted(folder.glob("*.tar"))
    first.write_bytes(first.read_bytes()[:-512])
    os.utime(second, (1, 1))
    (folder / ".samples.json.1.2.tmp").write_text("{")
    model.generate_to(folder, **JOB, resume=True)
    assert second.stat().st_mtime == 1  # its note was lost: it was read
    assert tree(folder) == tree(begun / "finished")
    model.generate_to(tmp_path / "single", 70, shard="1/2")
    (tmp_path / "single" / "000005.npy").write_bytes(b"")
    model.generate_to(tmp_path / "single", 70, resume=True)
    model.generate_to(tmp_path / "whole", 70)
    assert tree(tmp_path / "single") == tree(tmp_path / "whole")


@pytest.mark.parametrize("stop", ["killed", "stopped"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_an_earlier_job_are_not_taken_for_those_of_this(
    model, tmp_path, monkeypatch, kind, stop
):
    earlier = {"n": COUNT, **KINDS[kind], "label": "class0"}
    model.generate_to(tmp_path / "job", **earlier)

    def stop_at(count, _):
        if count >= 150:
            raise KeyboardInterrupt

    if stop == "killed":
        monkeypatch.setattr(Ledger, "list_begun", lambda _: None)
    arguments = {**earlier, "label": "class1"}
    with pytest.raises(KeyboardInterrupt):
        model.generate_to(tmp_path / "job", **arguments, progress=stop_at)
    told = json.loads((tmp_path / "job" / "samples.json").read_text())
    labels = {row["file"]: row["label"] for row in told.get("samples", told.get("tars"))}
    assert set(labels) == set(filter(is_finished, tree(tmp_path / "job")))
    assert (
        Counter(labels.values())["class1"]
        == {"killed": 0, "stopped": 192 if kind == "single" else 3}[stop]
    )
    model.generate_to(tmp_path / "whole", **arguments)
    for path in (tmp_path / "job").iterdir():
        os.utime(path, (1, 1))
    model.generate_to(tmp_path / "job", **arguments, resume=True)
    assert tree(tmp_path / "job") == tree(tmp_path / "whole")
    assert (
        tmp_path / "job" / ("000100.npy" if kind == "single" else "000002.tar")
    ).stat().st_mtime == 1


def test_files_that_a_batch_was_saved_to_are_no_job(model, tmp_path):
    model.generate(70, label="class0").save(tmp_path / "a")
    model.generate_to(tmp_path / "a", 70, label="class1", resume=True)
    model.generate_to(tmp_path / "b", 70, label="class1")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_full_disk_stops_a_job_that_goes_on_later(model, tmp_path, monkeypatch):
    def full(self, piece, record):
        if piece == 2:
            self.file.close()
            self.file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        return note(self, piece, record)

    note = Ledger.note
    monkeypatch.setattr(Ledger, "note", full)
    with pytest.raises(StorageError, match=r"cannot write .*1-of-1.*\.part: No space left"):
        model.generate_to(tmp_path / "job", 300, per_tar=50)
    monkeypatch.undo()
    model.generate_to(tmp_path / "job", 300, per_tar=50, resume=True)
    model.generate_to(tmp_path / "whole", 300, per_tar=50)
    assert tree(tmp_path / "job") == tree(tmp_path / "whole")


@pytest.mark.parametrize("is_listed", [True, False])
def test_two_shares_that_finish_at_once_do_not_hinder_each_other(
    model, tmp_path, monkeypatch, is_listed
):
    def write(*arguments):
        if is_listed:  # by the other process, which then removes what this one was writing
            write_listing(*arguments)
        raise StorageError("cannot write samples.json")

    monkeypatch.setattr("genkit.sampling.ledger.write_listing", write)
    if is_listed:
        files = model.generate_to(tmp_path, 100, per_tar=50)
        assert sorted(tree(tmp_path)) == [path.name for path in files]
    else:
        with pytest.raises(StorageError):
            model.generate_to(tmp_path, 100, per_tar=50)


# The list --------------------------------------------------------------------------------------------------------


def test_a_list_is_read_in_any_layout_and_a_damaged_one_is_none(model, tmp_path):
    model.generate(3).save(tmp_path)
    file = tmp_path / "samples.json"
    text = file.read_text()
    document = json.loads(text)
    for layout in (text, json.dumps(document), json.dumps(document, indent=2)):
        file.write_text(layout)
        listing = read_listing(tmp_path)
        assert list(listing.rows()) == document["samples"]
        assert listing.header == {key: document[key] for key in document if key != "samples"}
        assert "000002.npy" in listing.names
        assert "000003.npy" not in listing.names
    wrong_rows = [{**document, "samples": rows} for rows in (["x"], [{"file": 3}], [{}], 3)]
    without_start = {**document, "tars": [{"file": "000000.tar"}]}
    open_list = text[: text.index("\n ]") + 1]
    damaged = [
        text[:-30],
        text[:200],
        open_list,
        *map(json.dumps, [*wrong_rows, without_start, [], 3]),
    ]
    for content in damaged:
        file.write_text(content)
        assert read_listing(tmp_path) is None
        with pytest.raises(ConfigError, match=r"samples\.json for one"):
            model.generate_to(tmp_path, 3, start=10)
    write_listing(tmp_path, {"model": {"sha256": "x"}}, [])
    assert list(read_listing(tmp_path).rows()) == []


def test_names_are_a_set():
    chance = random.Random(0)
    numbers = [chance.randrange(200) for _ in range(150)]
    texts = {f"{number:06d}.{chance.choice(['a', 'b.c'])}" for number in numbers} | {"1.a", "note"}
    names = Names(texts, claims=[(range(190, 220), "a"), (range(300, 303), "d")])
    texts |= {f"{number:06d}.a" for number in range(190, 220)}
    texts |= {f"{number:06d}.d" for number in range(300, 303)}
    every = {f"{number:06d}.{ending}" for number in range(400) for ending in ("a", "b.c", "d")}
    for name in every | {"1.a", "note", "2.a", "0000001.a", "000001"}:
        assert (name in names) == (name in texts)


def test_files_are_paths_in_a_row():
    files = Files(Path("s"), range(2, 9, 3), "png")
    names = ["000002.png", "000005.png", "000008.png", "samples.json"]
    assert [path.name for path in files] == names
    assert files[-1] == Path("s/samples.json")
    assert [path.name for path in files[1:3]] == names[1:3]
    assert Path("s/000005.png") in files
    assert len(Files(Path("s"), range(0), "png", is_listed=False)) == 0
    assert repr(Files(Path("s"), range(9), "a")) == (
        "<10 files in s: 000000.a, 000001.a, 000002.a, ..., samples.json>"
    )
    with pytest.raises(IndexError):
        files[4]


# Memory ----------------------------------------------------------------------------------------------------------


WAYS = {
    "single": lambda model, folder, n: model.generate_to(folder / "single", n),
    "tars": lambda model, folder, n: model.generate_to(folder / "tars", n, per_tar=10**6),
    "save": lambda model, folder, n: save(model.stream(n), folder / "save"),
    "over others": lambda model, folder, n: model.generate_to(folder / "single", n),
    "resumed": lambda model, folder, n: model.generate_to(folder / "single", n, resume=True),
}


@pytest.fixture
def collected(model, monkeypatch):
    """Garbage is collected before each drawing, so that it is in no peak; what is there already is passed over."""
    draw = type(model).generate
    monkeypatch.setattr(type(model), "generate", lambda *a, **k: (gc.collect(), draw(*a, **k))[1])
    monkeypatch.setattr("genkit.sampling.listing.SPOOL_BYTES", 1000)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def traced_peak(write, model, folder, count):
    tracemalloc.start()
    try:
        write(model, folder, count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_samples(model, tmp_path, collected):
    growth = {}
    for way, write in WAYS.items():
        # Far apart: what other threads hold for a moment, some 40 kB, is nothing beside a leak of so many samples.
        counts = 4 * CHUNK, 34 * CHUNK
        peaks = [traced_peak(write, model, tmp_path / f"{count}", count) for count in counts]
        growth[way] = (peaks[1] - peaks[0]) / (counts[1] - counts[0])
    # A path takes some 300 bytes, a row of samples.json 500.
    assert {way: size for way, size in growth.items() if size > 120} == {}


# Ray -------------------------------------------------------------------------------------------------------------


class FakeRay:
    """A cluster whose tasks are done at once, with arguments and results that went through pickle."""

    def __init__(self, gpus=0, running=False):
        self.exceptions, self.running, self.options_seen, self.calls = self, running, [], []
        self.resources = {"CPU": 2.0, **({"GPU": gpus} if gpus else {})}

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        def __init__(self, cause):
            self.cause = cause

    def is_initialized(self):
        return self.running

    def init(self, **_):
        self.calls.append("init")

    def shutdown(self):
        self.calls.append("shutdown")

    def cluster_resources(self):
        return self.resources

    def remote(self, function):
        def options(**options):
            self.options_seen.append(options)
            task = lambda *arguments: pickle.dumps((function, arguments))  # noqa: E731
            return SimpleNamespace(remote=task)

        return SimpleNamespace(options=options)

    def wait(self, pending):
        return pending[-1:], pending[:-1]

    def get(self, tasks):
        done = []
        for function, arguments in map(pickle.loads, tasks):
            try:
                with contextlib.chdir("/"):
                    done.append(pickle.loads(pickle.dumps(function(*arguments))))
            except Exception as error:
                raise self.RayTaskError(error) from error
        return done

    def cancel(self, task):
        self.calls.append("cancel")


@pytest.fixture
def fake_ray(monkeypatch):
    def install(**arguments):
        ray = FakeRay(**arguments)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.exceptions", ray)
        return ray

    genkit.register(duet)
    yield install
    genkit.unregister("duet")


def test_the_tasks_of_ray_write_what_one_process_writes(model, tmp_path, fake_ray, monkeypatch):
    ray, counts = fake_ray(), []
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model.path, tmp_path / "model")
    arguments = {"n": 300, "seed": 4, "per_tar": 50, "label": "class2"}
    files = genkit.generate_on_ray(
        "model", "ray", shards=4, progress=lambda *pair: counts.append(pair), **arguments
    )
    genkit.load("model", modality=duet).generate_to("whole", **arguments)
    assert tree(tmp_path / "ray") == tree(tmp_path / "whole")
    assert [str(path) for path in files] == [
        f"ray/{name}" for name in sorted(tree(tmp_path / "ray"))
    ]
    assert counts == [(done, 4) for done in range(5)]
    assert ray.options_seen == [{"num_cpus": 1, "num_gpus": 0}]
    assert (ray.calls[0], ray.calls[-1]) == ("init", "shutdown")
    for path in files:
        os.utime(path, (1, 1))
    genkit.generate_on_ray("model", "ray", shards=2, **arguments)
    assert {path.stat().st_mtime for path in files} == {1}  # tasks resume


def test_a_task_of_ray_has_a_gpu_where_there_are_any(model, tmp_path, fake_ray):
    for device, gpus in (("cpu", 0), ("auto", 1)):
        ray = fake_ray(gpus=2, running=True)
        genkit.generate_on_ray(model.path, tmp_path / device, 10, 2, device=device)
        assert ray.options_seen == [{"num_cpus": 1, "num_gpus": gpus}]
        assert not {"init", "shutdown"} & set(ray.calls)


def test_what_a_task_of_ray_refuses_is_one_sentence(model, tmp_path, fake_ray, monkeypatch):
    ray = fake_ray()
    with pytest.raises(ConfigError, match=r"^label 'clas2': no such label"):
        genkit.generate_on_ray(model.path, tmp_path, 10, 2, label="clas2")
    assert ray.calls == ["init", "cancel", "cancel", "shutdown"]
    with pytest.raises(GenkitError, match="a task on Ray failed: TypeError"):
        genkit.generate_on_ray(model.path, tmp_path, 10, 2, nonsense=3)
    with pytest.raises(ConfigError, match="0 tasks on Ray: at least one"):
        genkit.generate_on_ray(model.path, tmp_path, 10, 0)
    monkeypatch.setattr(ray, "init", lambda **_: unreachable())
    with pytest.raises(ConfigError, match=r"cannot be reached: ConnectionError: nobody$"):
        genkit.generate_on_ray(model.path, tmp_path, 10, 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'genkit-gan\[ray\]'"):
        genkit.generate_on_ray(model.path, tmp_path, 10, 2)


def unreachable():
    raise ConnectionError("nobody")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_real_cluster_writes_what_one_process_writes(tmp_path, monkeypatch, process):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options, recipe = {"size": 16, "features": 4}, {"batch_size": 16}
    genkit.train(
        "image", preset="compact", out=tmp_path / "run", items=64, options=options, recipe=recipe,
        run={"plan": "fp32"},
    )  # fmt: skip
    words = ["-m", "genkit", "generate", "run", "-n", 300, "--per-tar", 64, "--out"]
    for out in (["alone"], ["ray", "--ray", 3]):
        done = process(*words, *out, cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, out[0]), done.stderr
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")
    done = process(*words, "ray", "--ray", 2, "--seed", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("genkit: ray was begun with seed = 0")


# Processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forked(model, tmp_path_factory, process):
    """What the forked processes of `main` left, and what they say of it."""
    folder = tmp_path_factory.mktemp("forked")
    done = process("-W", "error", __file__, model.path, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_killed_and_resumed_is_one_that_was_left_alone(forked, kind):
    folder, report = forked
    assert report[kind]["kills"] >= FEWEST_KILLS
    assert report[kind]["unfinished"] > 0  # the kills left files half-written
    assert report[kind]["touched"] == []  # finished files were never written again
    assert tree(folder / kind / "killed") == tree(folder / kind / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_the_tasks_of_a_slurm_array_write_a_job_together(forked, kind):
    folder, _ = forked
    assert tree(folder / kind / "array") == tree(folder / kind / "whole")


def main(model_path, folder):
    """Kill forked processes that write samples, resume, and tell what happened; then an array of tasks at once."""
    model, report = genkit.load(model_path, modality=duet), {}
    for kind, arguments in KINDS.items():
        arguments = {"n": 500, "start": START, **arguments}
        model.generate_to(folder / kind / "whole", **arguments)
        report[kind] = kill(model, folder / kind / "killed", arguments, random.Random(kind))
        write = partial(model.generate_to, folder / kind / "array", **arguments, shard="auto")
        tasks = [fork(write, task) for task in range(1, 5)]
        assert all(os.waitpid(task, 0)[1] == 0 for task in tasks)
    print(json.dumps(report))


def fork(work, task=None):
    """A process that works and ends; with a number, as this task of a SLURM array of 4."""
    process = os.fork()
    if process:
        return process
    try:
        if task is not None:
            names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
            os.environ |= dict(zip(names, (str(task), "4", "1"), strict=True))
        work()
        os._exit(0)
    finally:
        os._exit(1)


def kill(model, folder, arguments, chance):
    """Kills and resumes, ten of them unless all is written before, and a resume to the end."""
    report = {"kills": 0, "unfinished": 0, "touched": []}
    before = {}
    while True:
        last = report["kills"] >= 10
        moment = (
            None
            if last
            else (chance.choice(MOMENTS), chance.randint(1, 3 if "per_tar" in arguments else 45))
        )

        def work(moment=moment):
            if moment is not None:
                die(*moment)
            model.generate_to(folder, **arguments, resume=True)

        _, status = os.waitpid(fork(work), 0)
        after = {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*")}
        report["touched"] += [name for name in before if after.get(name) != before[name]]
        report["unfinished"] += len(list(folder.glob(".*.tmp")))
        before = after
        if not os.WIFSIGNALED(status):
            assert status == 0
            return report  # all is written, maybe before the last kill: files are written by several threads
        report["kills"] += 1


FEWEST_KILLS = 5
MOMENTS = ("before a file is there", "behind it", "in a note")


def die(moment, number):
    """Let this process be killed at one of `MOMENTS`: when so many files are there, or at its first note."""
    times, move = itertools.count(1), os.replace

    def replaced(*paths):
        is_now = next(times) == number
        if is_now and moment == MOMENTS[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        move(*paths)
        if is_now:
            os.kill(os.getpid(), signal.SIGKILL)

    def noted(self, piece, record):
        self.file.write(b'{"piece": 1')
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == MOMENTS[2]:
        Ledger.note = noted
    else:
        os.replace = replaced


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

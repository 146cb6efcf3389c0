"""A folder and a zip file of it hold the same files, in the same order, within the same limits."""

import gzip
import io
import os
import tarfile
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
from toys import ring

import genkit
from genkit.errors import DataError
from genkit.kit.columns import class_name
from genkit.kit.files import HeldOut, is_archive, labels, located, open_tree, ordinary, reason

NAMES = ["a-b/1.dat", "a/10.DAT", "a/2.dat", "a/deep/3.dat.gz"]


def content(opened):
    return opened.read_bytes() if isinstance(opened, Path) else opened.read()


@pytest.fixture
def folder(tmp_path):
    for name in [*NAMES, ".hidden/4.dat", "a/.5.dat", "__MACOSX/6.dat", "notes.txt"]:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(name)
    return tmp_path / "set"


@pytest.mark.parametrize("prefix", ["", "set/", "/x/y/"])
def test_a_zip_file_is_its_folder(folder, tmp_path, prefix):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    for source in (folder, tmp_path / "set.zip", (tmp_path / "set.zip").read_bytes()):
        tree = open_tree(source, {".dat", ".dat.gz"}, "data", "the set")
        assert tree.title == "the set"
        assert list(tree.files) == [NAMES[1], NAMES[2], NAMES[3], NAMES[0]]  # folder by folder
        assert all(
            content(opened()).decode() == name
            for name, opened in tree.files.items()
            for _ in range(2)
        )


def test_what_is_not_there_is_told_with_what_is(folder, tmp_path):
    with pytest.raises(
        DataError, match=r"set holds no songs \(\.mid \.song\); found: 3 \.dat, 1 \.gz, 1 \.txt"
    ):
        open_tree(folder, [".song", ".mid"], "songs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no songs .*found: nothing"):
        open_tree(tmp_path / "empty", [".song"], "songs")
    with pytest.raises(DataError, match=r"notes\.txt cannot be read as a zip file"):
        open_tree(folder / "notes.txt", [".song"], "songs")


def test_what_never_ends_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.dat")
    (tmp_path / "lost.dat").symlink_to(tmp_path / "gone")
    said = {}
    for name, opened in open_tree(tmp_path, [".dat"], "data").files.items():
        with pytest.raises((OSError, ValueError)) as error:
            opened()
        said[name] = reason(error.value)
    assert said == {"lost.dat": "No such file or directory", "pipe.dat": "it is no ordinary file"}
    with pytest.raises(ValueError, match="it is a folder"):
        ordinary(tmp_path)


@pytest.mark.parametrize("name", ["pipe", "pipe.zip", "pipe.tar", "/dev/zero"])
def test_a_source_that_never_ends_is_refused_before_it_is_read(name, tmp_path):
    if not name.startswith("/"):
        os.mkfifo(tmp_path / name)
    assert not is_archive(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe or a device"):
        located(tmp_path / name)
    with pytest.raises(DataError, match="it is no ordinary file"):
        open_tree(tmp_path / name, [".dat"], "data")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "names nothing"),
        (" ", "names nothing"),
        ("gone/x.dat", "there is no such file or folder"),
        ("https://a/b.zip", "no such file or folder; nothing is fetched from addresses: download"),
        ("gone/*.dat", "no such file or folder; patterns are not expanded: name the folder"),
        ("a\0b", "cannot be opened"),
        ("x" * 5000, r"x\.\.\.' cannot be opened \(File name too long\)"),
    ],
    ids=["empty", "blank", "gone", "address", "pattern", "zero", "long"],
)
def test_a_name_that_leads_nowhere_is_one_sentence(name, said):
    with pytest.raises(DataError, match=f"^data = .{{0,210}}{said}") as error:
        located(name)
    assert len(str(error.value)) < 300


def told(source):
    """(names of files, remarks, names of what is skipped) of a source."""
    tree = open_tree(source, {".dat"}, "data")
    return list(tree.files), dict(tree.remarks), dict(tree.skipped)


REPEATED = "several files have this path: the last one is read"


def zipped(file, entries):
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of zipfile, at repeated names
        for name in entries:
            archive.writestr(name, name)
    return file


def test_entries_of_one_path_are_named(tmp_path):
    names = ["a.dat", "./a.dat", "b.dat", "x/", "y/", "y/c.dat"]
    files, remarks, _ = told(zipped(tmp_path / "set.zip", names))
    assert files == ["a.dat", "b.dat", "y/c.dat"]
    assert remarks == {"a.dat": REPEATED, "x": "nothing lies there"}
    files, remarks, _ = told(tmp_path)
    assert files == ["set.zip/a.dat", "set.zip/b.dat", "set.zip/y/c.dat"]
    assert remarks == {"set.zip/a.dat": REPEATED, "set.zip/x": "nothing lies there"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["set", "set.gz", "set.dat"])
def test_a_tar_file_is_known_by_its_content(mode, name, tmp_path):
    (tmp_path / "1.dat").write_text("x")
    with tarfile.open(tmp_path / name, mode) as archive:
        archive.add(tmp_path / "1.dat", "1.dat")
    assert is_archive(tmp_path / name)
    assert told(tmp_path / name)[0] == ["1.dat"]
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(600)))
    assert not is_archive(tmp_path / "x.gz")


def test_names_of_entries_lead_nowhere_outside(tmp_path):
    files, remarks, _ = told(zipped(tmp_path / "a.zip", ["../b.dat", "/c.dat", "x/../../d.dat"]))
    assert (files, remarks) == (["b.dat", "c.dat", "d.dat"], {})


def test_whatever_stands_in_a_tar_file_is_read_or_named(tmp_path):
    entries = [
        ("1.dat", tarfile.REGTYPE, ""),
        ("1.dat", tarfile.REGTYPE, ""),
        ("2.dat", tarfile.SYMTYPE, "3.dat"),
        ("3.dat", tarfile.SYMTYPE, "1.dat"),
        ("4.dat", tarfile.SYMTYPE, "4.dat"),
        ("5.dat", tarfile.FIFOTYPE, ""),
        ("6.dat", tarfile.CHRTYPE, ""),
        ("7", tarfile.DIRTYPE, ""),
    ]
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, kind, target in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 3 * (kind == tarfile.REGTYPE)
            archive.addfile(info, io.BytesIO(b"abc"))
    skipped = {
        "4.dat": "a link to 4.dat, which is no file of the archive",
        "5.dat": "it is no ordinary file",
        "6.dat": "it is no ordinary file",
    }
    files, remarks, left = told(tmp_path / "set.tar")
    assert (files, left) == (["1.dat", "2.dat", "3.dat"], skipped)
    assert remarks == {"1.dat": REPEATED, "7": "nothing lies there"}
    files, remarks, left = told(tmp_path)  # the same within a folder
    assert len(files) == 3
    assert left == {f"set.tar/{name}": text for name, text in skipped.items()}
    assert remarks == {"set.tar/1.dat": REPEATED, "set.tar/7": "nothing lies there"}


def test_an_archive_that_cannot_be_read_says_why_in_its_own_words(tmp_path):
    (tmp_path / "a.dat").touch()
    (tmp_path / "cut.zip").write_bytes(b"PK")
    (fault,) = open_tree(tmp_path, {".dat"}, "data").skipped
    assert fault.reason.startswith("cut.zip cannot be read as a zip file (")


def test_hidden_files_of_any_kind_and_empty_folders_are_named(tmp_path):
    for name in ["a/1.dat", ".set.zip", "a/.table.csv", ".cache/2.dat", ".git/3", ".gitignore"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ["b", ".config", "c/d"]:
        (tmp_path / name).mkdir(parents=True)
    hidden = "hidden: names that begin with a dot are not read"
    assert told(tmp_path)[1] == {
        "3 files (.cache/2.dat ...)": hidden,
        "2 folders (b ...)": "nothing lies there",
    }


def test_what_genkit_wrote_beside_the_data_is_none(tmp_path):
    endings = {".json", ".dat"}
    (tmp_path / "0.dat").touch()
    model = genkit.train(ring, out=tmp_path / "x" / "run", items=64, run={"plan": "fp32"})
    model.generate(3).save(tmp_path / "samples")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.json").write_text('{"samples": []}')
    tree = open_tree(tmp_path, endings, "data")
    assert list(tree.files) == ["0.dat", "mine/samples.json"]
    assert tree.others == {}
    (remark,) = tree.remarks
    assert remark == ("2 folders (samples ...)", "written by genkit, and no data")
    assert isinstance(remark, HeldOut)
    for name in ("0.dat", "mine/samples.json"):  # nothing but samples: these are meant
        (tmp_path / name).unlink()
    tree = open_tree(tmp_path, endings, "data")
    assert [name.partition("/")[0] for name in tree.files] == ["samples"]  # but never a run
    assert tree.remarks[0] == ("x/run", "written by genkit, and no data")
    assert "samples.json" in open_tree(tmp_path / "samples", endings, "data").files


HELD, BESIDE = (
    "held out: 1 data, not trained on",
    "beside the parts of the data set: 1 data, not trained on",
)
UNCLEAR = "named like a part of a data set, and read like all other data"


@pytest.mark.parametrize(
    ("names", "files", "remarks"),
    [
        ("train/1, test2017/2, val2017/3", "1", {"test2017": HELD, "val2017": HELD}),
        ("train/a/1, val/2, test/3, extra/4", "a/1", {"val": HELD, "test": HELD, "extra": BESIDE}),
        ("a/train/1, a/test/2, b/train/3", "a/1, b/3", {"a/test": HELD}),
        ("a/train/1, a/test/2, b/test/3", "a/1", {"2 parts (a/test ...)": HELD.replace("1", "2")}),
        ("x/train/1, x/val/2, y/3", "x/1, y/3", {"x/val": HELD}),
        ("train-1/a/1, train-2/a/2, dev/3", "a/1, a/2", {"dev": HELD}),
        ("train-1/a/1, train-2/a/1, dev/3", "train-1/a/1, train-2/a/1", {"dev": HELD}),
        ("train_x/1, x_test/2", "1", {"x_test": HELD}),
        ("train/a/1", "a/1", {}),
        ("train/1, unlabeled/2", "train/1, unlabeled/2", {"train": UNCLEAR}),
        (
            "train/1, test/2, a/3, b/4, c/5",
            "train/1, test/2, a/3, b/4, c/5",
            {"2 parts (test ...)": UNCLEAR},
        ),
        ("val/1, test/2", "test/2, val/1", {"2 parts (test ...)": UNCLEAR}),
        ("test/a/1", "a/1", {"test": UNCLEAR}),
        ("training shoes/1, boots/2", "boots/2, training shoes/1", {}),
        ("detest/1, train/2, val/3", "2", {"detest": BESIDE, "val": HELD}),
        ("train, valid, notes", "train", {"valid.dat": HELD, "notes.dat": BESIDE}),
        ("x.train, x.test", "x.train", {"x.test.dat": HELD}),
        ("valid, test", "test, valid", {"2 parts (test.dat ...)": UNCLEAR}),
        ("a, b, c, test", "a, b, c, test", {}),
        (
            "train_1, train_2, test_1, test_2",
            "train_1, train_2",
            {"2 parts (test_1.dat ...)": "held out: 2 data, not trained on"},
        ),
    ],
)
def test_only_the_part_for_training_is_read_and_the_rest_is_named(names, files, remarks, tmp_path):
    for name in names.split(", "):
        (tmp_path / f"{name}.dat").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.dat").touch()
    got, said, _ = told(tmp_path)
    assert set(got) == {f"{name}.dat" for name in files.split(", ")}
    assert said == remarks


def test_entries_that_claim_too_much_are_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("large.dat", bytes(1001))
    monkeypatch.setattr("genkit.kit.archives.ENTRY_BYTES", 1000)
    (opened,) = open_tree(tmp_path / "set.zip", [".dat"], "data").files.values()
    with pytest.raises(
        ValueError, match="it claims to hold 1,001 bytes; at most 1,000 are unpacked"
    ):
        opened()


def test_folders_are_labels_unless_files_lie_beside_them():
    assert labels(["a/1", "b/c/2", "a/3"]) == ["a", "b", "a"]
    assert labels(["a/1", "2"]) == [None, None]
    assert labels([]) == []


def test_folders_that_all_files_have_in_common_are_no_labels():
    assert labels(["x/y/a/1", "x/y/b/2", "x/y/b/c/3"]) == ["a", "b", "b"]
    assert labels(["x/a/1", "x/2"]) == ["x", "x"]
    assert labels(["x/y/1", "x/y/2"]) == ["x", "x"]
    assert labels(["x/s.zip/a/1", "x/t.zip/b/2"]) == ["a", "b"]


def test_labels_that_look_the_same_are_the_same():
    words = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    assert len(set(words)) == 2
    assert labels([f"{word}/1" for word in words]) == words[:1] * 2
    assert {class_name(word)[0] for word in words} == set(words[:1])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ValueError("it is odd\nin detail"), "it is odd"),
        (MemoryError(), "it does not fit into memory"),
        (KeyError("x"), "damaged: KeyError('x')"),
        (ValueError("x" * 200), "x" * 120),
    ],
)
def test_reasons_are_a_few_words(error, said):
    assert reason(error) == said

"""A folder and a zip file of it hold the same files, in the same order, within the same limits."""

import os
import zipfile
from pathlib import Path

import pytest

from genkit.errors import DataError
from genkit.kit.files import labels, open_tree, ordinary, reason

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
    with pytest.raises(ValueError, match="no ordinary file"):
        ordinary(tmp_path)


def test_entries_that_claim_too_much_are_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("large.dat", bytes(1001))
    monkeypatch.setattr("genkit.kit.files.ENTRY_BYTES", 1000)
    (opened,) = open_tree(tmp_path / "set.zip", [".dat"], "data").files.values()
    with pytest.raises(
        ValueError, match="it claims to hold 1,001 bytes; at most 1,000 are unpacked"
    ):
        opened()


def test_folders_are_labels_unless_files_lie_beside_them():
    assert labels(["a/1", "b/c/2", "a/3"]) == ["a", "b", "a"]
    assert labels(["a/1", "2"]) == [None, None]


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

"""The same items in any form: folders, archives, tables beside files, Parquet, data sets and dicts."""

import os
import zipfile
from pathlib import Path

import pytest
from forms import Forms, packed, put

from genkit.errors import ConfigError, DataError
from genkit.kit.files import open_tree
from genkit.kit.sources import open_items, open_rows
from genkit.kit.tables import read_rows

ENDINGS, COLUMNS = {".dat"}, ("blob",)
COUNT = 30
CONTENT = {f"{number:03d}.dat": bytes([number, 7]) for number in range(COUNT)}
CLASS = {name: ("even", "odd")[number % 2] for number, name in enumerate(CONTENT)}


def opened(source, label=None):
    return open_items(source, ENDINGS, "blobs", COLUMNS, label)


def contents(items):
    """The bytes of all items."""
    values = [items.read(index) for index in range(len(items.names))]
    return [value.read_bytes() if isinstance(value, Path) else value.read() for value in values]


@pytest.mark.parametrize("form", Forms.NAMES)
def test_every_form_holds_the_same_items(form, tmp_path):
    items = opened(Forms(CONTENT, CLASS, "blob").write(form, tmp_path))
    got = dict(zip(contents(items), items.labels, strict=True))
    assert got == {content: CLASS[name] for name, content in CONTENT.items()}
    assert (items.skipped, items.remarks) == ((), ())
    if form not in ("folders", "zip", "tgz"):
        assert contents(items) == list(CONTENT.values())  # and in the same order


def test_a_column_is_chosen_by_name_and_what_lacks_it_is_left_out(tmp_path):
    put(tmp_path, {name: CONTENT[name] for name in list(CONTENT)[:3]})
    put(
        tmp_path,
        {"metadata.csv": "file_name,breed,label\n000.dat,cat,1\n001.dat,,2\ngone.dat,dog,3\n"},
    )
    items = opened(tmp_path, "breed")
    assert (list(items.names), items.labels) == (["000.dat"], ["cat"])
    assert items.skipped == (
        ("metadata.csv, row 4", "there is no file gone.dat"),
        ("001.dat", "no value in the column 'breed'"),
        ("002.dat", "no value in the column 'breed'"),
    )
    assert items.remarks == (("002.dat", "not named in metadata.csv"),)
    partial = opened(tmp_path)
    assert partial.labels == [None] * 3
    assert partial.remarks[1] == (
        "002.dat", "no value in the column 'label', so that it is not taken for classes",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"'bred': .* no such column\. Did you mean 'breed'"):
        opened(tmp_path, "bred")


def test_whatever_is_not_read_is_named(tmp_path):
    put(
        tmp_path,
        {
            "a/1.dat": b"1",
            "b/2.dat": b"2",
            "3.dat": b"3",
            ".4.dat": b"4",
            "notes.md": "x",
            "LICENSE": "x",
            "a/5.tmp": b"5",
            "b/6.tmp": b"6",
            "@eaDir/7.dat": b"7",
            "__MACOSX/8.dat": b"8",
            "._9.dat": b"9",
            "Thumbs.db": b"",
        },
    )
    (tmp_path / "bad.zip").write_bytes(b"PK")
    items = opened(tmp_path)
    assert set(items.names) == {"a/1.dat", "b/2.dat", "3.dat"}
    assert [name for name, _ in items.skipped] == ["bad.zip"]
    assert dict(items.remarks) == {
        ".4.dat": "hidden: names that begin with a dot are not read",
        "LICENSE": "not read: files without an ending are not taken as blobs",
        "notes.md": "not read: files .md are not taken as blobs",
        "2 files (a/5.tmp ...)": "not read: files .tmp are not taken as blobs",
        "3.dat": "in no folder, so that the folders are not taken for classes",
    }
    assert items.labels == [None] * 3


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "test"), ("train-01", "dev.zip")])
def test_parts_are_no_classes(tmp_path, names):
    kept, left = names
    put(tmp_path, {f"{kept}/cat/1.dat": b"1", f"{kept}/dog/2.dat": b"2"})
    if left.endswith(".zip"):
        packed(put(tmp_path / "x", {"cat/3.dat": b"3"}), tmp_path / left)
    else:
        put(tmp_path, {f"{left}/cat/3.dat": b"3"})
    items = opened(tmp_path)
    assert (list(items.names), items.labels) == (["cat/1.dat", "dog/2.dat"], ["cat", "dog"])
    assert items.remarks == ((left, "held out: 1 blobs, not trained on"),)


def test_a_folder_that_is_not_only_parts_is_classes(tmp_path):
    put(tmp_path, {"train/1.dat": b"1", "bus/2.dat": b"2"})
    assert opened(tmp_path).labels == ["bus", "train"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    put(tmp_path, {"store/x/1.dat": b"1", "set/b/2.dat": b"2"})
    (tmp_path / "set" / "a").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "set" / "b" / "up").symlink_to(tmp_path / "set")
    items = opened(tmp_path / "set")
    assert (list(items.names), items.labels) == (["a/1.dat", "b/2.dat"], ["a", "b"])
    assert items.remarks == (("b/up", "the same folder as ., read once"),)


OLD = {
    "cp437": "Straße",
    "cp866": "привет",
    "gbk": "猫咪图片",
    "cp932": "ねこの写真",
    "utf-8": "猫",
}


@pytest.mark.parametrize("encoding", OLD)
def test_names_in_old_encodings_are_read(tmp_path, encoding):
    word = OLD[encoding]
    raw = word.encode(encoding)
    stand_in = "q" * len(raw)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"{stand_in}/1.dat", b"1")
        archive.writestr("dogs/2.dat", b"2")
    (tmp_path / "set.zip").write_bytes(
        (tmp_path / "a.zip").read_bytes().replace(stand_in.encode(), raw)
    )
    items = opened(tmp_path / "set.zip")
    assert set(items.labels) == {word, "dogs"}
    assert len(contents(items)) == 2
    said = [text for _, text in items.remarks]
    assert said == (
        [] if encoding == "utf-8" else [f"its names are not in UTF-8 and were read as {encoding}"]
    )


def test_names_that_are_no_text_can_be_stored(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "1.dat").write_bytes(b"1")
    items = opened(tmp_path)
    assert items.labels == ["café"]
    assert contents(items) == [b"1"]
    assert items.remarks == (
        ("café/1.dat", "their names are not in UTF-8 and were read as Latin-1"),
    )


def test_a_damaged_archive_is_one_sentence(tmp_path):
    whole = packed(put(tmp_path / "x", CONTENT), tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 - 300])
    items = opened(tmp_path / "cut.tar")
    assert 5 < len(items.names) < COUNT
    (tmp_path / "none.tar").write_bytes(b"no archive" * 99)
    with pytest.raises(DataError, match=r"none\.tar cannot be read as a tar file"):
        opened(tmp_path / "none.tar")


def test_links_in_a_tar_file_are_what_they_lead_to(tmp_path):
    put(tmp_path / "x", {"a/1.dat": b"1"})
    (tmp_path / "x" / "b").mkdir()
    (tmp_path / "x" / "b" / "2.dat").hardlink_to(tmp_path / "x" / "a" / "1.dat")
    (tmp_path / "x" / "b" / "3.dat").symlink_to("../a/1.dat")
    (tmp_path / "x" / "b" / "4.dat").symlink_to("gone")
    items = opened(packed(tmp_path / "x", tmp_path / "a.tar"))
    assert contents(items) == [b"1"] * 3
    assert items.skipped == (("b/4.dat", "a link to b/gone, which is no file of the archive"),)


@pytest.mark.parametrize(
    ("name", "raw", "found"),
    [
        ("a.csv", b'a,b\n1,"x\ny"\n\n2\n\xff,3\n', [(2, {"a": "1", "b": "x\ny"}), 5, 6]),
        ("a.tsv", b"a\tb\n1\t2,3\n", [(2, {"a": "1", "b": "2,3"})]),
        ("a.jsonl", b'{"a": 1}\n\n[\n"x"\n', [(1, {"a": 1}), 3, (4, {"": "x"})]),
        ("a.json", b'[{"a": 1}, "x"]', [(1, {"a": 1}), (2, {"": "x"})]),
        ("b.json", b'{"a": [1, 2], "b": [3, 4]}', [(1, {"a": 1, "b": 3}), (2, {"a": 2, "b": 4})]),
        ("c.json", b'{"version": 1, "data": [{"a": 1}]}', [(1, {"a": 1})]),
        ("d.json", b'{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
    ],
)
def test_rows_of_tables(name, raw, found):
    got = [
        row.number if row.fault else (row.number, dict(row.fields)) for row in read_rows(name, raw)
    ]
    assert got == found


def test_numbers_of_classes_in_parquet_are_named():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"blob": datasets.Value("binary"), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    data = datasets.Dataset.from_dict({"blob": [b"a", b"b"], "label": [1, 0]}, features=features)
    assert opened(data).labels == ["dog", "cat"]
    parts = datasets.DatasetDict({"test": data.select([0]), "train": data})
    items = opened(parts)
    assert items.labels == ["dog", "cat"]
    assert items.remarks == (("test", "held out: 1 items, not trained on"),)
    with pytest.raises(DataError, match="a stream"):
        open_rows(data.to_iterable_dataset())


def test_columns_that_could_all_be_the_item_are_named():
    with pytest.raises(DataError, match="columns x, y; several could hold blobs: call it 'blob'"):
        opened([{"x": b"1", "y": b"2"}])
    with pytest.raises(DataError, match="none could hold blobs"):
        opened([{"x": "1"}])


def test_a_tree_alone_says_what_lies_beside(tmp_path):
    put(tmp_path, {"1.dat": b"1", "metadata.csv": "file_name,label\n1.dat,x\n"})
    assert list(open_tree(tmp_path, ENDINGS, "blobs").others) == ["metadata.csv"]

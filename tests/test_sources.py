"""The same items in any form: folders, archives, tables beside files, Parquet, data sets and dicts."""

import datetime
import gzip
import json
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from forms import Forms, packed, parquet, put

from genkit.errors import ConfigError, DataError
from genkit.kit.files import HeldOut, open_tree
from genkit.kit.items import check_classes, check_usable, classes_of
from genkit.kit.sources import open_items, open_rows
from genkit.kit.tables import lines_of, read_rows
from genkit.plugin import Remark

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
    with pytest.raises(ConfigError, match=r"'bred': .* no column 'bred'\. Did you mean 'breed'"):
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


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_compressed_archive_that_is_cut_is_read_up_to_there(ending, tmp_path):
    noise = np.random.default_rng(0).bytes
    packed_file = tmp_path / f"a.tar.{ending}"
    put(tmp_path / "x", {f"{number}.dat": noise(50_000) for number in range(4)})
    with tarfile.open(packed_file, f"w:{ending}") as archive:
        archive.add(tmp_path / "x", ".")
    packed_file.write_bytes(packed_file.read_bytes()[:125_000])
    items = opened(packed_file)
    assert 1 <= len(items.names) <= 2
    assert [name.partition(".")[2] for name, _ in items.skipped] == ["dat", f"tar.{ending}"]


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
        ("e.json", b'[{"a": 1, "a": 2}, {"a": 3}, {"b": {"a": 1, "a": 1}}]', [1, (2, {"a": 3}), 3]),
        ("g.json", b'[\n{"a": 1},\n{"a": 2},\n{"a', [1]),
        ("h.json", b'oops\n{"a": 1}\n', [1, (2, {"a": 1})]),
        ("f.json", b'{"a": [1], "a": [2], "b": [3]}', [1]),
        ("b.jsonl", b'{"a": 1, "a": 2}\r{"a": 3}\r\n{"a": 4}', [1, (2, {"a": 3}), (3, {"a": 4})]),
        ("b.csv", b"a, b\rx, y\r\nz,w \n", [(2, {"a": "x", "b": "y"}), (3, {"a": "z", "b": "w "})]),
        (
            "c.csv",
            b"a;b, c, d\n1;2\n3;4,5\n",
            [(2, {"a": "1", "b, c, d": "2"}), (3, {"a": "3", "b, c, d": "4,5"})],
        ),
        ("d.csv", b"sep=;\na;b\n1,0;2\n", [(3, {"a": "1,0", "b": "2"})]),
        ("e.csv", b"# of me\n# 2,0,2,6\na,b\n#1,2\n", [(4, {"a": "#1", "b": "2"})]),
        ("f.csv", b"#a,b\n1,2\n", [(2, {"#a": "1", "b": "2"})]),
        ("g.csv", b"a,b,a\n1,2,3\n", [(2, {"a": "1", "b": "2", "a (2)": "3"}), 1]),
        (
            "h.csv",
            b'a,b\n"open,1\n2,3\n4,"5\n6"\n7,"8"9\n',
            [
                2,
                (3, {"a": "2", "b": "3"}),
                (4, {"a": "4", "b": "5\n6"}),
                (6, {"a": "7", "b": "89"}),
            ],
        ),
        ("i.csv", b'a\n"x\ny\n', [2, (3, {"a": "y"})]),
        ("j.csv", b'"a,b\n1,2\n', [1]),
        (
            "b.tsv",
            b'a\tb\n5" disk\t1\n"open\t2\n3\t4\n',
            [(2, {"a": '5" disk', "b": "1"}), 3, (4, {"a": "3", "b": "4"})],
        ),
        ("k.csv", "a,b\n1,\u00e9\n".encode("utf-16"), [(2, {"a": "1", "b": "\u00e9"})]),
        ("l.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), [(2, {"a": "1", "b": "2"})]),
        ("m.csv", b"", []),
    ],
)
def test_rows_of_tables(name, raw, found):
    got = [
        row.number if row.fault else (row.number, dict(row.fields)) for row in read_rows(name, raw)
    ]
    assert got == found


def test_a_line_ends_in_any_usual_way():
    raw = "a\nb\r\nc\rd\r\r\ne\x85\u2028\x0bf\n\n".encode()
    said = [(number, line) for number, line, _ in lines_of(b"\xef\xbb\xbf" + raw)]
    texts = ["a", "b", "c", "d", "", "e\x85\u2028\x0bf", ""]
    assert said == list(enumerate(texts, start=1))
    assert [line for _, line, _ in lines_of(b"a\rb")] == ["a", "b"]
    assert list(lines_of(b"")) == []


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


# Tables that name files ----------------------------------------------------------------------------------------------

PAIR = {"0.dat": b"0", "1.dat": b"1"}
E_COMPOSED, E_APART = unicodedata.normalize("NFC", "\u00e9"), unicodedata.normalize("NFD", "\u00e9")


@pytest.mark.parametrize(
    ("files", "first", "second"),
    [
        (PAIR, "0.dat", " 1.DAT "),
        (PAIR, "images/0.dat", "old\\\\images\\\\1.dat"),
        (PAIR, "/elsewhere/0.dat", "https://somewhere/images/1.dat"),
        ({"images/0.dat": b"0", "images/1.dat": b"1"}, "0.dat", "1"),
        ({"x/A/0.dat": b"0", "x/A/1.dat": b"1", "x/B/1.dat": b"2"}, "a/0.dat", "x/a/1.dat"),
        (
            {f"{E_APART}0.dat": b"0", f"{E_APART}1.dat": b"1"},
            f"{E_COMPOSED}0.dat",
            f"{E_COMPOSED}1",
        ),
    ],
)
def test_names_in_tables_are_found_however_they_are_spelt(files, first, second, tmp_path):
    table = f"file_name,Label,x\n{first},a,1\n{second},b,2\n"
    put(tmp_path, {**files, "metadata.csv": table.replace("\\\\", "\\")})
    items = opened(tmp_path, "Label")
    assert (contents(items), items.labels) == ([b"0", b"1"], ["a", "b"])
    assert items.skipped[1:] == ()  # the third file, if there is one, has no label


def test_what_would_have_to_be_guessed_is_named(tmp_path):
    files = {"a/00.dat": b"0", "a/1.dat": b"1", "b/1.dat": b"2", "c/2.dat": b"3", "c/2.d.dat": b"4"}
    table = "file_name,cls\n9,x\n1.dat,x\nq/1.dat,x\n../../2.dat,x\n,x\nc/2,y\n"
    items = opened(put(tmp_path, {**files, "t.csv": table}), "cls")
    said = dict(items.skipped)
    assert list(items.names) == ["c/2.dat"]
    assert [text for name, text in said.items() if name.startswith("t.csv")] == [
        "there is no file 9",
        "several files could be 1.dat",
        "there is no file q/1.dat",
        "it names no file",
    ]
    assert ("t.csv", "other values of 'cls' for c/2.dat than before; these count") in items.remarks


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"a.csv": "file,label\n0.dat,x\n1.dat,y\n0.dat,z\n"}, "a.csv"),
        (
            {"a.csv": "file,label\n0.dat,x\n1.dat,y\n", "b.csv": "file,label\n0.dat,z\n1.dat,y\n"},
            "b.csv",
        ),
    ],
)
def test_tables_that_differ_are_named_and_the_last_counts(tables, said, tmp_path):
    items = opened(put(tmp_path, {**PAIR, **tables}))
    assert items.labels == ["z", "y"]
    assert items.remarks == ((said, "other values of 'label' for 0.dat than before; these count"),)


def test_a_table_that_repeats_itself_is_no_conflict(tmp_path):
    table = "file,label\n0.dat,x\n1.dat,y\n0.dat,x\n"
    assert opened(put(tmp_path, {**PAIR, "a.csv": table})).remarks == ()


@pytest.mark.parametrize("first", ["0.dat,x\n", "gone.dat,x\n0.dat,x\n"])
def test_a_table_without_a_header_loses_no_row(first, tmp_path):
    items = opened(put(tmp_path, {**PAIR, "a.csv": f"{first}1.dat,y\n"}))
    assert items.labels == ["x", "y"]
    missing = (("a.csv, row 1", "there is no file gone.dat"),)
    assert items.skipped == (missing if "gone" in first else ())


def test_the_column_that_tells_files_apart_names_them(tmp_path):
    items = opened(put(tmp_path, {**PAIR, "a.csv": "label,file\n1,0\n1,1\n"}))
    assert items.labels == ["1", "1"]


def test_pairs_of_dataset_json_that_are_none_are_named(tmp_path):
    table = '{"labels": [["0.dat", 3], ["1.dat", 4], ["1.dat"], "x"]}'
    items = opened(put(tmp_path, {**PAIR, "dataset.json": table}))
    assert items.labels == ["3", "4"]
    assert [name for name, _ in items.skipped] == ["dataset.json, row 3", "dataset.json, row 4"]


def test_a_sidecar_describes_all_files_of_its_name(tmp_path):
    files = {"a.left.dat": b"0", "a.right.dat": b"1", "b.c.dat": b"2"}
    items = opened(put(tmp_path, {**files, "a.cls": "x", "b.c.cls": "y", "b.cls": "z"}))
    assert items.labels == ["x", "x", "y"]


def test_sidecars_that_cannot_be_read_are_named(tmp_path):
    sidecars = {"0.txt": b"\xff", "1.txt": "cat", "0.json": "{", "1.json": '{"label": "a"}'}
    put(tmp_path, {**PAIR, **sidecars})
    for label, left_out in (("txt", "0.txt"), (None, "0.json")):
        items = opened(tmp_path, label)
        assert [name for name, _ in items.remarks] == ["0.txt", "0.json"]
        assert list(items.names) == ["1.dat"]
        ((name, why),) = items.skipped
        assert name == "0.dat"
        assert why.startswith(f"{left_out} cannot be read: ")


NUMBERED = {f"{number:06d}.dat": bytes([number]) for number in (3, 7, 12)}


@pytest.mark.parametrize(
    ("files", "table"),
    [
        (NUMBERED, "a.csv: number,kind\n7,b\n12,c\n3,a\n"),
        (NUMBERED, "a.csv: 7,b\n12,c\n3,a\n"),
        (NUMBERED, 'a.json: [{"id": 7, "kind": "b"}, {"id": 12.0, "kind": "c"}, {"id": 3, "kind": "a"}]'),
        (
            {f"x/img_{name}": content for name, content in NUMBERED.items()},
            "a.csv: image,kind\nx/img_7,b\nimg_12.dat,c\nimg_03,a\n",
        ),
        ({f"data/{name}": content for name, content in NUMBERED.items()}, "notes/a.csv: number,kind\n7,b\n12,c\n3,a\n"),
    ],
)  # fmt: skip
def test_zeros_in_front_of_numbers_make_no_difference(files, table, tmp_path):
    name, _, content = table.partition(": ")
    items = opened(
        put(tmp_path, {**files, name: content}), "label" if content[0] == "7" else "kind"
    )
    assert (items.labels, contents(items)) == (list("abc"), [b"\3", b"\7", b"\x0c"])
    assert (items.skipped, items.remarks) == ((), ())


def test_numbers_that_are_no_names_of_files_are_none(tmp_path):
    ages = "who,age,label\nann,7,x\nbob,12,y\neve,7,z\n"  # two are 7: no number of a file is twice there
    items = opened(put(tmp_path, {**NUMBERED, "a.csv": ages}))
    assert items.labels == [None] * 3
    assert items.remarks == (("a.csv", "not read: files .csv are not taken as blobs"),)
    files = {"7.dat": b"1", "07.dat": b"2", "007.dat": b"3"}
    items = opened(put(tmp_path / "b", {**files, "a.csv": "file_name,cls\n7,x\n0007,y\n"}), "cls")
    assert (list(items.names), items.labels) == (["7.dat"], ["x"])
    assert items.skipped[0] == ("a.csv, row 3", "several files could be 0007")


def test_a_table_in_a_folder_without_files_names_those_above(tmp_path):
    files = {"images/a/0.dat": b"0", "images/b/1.dat": b"1", "c/2.dat": b"2"}
    tables = {"labels/train/x.csv": "id,label\n0,x\n1,y\n2,z\n", "images/b/t.csv": "id,kind\n2,q\n"}
    items = opened(put(tmp_path, {**files, **tables}))
    assert dict(zip(items.names, items.labels, strict=True)) == {
        "images/a/0.dat": "x", "images/b/1.dat": "y", "c/2.dat": "z",
    }  # fmt: skip
    # A table beside files speaks of these alone.
    assert items.remarks == (("images/b/t.csv", "not read: files .csv are not taken as blobs"),)


BITS = "file,cat,dog,bird\n0.dat,1,0,0\n1.dat,0,0,1.0\n2.dat,-1,-1,1\n3.dat,,true,\n"


def test_one_hot_columns_are_classes_where_one_is_1(tmp_path):
    files = {f"{number}.dat": bytes([number]) for number in range(8)}
    odd = "4.dat,1,1,0\n5.dat,0,0,0\n6.dat,0,2,0\n7.dat,,,\n"
    items = opened(put(tmp_path, {**files, "a.csv": BITS + odd}), "cat, dog, bird")
    assert items.labels == ["cat", "bird", "bird", "dog"]
    assert [text for _, text in items.skipped] == [
        "several of the columns cat, dog, bird are 1",
        "none of the columns cat, dog, bird is 1",
        "'2' in the column 'dog' is neither 0 nor 1",
        "no value in the column 'cat, dog, bird'",
    ]
    rows = [{"blob": b"1", "cat": 0, "dog": True}, {"blob": b"2", "cat": 1, "dog": False}]
    assert opened(rows, "cat,dog").labels == ["dog", "cat"]
    with pytest.raises(ConfigError, match=r"has no column 'dgo'\. Did you mean 'dog'"):
        opened(rows, "cat,dgo")
    with pytest.raises(DataError, match=r"none of the items .* \(several of the columns"):
        opened([{"blob": b"1", "cat": 1, "dog": 1}], "cat,dog")
    assert opened([{"blob": b"1", "a,b": "x"}], "a,b").labels == ["x"]


def coco(categories_of, **more):
    """Annotations in COCO's form: categories by the numbers of images, 1.dat ..."""
    images = [{"id": number, "file_name": f"{number}.dat", "width": 1} for number in range(1, 4)]
    pairs = [(image, name) for image, names in categories_of.items() for name in names]
    annotations = [
        {"id": number, "image_id": image, "category_id": ord(name), "bbox": [0, 0, 1, 1]}
        for number, (image, name) in enumerate(pairs)
    ]
    categories = [{"id": ord(name), "name": f"kind {name}"} for name in "abc"]
    return json.dumps(
        {"images": images, "annotations": annotations, "categories": categories, **more}
    )


@pytest.mark.parametrize("more", [{}, {"info": {}, "licenses": []}])
def test_categories_in_cocos_form_are_classes_where_a_file_has_one(more, tmp_path):
    files = {f"train2017/{number}.dat": bytes([number]) for number in range(1, 4)}
    table = coco({1: "aa", 2: "b", 3: "c"}, **more)
    put(tmp_path, {**files, "annotations/instances_train2017.json": table})
    items = opened(tmp_path)
    assert items.labels == ["kind a", "kind b", "kind c"]
    assert (items.skipped, items.remarks) == ((), ())
    # No category is the right one of several, so such a file keeps none, and it is said.
    put(tmp_path, {"annotations/instances_train2017.json": coco({1: "ab", 2: "b"}, **more)})
    items = opened(tmp_path)
    text = "1 of 3 files have several categories, and so none of the classes"
    assert items.labels == [None] * 3
    assert items.remarks[0] == ("annotations/instances_train2017.json", text)
    assert opened(tmp_path, "label").labels == ["kind b"]
    damaged = {**json.loads(table), "annotations": [1]}
    put(tmp_path, {"annotations/instances_train2017.json": json.dumps(damaged)})
    ((name, _),) = opened(tmp_path).skipped
    assert name == "annotations/instances_train2017.json"


@pytest.mark.parametrize(
    ("column", "sidecars", "labels", "differing"),
    [
        (None, {"0.json": '{"label": "z"}', "1.json": '{"label": "y"}'}, ["x", "y"], "0.dat"),
        ("kind", {"0.json": '{"kind": 1}', "0.kind.txt": "", "1.json": '{"kind": "3"}'}, ["1", "2"], "1.dat"),
        ("cls", {"0.cls": "a", "0.json": '{"cls": "b"}', "1.cls": "1", "1.json": '{"cls": 1}'}, ["a", "1"], "0.dat"),
        ("txt", {"0.txt": "a", "1.txt": "b"}, ["a", "b"], None),
    ],
)  # fmt: skip
def test_a_table_and_files_beside_that_differ_are_named(
    column, sidecars, labels, differing, tmp_path
):
    table = "file,label,kind\n0.dat,x,1\n1.dat,y,2\n"
    items = opened(put(tmp_path, {**PAIR, **sidecars, "a.csv": table}), column)
    assert items.labels == labels
    text = f"several values of {column or 'label'!r}, in a table or in files beside: the first of these counts"
    assert items.remarks == (((differing, text),) if differing else ())


def test_numbers_and_their_texts_are_the_same_class(tmp_path):
    tables = {"a.csv": "file,label\n0.dat,1\n1.dat,2\n", "b.jsonl": '{"file": "0.dat", "label": 1}'}
    items = opened(put(tmp_path, {**PAIR, **tables}))
    assert items.remarks == (("1.dat", "not named in b.jsonl"),)


def test_parts_that_tables_tell_of_and_that_are_trained_on_are_named(tmp_path):
    files = {f"x/{number}.dat": bytes([number]) for number in range(4)}
    column = "file,split\n0,train\n1,test\n2,valid\n3,Train\n"
    items = opened(put(tmp_path / "a", {**files, "all.csv": column}))
    text = "its column 'split' tells parts: 2 items of test and validation are trained on as well"
    assert (len(items.names), items.remarks) == (4, (("all.csv", text),))
    tables = {"train.tsv": "path\tsaid\n0.dat\ta\n1.dat\tb\n", "test.tsv": "path\tsaid\n2.dat\tc\n"}
    remarks = dict(opened(put(tmp_path / "b", {**files, **tables})).remarks)
    assert remarks["test.tsv"] == (
        "named like a part of a data set; the 1 files that it names are trained on as well"
    )
    assert "train.tsv" not in remarks
    rows = [{"blob": b"1", "split": "train"}, {"blob": b"2", "split": "test"}]
    text = "its column 'split' tells parts: 1 items of test are trained on as well"
    assert opened(rows).remarks == (("the list", text),)
    rows[1]["split"] = "bus"  # classes, one of which is train
    assert opened(rows).remarks == ()


def test_parts_that_are_held_out_are_named_and_strict_takes_them(tmp_path):
    files = {"train/1.dat": b"1", "train/2.dat": b"2", "test/3.dat": b"3", "val/4.dat": b"4"}
    tables = {
        "train.csv": "id,label\n1,x\n2,y\n",
        "test.csv": "id\n3\n",
        "val.csv": "id,label\n4,x\n",
    }
    items = opened(put(tmp_path, {**files, **tables}))
    assert items.labels == ["x", "y"]
    assert dict(items.remarks) == {
        "test": "held out: 1 blobs, not trained on",
        "val": "held out: 1 blobs, not trained on",
        "test.csv": "it describes files that are held out",
        "val.csv": "it describes files that are held out",
    }
    assert check_usable(2, items.skipped, "it", True, items.remarks) is None
    put(tmp_path, {"extra/5.dat": b"5"})
    with pytest.raises(DataError, match=r"it: extra \(beside the parts .*\)\. Change that"):
        check_usable(2, (), "it", True, opened(tmp_path).remarks)
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"blob": [b"a", b"b"]})
    parts = datasets.DatasetDict({"train": data, "test": data, "unsupervised": data})
    remarks = opened(parts).remarks
    assert [type(one) for one in remarks] == [HeldOut, Remark]
    assert remarks[1] == ("unsupervised", "another part: 2 items, not trained on")


# Rows and labels -----------------------------------------------------------------------------------------------------


class Plain:
    """An object without a text of its own."""


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"cat", "cat"),
        (" cat ", "cat"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3), "2026-01-02 03:00:00"),
        ({"b", "a"}, '["a", "b"]'),
        ([1, b"x"], '[1, "x"]'),
        (np.int64(3), "3"),
        (2.0, "2"),
        (torch.tensor([1, 2]), "[1, 2]"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_any_value_that_has_a_text_names_a_class(value, name):
    assert opened([{"blob": b"1", "label": value}] * 2).labels == [name, name]


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), Plain(), {"a": Plain()}, {(1,): 2}])
def test_a_value_that_names_no_class_is_said(value):
    rows = [{"blob": b"1", "label": value}, {"blob": b"2", "label": "a"}]
    items = opened(rows)
    assert items.labels == [None, None]
    assert items.remarks[0].name == "item 0"
    assert items.remarks[0].text.endswith(
        "in the column 'label', so that it is not taken for classes"
    )
    assert opened(rows, "label").labels == ["a"]
    with pytest.raises(DataError, match="none of the items of the list can be used"):
        opened(rows[:1], "label")


class Rows:
    """A data set of dicts, of which some cannot be read."""

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(self.rows[index], Exception):
            raise self.rows[index]
        return self.rows[index]


def test_rows_that_cannot_be_read_are_left_out():
    good = [{"blob": bytes([number]), "label": str(number)} for number in range(3)]
    source = Rows(OSError("gone"), good[0], None, {"label": "x"}, good[1], 5, good[2])
    items = opened(source)
    assert items.skipped == (
        ("item 0", "gone"),
        ("item 2", "it is a NoneType; the others are dicts"),
        ("item 5", "it is a int; the others are dicts"),
    )
    assert list(items.names) == ["item 1", "item 3", "item 4", "item 6"]
    assert items.labels == ["0", "x", "1", "2"]
    with pytest.raises(ValueError, match="it has no 'blob'"):
        items.read(1)
    assert items.read(3).read() == b"\2"
    with pytest.raises(ValueError, match="it is a NoneType"):
        opened([None, {"blob": b"1"}]).read(0)


def test_a_mistake_in_the_code_of_a_data_set_is_no_fault_of_a_row():
    with pytest.raises(NameError):
        opened(Rows({"blob": b"1", "label": "a"}, NameError("x")))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (list, "data = list is a class"),
        ("hub:", "'hub:' names no data set"),
        ("hub::x", "'hub::x' names no data set"),
        ("", "names nothing"),
        ("x" * 5000, "File name too long"),
        ("/dev/zero", "is a pipe or a device"),
    ],
    ids=["class", "hub", "hub with a configuration", "empty", "long", "device"],
)
def test_a_source_that_is_none_is_one_sentence(source, said):
    with pytest.raises(DataError, match=said):
        opened(source)


def test_a_table_alone_names_its_items(tmp_path):
    files = {
        "x/001.dat": b"1",
        "x/002.dat": b"2",
        "x/003.dat": b"3",
        "other.csv": "file,label\n3,z\n",
    }
    put(
        tmp_path,
        {**files, "a.csv": "path,label\nx/001.dat,a\ngone.dat,b\nx/003.dat,c\nx/002.dat\n"},
    )
    items = opened(tmp_path / "a.csv")
    assert items.labels == ["a", "b", "c"]
    assert items.skipped == (("item 3", "1 values; the header has 2 columns"),)
    assert items.read(0) == tmp_path / "x/001.dat"
    with pytest.raises(OSError, match="No such file"):
        items.read(1)
    put(tmp_path, {"b.csv": "x/001.dat,a\nx/002.dat,b\n"})  # without a header
    assert opened(tmp_path / "b.csv", "column 2").labels == ["a", "b"]
    for name, table in (
        ("c.json", coco({1: "a", 2: "b"})),
        ("d.csv", "id,label\n1,kind a\n2,kind b\n"),
    ):
        put(tmp_path, {name: table})
        items = opened(tmp_path / name, "label")
        assert (contents(items), items.labels) == ([b"1", b"2"], ["kind a", "kind b"])
        assert items.remarks == ()
    put(tmp_path, {"e.csv": "path,label\nnone.dat,a\n"})
    with pytest.raises(DataError, match=r"e\.csv names no blobs that are there"):
        opened(tmp_path / "e.csv")


def test_a_row_that_names_a_pipe_is_no_item(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", str(tmp_path / "pipe")):
        with pytest.raises(ValueError, match="no ordinary file"):
            opened([{"blob": path}]).read(0)


def test_shards_are_trained_on_by_their_folders_and_the_rest_is_named(tmp_path):
    shard = parquet({"blob": [b"1", b"2"]})
    put(tmp_path, {"train/0.parquet": shard, "test/0.parquet": shard, "README.md": "x"})
    put(tmp_path, {".x.parquet": shard, "info.json": "{}"})
    items = opened(tmp_path)
    assert contents_of(items) == [b"1", b"2"]
    assert dict(items.remarks) == {
        ".x.parquet": "hidden: names that begin with a dot are not read",
        "test": "held out: 1 Parquet files, not trained on",
        "README.md": "not read: files .md are not taken as Parquet files",
        "info.json": "not read: files .json are not taken as Parquet files",
    }
    (tmp_path / "train" / "0.parquet").unlink()
    os.mkfifo(tmp_path / "train" / "0.parquet")
    with pytest.raises(DataError, match=r"cannot be read as Parquet \(it is no ordinary file\)"):
        opened(tmp_path)


def contents_of(items):
    return [items.read(index).read() for index in range(len(items.names))]


def test_parts_of_a_data_set_are_chosen_by_name():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"blob": [b"1"]})
    items = opened(datasets.DatasetDict({"a_test": data, "my_train": data}))
    assert items.remarks == (("a_test", "held out: 1 items, not trained on"),)
    items = opened(datasets.DatasetDict({"test": data}))
    assert items.remarks == (("test", "trained on, since no part is called train"),)
    with pytest.raises(DataError, match="the DatasetDict is empty"):
        opened(datasets.DatasetDict({}))


def test_too_few_classes_are_counted():
    check_classes(classes_of(["a", "b"]), "x", "blobs")
    with pytest.raises(DataError, match="x has a single class, 'a': put the blobs into"):
        check_classes(classes_of(["a", "a"]), "x", "blobs")
    remarks = opened([{"blob": b"1", "label": None}]).remarks
    with pytest.raises(
        DataError, match=r"x has no classes \(item 0: no value in the column 'label'"
    ):
        check_classes(classes_of([None]), "x", "blobs", remarks)

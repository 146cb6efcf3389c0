"""The same items in every form that `genkit.kit.sources` opens: writers by the name of the form."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import PurePosixPath

import pytest


def put(folder, files):
    """Write files by their paths in a folder; returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def packed(folder, file):
    """A folder as an archive; the folder is removed."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
    else:
        with tarfile.open(file, {".tar": "w", ".tgz": "w:gz"}[file.suffix]) as archive:
            archive.add(folder, ".")
    shutil.rmtree(folder)
    return file


def table(header, rows, separator=","):
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([*([header] if header else []), *rows])
    return text.getvalue()


def parquet(columns, groups=7):
    """Columns as Parquet, in row groups of some rows."""
    pyarrow, module = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    module.write_table(pyarrow.table(columns), buffer, row_group_size=groups)
    return buffer.getvalue()


class Forms:
    """Items with labels, written in one of `NAMES`.

    Args:
        files: [N] contents by names, in the order of the names.
        labels: [N], by names.
        column: what rows call the item.
    """

    NAMES = (
        *("metadata.csv", "metadata.jsonl", "metadata.parquet", "labels.csv", "without_endings"),
        *(
            "without_header",
            "semicolons",
            "dataset.json",
            "dataset_json_zip",
            "webdataset",
            "shards",
        ),
        *("folders", "zip", "tgz", "parquet_files", "dicts", "data_set", "saved_data_set", "hub"),
        *("table_alone", "table_of_ids", "data_frame"),
    )

    def __init__(self, files, labels, column):
        self.files, self.labels, self.column = files, labels, column
        self.pairs = list(labels.items())

    def write(self, name, at):
        """The source to open."""
        if name.startswith("metadata."):
            return self._metadata(name, at)
        return getattr(self, f"_{name.replace('.', '_')}")(at)

    def _metadata(self, name, at):
        content = {
            "csv": lambda: table(["file_name", "label"], self.pairs),
            "jsonl": lambda: "\n".join(
                json.dumps({"file_name": file, "label": label}) for file, label in self.pairs
            ),
            "parquet": lambda: parquet(
                {"file_name": list(self.labels), "label": list(self.labels.values())}
            ),
        }[name.partition(".")[2]]()
        return put(at, {**self.files, name: content})

    def _labels_csv(self, at):
        return put(at, {**self.files, "labels.csv": table(["image", "class"], self.pairs)})

    def _without_endings(self, at):
        pairs = [(PurePosixPath(name).stem, label) for name, label in self.pairs]
        return put(at, {**self.files, "train.csv": table(["id", "label"], pairs)})

    def _without_header(self, at):
        return put(at, {**self.files, "labels.csv": table(None, self.pairs)})

    def _semicolons(self, at):
        return put(at, {**self.files, "list.csv": table(["file", "label"], self.pairs, ";")})

    def _dataset_json(self, at):
        described = {"labels": [[f"00000/{name}", label] for name, label in self.pairs]}
        files = {f"00000/{name}": content for name, content in self.files.items()}
        return put(at, {**files, "dataset.json": json.dumps(described)})

    def _dataset_json_zip(self, at):
        return packed(self._dataset_json(at / "files"), at / "set.zip")

    def _webdataset(self, at):
        sidecars = {f"{PurePosixPath(name).stem}.cls": label for name, label in self.pairs}
        return packed(put(at / "files", {**self.files, **sidecars}), at / "set.tar")

    def _shards(self, at):
        for first in range(0, len(self.files), 10):
            files = dict(list(self.files.items())[first : first + 10])
            sidecars = {
                f"{PurePosixPath(name).stem}.json": json.dumps({"label": self.labels[name]})
                for name in files
            }
            packed(put(at / "files", {**files, **sidecars}), at / f"{first:05d}.tar")
        return at

    def _folders(self, at):
        return put(
            at, {f"{self.labels[name]}/{name}": content for name, content in self.files.items()}
        )

    def _zip(self, at):
        return packed(self._folders(at / "files"), at / "set.zip")

    def _tgz(self, at):
        return packed(self._folders(at / "files"), at / "set.tgz")

    def _rows(self):
        return [
            {self.column: {"bytes": content, "path": name}, "label": self.labels[name]}
            for name, content in self.files.items()
        ]

    def _parquet_files(self, at):
        rows, half = self._rows(), len(self.files) // 2
        return put(
            at,
            {
                f"train-{number}.parquet": parquet(
                    {key: [row[key] for row in part] for key in (self.column, "label")}
                )
                for number, part in enumerate((rows[:half], rows[half:]))
            },
        )

    def _dicts(self, at):
        return [
            {self.column: row[self.column]["bytes"], "label": row["label"]} for row in self._rows()
        ]

    def _data_set(self, at):
        return pytest.importorskip("datasets").Dataset.from_list(self._rows())

    def _saved_data_set(self, at):
        self._data_set(at).save_to_disk(str(at / "saved"))
        return at / "saved"

    def _table_alone(self, at):
        at = put(at, {f"x/{name}": content for name, content in self.files.items()})
        pairs = [(f"x/{name}", label) for name, label in self.pairs]
        return (
            put(at, {"list.csv": table(["where", "label"], pairs), "x/more.txt": ""}) / "list.csv"
        )

    def _table_of_ids(self, at):
        at = put(at, {f"x/{name}": content for name, content in self.files.items()})
        pairs = [(int(PurePosixPath(name).stem), label) for name, label in self.pairs]
        return (
            put(at, {"a.tsv": table(["id", "label"], pairs, "\t"), "b.csv": "id,label\n0,no"})
            / "a.tsv"
        )

    def _data_frame(self, at):
        pandas = pytest.importorskip("pandas")
        put(at, self.files)
        paths = [str(at / name) for name in self.files]
        return pandas.DataFrame({"where": paths, "label": list(self.labels.values())})

    def _hub(self, at):
        self._data_set(at).to_parquet(str(at / "train.parquet"))
        return f"hub:{at}"

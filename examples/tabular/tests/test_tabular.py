"""Tables are read with care, written as they were, and learned: each column, and how columns hang together."""

import csv
import io
import json
from importlib.resources import files

import genkit
import numpy as np
import pytest
from genkit.errors import DataError
from genkit.plugin import Sample

from tabular_gan import modality
from tabular_gan.options import Options
from tabular_gan.plugin import TabularPlugin
from tabular_gan.tables import BUILTIN, read_table


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        (tmp_path / "table.csv").write_bytes(text.encode(encoding))
        return tmp_path / "table.csv"

    return write


def plugin_for(source, **options):
    facts = json.loads(json.dumps(TabularPlugin.inspect(source, Options(**options)).values))
    return TabularPlugin(Options(**options), genkit.plugin.Facts(facts))


def flats():
    return (files("tabular_gan") / "data" / "flats.csv").read_bytes()


def read(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


@pytest.mark.parametrize("few", [0, 10])
def test_what_is_read_is_written_again_row_by_row(few):
    table = read_table(BUILTIN, few, 64)
    plugin = plugin_for(BUILTIN, few=few)
    whole = Sample(plugin.dataset(BUILTIN).x)
    assert [list(row.values()) for row in read(plugin.preview(whole, "csv", None))] == table.rows
    first = json.loads(plugin.preview(whole[:1], "jsonl", None))
    assert first == {"district": "Hills", "area_m2": 88.9, "balcony": "no", "distance_km": 5.56, "rent": 608} | {
        "rooms": 4 if few == 0 else "4"
    }
    assert read(plugin.encode(whole[3], "csv", None)) == read(plugin.preview(whole[3:4], "csv", None))


def test_columns_are_facts():
    columns = {column.name: column for column in read_table(BUILTIN, 10, 64).columns}
    assert columns["district"].values == ("Centre", "Harbour", "Hills", "Station")
    assert columns["rooms"].values == ("1", "2", "3", "4", "5", "6")
    rent = np.array([float(row["rent"]) for row in read(flats())])
    assert (columns["rent"].mean, columns["rent"].scale) == (pytest.approx(rent.mean()), pytest.approx(rent.std()))
    assert (columns["rent"].decimals, columns["distance_km"].decimals) == (0, 2)


def test_rows_with_missing_or_impossible_cells_are_named_by_line_and_column(write):
    rows = [f"{number}.5,{'abc'[number % 3]}" for number in range(30)]
    rows[3], rows[7], rows[9], rows[11], rows[12] = ",a", "many,b", "1.5", "nan,a", "2.5,"
    table = read_table(write("size,kind\n" + "\n".join(rows) + "\n"), 10, 64)
    assert len(table.rows) == 25
    assert list(table.skipped) == [
        ("line 5", "size is missing"),
        ("line 9", "size is 'many', no number"),
        ("line 11", "1 cells; the header has 2"),
        ("line 13", "size is 'nan', no number"),
        ("line 14", "kind is missing"),
    ]


def test_separators_quotes_and_marks_of_other_programs_are_read(write):
    rows = "".join(f'{number};"a; b"\r\n' for number in range(20))
    table = read_table(write("\ufeffsize;kind\r\n" + rows), 10, 64)
    assert [(column.name, column.values) for column in table.columns] == [("size", ()), ("kind", ("a; b",))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("a,a\n1,2\n", "line 1: the header is"),
        ("a,\n1,2\n", "line 1: the header is"),
        ("name\n" + "".join(f"n{number}\n" for number in range(100)), "column 'name' has 100 different values"),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(text, reason, write):
    with pytest.raises(DataError, match=reason):
        read_table(write(text), 10, 64)


def test_a_file_that_is_no_table_is_refused(write, tmp_path):
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_table(write("größe\n1\n", "latin-1"), 10, 64)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "nothing.csv", 10, 64)
    with pytest.raises(DataError, match="cannot be read from a list"):
        read_table([1, 2], 10, 64)


def test_a_table_without_a_usable_row_is_refused_by_name(write):
    with pytest.raises(DataError, match=r"none of the 1 items .* line 2 \(a is missing\)"):
        genkit.train(modality, write("a,b\n,1\n"), out="never", items=64)


def test_any_mixture_of_columns_trains(write, tmp_path):
    texts = {"numbers": "a,b\n" + "".join(f"{n}.5,{n * n}\n" for n in range(99)), "words": "a\nx\ny\nx\n"}
    for name, text in texts.items():
        model = genkit.train(modality, write(text), out=tmp_path / name, items=256, threads=1)
        rows = read(model.plugin.preview(model.generate(5).sample, "csv", None))
        assert len(rows) == 5
        assert set(rows[0]) == set(text.splitlines()[0].split(","))


@pytest.mark.slow
def test_columns_and_what_ties_them_are_learned(tmp_path):
    model = genkit.train(modality, out=tmp_path / "run", items=150_000, threads=1)
    samples = read(model.plugin.preview(model.generate(2000, seed=0).sample, "csv", None))
    real = read(flats())

    def column(rows, name, district=None):
        return np.array([row[name] for row in rows if district in (None, row["district"])])

    for district in ("Centre", "Harbour", "Hills", "Station"):
        share = [np.mean(column(rows, "district") == district) for rows in (real, samples)]
        assert share[0] == pytest.approx(share[1], abs=0.06)
        balcony = [np.mean(column(rows, "balcony", district) == "yes") for rows in (real, samples)]
        assert balcony[0] == pytest.approx(balcony[1], abs=0.15)  # from 25 % to 85 %
    for name in ("area_m2", "rooms", "distance_km", "rent"):
        numbers = [column(rows, name).astype(float) for rows in (real, samples)]
        assert numbers[0].mean() == pytest.approx(numbers[1].mean(), abs=0.15 * numbers[0].std())
        assert numbers[0].std() == pytest.approx(numbers[1].std(), rel=0.2)
    for names in (("area_m2", "rent"), ("area_m2", "rooms"), ("distance_km", "rent")):
        pairs = [np.corrcoef(*(column(rows, name).astype(float) for name in names))[0, 1] for rows in (real, samples)]
        assert pairs[0] == pytest.approx(pairs[1], abs=0.1)

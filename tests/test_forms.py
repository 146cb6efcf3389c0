"""Every modality gives the same batches of the same items, whatever form they come in."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from forms import Forms, packed, parquet, put, table
from PIL import Image

import genkit
from genkit.engine.data import Batches, open_data
from genkit.errors import ConfigError, DataError

COUNT = 24
LABELS = ["even", "odd"]


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture(seed):
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, 16, 16, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def sound(seed):
    buffer = io.BytesIO()
    values = np.random.default_rng(seed).normal(0, 0.1, 1024)
    soundfile.write(buffer, values, 16000, format="WAV")
    return buffer.getvalue()


def clip(seed):
    first, *rest = (Image.fromarray(rows) for rows in noise(seed, 4, 16, 16))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=80)
    return buffer.getvalue()


KINDS = {
    "image": (picture, "png", {"size": 16}),
    "audio": (sound, "wav", {"samples": 1024}),
    "video": (clip, "gif", {"size": 16, "frames": 4}),
}


def batches(modality, source, **options):
    """All items of a source in the order of a run, with their classes by name."""
    preset = {"audio": "wavegan"}.get(modality)
    config = genkit.config.build(modality, preset, source, [{"options": options}])
    plugin, dataset, notes = open_data(config)
    sample = Batches(dataset, 5).take(0, COUNT)
    return plugin.facts.values, sample, notes


@pytest.mark.parametrize("form", Forms.NAMES)
@pytest.mark.parametrize("modality", KINDS)
def test_every_form_gives_the_same_batches(modality, form, tmp_path):
    content, ending, options = KINDS[modality]
    files = {f"{number:03d}.{ending}": content(number) for number in range(COUNT)}
    labels = {name: LABELS[number >= COUNT // 2] for number, name in enumerate(files)}
    forms = Forms(files, labels, modality)
    options = {**options, "conditional": True}
    facts, expected, _ = batches(modality, forms.write("folders", tmp_path / "a"), **options)
    other_facts, got, notes = batches(modality, forms.write(form, tmp_path / "b"), **options)
    assert (other_facts, notes) == (facts, [])
    assert torch.equal(got.x, expected.x)
    assert torch.equal(got.condition, expected.condition)
    assert facts["labels"] == LABELS
    assert len(expected.x) == COUNT


@pytest.mark.parametrize("modality", KINDS)
def test_arrays_of_paths_or_objects_and_files_of_arrays_are_sources(modality, tmp_path):
    content, ending, options = KINDS[modality]
    files = {f"{number}.{ending}": content(number) for number in range(COUNT)}
    put(tmp_path, files)
    paths = [str(tmp_path / name) for name in files]
    _, expected, _ = batches(modality, paths, **options)
    for source in (np.array(paths), np.array([*paths, None], dtype=object)[:-1]):
        assert torch.equal(batches(modality, source, **options)[1].x, expected.x)
    shape = {"image": (COUNT, 16, 16, 3), "audio": (COUNT, 1024), "video": (COUNT, 4, 16, 16)}
    array = noise(1, *shape[modality])
    array = array if modality != "audio" else (array / 256).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    _, expected, _ = batches(modality, array, **options)
    assert torch.equal(batches(modality, tmp_path / "a.npy", **options)[1].x, expected.x)
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"b\.npy"):
        batches(modality, tmp_path / "b.npy", **options)


@pytest.mark.parametrize("modality", KINDS)
def test_where_classes_come_from_has_a_meaning_or_is_refused(modality, tmp_path):
    content, ending, options = KINDS[modality]
    put(tmp_path, {f"{number}.{ending}": content(number) for number in range(2)})
    put(tmp_path, {"a.csv": f"file,kind\n0.{ending},a\n1.{ending},b\n"})
    for name, value in [
        ("label", "kind"),
        *([("labels", "prefix")] if modality == "audio" else ()),
    ]:
        with pytest.raises(
            ConfigError, match=rf"{name} = '{value}' .* set options\.conditional=true"
        ):
            batches(modality, tmp_path, **options, **{name: value})
    wanted = {**options, "conditional": True, "label": "kind"}
    facts, _, _ = batches(modality, tmp_path, **wanted)
    assert facts["labels"] == ["a", "b"]
    arrays = [np.zeros(1024), np.zeros(1024)] if modality == "audio" else [noise(0, 4, 16, 16)]
    paths = sorted(tmp_path.glob(f"*.{ending}"))
    builtin = {"image": "fashion", "audio": "drums", "video": "moving"}[modality]
    for source in (np.stack(arrays), paths, f"builtin:{builtin}", arrays):
        with pytest.raises(ConfigError, match=r"'kind': .* has no columns; leave label out"):
            batches(modality, source, **wanted)


@pytest.mark.parametrize("modality", KINDS)
def test_pairs_of_an_item_and_its_label_give_the_same_batches(modality, tmp_path):
    content, ending, options = KINDS[modality]
    options = {**options, "conditional": True}
    files = {f"{number:03d}.{ending}": content(number) for number in range(COUNT)}
    labels = {name: LABELS[number >= COUNT // 2] for number, name in enumerate(files)}
    facts, expected, _ = batches(
        modality, Forms(files, labels, modality).write("folders", tmp_path / "a"), **options
    )
    put(tmp_path / "b", files)
    paths = [str(tmp_path / "b" / name) for name in files]
    for pairs in (
        list(zip(paths, labels.values(), strict=True)),
        list(zip(map(Path, paths), labels.values(), strict=True)),
        list(zip(files.values(), labels.values(), strict=True)),
        list(zip(paths, labels.values(), range(COUNT), strict=True)),
    ):
        other_facts, got, notes = batches(modality, pairs, **options)
        assert (other_facts, notes) == (facts, [])
        assert torch.equal(got.x, expected.x)
        assert torch.equal(got.condition, expected.condition)
    for kind in (float, np.int64, torch.tensor, bool):
        numbers = [kind(LABELS.index(label)) for label in labels.values()]
        other_facts, got, _ = batches(modality, list(zip(paths, numbers, strict=True)), **options)
        assert other_facts["labels"] == ["0", "1"]
        assert torch.equal(got.condition, expected.condition)


LINES = [f"line {number}, with a comma and {number % 7}" for number in range(COUNT)]
PROMPTS = [f"say {number % 5}" for number in range(COUNT)]
ROWS = [{"text": line, "ask": ask} for line, ask in zip(LINES, PROMPTS, strict=True)]
JSON_LINES = "\n".join(map(json.dumps, ROWS))
TEXTS = {
    "a.csv": lambda: table(["text", "ask"], [row.values() for row in ROWS]),
    "a.tsv": lambda: table(["ask", "text"], [(row["ask"], row["text"]) for row in ROWS], "\t"),
    "a.json": lambda: json.dumps(ROWS, indent=1),
    "a.jsonl": lambda: JSON_LINES,
    "a.parquet": lambda: parquet({"text": LINES, "ask": PROMPTS}),
}


@pytest.mark.parametrize("form", [*TEXTS, "folder", "zip", "dicts", "data_set", "hub"])
def test_every_form_of_lines_gives_the_same_batches(form, tmp_path):
    source = {
        "folder": lambda: put(tmp_path, {"x/a.csv": TEXTS["a.csv"]()}),
        "zip": lambda: packed(put(tmp_path / "x", {"a.jsonl": JSON_LINES}), tmp_path / "x.zip"),
        "dicts": lambda: ROWS,
        "data_set": lambda: pytest.importorskip("datasets").Dataset.from_list(ROWS),
        "hub": lambda: f"hub:{put(tmp_path, {'a.jsonl': JSON_LINES})}",
        **{name: lambda name=name: put(tmp_path, {name: TEXTS[name]()}) / name for name in TEXTS},
    }[form]()
    options = {"prompt_field": "ask", "tokenizer": "characters"}
    facts, expected, _ = batches("text", ROWS, **options)
    other_facts, got, notes = batches("text", source, **options)
    assert (other_facts, notes) == (facts, [])
    for part in ("x", "condition", "mask"):
        assert torch.equal(getattr(got, part), getattr(expected, part))


def test_the_only_column_of_text_is_taken_and_said(tmp_path):
    (tmp_path / "a.csv").write_text(table(["number", "quote"], enumerate(LINES)))
    said = r"none of the 1 items .* a\.csv \(no field 'text'; it has: number, quote\)"
    with pytest.raises(DataError, match=said):
        batches("text", tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text(table(["quote"], [[line] for line in LINES]))
    _, sample, notes = batches("text", tmp_path / "b.csv")
    assert len(sample.x) == COUNT
    assert notes[0] == "symbols: 30 words; options.tokenizer chooses otherwise"
    assert notes[1:] == [f"{tmp_path}/b.csv: b.csv (its column 'quote' is taken for the lines)"]

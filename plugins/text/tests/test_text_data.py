"""Text: every source, every fault, the facts, the samples, the files, pretrained models."""

import bz2
import gzip
import json
import lzma
import random
import types

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer

from genkit.engine.data import check_data
from genkit.errors import ConfigError, DataError
from genkit.kit.files import HeldOut
from genkit.plugin import Networks, Sample
from genkit_text import modality
from genkit_text.lines import Rows
from genkit_text.options import LENGTH_MAX, Options
from genkit_text.plugin import TextPlugin
from genkit_text.sources import open_source
from genkit_text.vocabulary import learned

PAIRS = [
    {"text": "two b", "prompt": "one a"},
    {"text": "four", "prompt": "one"},
    {"text": "a b c", "prompt": ""},
]


def opened(source, **options):
    return open_source(source, Options(**options))


def plugin_for(source, **options):
    chosen = Options(**options)
    return TextPlugin(chosen, TextPlugin.inspect(source, chosen))


def everything(source, **options):
    """(plugin, all lines that can be used as one Sample, what is skipped)."""
    plugin = plugin_for(source, **options)
    data = plugin.dataset(source)
    return plugin, data.__getitems__(list(range(len(data)))), data.skipped


# Sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count", "longest"), [("kjv", 26_313, 12), ("verses", 16_774, 1)])
def test_builtin_set_is_whole_and_its_parts_share_nothing(name, count, longest):
    source = opened(f"builtin:{name}")
    assert (len(source.lines), source.skipped, source.prompts) == (count, [], None)
    assert max(len(line.split()) for line in source.lines) == longest
    train, held_out = opened(f"builtin:{name}/train"), opened(f"builtin:{name}/held-out")
    assert held_out.lines == source.lines[19::20]
    assert sorted(train.lines + held_out.lines) == sorted(source.lines)
    assert held_out.names[1].endswith(".txt, line 40")


@pytest.mark.parametrize("name", ["kvj", "kjv/test", "kjv/", "kjv/train/x", ""])
def test_unknown_builtin_set_is_named_with_the_nearest(name):
    with pytest.raises(ConfigError, match=r"no such built-in set\. (Did you mean|Allowed)"):
        opened(f"builtin:{name}")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_text_file_is_one_line_each(tmp_path, ending):
    file = tmp_path / "poems.text"
    file.write_bytes(
        b"\xef\xbb\xbf" + ending.join("ä one\u2028|  two|\tthree".encode().split(b"|")) + ending
    )
    assert opened(file).lines == ["ä one\u2028", "  two", "\tthree"]
    (tmp_path / "poems.txt.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert opened(str(tmp_path / "poems.txt.gz")).lines == opened(file).lines
    assert opened(file).names[2] == "poems.text, line 3"


def test_what_is_no_line_is_named(tmp_path):
    file = tmp_path / "poems.txt"
    file.write_bytes(b"good\n\xe4 bad\n\n \t\na\x1b[2J\nalso good\n" + "x\u200by\n".encode())
    source = opened(file)
    assert source.lines == ["good", "also good", "x\u200by"]
    assert list(source.names) == ["poems.txt, line 1", "poems.txt, line 6", "poems.txt, line 7"]
    assert source.skipped == [
        (
            "poems.txt, line 2",
            "not in UTF-8: byte 0xE4 at place 1 (options.encoding names another encoding)",
        ),
        ("poems.txt, line 5", "it holds U+001B, which is no character of a text"),
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "cp1251", "utf-16", "utf-32"])
def test_texts_in_other_encodings_are_read(tmp_path, encoding):
    lines = {"latin-1": "Größe", "gbk": "床前明月光", "cp1251": "привет"}
    line = lines.get(encoding, "ä一п")
    (tmp_path / "a.txt").write_bytes(f"{line}\nmore".encode(encoding))
    (tmp_path / "b.csv").write_bytes(f"text\n{line}!".encode(encoding))
    name = encoding if encoding in lines else "utf-8"
    assert opened(tmp_path, encoding=name).lines == [line, "more", f"{line}!"]
    for name in ("latin1000", "rot13", "base64", "zip", "undefined"):
        with pytest.raises(ValidationError, match="no encoding that Python knows"):
            Options(encoding=name)


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lambda raw: bz2.compress(raw, 1), lzma.compress],
    ids=["gzip", "bz2", "xz"],
)
@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_of_a_compressed_text_that_is_cut_off_whole_lines_are_read(tmp_path, pack, ending):
    draw = random.Random(0)
    lines = [f"{number} {draw.getrandbits(300)}" for number in range(9000)]
    raw = "\n".join(["text", *lines] if ending == "csv" else lines).encode()
    whole = pack(raw)
    for source in (tmp_path, tmp_path / f"a.{ending}.gz"):
        (tmp_path / f"a.{ending}.gz").write_bytes(whole[: len(whole) * 3 // 4])
        source = opened(source)
        assert 3000 < len(source.lines) < 7000
        assert source.lines == lines[: len(source.lines)]
        ((name, text),) = source.remarks
        assert name == f"a.{ending}.gz"
        assert text.startswith("cut off (")
        assert text.endswith(" can be unpacked, whose whole lines are read")


def test_a_column_of_plain_text_is_said_to_have_no_meaning(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.csv").write_text("quote\nthree\n")
    text = "plain text has no field 'quote': whole lines are read"
    found = opened(tmp_path, field="quote")
    assert (found.lines, found.remarks) == (["one", "two", "three"], (("a.txt", text),))
    assert opened(["a", "b"], field="quote").remarks == (("the strings", text),)
    assert opened("builtin:verses", field="quote").remarks[0][1] == text
    with pytest.raises(
        ValidationError, match="prompt_field 'text' is the field of the line itself"
    ):
        Options(prompt_field="text")


@pytest.mark.parametrize(
    ("content", "is_json"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', True),
        ('[\n {"text": "a"},\n {"text": "b"}\n]\n', True),
        ("[1] first\n[2] second\n", False),
        ("{x}\n", False),
        ("a\n", False),
    ],
)
def test_json_that_is_read_as_text_is_named(tmp_path, content, is_json):
    (tmp_path / "a.txt").write_text(content)
    found = opened(tmp_path / "a.txt")
    assert found.lines == content.splitlines()
    assert [text.partition(",")[0] for _, text in found.remarks] == ["it is JSON"] * is_json


def test_what_describes_a_folder_of_texts_is_named_and_not_read(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("README.md", "a.txt", "LICENSE.txt", "readme_first.txt", "b/README.md"):
        (tmp_path / name).write_text(f"{name}\n")
    found = opened(tmp_path)
    assert found.lines == ["a.txt", "b/README.md"]
    text = "not read: by its name it describes the data"
    assert found.remarks == (("3 files (LICENSE.txt ...)", text),)
    assert isinstance(found.remarks[0], HeldOut)
    for name in ("a.txt", "b/README.md"):
        (tmp_path / name).unlink()
    assert len(opened(tmp_path).lines) == 3  # they are all that there is


def test_a_set_has_no_order():
    with pytest.raises(DataError, match=r"no order.*pass sorted\(lines\)"):
        opened({"a", "b"})


def test_jsonl_is_read_by_field_and_its_faults_are_named(tmp_path):
    rows = [
        '{"text": "a\\nb", "q": "why"}',
        "[1]",
        "{",
        '{"q": "x"}',
        '{"text": 3, "q": ""}',
        "",
        '{"text":"\\ud800"}',
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join([*rows, "[" * 100_000]) + "\n")
    source = opened(file)
    assert (source.lines, source.prompts) == (["a\nb"], None)
    assert [reason for _, reason in source.skipped] == [
        "no JSON object: list",
        "no JSON value",
        "no field 'text'; it has: q",
        "field 'text' is no string: int",
        "it holds U+D800, which is no character of a text",
        "no JSON value",
    ]
    source = opened(file, prompt_field="q")
    assert (source.lines, source.prompts) == (["a\nb"], ["why"])
    assert opened(file, field="q").lines == ["why", "x"]


def test_folder_is_read_in_order_and_names_its_faults(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.jsonl").write_text('{"text": "second"}\n')
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "c.TXT.gz").write_bytes(gzip.compress(b"third"))
    (tmp_path / "d.txt").write_bytes(b"PK\0\0")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"cut off" * 99)[:20])
    (tmp_path / "f.txt").write_bytes(b"")
    (tmp_path / ".hidden.txt").write_text("no\n")
    (tmp_path / "notes.pdf").write_text("no\n")
    source = opened(tmp_path)
    assert source.lines == ["first", "second", "third"]
    assert list(source.names) == ["a.txt, line 1", "b/two.jsonl, line 1", "c.TXT.gz, line 1"]
    assert [name for name, _ in source.skipped] == ["d.txt", "e.txt.gz", "f.txt"]
    assert source.remarks == (
        (".hidden.txt", "hidden: names that begin with a dot are not read"),
        ("notes.pdf", "not read: files .pdf are not taken as texts"),
    )


def test_source_without_text_is_one_sentence(tmp_path):
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "a.pdf").write_bytes(b"%PDF")
    contents = {
        "binary": b"\0\1",
        "void": b"",
        "cut.gz": gzip.compress(b"long")[:9],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for source, said in {
        tmp_path / "nowhere": "there is no such file or folder",
        tmp_path / "kinds": r"holds no texts .*; found: 1 \.pdf",
        tmp_path / "binary": "is no text: it holds bytes that are 0; text in UTF-8",
        tmp_path / "void": "is empty",
        tmp_path / "cut.gz": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=said):
            opened(str(source))
    for source, said in (
        ([], "the list is empty"),
        (iter(["a"]), "cannot be read from a list_iterator"),
        ({}, "a dict"),
    ):
        with pytest.raises(DataError, match=said):
            opened(source)


def test_objects_in_memory_are_read_and_their_faults_named():
    source = opened(["a", "", 3, np.str_("b"), {"text": "c"}])
    assert (source.lines, source.title) == (["a", "b", "c"], "the list")
    assert source.skipped == [("item 1", "empty"), ("item 2", "no string: int")]
    assert source.names[2] == "item 4"
    assert opened(PAIRS, prompt_field="prompt").prompts == ["one a", "one", ""]
    assert opened(["a", *PAIRS], prompt_field="prompt").skipped == [
        ("item 0", "a string has no field 'prompt'")
    ]


def test_a_list_of_paths_is_these_files(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.csv").write_text("text\nthree\n")
    (tmp_path / "c").write_text("four\n")
    monkeypatch.chdir(tmp_path)
    for source in (["a.txt", "b.csv", "c"], [tmp_path / name for name in ("a.txt", "b.csv", "c")]):
        found = opened(source)
        assert (found.lines, found.skipped) == (["one", "two", "three", "four"], [])
        assert found.names[1] == f"{source[0]}, line 2"
    found = opened(["a.txt", "gone.txt", "b.csv"])
    assert found.skipped == [("gone.txt", "No such file or directory")]
    assert opened([tmp_path]).skipped == [(str(tmp_path), "it is a folder")]
    assert opened(["a.txt is a file", "c"]).lines == ["a.txt is a file", "c"]


class Table:
    """What text needs of a table of pandas."""

    columns = ("words", "stars")

    def __init__(self, *words):
        self.words = words

    def __len__(self):
        return len(self.words)

    def __iter__(self):
        return iter(self.columns)

    def __getitem__(self, name):
        raise KeyError(name)

    def to_dict(self, orient):
        assert orient == "records"
        return [{"words": words, "stars": 5} for words in self.words]


def test_tables_in_memory_are_read_by_their_columns():
    found = opened(Table("a b", "c", None))
    assert found.lines == ["a b", "c"]
    assert found.skipped == [("item 2", "field 'words' is no string: NoneType")]
    assert found.remarks == (("the table", "its column 'words' is taken for the lines"),)
    assert opened(Table("a b"), field="words").remarks == ()
    pandas = pytest.importorskip("pandas")
    assert opened(pandas.DataFrame({"text": ["a", "b"], "n": [1, 2]})).lines == ["a", "b"]
    assert opened(pandas.Series(["a", "b"], index=[7, 1])).lines == ["a", "b"]


class Faulty:
    """A data set of which one item raises."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 0:
            raise ValueError("broken here")
        return self.item


@pytest.mark.parametrize("item", ["a", {"text": "a"}, {"line": "a"}])
def test_an_item_that_raises_is_named(item):
    found = opened(Faulty(item))
    assert (found.lines, found.skipped) == (["a", "a"], [("item 0", "broken here")])


def test_the_first_row_that_can_be_read_tells_the_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{\n{"body": "one"}\n{"body": "two"}\n')
    found = opened(tmp_path / "a.jsonl")
    assert (found.lines, found.skipped) == (["one", "two"], [("a.jsonl, line 1", "no JSON value")])
    assert found.remarks == (("a.jsonl", "its column 'body' is taken for the lines"),)
    (tmp_path / "b.json").write_text('["one", "two"]')
    assert (opened(tmp_path / "b.json").lines, opened(tmp_path / "b.json").remarks) == (
        ["one", "two"],
        (),
    )


def test_of_subtitles_the_text_is_read(tmp_path):
    (tmp_path / "a.srt").write_text(
        "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Hello</i>\r\nyou\r\n\r\n"
        "2\r\n00:00:03,000 --> 00:00:04,000\r\n2 > 1\r\n",
        newline="",
    )
    (tmp_path / "b.vtt").write_text(
        "WEBVTT\n\nNOTE made by hand\n\none\n00:01.000 --> 00:02.000 align:left\n<v Ann>Yes.\n"
    )
    found = opened(tmp_path)
    assert found.lines == ["Hello", "you", "2 > 1", "Yes."]
    said = "subtitles: of its cues the text is read, without times and tags"
    assert found.remarks == (("a.srt", said), ("b.vtt", said))


@pytest.mark.parametrize("ending", ["html", "xml.gz", "yaml", "py", "conllu"])
def test_what_is_no_plain_text_is_read_with_a_remark(tmp_path, ending):
    content = b"<p>one</p>\n- two\n"
    file = tmp_path / f"a.{ending}"
    file.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    found = opened(file)
    assert found.lines == ["<p>one</p>", "- two"]
    ((name, text),) = found.remarks
    assert (name, text.startswith("read as text, each row a line")) == (file.name, True)
    (tmp_path / "plain").write_bytes(content)
    assert opened(tmp_path / "plain").remarks == ()


# Facts -----------------------------------------------------------------------------------------------------------


def test_lines_of_one_length_have_no_end_and_others_have():
    assert dict(plugin_for(["ab", "ba"]).facts.values) == {
        "symbols": 2, "length": 2, "end": None, "unknown": None, "prompt_length": 0, "decoder": None
    }  # fmt: skip
    facts = plugin_for(["ab", "b"]).facts
    assert (facts["symbols"], facts["length"], facts["end"]) == (3, 3, 0)
    facts = plugin_for(["ab", "ba"], length=5).facts
    assert (facts["symbols"], facts["length"], facts["end"]) == (3, 5, 0)
    assert plugin_for(["ab", "ba", "abba"], length=2).facts["end"] is None


@pytest.mark.parametrize(
    ("lines", "size"), [(["a b", "ab"], 4), (["a b", "ab", "ba"], 4), ([" ab ", "ba"], 4)]
)
def test_words_are_chosen_where_half_of_the_lines_have_a_space(lines, size):
    vocabulary = plugin_for(lines).vocabulary
    spaced = 2 * sum(" " in line.strip() for line in lines) >= len(lines)
    assert (len(vocabulary.encode("a b")) == 2) == spaced
    assert vocabulary.size == size


def test_facts_of_the_built_in_set_are_always_the_same():
    facts = plugin_for("builtin:kjv/held-out", vocabulary=100).facts
    assert (facts["symbols"], facts["end"], facts["unknown"], facts["length"]) == (102, 0, 101, 19)
    assert facts.files == plugin_for("builtin:kjv/held-out", vocabulary=100).facts.files


# Samples ---------------------------------------------------------------------------------------------------------


def test_samples_are_padded_with_the_end_and_valid_through_it():
    plugin, sample, skipped = everything(["abc", "b", "ca"])
    assert sample.x.dtype == torch.int64
    assert sample.x.tolist() == [[1, 2, 3, 0], [2, 0, 0, 0], [3, 1, 0, 0]]
    assert sample.mask.tolist() == [
        [True] * 4,
        [True, True, False, False],
        [True, True, True, False],
    ]
    assert (sample.condition, skipped) == (None, ())
    _, sample, _ = everything(["ab", "ba"])
    assert sample.mask.all()
    one = plugin.dataset(["abc", "b"])[1]
    assert (one.x.tolist(), one.mask.tolist()) == ([2, 0, 0, 0], [True, True, False, False])


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "bpe"])
def test_samples_are_written_as_the_lines_they_were(kind):
    lines = opened("builtin:kjv/held-out").lines[:200]
    plugin, sample, _ = everything(lines, tokenizer=kind)
    assert [content.decode() for content in plugin.encode_each(sample, "txt", None)] == lines
    assert plugin.encode(sample[7], "txt", None).decode() == lines[7]
    assert plugin.preview(sample, "txt", None).decode().splitlines() == lines


def test_lines_that_do_not_fit_are_named():
    long = "a" * LENGTH_MAX
    _, sample, skipped = everything([long, "ab", "b"], tokenizer="characters")
    assert sample.x.shape == (2, 3)
    reason = (
        f"its length is {LENGTH_MAX} symbols; with the end, the model's lines have at most 3: break it into shorter "
        "lines, or raise options.length"
    )
    assert skipped == (("item 0", reason),)
    _, sample, skipped = everything(["ab", "aba", "ba"], tokenizer="characters", length=2)
    assert skipped == (
        (
            "item 1",
            "its length is 3 symbols; all of the model's lines have 2: break it into shorter lines, or raise "
            "options.length",
        ),
    )
    _, sample, skipped = everything(["a a", "b c", "a b", ""], tokenizer="words", vocabulary=1)
    assert skipped == (("item 3", "empty"), ("item 1", "none of its symbols is known"))
    report = check_data(modality, [" ", "x" * 300], options={"tokenizer": "bytes"})
    assert (report.items, len(report.skipped)) == (0, 2)


def test_other_lines_are_read_with_the_symbols_of_the_model():
    plugin = plugin_for(["ab", "b", "ca"])
    data = plugin.dataset(["zb", "zz", "abcabc"])
    assert data[0].x.tolist() == [2, 0, 0]
    assert [name for name, _ in data.skipped] == ["item 1", "item 2"]


def test_prompts_are_padded_with_nothing():
    plugin, sample, skipped = everything(PAIRS, prompt_field="prompt", tokenizer="words")
    assert (plugin.facts["prompt_length"], skipped) == (2, ())
    one, a = plugin.vocabulary.encode("one a")
    assert sample.condition.tolist() == [[one, a], [one, -1], [-1, -1]]
    with pytest.raises(
        DataError,
        match=r"the list has no prompts, which the model answers: set options\.prompt_field",
    ):
        TextPlugin(Options(), plugin.facts).dataset(["two b"])
    data = plugin.dataset([{"text": "b", "prompt": "one one one"}])
    assert data.skipped == (("item 0", "its prompt has 3 symbols; the model's at most 2"),)
    assert (
        plugin_for([{"text": "b c", "prompt": ""}], prompt_field="prompt").facts["prompt_length"]
        == 1
    )


def test_empty_rows_are_rows():
    rows = Rows.of([[], [5], [], [5, 7]])
    assert rows.known(5).tolist() == [False, False, False, True]
    padded, lengths = rows.padded(np.array([3, 0]), 3, -1)
    assert (padded.tolist(), lengths.tolist()) == ([[5, 7, -1], [-1, -1, -1]], [2, 0])


# Prompts and files -----------------------------------------------------------------------------------------------


def test_prompt_begins_every_line():
    plugin = plugin_for(["a b c d", "a b"])
    assert plugin.condition(None, [0, 1]) is None
    condition = plugin.condition("a  z b", [3, 4])
    assert condition.tolist() == [[1, 2], [1, 2]]
    sample = Sample(
        torch.tensor([[3, 0, 0], [4, 3, 0]]), condition, torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    )
    assert plugin.encode_each(sample, "txt", None) == [b"a b c", b"a b d"]
    assert plugin.preview(sample[:1], "jsonl", None) == b'{"prompt": "a b", "text": "a b c"}\n'


def test_prompt_that_is_answered_is_no_part_of_the_line():
    plugin, sample, _ = everything(PAIRS, prompt_field="prompt", tokenizer="words")
    assert plugin.preview(sample[:1], "txt", None) == b"two b\n"
    assert json.loads(plugin.preview(sample[1:2], "jsonl", None)) == {
        "prompt": "one",
        "text": "four",
    }
    assert plugin.condition("one", [0])[0, 1:].tolist() == [-1]
    with pytest.raises(
        ConfigError, match="has 3 symbols; those it was trained with have at most 2"
    ):
        plugin.condition("one a one", [0])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (" ", "the prompt is empty"),
        ("zz z", "knows no symbol of the prompt 'zz z'"),
        ("a b a b a", "at most 5"),
    ],
)
def test_prompt_that_cannot_be_taken_is_one_sentence(prompt, said):
    with pytest.raises(ConfigError, match=said):
        plugin_for(["a b a b", "a b"]).condition(prompt, [0])


def test_newline_in_a_line_is_a_space_in_a_file_of_lines():
    plugin, sample, _ = everything(["a\r\nb\nc", "d"], tokenizer="characters")
    assert plugin.preview(sample, "txt", None) == b"a b c\nd\n"
    assert json.loads(plugin.preview(sample, "jsonl", None).splitlines()[0]) == {
        "text": "a\r\nb\nc"
    }


# Tokenizers and models from elsewhere ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """The folder of a tiny causal language model with its tokenizer."""
    from genkit_text.pretrained import transformers_library

    library, folder = transformers_library(), tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.from_str(learned("bytes", []).content.decode())
    tokenizer.add_special_tokens(["<stop>"])
    config = library.GPT2Config(
        n_layer=1,
        n_embd=8,
        n_head=2,
        vocab_size=260,
        n_positions=64,
        bos_token_id=256,
        eos_token_id=256,
    )
    library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<stop>").save_pretrained(
        folder
    )
    library.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_pretrained_model_brings_its_symbols_and_configuration(language_model):
    plugin, sample, _ = everything(
        ["ab", "cd<stop>"], generator="decoder", pretrained=str(language_model)
    )
    facts = plugin.facts
    assert (facts["symbols"], facts["end"], facts["length"], plugin.vocabulary.size) == (
        257,
        256,
        9,
        257,
    )
    assert json.loads(json.dumps(facts["decoder"])) == facts["decoder"]
    assert facts["decoder"]["model_type"] == "gpt2"
    assert str(language_model) not in json.dumps(facts["decoder"])
    assert not {"dtype", "auto_map"} & set(facts["decoder"])
    assert sample.mask.sum(1).tolist() == [3, 9]
    assert plugin.encode_each(sample, "txt", None) == [b"ab", b"cd<stop>"]


def test_initialise_gives_the_generator_and_its_reference_the_weights(language_model):
    from genkit_text.pretrained import transformers_library

    automatic = transformers_library().AutoModelForCausalLM

    plugin = plugin_for(["ab"], generator="decoder", pretrained=str(language_model))
    networks = plugin.networks()
    plugin.initialise(networks)
    wanted = automatic.from_pretrained(language_model).state_dict()
    for module in (networks.generator, networks.frozen["reference"]):
        assert all(
            torch.equal(value, wanted[name]) for name, value in module.model.state_dict().items()
        )
    plugin_for(["ab"]).initialise(Networks(torch.nn.Module(), {}))  # nothing to do


def test_folder_without_a_model_is_one_sentence(tmp_path, language_model):
    for name in ("nowhere", ""):
        with pytest.raises(
            ConfigError,
            match=r"options\.pretrained = .* cannot be loaded as a causal language model",
        ):
            plugin_for(["ab"], generator="decoder", pretrained=str(tmp_path / name))
    for file in language_model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    plugin = plugin_for(["ab"], generator="decoder", pretrained=str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        plugin.initialise(Networks(types.SimpleNamespace(model=None), {}))


def test_existing_tokenizer_is_taken_from_a_file_or_a_folder(tmp_path, language_model):
    for path in (language_model, language_model / "tokenizer.json"):
        facts = plugin_for(["ab", "ba"], tokenizer=str(path)).facts
        assert (facts["symbols"], facts["length"], facts["end"]) == (
            258,
            3,
            257,
        )  # nothing says that <stop> ends
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer"})
    )
    facts = plugin_for(["ab", "ba"], tokenizer=str(tmp_path)).facts
    assert (facts["symbols"], facts["length"], facts["end"]) == (4, 3, 3)
    with pytest.raises(
        ConfigError, match=r"options\.vocabulary = 9: an existing tokenizer is kept whole"
    ):
        plugin_for(["ab"], tokenizer=str(tmp_path), vocabulary=9)
    with pytest.raises(ConfigError, match="a pretrained model has a tokenizer of its own"):
        plugin_for(["ab"], generator="decoder", pretrained="x", tokenizer="words")


# Networks --------------------------------------------------------------------------------------------------------


def test_networks_are_those_of_the_options():
    plugin, sample, _ = everything(["abc", "b", "ca"])
    networks = plugin.networks()
    assert networks.generator.noise["symbols"].steps == plugin.facts["length"]
    assert torch.isfinite(networks.generator.pretrain_loss(sample))
    assert list(networks.critics) == ["critic"]

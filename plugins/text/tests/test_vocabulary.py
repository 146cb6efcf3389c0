"""The vocabulary: every kind, there and back; what never becomes the end; the same lines, the same symbols."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from genkit.errors import ConfigError
from genkit_text.vocabulary import KINDS, Vocabulary, learned, loaded

LINES = ["the ox, and the ass", "o'er the well-known hill", "“Ä” – 3 café_s!"]
any_line = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_line_comes_back(kind, ending):
    vocabulary = learned(kind, LINES)
    vocabulary = vocabulary.with_end() if ending else vocabulary
    for line in LINES:
        assert vocabulary.decode(vocabulary.encode(line)) == line


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
@settings(max_examples=30, deadline=None)
@given(lines=st.lists(any_line, min_size=1, max_size=4))
def test_any_line_comes_back_whatever_it_holds(kind, lines):
    vocabulary = learned(kind, lines).with_end()
    assert [vocabulary.decode(symbols) for symbols in vocabulary.encode_each(lines)] == lines


@settings(max_examples=50, deadline=None)
@given(
    words=st.lists(
        st.text(st.sampled_from("aé9_'-–.,!<>“界"), min_size=1, max_size=6), min_size=1, max_size=6
    )
)
def test_words_with_single_spaces_between_come_back(words):
    line = " ".join(words)
    vocabulary = learned("words", [line])
    assert vocabulary.decode(vocabulary.encode(f"  {line.replace(' ', '  ')}\t")) == line


@pytest.mark.parametrize("line", ["<end>", "a<end>b", "say <end> now", "<unk>", " <unk> "])
@pytest.mark.parametrize("kind", KINDS)
def test_line_that_spells_a_token_is_text(kind, line):
    vocabulary = learned(kind, [line, "another"]).with_end()
    symbols = vocabulary.encode(line)
    assert vocabulary.end not in symbols
    assert vocabulary.decode([*symbols, vocabulary.end, *symbols]) == (
        line.strip() if kind == "words" else line
    )


def test_symbols_stand_by_frequency_then_code_point_behind_the_end():
    lines = ["bbca", "acb", "d"]
    vocabulary = learned("characters", lines).with_end()
    counts = Counter("".join(lines))
    wanted = sorted(counts, key=lambda character: (-counts[character], character))
    assert [vocabulary.decode([symbol]) for symbol in range(vocabulary.size)] == ["", *wanted]
    assert (vocabulary.end, vocabulary.unknown, vocabulary.size) == (0, None, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_same_lines_give_the_same_vocabulary_and_a_written_one_reads_the_same(kind):
    first = learned(kind, LINES)
    assert first.content == learned(kind, iter(LINES)).content
    again = Vocabulary.read(first.with_end().content, 0)
    assert again.content == first.with_end().content
    assert (again.size, again.unknown) == (first.size + 1, None)


def test_what_is_cut_off_becomes_one_unknown_symbol():
    vocabulary = learned("words", ["a a a b b c d"], 2)
    assert (vocabulary.size, vocabulary.unknown) == (3, 2)
    assert vocabulary.encode("a c b z") == [0, 2, 1, 2]
    assert vocabulary.decode([0, 2, 1]) == "a <unk> b"
    assert learned("words", ["a b"], 2).unknown is None
    again = Vocabulary.read(vocabulary.with_end().content, 0)
    assert (again.size, again.unknown) == (4, 3)


def test_without_an_unknown_symbol_the_unknown_is_left_out():
    vocabulary = learned("words", ["a b"]).with_end()
    assert vocabulary.size == 3
    assert vocabulary.encode("b z a") == [2, 1]
    assert vocabulary.encode("z") == []


def test_bytes_are_256_and_pieces_more():
    assert learned("bytes", []).size == 256
    assert learned("bpe", ["abababab"] * 9, 258).size == 258
    assert len(learned("bpe", ["abababab"] * 9, 258).encode("ababab")) < 6
    with pytest.raises(ConfigError, match=r"options\.vocabulary = 9: there are always 256 bytes"):
        learned("bytes", [], 9)
    with pytest.raises(ConfigError, match="built from 256 bytes; give more"):
        learned("bpe", [], 256)


@pytest.mark.parametrize("size", [None, 300], ids=["whole", "cut"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_of_symbols_are_the_line_one_after_the_other(kind, size):
    size = {"bytes": None, "bpe": size}.get(kind, size and 4)
    vocabulary = learned(kind, LINES, size).with_end()
    texts, lead = vocabulary.texts()
    assert (len(texts), texts[vocabulary.end]) == (vocabulary.size, b"")
    numbers = np.random.Generator(np.random.Philox(key=1))
    lines = [vocabulary.encode(line) for line in LINES]
    lines += [numbers.integers(1, vocabulary.size, 9).tolist() for _ in range(50)]
    for symbols in lines:
        line = b"".join(texts[symbol] for symbol in [*symbols, vocabulary.end])
        assert line.removeprefix(lead).decode(errors="replace") == vocabulary.decode(symbols)


def test_a_tokenizer_whose_symbols_mean_something_else_within_a_line_has_no_texts():
    pieces = Tokenizer(models.WordPiece({"a": 0, "##b": 1, "[UNK]": 2}))
    pieces.decoder = decoders.WordPiece()
    assert Vocabulary(pieces).texts() is None


def test_nothing_to_learn_from_is_no_symbols():
    assert [learned(kind, []).size for kind in KINDS] == [0, 0, 256, 256]


def test_existing_tokenizer_keeps_its_end_or_gets_one(tmp_path):
    whole = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "?": 2}, "?"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole.add_special_tokens(["</s>"])
    whole.enable_truncation(2)
    whole.enable_padding(length=7)
    whole.save(str(tmp_path / "own.json"))
    vocabulary = loaded(tmp_path / "own.json")
    assert (vocabulary.size, vocabulary.end, vocabulary.unknown) == (3, 1, 2)
    assert vocabulary.encode("a a a a b") == [0, 0, 0, 0, 2]  # neither cut nor padded
    assert 1 not in vocabulary.encode("a </s> a")

    (tmp_path / "ours.json").write_bytes(learned("characters", ["ab"]).with_end().content)
    assert (loaded(tmp_path / "ours.json").size, loaded(tmp_path / "ours.json").end) == (3, 0)
    Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?")).save(str(tmp_path / "none.json"))
    assert (loaded(tmp_path / "none.json").size, loaded(tmp_path / "none.json").end) == (3, 2)


def test_missing_or_damaged_tokenizer_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"no such kind, file or folder\. Did you mean 'words'"):
        loaded(Path("wrods"))
    (tmp_path / "bad.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(ConfigError, match=r"bad\.json is no tokenizer\.json"):
        loaded(tmp_path / "bad.json")


def test_many_lines_are_encoded_in_blocks(monkeypatch):
    vocabulary = learned("words", LINES)
    whole = list(vocabulary.encode_each(LINES * 3))
    monkeypatch.setattr("genkit_text.vocabulary.BLOCK", 2)
    asked = []
    encode = vocabulary._tokenizer.encode_batch_fast
    tokenizer = SimpleNamespace(
        encode_batch_fast=lambda block, **rest: asked.append(len(block)) or encode(block, **rest)
    )
    monkeypatch.setattr(vocabulary, "_tokenizer", tokenizer)
    rows = vocabulary.encode_each(LINES * 3)
    assert next(rows) == whole[0]
    assert asked == [2]  # and no more than that is in memory
    assert [whole[0], *rows] == whole

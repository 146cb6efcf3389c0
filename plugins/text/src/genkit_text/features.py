"""Feature networks of lines, by which evaluation compares them. They see text, whatever the symbols of a model are.

Shape letters: N lines, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import ConfigError
from genkit.kit.features import check_weights, file_hash
from genkit.plugin import FeatureNetwork, Sample
from genkit_text import encoders

ORDERS, SIGNS = (1, 2, 3), 32
"""Orders of n-grams of characters, and the features of each order."""

EDGE = "\x02"
"""Stands for the beginning and the end of a line in n-grams."""

WORDLLAMA = "wordllama"
"""Package with a table of vectors of words and their pieces, of the extra `wordllama`."""

Texts = Callable[[Sample], Sequence[str]]
"""Gives the text of each line."""


def networks(weights: Mapping[str, Path], texts: Texts) -> dict[str, FeatureNetwork]:
    """Feature networks of lines by name: `ngrams`, and `wordllama` and `minilm` if their packages are installed.

    `ngrams` counts characters, pairs and triples of them, and projects the counts at random: it knows no language, and
    sees little in scripts of thousands of characters, whose pairs hardly ever occur twice. `wordllama` knows the
    meaning of words: its features are means of the vectors of a line's tokens. `minilm` is an encoder of sentences, see
    `genkit_text.encoders.Encoder`: it sees how words follow each other.

    Args:
        weights: files by name; no network takes one.
        texts: of lines.

    Raises:
        ConfigError: for a file of weights.
    """
    check_weights(weights, ())
    built_in = {"ngrams": _ngrams(texts)}
    if find_spec(WORDLLAMA) is not None:
        built_in["wordllama"] = _wordllama(texts)
    if find_spec(encoders.PACKAGES["minilm"]) is not None:
        built_in["minilm"] = _minilm(texts)
    return built_in


def ngram_features(lines: Sequence[str]) -> Tensor:
    """[N, 96]: for each order, the signs of a line's n-grams, added up, over the square root of their number.

    The signs of an n-gram are 32 bits of its hash, -1 or 1. So this is a fixed random projection of the counts of all
    n-grams there are (Achlioptas 2003).
    """
    rows = np.zeros((len(lines), len(ORDERS), SIGNS), np.float32)
    for row, line in zip(rows, lines, strict=True):
        text = f"{EDGE}{line}{EDGE}"
        for place, order in enumerate(ORDERS):
            grams = [text[start : start + order] for start in range(len(text) - order + 1)]
            row[place] = (
                sum(map(_signs, grams), np.zeros(SIGNS, np.float32)) / max(1, len(grams)) ** 0.5
            )
    return torch.from_numpy(rows.reshape(len(lines), -1))


@lru_cache(maxsize=2**17)
def _signs(gram: str) -> NDArray[np.float32]:
    digest = blake2b(gram.encode(errors="surrogatepass"), digest_size=SIGNS // 8).digest()
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1


def _ngrams(texts: Texts) -> FeatureNetwork:
    protocol = {"characters": list(ORDERS), "signs": SIGNS, "hash": "blake2b"}
    return FeatureNetwork(lambda samples: ngram_features(texts(samples)), "fd-ngrams", protocol)


def word_vectors(texts: Sequence[str]) -> Tensor:
    """[N, 256]: the mean of the vectors of each text's tokens; zeros for a text without any.

    Raises:
        ConfigError: if the package with the table is not installed.
    """
    vectors, tokens = _word_table()
    return torch.stack([vectors[ids].sum(0) / max(1, len(ids)) for ids in tokens(texts)])


def _wordllama(texts: Texts) -> FeatureNetwork:
    table, pieces = _word_files()
    return FeatureNetwork(
        lambda samples: word_vectors(texts(samples)),
        "fd-wordllama",
        {"table": file_hash(table), "tokens": file_hash(pieces)},
    )


def _minilm(texts: Texts) -> FeatureNetwork:
    folder = Path(encoders.folder("minilm"))
    files = {"weights": "model.safetensors", "tokens": "tokenizer.json"}
    hashes = {key: file_hash(folder / name) for key, name in files.items()}
    protocol = {**hashes, "depth": encoders.DEPTH}
    encoder = cache(lambda: encoders.Encoder("minilm"))  # read when it is first used
    return FeatureNetwork(lambda samples: encoder()(texts(samples)), "fd-minilm", protocol)


def _word_files() -> tuple[Path, Path]:
    """The table of vectors, and the tokenizer."""
    spec = find_spec(WORDLLAMA)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"word vectors need the package {WORDLLAMA}: pip install 'genkit-gan-text[{WORDLLAMA}]'"
        )
    folder = Path(spec.origin).parent
    (table,) = folder.glob("weights/l2_supercat_256.safetensors")
    (pieces,) = folder.glob("tokenizers/l2_supercat_tokenizer_config.json")
    return table, pieces


@cache
def _word_table() -> tuple[Tensor, Callable[[Sequence[str]], list[list[int]]]]:
    """The vectors of all tokens, and a function: texts -> the numbers of their tokens."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    table, pieces = _word_files()
    tokenizer = Tokenizer.from_file(str(pieces))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokens(lines: Sequence[str]) -> list[list[int]]:
        encodings = tokenizer.encode_batch(list(lines), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    return load_file(table)["embedding.weight"].float(), tokens

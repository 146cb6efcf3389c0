"""Named random streams: a name of strings and numbers -> a key, a seed, random 64-bit words. Imports no torch.

The words come from NumPy's counter-based generator Philox 4x64 (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"), whose streams NumPy guarantees to keep. Equal names give equal words, on any machine and in any order.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_key(*words: str | int) -> int:
    """The 128-bit key of the random stream that strings and numbers name; equal names give equal keys."""
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def torch_seed(*words: str | int) -> int:
    """The 63-bit seed of the stream that strings and numbers name: the upper bits of `stream_key`."""
    return stream_key(*words) >> 65


def words(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """Random 64-bit words [count] of a stream, from position `start`; equal positions give equal words.

    Args:
        key: of `stream_key`.
        start: position of the first word, >= 0.
        count: number of words.
    """
    return stream_words(key, 0, start, count)


def stream_words(key: int, stream: int, start: int, count: int) -> NDArray[np.uint64]:
    """Random 64-bit words [count] of one of the numbered streams of a key, from position `start`.

    Args:
        key: of `stream_key`.
        stream: number of the stream, >= 0; `words` reads stream 0.
        start: position of the first word, >= 0.
        count: number of words.
    """
    skip = start % 4  # Philox makes four words per counter
    generator = np.random.Philox(key=key, counter=(stream << 128) + start // 4)
    return generator.random_raw(count + skip)[skip:]

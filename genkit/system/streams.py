"""Named random streams: words and numbers that name a stream -> its key, its seed, its raw words.

The words come from NumPy's counter-based Philox 4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), whose streams NumPy promises to keep. Equal names give equal words, on any machine and in any order.
Torch-free.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_key(*words: str | int) -> int:
    """A 128-bit key for a random stream named by words and numbers; equal words, equal key."""
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def torch_seed(*words: str | int) -> int:
    """The same as a 63-bit seed, for generators that take one number."""
    return stream_key(*words) >> 65


def words(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """[count] random words of 64 bits, from place `start` of a stream: equal places, equal words."""
    return stream_words(key, 0, start, count)


def stream_words(key: int, stream: int, start: int, count: int) -> NDArray[np.uint64]:
    """[count] raw words from position `start` of a stream; Philox makes four words per counter."""
    skip = start % 4
    generator = np.random.Philox(key=key, counter=(stream << 128) + start // 4)
    return generator.random_raw(count + skip)[skip:]

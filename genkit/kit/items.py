"""Items of a data source that are checked once at the start, their classes, and windows cut from them.

What cannot be used is named and left out; what turns out damaged later is replaced, and stops nothing. Knows no file
format and no medium: a plugin says how an item is read.

Shape letters: N items, B batch.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import DataError
from genkit.kit.files import THREADS, reason
from genkit.plugin import Sample, Skipped

ATTEMPTS = 8
"""Windows that are tried in place of one that is damaged."""

NAMED = 3
"""Items that a sentence names; the others it counts."""

Value = TypeVar("Value")
Result = TypeVar("Result")
Window = TypeVar("Window")


# What is said of a source ----------------------------------------------------------------------------------------


def check_usable(items: int, skipped: Sequence[Skipped], source: str, strict: bool) -> None:
    """Raise if a source cannot be trained on.

    Args:
        items: how many can be used.
        skipped: those that cannot.
        source: what the user calls it.
        strict: whether any that cannot be used is an error.

    Raises:
        DataError: if nothing of the source can be used; or anything cannot, and `strict` is set.
    """
    if skipped and not items:
        raise DataError(
            f"none of the {len(skipped):,} items of {source} can be used: {name_skipped(skipped)}"
        )
    if not items:
        raise DataError(f"{source} is empty")
    if skipped and strict:
        what = f"{count_skipped(items, skipped, source)}: {name_skipped(skipped)}"
        raise DataError(f"{what}. Repair or remove them, or leave strict out to go on without them")


def count_skipped(items: int, skipped: Sequence[Skipped], source: str) -> str:
    """How many items of a source cannot be used, as the beginning of a sentence."""
    return f"{len(skipped):,} of {items + len(skipped):,} items of {source} cannot be used"


def name_skipped(skipped: Sequence[Skipped]) -> str:
    """The first few of the items that cannot be used, with reasons, and how many more there are."""
    each = [f"{item.name} ({item.reason})" for item in skipped[:NAMED]]
    rest = [f"and {len(skipped) - NAMED:,} more"] if len(skipped) > NAMED else []
    text = "; ".join([*each, *rest])
    return "".join(character if character.isprintable() else "?" for character in text)


# Classes ---------------------------------------------------------------------------------------------------------


class Classes(NamedTuple):
    """The classes of some items.

    Args:
        names: of the classes, sorted; empty: there are none.
        numbers: [N] int64, places in `names`; None without classes.
    """

    names: tuple[str, ...] = ()
    numbers: NDArray[np.int64] | None = None


def classes_of(labels: Sequence[str | None]) -> Classes:
    """The classes that labels [N] name; none if any item has no label."""
    names = sorted({label for label in labels if label is not None})
    if not names or any(label is None for label in labels):
        return Classes()
    return Classes(tuple(names), np.array([names.index(str(label)) for label in labels]))


def numbers_in(
    classes: Classes, known: Sequence[str], title: str, noun: str
) -> NDArray[np.int64] | None:
    """[N]: the classes of items as numbers of the classes that a model knows; None for a model that knows none.

    Args:
        classes: of the items.
        known: names of the model's classes.
        title, noun: what the source and its items are called, for the message.

    Raises:
        DataError: if an item is of another class, or of none.
    """
    if not known:
        return None
    unknown = sorted(set(classes.names or ("no class",)) - set(known))
    if unknown:
        has, knows = ", ".join(unknown), ", ".join(known)
        raise DataError(f"{title} holds {noun} of {has}; the classes of the model are {knows}")
    places = np.array([known.index(name) for name in classes.names])
    return places[classes.numbers]


# Reading ---------------------------------------------------------------------------------------------------------


class Readers:
    """Threads that read items, several at once.

    Args:
        name: of the threads.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, name)

    def each(self, do: Callable[[Value], Result], items: Iterable[Value]) -> list[Result]:
        """What is done with each item, in order."""
        return list(self._pool.map(do, items))


def read_until_damage(read: Callable[[int, int], Any], count: int, block: int) -> Iterator[Any]:
    """An item in parts, up to the first damage: near it in ever smaller parts, down to a single row.

    Args:
        read: (start, stop) -> rows [stop - start, ...]; raises anything, or gives fewer, where the item is damaged.
        count: rows of the whole item.
        block: rows that are read at a time.
    """
    start, step = 0, block
    while step and start < count:
        stop = min(start + step, count)
        try:
            rows = read(start, stop)
        except Exception:  # whatever decoders raise at damage
            step //= 2
            continue
        yield rows
        if len(rows) < stop - start:
            return
        start = stop


class Windows(ABC, Generic[Window]):
    """Windows cut from items, as a map-style data set (`genkit.plugin.RandomDataset`).

    A window that turns out damaged is replaced by any other, chosen by the item's own random word.

    Args:
        counts: [N], windows of each item.
        names: [N], of the items, for messages.
        title, noun: what the source and its windows are called, for messages.
        numbers: [N], the condition of each item; None: there are none.
        skipped: items that cannot be used.
        readers: read several windows at once.

    Attributes:
        damaged: windows that could not be read, and were replaced.
    """

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.int64],
        names: Sequence[str],
        title: str,
        noun: str,
        numbers: NDArray[np.int64] | None,
        skipped: Sequence[Skipped],
        readers: Readers,
    ) -> None:
        self.names, self.title, self.noun = names, title, noun
        self.numbers, self.skipped, self.readers = numbers, tuple(skipped), readers
        self.damaged = 0
        self._ends = np.cumsum(counts, dtype=np.int64)

    @abstractmethod
    def read(self, place: int, number: int, draw: random.Random) -> Window:
        """A window of the item at a place.

        Args:
            number: which of its windows, where they are taken in order.
            draw: for all that is random about it.

        Raises:
            Exception: nearly any, where the item is damaged.
        """

    @abstractmethod
    def batch(self, windows: Sequence[Window], condition: Tensor | None) -> Sample:
        """Windows as a batch."""

    def explain(self, error: Exception) -> str:
        """Why a window could not be read, in a few words."""
        return reason(error)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        """One window, by torch's global generator where it is random."""
        word = torch.randint(2**62, ()).numpy().astype(np.uint64)
        return self.random_batch([index], word[None])[0]

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Windows, each cut by its random word."""
        pairs = self.readers.each(
            lambda pair: self._read(*pair), zip(indices, words.tolist(), strict=True)
        )
        places = [place for _, place in pairs]
        condition = None if self.numbers is None else torch.from_numpy(self.numbers[places])
        return self.batch([window for window, _ in pairs], condition)

    def _read(self, index: int, word: int) -> tuple[Window, int]:
        """A window and the place of its item.

        Raises:
            DataError: if ATTEMPTS others are damaged, too.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        draw = random.Random(word)  # what it gives is a function of the word alone
        for _ in range(ATTEMPTS):
            place = int(np.searchsorted(self._ends, index, "right"))
            number = index - int(self._ends[place - 1] if place else 0)
            try:
                return self.read(place, number, draw), place
            except Exception as error:  # whatever decoders raise at damage
                self.damaged += 1
                fault, name, index = error, self.names[place], draw.randrange(len(self))
        raise DataError(
            f"{ATTEMPTS} {self.noun} in a row of {self.title} could not be read, the last of {name} "
            f"({self.explain(fault)}): bring the files back, and go on with --resume"
        )

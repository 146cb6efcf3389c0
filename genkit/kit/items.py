"""Data sets of items that are checked once at the start: their classes, threads to read them, windows cut from them.

Use it in a plugin whose data set reads files while training. Items that cannot be used are reported and left out. A
window that turns out to be damaged later is replaced by another one, so that training goes on. The plugin says how an
item is read.

Shape letters: N items, B batch.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import ConfigError, DataError
from genkit.kit.columns import class_name
from genkit.kit.files import THREADS, HeldOut, reason
from genkit.plugin import Remark, Sample, Skipped

__all__ = [
    "ATTEMPTS", "EXAMPLES", "Classes", "Readers", "Windows", "as_array", "as_source", "as_stream",
    "check_class_options", "check_classes", "check_usable", "classes_of", "count_skipped", "label_of", "name_skipped",
    "numbers_in", "paired", "read_until_damage", "silenced",
]  # fmt: skip

ATTEMPTS = 8
"""So many windows are tried for one item of a batch before reading fails."""

EXAMPLES = 3
"""So many unusable items are named in a message; the others are counted."""

Value = TypeVar("Value")
Result = TypeVar("Result")
Window = TypeVar("Window")


# Unusable items --------------------------------------------------------------------------------------------------


def check_usable(
    items: int,
    skipped: Sequence[Skipped],
    source: str,
    strict: bool,
    remarks: Sequence[Remark] = (),
) -> None:
    """Raise an error if a source cannot be trained on.

    Args:
        items: number of usable items.
        skipped: the unusable items.
        source: the name of the source in messages.
        strict: whether a single unusable item or remark is an error; a `HeldOut` is none.
        remarks: what else is not used, or is used otherwise than it lies there.

    Raises:
        DataError: if no item can be used; or if any item cannot, or there are remarks, and `strict` is set.
    """
    remarks = [one for one in remarks if not isinstance(one, HeldOut)]
    if skipped and not items:
        raise DataError(
            f"none of the {len(skipped):,} items of {source} can be used: {name_skipped(skipped)}"
        )
    if not items:
        raise DataError(f"{source} is empty")
    if skipped and strict:
        fault = f"{count_skipped(items, skipped, source)}: {name_skipped(skipped)}"
        raise DataError(
            f"{fault}. Repair or remove them, or leave strict out to go on without them"
        )
    if remarks and strict:
        raise DataError(
            f"{source}: {name_skipped(remarks)}. Change that, or leave strict out to go on as it is"
        )


def count_skipped(items: int, skipped: Sequence[Skipped], source: str) -> str:
    """A sentence without its full stop: `2 of 30 items of SOURCE cannot be used`.

    Args:
        items: number of usable items.
        skipped: the unusable items.
        source: the name of the source in messages.
    """
    return f"{len(skipped):,} of {items + len(skipped):,} items of {source} cannot be used"


def name_skipped(skipped: Sequence[Skipped | Remark]) -> str:
    """The names and reasons of the first `EXAMPLES` unusable items or remarks, and how many more, in one line.

    Unprintable characters are replaced by `?`.
    """
    each = [f"{name} ({text})" for name, text in skipped[:EXAMPLES]]
    rest = [f"and {len(skipped) - EXAMPLES:,} more"] if len(skipped) > EXAMPLES else []
    text = "; ".join([*each, *rest])
    return "".join(character if character.isprintable() else "?" for character in text)


# Classes ---------------------------------------------------------------------------------------------------------


class Classes(NamedTuple):
    """The classes of N items.

    Args:
        names: names of the classes, sorted; empty if the items have no classes.
        numbers: [N] int64, the class of each item as its index in `names`; None if the items have no classes.
    """

    names: tuple[str, ...] = ()
    numbers: NDArray[np.int64] | None = None


def classes_of(labels: Sequence[str | None], order: Sequence[str] = ()) -> Classes:
    """The classes of items by their labels.

    Args:
        labels: [N], the label of each item, None for an item without one.
        order: names of classes, which come first, in this order.

    Returns:
        The sorted labels as classes, numbers in their order; `Classes()` if any item has no label.
    """
    names = sorted({label for label in labels if label is not None})
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    places = {name: place for place, name in enumerate(order)}
    names.sort(key=lambda name: places.get(name, len(places)))
    if not names or any(label is None for label in labels):
        return Classes()
    number_of = {name: number for number, name in enumerate(names)}
    return Classes(tuple(names), np.array([number_of[str(label)] for label in labels]))


def label_of(value: Any, names: Sequence[str] = ()) -> str | None:
    """A value as the name of a class; None: it names none.

    Args:
        value: of any type.
        names: of classes, by their numbers.
    """
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, int | np.integer) and 0 <= value < len(names):
        return names[int(value)]
    return class_name(int(value) if isinstance(value, bool) else value)[0]


def paired(value: Any, names: Sequence[str] = ()) -> tuple[Any, str | None]:
    """(an item, its label) of what a data set gives: an item alone, or a tuple (item, label, ...), as torchvision's do.

    A list is one too, if it has two elements and the second is a single number or a text. The name of a file becomes
    its path.

    Args:
        value: of any type.
        names: of classes, by their numbers.
    """
    if isinstance(value, str):
        return Path(value), None
    if not isinstance(value, tuple | list) or len(value) < 2:
        return value, None
    item, label = value[:2]
    is_single = isinstance(label, str | int | float | np.generic | Tensor) and np.ndim(label) == 0
    if isinstance(value, list) and not (
        len(value) == 2 and is_single and not isinstance(item, int | float)
    ):
        return value, None
    item = Path(item) if isinstance(item, str) else item
    return item, label_of(label, names) if is_single else None


def check_classes(
    classes: Classes, source: str, noun: str, remarks: Sequence[Remark] = (), otherwise: str = ""
) -> None:
    """Raise an error unless items have two classes or more.

    Args:
        classes: of the items.
        source: the name of the source in messages.
        noun: what the items are, in the plural.
        remarks: on the source; those that speak of classes are repeated.
        otherwise: a further way to give classes, as the last words of the message.

    Raises:
        DataError: says how many classes there are, and how to give them.
    """
    if len(classes.names) > 1:
        return
    classes_text = f"a single class, {classes.names[0]!r}" if classes.names else "no classes"
    reasons = "; ".join(f"{name}: {text}" for name, text in remarks if "classes" in text)
    cause = f" ({reasons})" if reasons else ""
    raise DataError(
        f"options.conditional is set, but {source} has {classes_text}{cause}: put the {noun} into one "
        "sub-folder per class, or beside a table with the columns file_name and label (or options.label=COLUMN, or "
        "options.label=COLUMN,COLUMN... for columns of which one is 1)"
        + (f", or {otherwise}" if otherwise else "")
    )


def check_class_options(options: Any, *names: str) -> None:
    """Raise an error if options say where classes come from, and the model is to have none.

    Args:
        options: of the modality, with a field `conditional`.
        names: of these options.

    Raises:
        ConfigError: for the first of them that is not at its default.
    """
    for name in names:
        value = getattr(options, name)
        if not options.conditional and value != type(options).model_fields[name].default:
            raise ConfigError(
                f"options.{name} = {value!r} says where classes come from, and the model has none: set "
                f"options.conditional=true as well, or leave {name} out"
            )


def numbers_in(
    classes: Classes, names: Sequence[str], title: str, noun: str
) -> NDArray[np.int64] | None:
    """The classes of items as indices into the classes of a model, [N] int64; None for a model without classes.

    Args:
        classes: the classes of the items.
        names: names of the model's classes, in the model's order.
        title: the name of the source in messages.
        noun: what its items are, in the plural, for messages.

    Raises:
        DataError: if an item has a class that the model does not have, or no class.
    """
    if not names:
        return None
    unknown = sorted(set(classes.names or ("no class",)) - set(names))
    if unknown:
        raise DataError(
            f"{title} holds {noun} of {', '.join(unknown)}; the classes of the model are {', '.join(names)}"
        )
    places = np.array([names.index(name) for name in classes.names])
    return places[classes.numbers]


# Reading ---------------------------------------------------------------------------------------------------------


class Readers:
    """A pool of `kit.files.THREADS` threads that read items.

    Args:
        name: prefix of the threads' names.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, name)

    def each(self, function: Callable[[Value], Result], items: Iterable[Value]) -> list[Result]:
        """The results of a function for each item, in order. An exception of the function is raised here."""
        return list(self._pool.map(function, items))


def read_until_damage(read: Callable[[int, int], Any], count: int, block: int) -> Iterator[Any]:
    """Read an item in blocks of rows up to the first damaged row.

    A block that cannot be read is halved, down to a single row.

    Args:
        read: (start, stop) -> rows [stop - start, ...]; where the item is damaged it raises any exception, or gives
            fewer rows.
        count: rows of the whole item.
        block: rows of a block.

    Yields:
        Consecutive blocks of rows, as `read` gives them, from row 0.
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


_silence = threading.Lock()
_silenced_count = 0
_real_stderr = -1


@contextmanager
def silenced() -> Iterator[None]:
    """A context in which nothing is written to the process's stderr, also not by compiled libraries.

    Some decoders (libtiff, mpg123) print what they find odd in a file, whatever Python says. Several threads may be in
    the context at once; keep it as short as the decoder's call.
    """
    global _silenced_count, _real_stderr
    with _silence:
        if not _silenced_count:
            try:
                sys.stderr.flush()
                _real_stderr = os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
            except (OSError, AttributeError, ValueError):  # there is no stderr
                _real_stderr = -1
        _silenced_count += 1
    try:
        yield
    finally:
        with _silence:
            _silenced_count -= 1
            if not _silenced_count and _real_stderr >= 0:
                os.dup2(_real_stderr, 2)
                os.close(_real_stderr)


class Windows(ABC, Generic[Window]):
    """A data set of windows that are cut from items; a base class, and a `genkit.plugin.RandomDataset`.

    A subclass implements `read` and `batch`, and may override `explain`. A window that cannot be read is replaced by
    another one of the data set, chosen by the same random word.

    Args:
        counts: [N], number of windows of each item.
        names: [N], names of the items, for messages.
        title: the name of the source in messages.
        noun: what its windows are, in the plural, for messages.
        numbers: [N] int64, the condition of each item (its class, say); None for items without conditions.
        skipped: items that cannot be used.
        readers: the threads that read the windows of a batch.

    Attributes:
        damaged: number of windows that could not be read and were replaced.
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
        """Read one window of an item; called from several threads.

        Args:
            place: index of the item, 0 to N - 1.
            number: index of the window within the item, if its windows are taken in order.
            draw: the random generator for everything random about the window, if they are not.

        Raises:
            Exception: of any kind, if the item is damaged; the window is then replaced.
        """

    @abstractmethod
    def batch(self, windows: Sequence[Window], condition: Tensor | None) -> Sample:
        """Make a batch of B windows.

        Args:
            windows: [B], as `read` gives them.
            condition: [B] int64, `numbers` of their items; None without conditions.
        """

    def explain(self, error: Exception) -> str:
        """Why a window could not be read, in a few words, for the error message."""
        return reason(error)

    def __len__(self) -> int:
        """Number of windows of all items."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        """One window without a batch axis; what is random about it comes from torch's global generator.

        Raises:
            IndexError: if the index is negative or beyond the last window.
            DataError: if `ATTEMPTS` windows in a row cannot be read.
        """
        word = torch.randint(2**62, ()).numpy().astype(np.uint64)
        return self.random_batch([index], word[None])[0]

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """A batch of B windows.

        Args:
            indices: [B], of the windows.
            words: [B], 64 random bits for each window; equal words give equal windows.

        Raises:
            DataError: if `ATTEMPTS` windows in a row cannot be read.
        """
        pairs = self.readers.each(
            lambda pair: self._read(*pair), zip(indices, words.tolist(), strict=True)
        )
        places = [place for _, place in pairs]
        condition = None if self.numbers is None else torch.from_numpy(self.numbers[places])
        return self.batch([window for window, _ in pairs], condition)

    def _read(self, index: int, word: int) -> tuple[Window, int]:
        """A window, or the one that replaces it, and the place of its item.

        Raises:
            IndexError: if there is no such window.
            DataError: if `ATTEMPTS` windows in a row cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        draw = random.Random(word)  # the result depends on the word alone, not on threads
        for _ in range(ATTEMPTS):
            place = int(np.searchsorted(self._ends, index, "right"))
            number = index - int(self._ends[place - 1] if place else 0)
            try:
                return self.read(place, number, draw), place
            except (NameError, ImportError):  # a mistake in the plugin, not in the data
                raise
            except Exception as error:  # whatever decoders raise at damage
                self.damaged += 1
                fault, name, index = error, self.names[place], draw.randrange(len(self))
        raise DataError(
            f"{ATTEMPTS} {self.noun} in a row of {self.title} could not be read, the last of {name} "
            f"({self.explain(fault)}): bring the files back, and go on with --resume"
        )


def as_array(values: Any) -> NDArray[Any]:
    """Values as a NumPy array; those of bfloat16, which NumPy does not have, as float32.

    Raises:
        DataError: for a tensor whose values do not lie in memory as they are: on the device meta, or quantised.
    """
    if not isinstance(values, Tensor):
        return np.asarray(values)
    try:
        dense = values.detach().to_dense()
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy(force=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"a tensor of type {values.dtype} on the device {values.device} cannot be read: pass one with its values "
            "in memory, of uint8, int16 or float32"
        ) from error


def as_source(source: Any) -> Any:
    """A source as what it holds: a `.npy` file as its array, an array of texts or objects as a list; or as it is.

    Raises:
        DataError: if a `.npy` file is none, or holds Python objects.
    """
    if isinstance(source, str | Path) and str(source).endswith(".npy") and os.path.isfile(source):
        try:
            return np.load(source, "r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{source} cannot be read as NumPy's array ({reason(error)})"
            ) from error
    is_boxed = isinstance(source, np.ndarray) and source.dtype.kind in "OU" and source.ndim == 1
    return source.tolist() if is_boxed else source


def as_stream(value: Any) -> Any:
    """The content of a file, given as bytes, as what a parser can open; other values as they are."""
    if isinstance(value, bytes | bytearray | memoryview):
        return BytesIO(value)
    return BytesIO(value.getvalue()) if isinstance(value, BytesIO) else value

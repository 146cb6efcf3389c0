"""Windows cut from sounds: each sound is heard once at the start, and only what can be used is trained on.

In memory sounds are 16 bits; floats are made last. Knows no network and no file format.

Shape letters: B batch, n values of a window.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import DataError
from genkit.plugin import Sample, Skipped
from genkit.tree import CACHE_BYTES, THREADS
from genkit_audio.sources import Sound, Values, held, open_sounds, reason

RATE = 16000
"""Of what has no rate of its own: arrays."""

BLOCK = 2**20
"""Frames that are looked at at a time."""

SILENT = 1e-4
"""A sound that is never louder is left out: -80 dB of full scale."""

FULL = 1 - 2**-15
"""What counts as full scale: the largest that 16 bits hold."""

CLIPPED = 0.01
"""A larger share of values at full scale is named."""

ATTEMPTS = 8
"""Windows that are tried in place of one that is damaged."""

STEPS, DECIBELS, SHIFT = 4, 3.0, 64
"""What augmentation does at most: so many steps of 2.5 % in speed, so many dB, a shift by one in so many values."""

Given = TypeVar("Given")
Result = TypeVar("Result")


class Cut(Protocol):
    """What the options say about windows."""

    @property
    def rate(self) -> int | None:
        """In Hz; None: the rate that most sounds have."""
        ...

    @property
    def samples(self) -> int:
        """n."""
        ...

    @property
    def pad(self) -> str:
        """Where a sound lies that is shorter, in zeros: `end` first; `random` anywhere; `loop` again and again."""
        ...

    @property
    def cut(self) -> str:
        """random: from anywhere; ordered: one after the other; start: the first one alone."""
        ...

    @property
    def labels(self) -> str:
        """folders or prefix."""
        ...

    @property
    def normalize(self) -> str:
        """none; peak: every sound as loud as can be."""
        ...

    @property
    def augment(self) -> float:
        """0: sounds as they are; up to 1: speed by +-10 %, level by +-3 dB, polarity, a small shift."""
        ...


class _Look(NamedTuple):
    """What was found in a sound: what to read it from, its peak, and what is odd about it."""

    sound: Sound
    peak: float
    odd: str


class Checked:
    """A source whose sounds have all been heard once.

    Args:
        source: as `open_sounds` takes it.
        options: how windows are cut.

    Attributes:
        kept: sounds that windows can be cut from.
        peaks: of each of these.
        skipped: the others, with reasons: no sound, no length, silence, values that are not finite.
        noted: those that are kept and odd: clipped, or cut off, of which what is whole is used.
        rate: of the windows, in Hz.
        names: of the classes that are left; none if any sound has no class.
        labels: [N] int64, places in `names`; None without classes.
        damaged: windows that turned out unreadable since, and were replaced by others.
    """

    def __init__(self, source: Any, options: Cut) -> None:
        self.source, self.damaged = open_sounds(source, options.labels), 0
        self._pool = ThreadPoolExecutor(THREADS, "genkit-sounds")
        rates = Counter(item.rate for item in self.source.items if item.rate is not None)
        self.rate = int(options.rate or (rates.most_common(1)[0][0] if rates else RATE))
        items = [item if item.rate else replace(item, rate=self.rate) for item in self.source.items]
        self._keep = 2 * sum(item.count(self.rate) for item in items) <= CACHE_BYTES
        looks = self.each(self._look, items)
        pairs = list(zip(items, looks, strict=True))
        good = [look for look in looks if isinstance(look, _Look)]
        self.kept, self.peaks = [look.sound for look in good], [look.peak for look in good]
        faults = [Skipped(item.name, look) for item, look in pairs if isinstance(look, str)]
        self.skipped: tuple[Skipped, ...] = (*self.source.skipped, *faults)
        self.noted = tuple(Skipped(look.sound.name, look.odd) for look in good if look.odd)
        found = sorted({item.label for item in self.kept if item.label is not None})
        classes = bool(found) and all(item.label is not None for item in self.kept)
        self.names = tuple(found) if classes else ()
        self.labels = np.array([found.index(str(item.label)) for item in self.kept]) if classes else None

    def each(self, do: Callable[[Given], Result], items: Iterable[Given]) -> list[Result]:
        """What is done with each, several at once."""
        return list(self._pool.map(do, items))

    def _look(self, sound: Sound) -> _Look | str:
        """All of a sound heard, and kept if there is room; or why it cannot be used."""
        parts, frames, full, peak = [], 0, 0, 0.0
        for rows in _whole(sound):
            if not np.isfinite(rows).all():
                return "values that are not finite"
            mono = rows.mean(1, dtype=np.float32)
            frames, peak = frames + len(rows), max(peak, float(np.abs(mono).max()))
            full += int((np.abs(rows) >= FULL).sum())
            if self._keep:
                parts.append(mono)
        if not frames:
            return "damaged at its beginning"
        if peak < SILENT:
            return f"silence: never louder than {SILENT:g} of full scale"
        odd = []
        if frames < sound.frames:
            odd.append(f"cut off after {frames:,} of {sound.frames:,} frames")
            sound = replace(sound, frames=frames)
        if full > CLIPPED * frames * sound.channels:
            odd.append(f"clipped: {full / frames / sound.channels:.0%} of its values at full scale")
        if self._keep:
            joined = np.concatenate(parts)[:, None]
            whole = replace(sound, channels=1, part=lambda start, stop: joined[start:stop])
            values = whole.read(0, whole.count(self.rate), self.rate)
            sound = held(sound, values, self.rate)
        return _Look(sound, min(peak, 1.0), "; ".join(odd))


def _whole(sound: Sound) -> Iterator[Values]:
    """[n, C]: all of a sound in blocks, or what comes before the first damage."""
    start, step = 0, BLOCK
    while step and start < sound.frames:
        stop = min(start + step, sound.frames)
        try:
            rows = sound.part(start, stop)
        except Exception:  # whatever decoders raise at damage: closer, until it is reached
            step //= 2
            continue
        yield rows
        if len(rows) < stop - start:
            return
        start = stop


class Windows:
    """Windows of sounds, as a map-style data set of Samples x [1, n] in [-1, 1].

    Each sound has as many items as windows fit into it without overlap, and at least one. What a float file has beyond
    full scale is clipped.

    Args:
        checked: the sounds.
        options: how windows are cut, placed and changed.
        labels: names of the classes whose numbers are the conditions; empty: there are no such conditions.
        told: windows [B, n] -> what is told of them instead; None: nothing.

    Raises:
        DataError: if a sound is of another class.
    """

    def __init__(
        self,
        checked: Checked,
        options: Cut,
        labels: Sequence[str] = (),
        told: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.checked, self.options, self.skipped, self.told = checked, options, checked.skipped, told
        unknown = sorted(set(checked.names or ("no class",)) - set(labels)) if labels else []
        if unknown:
            has, knows = ", ".join(unknown), ", ".join(labels)
            raise DataError(f"{checked.source.title} holds sounds of {has}; the classes of the model are {knows}")
        numbers = () if checked.labels is None else checked.labels.tolist()
        self._classes = [labels.index(checked.names[number]) for number in numbers] if labels else None
        most = 1 if options.cut == "start" else None
        fit = [max(1, sound.count(checked.rate) // options.samples) for sound in checked.kept]
        self._ends = np.cumsum([most or count for count in fit], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        """One window, by torch's global generator where it is random."""
        word = torch.randint(2**62, ()).numpy().astype(np.uint64)
        return self.random_batch([index], word[None])[0]

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Windows x [B, 1, n], each cut and changed by its random word; and their conditions."""
        cut = self.checked.each(lambda pair: self._cut(*pair), zip(indices, words.tolist(), strict=True))
        x = torch.from_numpy(np.stack([values for values, _ in cut])[:, None])
        if self.told is not None:
            return Sample(x, self.told(x[:, 0]))
        classes = None if self._classes is None else torch.tensor([self._classes[place] for _, place in cut])
        return Sample(x, classes)

    def _cut(self, index: int, word: int) -> tuple[Values, int]:
        """A window [n] and the place of its sound; of any other where the one asked for is damaged.

        Raises:
            DataError: if so many others are damaged, too.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        draw = random.Random(word)  # what it gives is a function of the word alone
        for _ in range(ATTEMPTS):
            place = int(np.searchsorted(self._ends, index, "right"))
            number = index - int(self._ends[place - 1] if place else 0)
            try:
                return self._window(place, number, draw), place
            except Exception as error:  # whatever decoders raise at damage
                self.checked.damaged += 1
                fault, index = error, draw.randrange(len(self))
                name = self.checked.kept[place].name
        raise DataError(
            f"{ATTEMPTS} windows in a row of {self.checked.source.title} could not be read, the last of {name} "
            f"({reason(fault)}): bring the files back, and go on with --resume"
        )

    def _window(self, place: int, number: int, draw: random.Random) -> Values:
        """[n]: one of the windows of a sound."""
        options, sound, n = self.options, self.checked.kept[place], self.options.samples
        amount = options.augment
        rate = Fraction(self.checked.rate) * 40 / (40 + round(amount * draw.randint(-STEPS, STEPS)))  # of another speed
        level = 10 ** (amount * draw.uniform(-DECIBELS, DECIBELS) / 20)
        level = -level if draw.random() < amount / 2 else level
        late = draw.randrange(1 + round(amount * n / SHIFT))
        count = sound.count(rate)
        first = draw.randrange(max(1, count - n + 1)) if options.cut == "random" else min(number * n, count - 1)
        found = sound.read(first, min(n, count - first), rate)
        if options.pad == "loop":
            values = np.resize(found, n)
        else:
            values = np.zeros(n, np.float32)
            free = n - len(found)
            start = draw.randrange(free + 1) if options.pad == "random" else min(late, free)
            values[start : start + len(found)] = found
        if options.normalize == "peak":
            level /= self.checked.peaks[place]
        return (values * np.float32(level)).clip(-1, 1)

"""Windows cut from sounds: each sound is heard once at the start, and only what can be used is trained on.

In memory sounds are 16 bits; floats are made last. Knows no network and no file format.

Shape letters: B batch, n values of a window.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from genkit.kit.files import CACHE_BYTES
from genkit.kit.items import Readers, Windows, classes_of, numbers_in, read_until_damage
from genkit.plugin import Sample, Skipped
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

STEPS, DECIBELS, SHIFT = 4, 3.0, 64
"""What augmentation does at most: so many steps of 2.5 % in speed, so many dB, a shift by one in so many values."""


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
        classes: of those that are kept.
    """

    def __init__(self, source: Any, options: Cut) -> None:
        self.source, self.readers = open_sounds(source, options.labels), Readers("genkit-sounds")
        rates = Counter(item.rate for item in self.source.items if item.rate is not None)
        self.rate = int(options.rate or (rates.most_common(1)[0][0] if rates else RATE))
        items = [item if item.rate else replace(item, rate=self.rate) for item in self.source.items]
        self._keep = 2 * sum(item.count(self.rate) for item in items) <= CACHE_BYTES
        looks = self.readers.each(self._look, items)
        pairs = list(zip(items, looks, strict=True))
        good = [look for look in looks if isinstance(look, _Look)]
        self.kept, self.peaks = [look.sound for look in good], [look.peak for look in good]
        faults = [Skipped(item.name, look) for item, look in pairs if isinstance(look, str)]
        self.skipped: tuple[Skipped, ...] = (*self.source.skipped, *faults)
        self.noted = tuple(Skipped(look.sound.name, look.odd) for look in good if look.odd)
        self.classes = classes_of([item.label for item in self.kept])

    def _look(self, sound: Sound) -> _Look | str:
        """All of a sound heard, and kept if there is room; or why it cannot be used."""
        parts, frames, full, peak = [], 0, 0, 0.0
        for rows in read_until_damage(sound.part, sound.frames, BLOCK):
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


class SoundWindows(Windows[Values]):
    """Windows of sounds, as a map-style data set of Samples x [1, n] in [-1, 1].

    Each sound has as many items as windows fit into it without overlap, and at least one. What a float file has beyond
    full scale is clipped.

    Args:
        checked: the sounds.
        options: how windows are cut, placed and changed.
        labels: names of the classes whose numbers are the conditions; empty: there are no such conditions.
        condition_of: windows [B, n] -> their conditions, instead of classes; None: there are no such conditions.

    Raises:
        DataError: if a sound is of another class.
    """

    def __init__(
        self,
        checked: Checked,
        options: Cut,
        labels: Sequence[str] = (),
        condition_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.checked, self.options, self.condition_of = checked, options, condition_of
        title = checked.source.title
        numbers = numbers_in(checked.classes, labels, title, "sounds")
        fit = [max(1, sound.count(checked.rate) // options.samples) for sound in checked.kept]
        counts = [1] * len(fit) if options.cut == "start" else fit
        names = [sound.name for sound in checked.kept]
        super().__init__(counts, names, title, "windows", numbers, checked.skipped, checked.readers)

    def batch(self, windows: Sequence[Values], condition: Tensor | None) -> Sample:
        """Windows [n] as a Sample x [B, 1, n]."""
        x = torch.from_numpy(np.stack(windows)[:, None])
        return Sample(x, condition if self.condition_of is None else self.condition_of(x[:, 0]))

    def explain(self, error: Exception) -> str:
        """What decoders raise, in a few words."""
        return reason(error)

    def read(self, place: int, number: int, draw: random.Random) -> Values:
        """[n]: one of the windows of a sound."""
        options, sound, n = self.options, self.checked.kept[place], self.options.samples
        amount = options.augment
        rate = (
            Fraction(self.checked.rate) * 40 / (40 + round(amount * draw.randint(-STEPS, STEPS)))
        )  # of another speed
        level = 10 ** (amount * draw.uniform(-DECIBELS, DECIBELS) / 20)
        level = -level if draw.random() < amount / 2 else level
        late = draw.randrange(1 + round(amount * n / SHIFT))
        count = sound.count(rate)
        first = (
            draw.randrange(max(1, count - n + 1))
            if options.cut == "random"
            else min(number * n, count - 1)
        )
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

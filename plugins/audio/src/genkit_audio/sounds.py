"""Windows cut from sounds. Each sound is read once at the start, and only usable ones are trained on.

In memory sounds have 16 bits; windows become float32 when they are cut.

Shape letters: B batch, n values of a window.
"""

from __future__ import annotations

import math
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
from genkit.plugin import Remark, Sample, Skipped
from genkit_audio.sources import Sound, Values, cached, open_sounds, reason

RATE = 16000
"""Rate, in Hz, of sources that have none: arrays."""

BLOCK = 2**20
"""Frames per read when a sound is checked."""

SILENCE = 1e-4
"""A sound whose peak is below this is left out: -80 dB of full scale."""

FULL_SCALE = 1 - 2**-15
"""The largest 16-bit value; values from here on count as full scale."""

LOUDEST = 2.0**31
"""A sound with larger values is left out: they are no wave in any usual unit, and their powers would overflow."""

CANCELLED = 1e-3
"""Where the mean of the channels has a smaller share of the power of the loudest one, only that is used."""

CLIPPING = 0.01
"""A sound with a larger share of values at full scale gets a remark."""

STEPS, DECIBELS, SHIFT = 4, 3.0, 64
"""Augmentation of strength 1: at most STEPS steps of 2.5 % in speed, DECIBELS of level, a shift by n / SHIFT values."""


class Cut(Protocol):
    """Options that say how windows are cut; `genkit_audio.options.Options` has them."""

    @property
    def rate(self) -> int | None:
        """Rate of the windows in Hz; None: the rate that most sounds have."""
        ...

    @property
    def samples(self) -> int:
        """Values of a window, n."""
        ...

    @property
    def pad(self) -> str:
        """How a shorter sound fills a window: `end`, zeros follow it; `random`, zeros around it; `loop`, repeated."""
        ...

    @property
    def cut(self) -> str:
        """Where windows begin: `random`, anywhere; `ordered`, one after the other; `start`, only the first."""
        ...

    @property
    def label(self) -> str | None:
        """The column that holds the classes."""
        ...

    @property
    def labels(self) -> str:
        """Where class labels come from: `folders` or `prefix` (of file names)."""
        ...

    @property
    def normalize(self) -> str:
        """`none`, or `peak`: the peak of every sound is brought to full scale."""
        ...

    @property
    def augment(self) -> float:
        """Strength of augmentation, 0 to 1; at 1: speed by +-10 %, level by +-3 dB, polarity, a small shift."""
        ...


class _Scan(NamedTuple):
    """Result of checking a usable sound: where to read it from, its peak (at most 1), and a remark, or an empty one."""

    sound: Sound
    peak: float
    remark: str


class CheckedSounds:
    """A source whose sounds have all been read once, to check them.

    Args:
        source: as `open_sounds` takes it.
        options: how windows are cut.

    Attributes:
        source: the source, with all of its sounds.
        sounds: the usable ones, which windows are cut from.
        peaks: of each usable sound.
        skipped: the unusable sounds, with reasons: no sound, no length, silence, values that are not finite.
        remarks: on usable sounds that are clipped, or cut off (of these the intact beginning is used), or whose
            channels cancel each other, or whose files hold more than is read; and what else of the source is not used.
        rate: of the windows, in Hz.
        origin: the source, as it was given.
        notes: how the rate was chosen, where sounds have several.
        classes: of the usable sounds.
        readers: threads that read sounds.
    """

    def __init__(self, source: Any, options: Cut) -> None:
        self.origin = source
        self.source = open_sounds(source, options.labels, options.label)
        self.readers = Readers("genkit-sounds")
        rates = Counter(item.rate for item in self.source.items if item.rate is not None)
        usual = max(rates, key=lambda rate: (rates[rate], rate), default=RATE)
        self.rate = int(options.rate or usual)
        self.notes = _rate_notes(rates, usual) if options.rate is None else ()
        items = [item if item.rate else replace(item, rate=self.rate) for item in self.source.items]
        self._fits_memory = 2 * sum(item.count(self.rate) for item in items) <= CACHE_BYTES
        results = self.readers.each(self._scan, items)
        scans = [result for result in results if isinstance(result, _Scan)]
        self.sounds, self.peaks = [scan.sound for scan in scans], [scan.peak for scan in scans]
        faults = [
            Skipped(item.name, result)
            for item, result in zip(items, results, strict=True)
            if isinstance(result, str)
        ]
        self.skipped: tuple[Skipped, ...] = (*self.source.skipped, *faults)
        self.remarks = (
            *self.source.remarks,
            *(Remark(scan.sound.name, scan.remark) for scan in scans if scan.remark),
        )
        self.classes = classes_of([sound.label for sound in self.sounds])

    def _scan(self, sound: Sound) -> _Scan | str:
        """Read a whole sound, and cache it if all sounds fit into memory; or the reason why it cannot be used."""
        parts, frames, full_scale_count = [], 0, 0
        mixed_power, powers = 0.0, np.zeros(sound.channels)
        peaks = np.zeros(1 + sound.channels, np.float32)  # of the mean of the channels, and of each
        for rows in read_until_damage(sound.part, sound.frames, BLOCK):
            largest = float(np.abs(rows).max(initial=0))
            if not math.isfinite(largest):
                return "values that are not finite"
            if largest > LOUDEST:
                return f"values up to {largest:.1g}, where full scale is 1"
            mono = rows.mean(1, dtype=np.float32)
            frames += len(rows)
            peaks = np.maximum(peaks, np.abs(np.c_[mono, rows]).max(0))
            mixed_power += float(np.square(mono).sum())
            powers += np.square(rows).sum(0)
            full_scale_count += int((np.abs(rows) >= FULL_SCALE).sum())
            if self._fits_memory:
                parts.append(rows)
        if not frames:
            return "damaged at its beginning"
        remarks, peak = [], float(peaks[0])
        loudest = int(powers.argmax())
        if mixed_power < CANCELLED * powers[loudest]:
            sound, peak = replace(sound, channel=loudest), float(peaks[1 + loudest])
            remarks.append(f"its channels cancel each other: only channel {loudest + 1} is used")
        if peak < SILENCE:
            return f"silence: never louder than {SILENCE:g} of full scale"
        if text := sound.remark():
            remarks.append(text)
        if frames < sound.frames:
            remarks.append(f"cut off after {frames:,} of {sound.frames:,} frames")
            sound = replace(sound, frames=frames)
        if full_scale_count > CLIPPING * frames * sound.channels:
            share = full_scale_count / frames / sound.channels
            remarks.append(f"clipped: {share:.0%} of its values at full scale")
        if self._fits_memory:
            whole = np.concatenate(parts)
            mono_sound = replace(sound, part=lambda start, stop: whole[start:stop])
            values = mono_sound.read(0, mono_sound.count(self.rate), self.rate)
            sound = cached(sound, values, self.rate)
        return _Scan(sound, min(peak, 1.0), "; ".join(remarks))


def _rate_notes(rates: Counter[int], usual: int) -> tuple[str, ...]:
    """A sentence on the rate that was chosen out of several; none: all sounds have it."""
    if len(rates) < 2:
        return ()
    return (
        f"rate: {usual:,} Hz, which {rates[usual]:,} of {rates.total():,} sounds have; the others are resampled; "
        "options.rate chooses otherwise",
    )


class SoundWindows(Windows[Values]):
    """Windows of sounds, as a map-style data set of Samples x [1, n] in [-1, 1].

    A sound has as many items as windows fit into it without overlap, and at least one; with `options.cut` "start" it
    has one. Values of float files beyond full scale are clipped.

    Args:
        checked: the sounds.
        options: how windows are cut, padded and augmented.
        labels: the model's class names, whose numbers are the conditions; empty: no class conditions.
        condition_of: maps windows [B, n] to their conditions, in place of classes; None: no such conditions.
        are_padded: whether shorter sounds are windows too, as `options.pad` says; else they are left out.

    Raises:
        DataError: if a sound has none of the model's classes.
    """

    def __init__(
        self,
        checked: CheckedSounds,
        options: Cut,
        labels: Sequence[str] = (),
        condition_of: Callable[[Tensor], Tensor] | None = None,
        are_padded: bool = True,
    ) -> None:
        self.checked, self.options, self.condition_of = checked, options, condition_of
        title = checked.source.title
        self.remarks, self.notes = checked.remarks, checked.notes
        numbers = numbers_in(checked.classes, labels, title, "sounds")
        lengths = [sound.count(checked.rate) for sound in checked.sounds]
        capacities = [max(are_padded, length // options.samples) for length in lengths]
        counts = np.minimum(capacities, 1) if options.cut == "start" else capacities
        names, seconds = [sound.name for sound in checked.sounds], options.samples / checked.rate
        short = [
            Skipped(name, f"shorter than {seconds:.3g} s")
            for name, capacity in zip(names, capacities, strict=True)
            if not capacity
        ]
        skipped = (*checked.skipped, *short)
        super().__init__(counts, names, title, "windows", numbers, skipped, checked.readers)

    def batch(self, windows: Sequence[Values], condition: Tensor | None) -> Sample:
        """Windows [n] as a Sample x [B, 1, n] with its conditions."""
        x = torch.from_numpy(np.stack(windows)[:, None])
        return Sample(x, condition if self.condition_of is None else self.condition_of(x[:, 0]))

    def explain(self, error: Exception) -> str:
        """Why a window could not be read, in a few words."""
        return reason(error)

    def read(self, place: int, number: int, draw: random.Random) -> Values:
        """A window [n] of the sound at a place, augmented by random numbers from `draw`."""
        options, sound, n = self.options, self.checked.sounds[place], self.options.samples
        strength = options.augment
        # Reading at another rate changes the speed.
        rate = (
            Fraction(self.checked.rate) * 40 / (40 + round(strength * draw.randint(-STEPS, STEPS)))
        )
        level = 10 ** (strength * draw.uniform(-DECIBELS, DECIBELS) / 20)
        level = -level if draw.random() < strength / 2 else level
        delay = draw.randrange(1 + round(strength * n / SHIFT))
        count = sound.count(rate)
        first = (
            draw.randrange(max(1, count - n + 1))
            if options.cut == "random"
            else min(number * n, count - 1)
        )
        excerpt = sound.read(first, min(n, count - first), rate)
        if options.pad == "loop":
            values = np.resize(excerpt, n)
        else:
            values = np.zeros(n, np.float32)
            room = n - len(excerpt)
            start = draw.randrange(room + 1) if options.pad == "random" else min(delay, room)
            values[start : start + len(excerpt)] = excerpt
        if options.normalize == "peak":
            level /= self.checked.peaks[place]
        return (values * np.float32(level)).clip(-1, 1)

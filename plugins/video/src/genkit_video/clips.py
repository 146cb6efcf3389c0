"""Clips cut from footage: each video is checked once at the start, and only what can be used is trained on.

In memory clips are uint8; floats are made last. Knows no network and no file format.

Shape letters: B batch, C channels (1 grey, 3 colour), T frames of a clip, H W pixels.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.kit.files import CACHE_BYTES
from genkit.kit.items import Readers, Windows, classes_of, numbers_in, read_until_damage
from genkit.plugin import Sample, Skipped
from genkit_image.pictures import Pixels, quiet, with_channels
from genkit_video.footage import Footage, open_footage, reason

FPS = 12.0
"""The rate of what has none of its own: frames in folders, arrays, built-in sets."""

BLOCK = 64
"""Frames that are decoded at a time to be kept in memory."""


class Cut(Protocol):
    """What the options say about clips."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        ...

    @property
    def frames(self) -> int:
        """T."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second of the clips; None: the rate that most videos have."""
        ...

    @property
    def cut(self) -> str:
        """random: from anywhere; ordered: one after the other; start: the first one alone."""
        ...

    @property
    def channels(self) -> Any:
        """auto, 1 or 3."""
        ...


class Checked:
    """A source whose videos have all been opened once, and looked into at a few places.

    Args:
        source: as `open_footage` takes it.
        options: how clips are cut.

    Attributes:
        kept: videos that clips can be cut from.
        skipped: the others, with reasons.
        rate: frames per second of the clips.
        channels: as the options say, or 1 if all that was looked at is grey, else 3.
        classes: of those that are kept.
    """

    def __init__(self, source: Any, options: Cut) -> None:
        self.source = open_footage(source, options.frames, options.shape)
        self.shape, self.frames = options.shape, options.frames
        self.readers = Readers("genkit-clips")
        items = self.source.items
        rates = Counter(round(item.rate, 3) for item in items if item.rate is not None)
        self.rate = float(options.fps or (rates.most_common(1)[0][0] if rates else FPS))
        with quiet():
            looks = self.readers.each(self._look, range(len(items)))
        good = [number for number, look in enumerate(looks) if not isinstance(look, str)]
        self.channels: int = options.channels
        if options.channels == "auto":
            self.channels = 1 if all(looks[number] for number in good) else 3
        self.kept = [items[number] for number in good]
        faults = [
            Skipped(items[number].name, look)
            for number, look in enumerate(looks)
            if isinstance(look, str)
        ]
        self.skipped: tuple[Skipped, ...] = (*self.source.skipped, *faults)
        self._memory = self._remembered()
        self.classes = classes_of([item.label for item in self.kept])

    def count(self, place: int) -> int:
        """Frames of one of the videos at the rate of the clips, those that can be used."""
        return len(self._memory[place]) if self._memory else self.kept[place].count(self.rate)

    def read(self, place: int, start: int, channels: int) -> Pixels:
        """[T, H, W, C]: a clip of one of the videos, from a frame on at the rate of the clips.

        Raises:
            Exception: nearly any, where the video is damaged.
        """
        if self._memory:
            clip = np.moveaxis(self._memory[place][start : start + self.frames], 3, 1)
            return np.moveaxis(with_channels(clip, channels), 1, 3)
        return self.kept[place].read(start, self.frames, self.rate, self.shape, channels)

    def _look(self, number: int) -> bool | str:
        """Whether the frames of a video that were looked at are grey; or why it cannot be used."""
        item = self.source.items[number]
        count = item.count(self.rate)
        if count < self.frames:
            return (
                f"too short: {count} frames at {self.rate:g} per second; a clip has {self.frames}"
            )
        grey = True
        for place in item.probes:
            try:
                frame = item.read(place, 1)
            except Exception as error:  # whatever decoders raise at damage
                if place == 0:
                    return reason(error)
                continue  # only what is damaged will be replaced
            grey = grey and bool((frame == frame[..., :1]).all())
        return grey

    def _remembered(self) -> list[Pixels]:
        """All frames of all videos at the rate of the clips, if they fit into memory; else none."""
        each = math.prod(self.shape) * self.channels
        if (
            self.source.ready
            or each * sum(item.count(self.rate) for item in self.kept) > CACHE_BYTES
        ):
            return []
        with quiet():
            memory = self.readers.each(self._whole, self.kept)
        short = [place for place, rows in enumerate(memory) if len(rows) < self.frames]
        self.skipped += tuple(
            Skipped(self.kept[place].name, "damaged before the first clip ends") for place in short
        )
        for place in reversed(short):
            del memory[place], self.kept[place]
        return memory

    def _whole(self, item: Footage) -> Pixels:
        """[frames, H, W, C]: all frames, or those before the first damage."""

        def read(start: int, stop: int) -> Pixels:
            return item.read(start, stop - start, self.rate, self.shape, self.channels)

        parts = list(read_until_damage(read, item.count(self.rate), BLOCK))
        return (
            np.concatenate(parts) if parts else np.empty((0, *self.shape, self.channels), np.uint8)
        )


class Clips(Windows[Pixels]):
    """Clips of videos, as a map-style data set of Samples x [C, T, H, W] in [-1, 1].

    Each video has as many items as clips fit into it without overlap, or one. A random item is cut from anywhere in its
    video.

    Args:
        checked: the videos.
        options: where clips are cut.
        channels: C.
        labels: names of the classes whose numbers are the conditions; empty: there are no conditions.

    Raises:
        DataError: if a video is of another class, or none can be used.
    """

    def __init__(
        self, checked: Checked, options: Cut, channels: int, labels: Sequence[str] = ()
    ) -> None:
        self.checked, self.options, self.channels = checked, options, channels
        title = checked.source.title
        numbers = numbers_in(checked.classes, labels, title, "videos")
        fit = [checked.count(place) // checked.frames for place in range(len(checked.kept))]
        counts = np.minimum(fit, 1) if options.cut == "start" else fit
        names = [item.name for item in checked.kept]
        super().__init__(counts, names, title, "clips", numbers, checked.skipped, checked.readers)

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Clips x [B, C, T, H, W], each cut by its random word; condition [B] or None."""
        with quiet():
            return super().random_batch(indices, words)

    def read(self, place: int, number: int, draw: random.Random) -> Pixels:
        """[T, H, W, C]: a clip of one of the videos."""
        if self.options.cut == "random":
            start = draw.randrange(self.checked.count(place) - self.checked.frames + 1)
        else:
            start = number * self.checked.frames
        return self.checked.read(place, start, self.channels)

    def batch(self, windows: Sequence[Pixels], condition: Tensor | None) -> Sample:
        """Clips [T, H, W, C] as a Sample."""
        pixels = np.ascontiguousarray(np.stack(windows).transpose(0, 4, 1, 2, 3))
        x = (
            pixels.astype(np.float32) / np.float32(127.5) - 1
        )  # by NumPy: torch's threads are the training's
        return Sample(torch.from_numpy(x), condition)

    def explain(self, error: Exception) -> str:
        """What decoders raise, in a few words."""
        return reason(error)

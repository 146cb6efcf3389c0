"""Clips cut from footage: each video is checked once at the start, and only what can be used is trained on.

In memory clips are uint8; floats are made last. Knows no network and no file format.

Shape letters: B batch, C channels (1 grey, 3 colour), T frames of a clip, H W pixels.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from genkit.errors import DataError
from genkit.plugin import Sample, Skipped
from genkit.tree import CACHE_BYTES, THREADS
from genkit_image.pictures import Pixels, quiet, with_channels
from genkit_video.footage import Footage, open_footage, reason

FPS = 12.0
"""The rate of what has none of its own: frames in folders, arrays, built-in sets."""

BLOCK = 64
"""Frames that are decoded at a time to be kept in memory."""

ATTEMPTS = 8
"""Windows that are tried in place of one that is damaged."""

Given = TypeVar("Given")
Result = TypeVar("Result")


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
        names: of the classes that are left; none if any video has no class.
        labels: [N] int64, places in `names`; None without classes.
        damaged: windows that turned out unreadable since, and were replaced by others.
    """

    def __init__(self, source: Any, options: Cut) -> None:
        self.source = open_footage(source, options.frames, options.shape)
        self.shape, self.frames, self.damaged = options.shape, options.frames, 0
        self._pool = ThreadPoolExecutor(THREADS, "genkit-clips")
        items = self.source.items
        rates = Counter(round(item.rate, 3) for item in items if item.rate is not None)
        self.rate = float(options.fps or (rates.most_common(1)[0][0] if rates else FPS))
        looks = self.each(self._look, range(len(items)))
        good = [number for number, look in enumerate(looks) if not isinstance(look, str)]
        self.channels: int = options.channels
        if options.channels == "auto":
            self.channels = 1 if all(looks[number] for number in good) else 3
        self.kept = [items[number] for number in good]
        faults = [Skipped(items[number].name, look) for number, look in enumerate(looks) if isinstance(look, str)]
        self.skipped: tuple[Skipped, ...] = (*self.source.skipped, *faults)
        self._memory = self._remembered()
        found = sorted({item.label for item in self.kept if item.label is not None})
        classes = bool(found) and all(item.label is not None for item in self.kept)
        self.names = tuple(found) if classes else ()
        self.labels = np.array([found.index(str(item.label)) for item in self.kept]) if classes else None

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

    def each(self, do: Callable[[Given], Result], items: Iterable[Given]) -> list[Result]:
        """What is done with each, several at once."""
        with quiet():
            return list(self._pool.map(do, items))

    def _look(self, number: int) -> bool | str:
        """Whether the frames of a video that were looked at are grey; or why it cannot be used."""
        item = self.source.items[number]
        count = item.count(self.rate)
        if count < self.frames:
            return f"too short: {count} frames at {self.rate:g} per second; a clip has {self.frames}"
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
        if self.source.ready or each * sum(item.count(self.rate) for item in self.kept) > CACHE_BYTES:
            return []
        memory = self.each(self._whole, self.kept)
        short = [place for place, rows in enumerate(memory) if len(rows) < self.frames]
        self.skipped += tuple(Skipped(self.kept[place].name, "damaged before the first clip ends") for place in short)
        for place in reversed(short):
            del memory[place], self.kept[place]
        return memory

    def _whole(self, item: Footage) -> Pixels:
        """[frames, H, W, C]: all frames, or those before the first damage."""
        parts, start, count, step = [], 0, item.count(self.rate), BLOCK
        while step and start < count:
            take = min(step, count - start)
            try:
                parts.append(item.read(start, take, self.rate, self.shape, self.channels))
                start += take
            except Exception:  # whatever decoders raise at damage: closer, until it is reached
                step //= 2
        return np.concatenate(parts) if parts else np.empty((0, *self.shape, self.channels), np.uint8)


class Clips:
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

    def __init__(self, checked: Checked, options: Cut, channels: int, labels: Sequence[str] = ()) -> None:
        self.checked, self.options, self.channels, self.skipped = checked, options, channels, checked.skipped
        unknown = sorted(set(checked.names or ("no class",)) - set(labels)) if labels else []
        if unknown:
            has, knows = ", ".join(unknown), ", ".join(labels)
            raise DataError(f"{checked.source.title} holds videos of {has}; the classes of the model are {knows}")
        numbers = () if checked.labels is None else checked.labels.tolist()
        self._classes = [labels.index(checked.names[number]) for number in numbers] if labels else None
        fit = [checked.count(place) // checked.frames for place in range(len(checked.kept))]
        self._ends = np.cumsum(np.minimum(fit, 1) if options.cut == "start" else fit, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        """One clip, by torch's global generator where it is random."""
        word = torch.randint(2**62, ()).numpy().astype(np.uint64)
        return self.random_batch([index], word[None])[0]

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Clips x [B, C, T, H, W], each cut by its random word; condition [B] or None."""
        cut = self.checked.each(lambda pair: self._cut(*pair), zip(indices, words.tolist(), strict=True))
        pixels = np.stack([clip for clip, _ in cut]).transpose(0, 4, 1, 2, 3)
        x = (
            np.ascontiguousarray(pixels).astype(np.float32) / np.float32(127.5) - 1
        )  # torch's threads are the training's
        classes = None if self._classes is None else torch.tensor([self._classes[place] for _, place in cut])
        return Sample(torch.from_numpy(x), classes)

    def _cut(self, index: int, word: int) -> tuple[Pixels, int]:
        """A clip [T, H, W, C] and the place of its video; of any other where the one asked for is damaged.

        Raises:
            DataError: if so many others are damaged, too.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        draw = random.Random(word)  # its randrange is a function of the word alone
        for _ in range(ATTEMPTS):
            place = int(np.searchsorted(self._ends, index, "right"))
            if self.options.cut == "random":
                start = draw.randrange(self.checked.count(place) - self.checked.frames + 1)
            else:
                start = (index - int(self._ends[place - 1] if place else 0)) * self.checked.frames
            try:
                return self.checked.read(place, start, self.channels), place
            except Exception as error:  # whatever decoders raise at damage
                self.checked.damaged += 1
                fault, index = error, draw.randrange(len(self))
                name = self.checked.kept[place].name
        raise DataError(
            f"{ATTEMPTS} clips in a row of {self.checked.source.title} could not be read, the last of {name} "
            f"({reason(fault)}): bring the files back, and go on with --resume"
        )

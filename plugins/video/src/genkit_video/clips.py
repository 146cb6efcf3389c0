"""Clips cut from videos. Each video is checked once at the start, and only usable ones are trained on.

In memory clips are uint8; they become float32 when a batch is made.

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

from genkit.kit.files import CACHE_BYTES, group
from genkit.kit.items import Readers, Windows, classes_of, numbers_in, read_until_damage
from genkit.plugin import Remark, Sample, Skipped
from genkit_image.pictures import Pixels, quiet, with_channels
from genkit_video.films import Footage, reason
from genkit_video.footage import open_footage

FPS = 12.0
"""Frames per second of sources without a rate: folders of frames, arrays, built-in sets."""

BLOCK = 64
"""Frames per read when a whole video is cached in memory."""


class Cut(Protocol):
    """Options that say how clips are cut; `genkit_video.options.Options` has them."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the clips in pixels."""
        ...

    @property
    def frames(self) -> int:
        """Frames of a clip, T."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second of the clips; None: the rate that most videos have."""
        ...

    @property
    def cut(self) -> str:
        """Where clips begin: `random`, anywhere; `ordered`, one after the other; `start`, only the first."""
        ...

    @property
    def label(self) -> str | None:
        """The column that holds the classes."""
        ...

    @property
    def channels(self) -> Any:
        """Channels of the clips: 1, 3, or "auto"."""
        ...


class CheckedVideos:
    """A source whose videos have all been opened once and decoded at a few places, to check them.

    Args:
        source: as `open_footage` takes it.
        options: how clips are cut.

    Attributes:
        origin: the source, as it was given.
        source: the source, with all of its videos.
        shape: (height, width) of the clips.
        frames: of a clip, T.
        videos: the usable videos, which clips are cut from.
        skipped: the unusable videos, with reasons.
        remarks: what else of the source is not used, or is used otherwise than it lies there.
        rate: frames per second of the clips.
        notes: how the rate was chosen, where videos have several.
        channels: as the options say; for "auto" 1 if all decoded frames are grey, else 3.
        classes: of the usable videos.
        readers: threads that read videos.
    """

    def __init__(self, source: Any, options: Cut) -> None:
        self.origin = source
        self.source = open_footage(source, options.frames, options.shape, options.label)
        self.shape, self.frames = options.shape, options.frames
        self.readers = Readers("genkit-clips")
        items = self.source.items
        rates = Counter(round(item.rate, 3) for item in items if item.rate is not None)
        usual = max(rates, key=lambda rate: (rates[rate], rate), default=FPS)
        self.rate = float(options.fps or usual)
        self.notes = _rate_notes(rates, usual) if options.fps is None else ()
        with quiet():
            results = self.readers.each(self._probe, items)
        self.videos = [
            item for item, result in zip(items, results, strict=True) if not isinstance(result, str)
        ]
        self.channels: int = options.channels
        if options.channels == "auto":
            is_grey = all(result for result in results if isinstance(result, bool))
            self.channels = 1 if is_grey else 3
        faults = [
            Skipped(item.name, result)
            for item, result in zip(items, results, strict=True)
            if isinstance(result, str)
        ]
        self.skipped: tuple[Skipped, ...] = (*self.source.skipped, *faults)
        texts: dict[str, list[str]] = {}
        for item in self.videos:
            texts.setdefault(item.remark, []).append(item.name)
        self.remarks = (
            *self.source.remarks,
            *(Remark(group(names, "videos"), text) for text, names in texts.items() if text),
        )
        self._memory = self._cache()
        self.classes = classes_of([item.label for item in self.videos])

    def count(self, place: int) -> int:
        """Usable frames of the video at a place in `videos`, at the rate of the clips."""
        return len(self._memory[place]) if self._memory else self.videos[place].count(self.rate)

    def read(self, place: int, start: int, channels: int) -> Pixels:
        """A clip [T, H, W, C] of the video at a place in `videos`.

        Args:
            place: of the video.
            start: first frame, counted at the rate of the clips.
            channels: C.

        Raises:
            Exception: whatever the decoder raises where the video is damaged.
        """
        if self._memory:
            clip = np.moveaxis(self._memory[place][start : start + self.frames], 3, 1)
            return np.moveaxis(with_channels(clip, channels), 1, 3)
        return self.videos[place].read(start, self.frames, self.rate, self.shape, channels)

    def _probe(self, item: Footage) -> bool | str:
        """Whether a video is grey, by a few of its frames; or the reason why it cannot be used."""
        count = item.count(self.rate)
        if count < self.frames:
            return f"too short: {count} frame{'s' * (count != 1)} at {self.rate:g} per second; a clip has {self.frames}"
        is_grey = True
        for place in item.probes:
            try:
                frame = item.read(place, 1)
            except Exception as error:  # whatever decoders raise at damage
                if place == 0:
                    return reason(error)
                continue  # later damage costs only the clips that it lies in
            is_grey = is_grey and bool((frame == frame[..., :1]).all())
        return is_grey

    def _cache(self) -> list[Pixels]:
        """All frames of all videos at the rate of the clips, if they fit into memory and are costly to read; else [].

        Videos that turn out damaged before the end of their first clip move from `videos` to `skipped`.
        """
        frame_bytes = math.prod(self.shape) * self.channels
        if (
            self.source.is_cheap
            or frame_bytes * sum(item.count(self.rate) for item in self.videos) > CACHE_BYTES
        ):
            return []
        with quiet():
            memory = self.readers.each(self._frames, self.videos)
        short = [place for place, rows in enumerate(memory) if len(rows) < self.frames]
        self.skipped += tuple(
            Skipped(self.videos[place].name, "damaged before the first clip ends")
            for place in short
        )
        self.remarks += tuple(
            Remark(
                item.name,
                f"damaged after {len(rows):,} of {item.count(self.rate):,} frames, which are used",
            )
            for item, rows in zip(self.videos, memory, strict=True)
            if self.frames <= len(rows) < item.count(self.rate)
        )
        for place in reversed(short):
            del memory[place], self.videos[place]
        return memory

    def _frames(self, item: Footage) -> Pixels:
        """All frames [frames, H, W, C] of a video, or those before the first damage."""

        def read(start: int, stop: int) -> Pixels:
            return item.read(start, stop - start, self.rate, self.shape, self.channels)

        parts = list(read_until_damage(read, item.count(self.rate), BLOCK))
        return (
            np.concatenate(parts) if parts else np.empty((0, *self.shape, self.channels), np.uint8)
        )


def _rate_notes(rates: Counter[float], usual: float) -> tuple[str, ...]:
    """A sentence on the rate that was chosen out of several; none: all videos have it."""
    if len(rates) < 2:
        return ()
    return (
        f"fps: {usual:g}, which {rates[usual]:,} of {rates.total():,} videos have; of the others the nearest frames "
        "are taken; options.fps chooses otherwise",
    )


class Clips(Windows[Pixels]):
    """Clips of videos, as a map-style data set of Samples x [C, T, H, W] in [-1, 1].

    A video has as many items as clips fit into it without overlap; with `options.cut` "start" it has one. With "random"
    each item is cut from anywhere in its video.

    Args:
        checked: the videos.
        options: where clips are cut.
        channels: C.
        labels: the model's class names, whose numbers are the conditions; empty: no conditions.

    Raises:
        DataError: if a video has none of the model's classes.
    """

    def __init__(
        self, checked: CheckedVideos, options: Cut, channels: int, labels: Sequence[str] = ()
    ) -> None:
        self.checked, self.options, self.channels = checked, options, channels
        title = checked.source.title
        numbers = numbers_in(checked.classes, labels, title, "videos")
        capacities = [
            checked.count(place) // checked.frames for place in range(len(checked.videos))
        ]
        counts = np.minimum(capacities, 1) if options.cut == "start" else capacities
        names = [item.name for item in checked.videos]
        self.remarks, self.notes = checked.remarks, checked.notes
        super().__init__(counts, names, title, "clips", numbers, checked.skipped, checked.readers)

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """A batch of clips x [B, C, T, H, W] with condition [B] or None; `words` [B] determine where they begin."""
        with quiet():
            return super().random_batch(indices, words)

    def read(self, place: int, number: int, draw: random.Random) -> Pixels:
        """A clip [T, H, W, C] of the video at a place: a random one, or its clip of a number."""
        if self.options.cut == "random":
            start = draw.randrange(self.checked.count(place) - self.checked.frames + 1)
        else:
            start = number * self.checked.frames
        return self.checked.read(place, start, self.channels)

    def batch(self, windows: Sequence[Pixels], condition: Tensor | None) -> Sample:
        """Clips [T, H, W, C] as a Sample x [B, C, T, H, W] with its condition."""
        pixels = np.ascontiguousarray(np.stack(windows).transpose(0, 4, 1, 2, 3))
        x = (
            pixels.astype(np.float32) / np.float32(127.5) - 1
        )  # NumPy leaves torch's threads to the training
        return Sample(torch.from_numpy(x), condition)

    def explain(self, error: Exception) -> str:
        """What decoders raise, in a few words."""
        return reason(error)

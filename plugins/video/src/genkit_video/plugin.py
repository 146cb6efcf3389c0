"""The video modality: facts, data, networks and files. It implements `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genkit.kit.items import check_classes
from genkit.plugin import Critique, Facts, ModalityPlugin, Networks, Sample, class_numbers
from genkit_image.plugin import to_pixels
from genkit_video.critics import make_critics
from genkit_video.generators import make_generator
from genkit_video.options import Options


class VideoPlugin(ModalityPlugin):
    """The video modality; a clip is a tensor [C, T, H, W] in [-1, 1]."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Any:
        """The source as `genkit_video.clips.CheckedVideos`, for which every file is checked once."""
        from genkit_video.clips import CheckedVideos

        return source if isinstance(source, CheckedVideos) else CheckedVideos(source, options)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """Facts: `channels`, 1 or 3; `rate`, frames per second; `labels`, the class names, [] unless conditional.

        Raises:
            DataError: if the source cannot be opened, or `options.conditional` is set and there are fewer than two
                classes.
        """
        checked = cls.open(source, options)
        if options.conditional and len(checked.videos):
            check_classes(checked.classes, "the data", "clips", checked.remarks)
        labels = list(checked.classes.names) if options.conditional else []
        return Facts({"channels": checked.channels, "rate": float(checked.rate), "labels": labels})

    def dataset(self, source: Any) -> Any:
        """Clips of the source as a data set, scaled to the options' size."""
        from genkit_video import clips

        checked = self.open(source, self.options)
        return clips.Clips(checked, self.options, self.facts["channels"], self.facts["labels"])

    def networks(self) -> Networks:
        """The generator and the critics (the field's discriminators) that the options select."""
        arguments = self.options, self.facts["channels"], len(self._class_names())
        return Networks(self.generator(), make_critics(*arguments))

    def generator(self) -> nn.Module:
        """The generator that the options select."""
        channels, classes = self.facts["channels"], len(self._class_names())
        return make_generator(self.options, channels, classes, self.facts["rate"])

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """Class numbers [B], or None for a model without labels if no category is asked for.

        Args:
            value: a class label; None: sample i is of class i modulo K. Categories that mocogan found without labels
                are asked for by their numbers from 0; None: the generator draws them from its noise.
            indices: of the samples [B].

        Raises:
            ConfigError: for an unknown label, or any label of an unconditional model.
        """
        if value is None and not self.facts["labels"]:
            return None
        return class_numbers(
            self._class_names(), value, indices, "train one with options.conditional=true"
        )

    def terms(
        self,
        player: str,
        networks: Networks,
        real: Sample,
        fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> Mapping[str, Tensor]:
        """`category`: the cross-entropy of the classes that MoCoGAN's clip critic predicts.

        The critic learns from real clips where they have labels (Tulyakov et al. 2018, section 3.2), else from fakes,
        whose categories are known (Chen et al. 2016, arXiv:1606.03657, eq. 5). The generator learns from fakes.
        """
        if player == "generator":
            critique, labels = critiques.get("video"), fake.condition
        else:
            source, sample = ("fake", fake) if real.condition is None else ("real", real)
            critique, labels = critiques[source], sample.condition
        if critique is None or "category" not in critique.outputs or labels is None:
            return {}
        return {"category": cross_entropy(critique.outputs["category"], labels)}

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One clip [C, T, H, W] as the bytes of a video, an animation, or a zip file of its frames."""
        from genkit_video import writing

        return writing.encode(to_frames(sample.x), format, self._fps(controls))

    @contextmanager
    def writer(self, file: Any, format: str, controls: Any) -> Iterator[Callable[[Sample], None]]:
        """Writes one clip to a file while it is generated; the context's value takes parts x [1, C, T, H, W]."""
        from genkit_video import writing

        with writing.write(file, format, self._fps(controls)) as write:
            yield lambda part: write(to_frames(part.x[0]))

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """A contact sheet as PNG, with frames of each clip in a row; or a grid of moving clips as animated WebP."""
        from genkit_video import writing

        frames, buffer = to_frames(samples.x), io.BytesIO()
        if format == "webp":
            return writing.animated_grid(
                frames, columns or math.ceil(math.sqrt(len(samples))), self._fps(controls)
            )
        writing.contact_sheet(frames).save(buffer, "PNG")
        return buffer.getvalue()

    def _class_names(self) -> list[str]:
        """The labels of the data, else the numbers of categories; empty for an unconditional model."""
        return self.facts["labels"] or [str(number) for number in range(self.options.categories)]

    def _fps(self, controls: Any) -> float:
        """Frames per second of generated clips: the control `fps`, else the rate of the data."""
        return (None if controls is None else controls.fps) or self.facts["rate"]


def to_frames(x: Tensor) -> NDArray[np.uint8]:
    """Clips [..., C, T, H, W] in [-1, 1] as uint8 pixels [..., T, H, W, C].

    Raises:
        GenkitError: if a value is not finite.
    """
    return np.moveaxis(to_pixels(x).numpy(), -4, -1)

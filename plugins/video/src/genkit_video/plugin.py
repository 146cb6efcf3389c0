"""The video modality: facts, data, networks and files. It implements `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genkit.kit.items import check_class_options, check_classes, check_usable
from genkit.plugin import (
    Conditions,
    Critique,
    Evidence,
    Facts,
    FeatureNetwork,
    ModalityPlugin,
    Networks,
    Sample,
    class_numbers,
)
from genkit_image.pictures import to_pixels
from genkit_video import features, measures
from genkit_video.critics import make_critics
from genkit_video.generators import length, make_generator
from genkit_video.options import Options


class VideoPlugin(ModalityPlugin):
    """The video modality; a clip is a tensor [C, T, H, W] in [-1, 1]."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Any:
        """The source as `genkit_video.clips.CheckedVideos`, for which every file is checked once."""
        from genkit_video.clips import CheckedVideos

        if isinstance(source, CheckedVideos):
            return source
        check_class_options(options, "label")
        return CheckedVideos(source, options)

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

    def conditions(self) -> Conditions:
        """The class labels, or the numbers of categories that were found without labels."""
        return Conditions(labels=tuple(self._class_names()))

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

    def references(self, source: Any, controls: Any) -> Any:
        """Clips of the source, of the length and frame rate that generated ones have, cut where those of training are.

        They have classes where all are the model's. Where a clip is cut at random, that is decided by random words.
        """
        from genkit_video import clips

        fps, rate = self._fps(controls), self.facts["rate"]
        is_fixed = self.options.architecture == "tgan"  # of a fixed duration, at any rate
        frames = (
            self.options.frames if not is_fixed else max(round(self.options.frames / rate * fps), 1)
        )
        options = self.options.model_copy(
            update={"frames": length(controls, frames, rate), "fps": fps}
        )
        checked = self.open(source, options)
        if (checked.frames, checked.rate) != (options.frames, fps):
            checked = clips.CheckedVideos(checked.origin, options)
        are_known = set(checked.classes.names or ("",)) <= set(self.facts["labels"])
        labels = self.facts["labels"] if are_known else ()
        dataset = clips.Clips(checked, options, self.facts["channels"], labels)
        check_usable(len(dataset), dataset.skipped, checked.source.title, strict=False)
        return dataset

    def feature_networks(
        self, weights: Mapping[str, Path], training: Callable[[int], Sample]
    ) -> Mapping[str, FeatureNetwork]:
        """The networks of `genkit_video.features.networks`."""
        return features.networks(weights, training)

    def measures(self, evidence: Evidence) -> Mapping[str, float | None]:
        """The measures of `genkit_video.measures.measures`; for `builtin:moving` also how well clips keep its rule."""
        is_moving = isinstance(evidence.data, str) and evidence.data == "builtin:moving"
        clips, real = (to_frames(samples.x) for samples in (evidence.samples, evidence.real))
        return measures.measures(clips, real, is_moving)

    def corruptions(self, samples: Sample) -> Mapping[str, Sample]:
        """`shuffled`: clips [N, C, T, H, W] with the frames of each in a random order."""
        x = samples.x
        order = torch.rand(len(x), x.shape[2]).argsort(1)[:, None, :, None, None]
        return {"shuffled": samples.with_x(x.gather(2, order.expand_as(x)))}

    def export_facts(self) -> Mapping[str, Any]:
        """The axes of a clip, and the range of its values; what lies beyond is clipped in a file."""
        return {"axes": ["channels", "frames", "height", "width"], "range": [-1, 1]}

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

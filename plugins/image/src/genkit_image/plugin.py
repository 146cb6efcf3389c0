"""The modality of pictures: facts, data, networks, files. The contract is `genkit.plugin.ModalityPlugin`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkit import user_objects
from genkit.errors import DataError, GenkitError
from genkit.plugin import Facts, ModalityPlugin, Networks, Sample, class_numbers
from genkit_image import dcgan, modern
from genkit_image.augment import augmented
from genkit_image.options import Options
from genkit_image.pictures import Checked, Pictures, grid, to_picture, to_png
from genkit_image.sources import open_source

FEW = 5000
"""Pictures below which critics are shown changed ones."""


class ImagePlugin(ModalityPlugin):
    """Pictures [C, H, W] in [-1, 1]."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Checked:
        """The pictures, each decoded once."""
        return source if isinstance(source, Checked) else Checked(open_source(source), options)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """Channels (1, 3 or 4), the names of the classes if they are to be learned, whether critics need augmentation.

        Raises:
            DataError: if there is nothing to train on, or classes are asked for and there are none.
        """
        pictures = cls.open(source, options)
        if options.conditional and len(pictures.classes.names) < 2 and len(pictures.kept):
            raise DataError(
                f"options.conditional is set, but {pictures.source.title} has no classes: put the pictures into one "
                "sub-folder per class, or an IDX label file beside them, or pass (picture, label) items"
            )
        few = options.augment == "on" or (options.augment == "auto" and len(pictures.kept) < FEW)
        labels = list(pictures.classes.names) if options.conditional else []
        return Facts({"channels": pictures.channels, "labels": labels, "augment": few})

    def dataset(self, source: Any) -> Pictures:
        """Scaled pictures."""
        checked = self.open(source, self.options)
        return Pictures(checked, self.options, self.facts["channels"], self.facts["labels"])

    def networks(self) -> Networks:
        """The two networks that the options name."""
        kind, options = modern if self.options.architecture == "residual" else dcgan, self.options
        given = options, self.facts["channels"], len(self.facts["labels"])
        if options.generator is None:
            generator: nn.Module = kind.Generator(*given)
        else:
            generator = user_objects.network("options.generator", options.generator, *given)
        if options.critic is None:
            return Networks(generator, {"critic": kind.Critic(*given)})
        return Networks(
            generator, {"critic": user_objects.network("options.critic", options.critic, *given)}
        )

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B]: class numbers; without a label, sample i is of class i modulo K.

        Raises:
            ConfigError: for an unknown label, or any label of an unconditional model.
        """
        return class_numbers(
            self.facts["labels"], value, indices, "train one with options.conditional=true"
        )

    def augment(self, sample: Sample) -> Sample:
        """What critics see: changed at random where there are few pictures."""
        return sample.with_x(augmented(sample.x)) if self.facts["augment"] else sample

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One picture as PNG."""
        return to_png(to_pixels(sample.x[None]))[0]

    def encode_each(self, samples: Sample, format: str, controls: Any) -> list[bytes]:
        """The same for many: their pixels are computed at once."""
        return to_png(to_pixels(samples.x))

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """A grid as PNG: one column per class if there are classes, else about square; or an animation as WebP."""
        pixels, buffer = to_pixels(samples.x), io.BytesIO()
        if format == "webp":
            first, *rest = map(to_picture, pixels)
            milliseconds = round(1000 / controls.fps)
            first.save(
                buffer,
                "WEBP",
                save_all=True,
                append_images=rest,
                duration=milliseconds,
                loop=0,
                lossless=True,
            )
            return buffer.getvalue()
        if columns is None:
            classes = len(self.facts["labels"])
            columns = (
                classes
                if 2 <= classes <= min(len(samples), 20)
                else math.ceil(math.sqrt(len(samples)))
            )
        grid(pixels, columns).save(buffer, "PNG")
        return buffer.getvalue()


def to_pixels(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8 0..255, any shape.

    Raises:
        GenkitError: if a value is not finite: no picture is written silently from a broken model.
    """
    values = x.numpy()  # torch would start threads of its own in each thread that encodes
    if not np.isfinite(values).all():
        raise GenkitError(
            "the model made values that are not finite; no picture is written from them"
        )
    return torch.from_numpy(np.rint((values + 1) * np.float32(127.5)).clip(0, 255).astype(np.uint8))

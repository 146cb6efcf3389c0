"""The image plugin: facts, data, networks and files of pictures. It implements `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genkit import user_objects
from genkit.kit.encoders import encoder_terms
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
from genkit_image import (
    compact,
    cycle,
    dcgan,
    features,
    measures,
    pairs,
    projected,
    translation,
)
from genkit_image.augment import augmented
from genkit_image.options import Options
from genkit_image.pictures import CheckedPictures, Pictures, grid, to_picture, to_pixels, to_png
from genkit_image.sources import open_source
from genkit_image.spectrum import Spectrum

ARCHITECTURES: Any = {
    "dcgan": (dcgan.Generator, dcgan.Critic),
    "compact": (compact.Generator, compact.Critic),
    "unet": (translation.make_generator, translation.PatchCritic),
    "residual": (translation.make_generator, translation.PatchCritic),
    "cycle": (cycle.Generator, cycle.Critic),
}
"""`options.architecture` -> its generator and its critic, called with (options, C, K), or (options, C, c)."""
SMALL_SET = 5000
"""With fewer pictures than this, `augment="auto"` augments what critics see."""


class ImagePlugin(ModalityPlugin):
    """Pictures [C, H, W], float32 in [-1, 1]."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> CheckedPictures:
        """The pictures of a source, each decoded once; a source that was opened before is returned as it is."""
        if isinstance(source, CheckedPictures):
            return source
        check_class_options(options, "label")
        pictures, inputs = pairs.paired(open_source(source, options.label), options)
        return CheckedPictures(pictures, options, inputs)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """The facts `channels` (1, 3 or 4), `labels` (names of the classes; empty if unconditional) and `augment`.

        `augment` says whether critics see augmented pictures. With `options.input` there is a fact `inputs`, the
        channels of the pictures that pictures are made from.

        Raises:
            DataError: if the source cannot be read, or `options.conditional` is set and it has fewer than two classes.
        """
        pictures = cls.open(source, options)
        if options.conditional and len(pictures.usable):
            check_classes(
                pictures.classes,
                pictures.source.title,
                "pictures",
                pictures.remarks,
                "pass (picture, label) items",
            )
        is_small = len(pictures.usable) < SMALL_SET
        augment = options.augment == "on" or (options.augment == "auto" and is_small)
        labels = list(pictures.classes.names) if options.conditional else []
        facts = {"channels": pictures.channels, "labels": labels, "augment": augment}
        if options.input is not None:
            inputs = pairs.channels_of(pictures, pictures.channels, options)
            facts |= {"augment": False, "inputs": inputs}
        return Facts(facts)

    def dataset(self, source: Any) -> Pictures:
        """The pictures of a source that can be used, scaled to `options.size`; with their inputs, if they have some."""
        pictures = self.open(source, self.options)
        if self.options.input is not None:
            is_cycle = self.options.architecture == "cycle"
            make = pairs.UnpairedPictures if is_cycle else pairs.PairedPictures
            return make(pictures, self.options, self.facts["channels"], self.facts["inputs"])
        return Pictures(pictures, self.options, self.facts["channels"], self.facts["labels"])

    def networks(self) -> Networks:
        """The generator and the critic (the field's discriminator) of `options.architecture`, or the user's own."""
        options, arguments, generator = self.options, self._arguments, self.generator()
        if options.critic is None:
            critic: nn.Module = ARCHITECTURES[options.architecture][1](*arguments)
        else:
            critic = user_objects.network("options.critic", options.critic, *arguments)
        critics = {"critic": critic}
        if options.pretrained_critic == "lite0":
            classes = len(self.facts["labels"])
            critics["features"] = projected.Critic(options, self.facts["channels"], classes)
        means = Spectrum(self.facts["channels"], options.shape) if options.spectrum else None
        return Networks(generator, critics, {} if means is None else {"spectrum": means})

    def generator(self) -> nn.Module:
        """The generator of `options.architecture`, or the user's own."""
        options = self.options
        if options.generator is not None:
            return user_objects.network("options.generator", options.generator, *self._arguments)
        if options.encoder:
            return compact.EncodedGenerator(*self._arguments)
        generator: nn.Module = ARCHITECTURES[options.architecture][0](*self._arguments)
        return generator

    @property
    def _arguments(self) -> tuple[Options, int, int]:
        """What every network is built from: the options, C, and K; with an input its channels in place of K."""
        last = len(self.facts["labels"]) if self.options.input is None else self.facts["inputs"]
        return self.options, self.facts["channels"], last

    def conditions(self) -> Conditions:
        """The class labels; of a model with an input, files of pictures."""
        return (
            super().conditions()
            if self.options.input is None
            else Conditions(formats=pairs.FORMATS, pipeline_tag="image-to-image")
        )

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B]: the class number of each sample; None for an unconditional model.

        Without a label, sample i is of class i modulo K. With `options.input` the picture of a file, [B, c, h, w], of
        any size; None without one.

        Raises:
            ConfigError: for an unknown label, for any label if the model is unconditional, for a file that is no
                picture.
        """
        if self.options.input is not None:
            if value is None:
                return None
            channels, inputs = self.facts["channels"], self.facts["inputs"]
            x = pairs.file_input(value, self.options, channels, inputs)
            return x.expand(len(indices), -1, -1, -1)
        return class_numbers(
            self.facts["labels"], value, indices, "train one with options.conditional=true"
        )

    def references(self, source: Any, controls: Any) -> Pictures:
        """The pictures of a source as they are, neither flipped nor moved; with classes where all are the model's."""
        pictures = self.open(source, self.options)
        if self.options.input is not None:
            return self.dataset(pictures)  # an item without random bits is as it is
        classes, options = self.facts["labels"], self.options
        labels = classes if set(pictures.classes.names or ("",)) <= set(classes) else ()
        unchanged = options.model_copy(update={"flip": False, "crop": 0})
        dataset = Pictures(pictures, unchanged, self.facts["channels"], labels)
        check_usable(len(dataset), dataset.skipped, pictures.source.title, strict=False)
        return dataset

    def feature_networks(
        self, weights: Mapping[str, Path], training: Callable[[int], Sample]
    ) -> Mapping[str, FeatureNetwork]:
        """The networks of `genkit_image.features.networks`."""
        return features.networks(weights)

    def measures(self, evidence: Evidence) -> Mapping[str, float | None]:
        """The measures of `genkit_image.measures.measures`: spectrum, brightness and contrast."""
        return measures.measures(evidence.samples.x, evidence.real.x)

    def terms(
        self,
        player: str,
        networks: Networks,
        real: Sample,
        fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> Mapping[str, Tensor]:
        """The terms of the generator.

        `spectrum`, if `options.spectrum` is set: see `genkit_image.spectrum`. With an input, those of
        `genkit_image.translation.terms`; of a cycle, those of `genkit_image.cycle.terms`. `prior`, `values` and
        `likeness`, if `options.encoder` is set: see `genkit.kit.encoders.encoder_terms`.
        """
        values: dict[str, Tensor] = {}
        if player != "generator":
            return values
        if "spectrum" in networks.frozen:
            values["spectrum"] = networks.frozen["spectrum"](real.x, fake.x)
        if self.options.architecture == "cycle":
            values |= cycle.terms(networks, real, fake)
        elif self.options.input is not None:
            values |= translation.terms(self.options, networks, real, fake, critiques)
        if self.options.encoder:
            deviation = self.options.deviation
            values |= encoder_terms(networks.generator, networks.critics, real, deviation)
        return values

    def augment(self, sample: Sample) -> Sample:
        """The sample that critics see: augmented at random if the fact `augment` is set, else unchanged."""
        return sample.with_x(augmented(sample.x)) if self.facts["augment"] else sample

    def export_facts(self) -> Mapping[str, Any]:
        """The axes of a picture, and the range of its values; what lies beyond is clipped in a file."""
        return {"axes": ["channels", "height", "width"], "range": [-1, 1]}

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One picture as PNG."""
        return to_png(to_pixels(sample.x[None]))[0]

    def encode_each(self, samples: Sample, format: str, controls: Any) -> list[bytes]:
        """Each picture of a batch as PNG; the pixels of the whole batch are computed at once."""
        return to_png(to_pixels(samples.x))

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """All pictures as one file: a grid (PNG), or an animation with one picture per frame (WebP).

        Args:
            columns: of the grid; None: one per class for 2 to 20 classes with at least as many pictures, else the grid
                is about square.
        """
        pixels, buffer = to_pixels(samples.x), io.BytesIO()
        if self.options.input is not None and samples.condition is not None:
            pixels = pairs.beside(to_pixels(samples.condition), pixels)
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

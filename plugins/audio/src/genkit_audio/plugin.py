"""The audio modality: facts, data, networks and files. It implements `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, L samples of the wave (of one channel), K classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkit.kit import streams
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
from genkit_audio import features, measures, vocoder
from genkit_audio.critics import make_critics
from genkit_audio.generators import length, make_generator
from genkit_audio.options import Options
from genkit_audio.spectra import log_mel

ORIGINALS = 4096
"""Windows of the training data, at most, that copies are searched for in."""

CONDITION_FORMATS = ("wav", "flac", "ogg", "mp3")
"""Endings of sound files that libsndfile reads; a vocoder takes them from strangers, other endings from its user."""


class AudioPlugin(ModalityPlugin):
    """The audio modality; a sound is a tensor [1, L] in [-1, 1]."""

    options: Options
    _memory: tuple[Any, Any, Tensor] | None = None
    """A source of training data, controls, and its windows under them."""

    @classmethod
    def open(cls, source: Any, options: Options) -> Any:
        """The source as `genkit_audio.sounds.CheckedSounds`, for which every file is read once."""
        from genkit_audio import sounds

        if isinstance(source, sounds.CheckedSounds):
            return source
        check_class_options(options, "label", "labels")
        return sounds.CheckedSounds(source, options)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """Facts: `rate`, samples per second; `labels`, the class names if `options.conditional` is set, else [].

        Raises:
            DataError: if the source cannot be opened, or `options.conditional` is set and there are fewer than two
                classes.
        """
        checked = cls.open(source, options)
        if options.conditional and len(checked.sounds):
            check_classes(
                checked.classes, "the data", "sounds", checked.remarks,
                "begin each file name with its class and set options.labels=prefix",
            )  # fmt: skip
        return Facts(
            {
                "rate": int(checked.rate),
                "labels": list(checked.classes.names) if options.conditional else [],
            }
        )

    def dataset(self, source: Any) -> Any:
        """Windows of sounds as a data set; for a vocoder the conditions are their log-mel spectra."""
        from genkit_audio import sounds

        return sounds.SoundWindows(
            self.open(source, self.options), self.options, self.facts["labels"], self._spectrum_of
        )

    @property
    def _spectrum_of(self) -> Callable[[Tensor], Tensor] | None:
        """For a vocoder, the function that gives the conditions of windows [B, n]."""
        if not self.is_vocoder:
            return None
        return partial(log_mel, rate=self.facts["rate"], mels=self.options.mels)

    def networks(self) -> Networks:
        """The generator and the critics (the field's discriminators) that the options select."""
        generator = self.generator()
        return Networks(generator, make_critics(self.options, len(self.facts["labels"])))

    def generator(self) -> nn.Module:
        """The generator that the options select."""
        if self.is_vocoder:
            return vocoder.Vocoder(self.options, self.facts["rate"])
        return make_generator(self.options, len(self.facts["labels"]), self.facts["rate"])

    @property
    def is_vocoder(self) -> bool:
        """Whether the generator makes sounds from log-mel spectra instead of noise."""
        return self.options.architecture == "vocoder"

    def conditions(self) -> Conditions:
        """The class labels; for a vocoder sound files, in the formats that are read without FFmpeg."""
        if not self.is_vocoder:
            return super().conditions()
        return Conditions(formats=CONDITION_FORMATS, pipeline_tag="audio-to-audio")

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """Class numbers [B], or for a vocoder the log-mel spectrum of one sound file, repeated: [B, M + 1, T].

        Args:
            value: a class label; None: sample i is of class i modulo K. For a vocoder the path of a sound file; None
                gives None, since a vocoder has no default condition.
            indices: of the samples [B].

        Raises:
            ConfigError: for an unknown label, any label of an unconditional model, or a path that is not one sound.
        """
        if self.is_vocoder:
            if value is None:
                return None
            spectrum = vocoder.file_spectrum(value, self.facts["rate"], self.options.mels)
            return spectrum.expand(len(indices), -1, -1)
        return class_numbers(
            self.facts["labels"], value, indices, "train one with options.conditional=true"
        )

    def terms(
        self,
        player: str,
        networks: Networks,
        real: Sample,
        fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> Mapping[str, Tensor]:
        """The generator's loss terms.

        `mel` and `features` of a vocoder (`genkit_audio.vocoder.terms`); `prior`, `values` and `likeness`, if
        `options.encoder` is set (`genkit.kit.encoders.encoder_terms`).
        """
        if player == "generator" and self.options.encoder:
            deviation = self.options.deviation
            return encoder_terms(networks.generator, networks.critics, real, deviation)
        if player != "generator" or not self.is_vocoder:
            return {}
        return vocoder.terms(networks, real, fake, critiques, self.facts["rate"])

    def references(self, source: Any, controls: Any) -> Any:
        """Windows of the source in order, without augmentation, of the length and rate that generated sounds have.

        They have classes where all are the model's. Where sounds are asked for that are longer than in training, a
        shorter real one is left out.
        """
        from genkit_audio import sounds

        rate, options = self.facts["rate"], self.options
        n = length(controls, options.samples, rate)
        cut = "start" if options.cut == "start" else "ordered"
        plain = {"rate": rate, "samples": n, "augment": 0.0, "cut": cut}
        options = options.model_copy(update=plain)
        checked = self.open(source, options)
        if checked.rate != rate:
            checked = sounds.CheckedSounds(checked.origin, options)
        are_known = set(checked.classes.names or ("",)) <= set(self.facts["labels"])
        labels = self.facts["labels"] if are_known else ()
        are_padded = n <= self.options.samples
        windows = sounds.SoundWindows(checked, options, labels, self._spectrum_of, are_padded)
        check_usable(len(windows), windows.skipped, windows.title, strict=False)
        return windows

    def feature_networks(
        self, weights: Mapping[str, Path], training: Callable[[int], Sample]
    ) -> Mapping[str, FeatureNetwork]:
        """The networks of `genkit_audio.features.networks`."""
        return features.networks(weights, self.facts["rate"])

    def measures(self, evidence: Evidence) -> Mapping[str, float | None]:
        """The measures of `genkit_audio.measures.measures`; copies are searched for in the training data, if known."""
        originals = evidence.real.x
        if evidence.training is not None:
            originals = self._originals(evidence.training, evidence.controls)
        is_real = evidence.generator is None
        return measures.measures(
            evidence.samples.x[:, 0], originals[:, 0], self.facts["rate"], is_real
        )

    def _originals(self, training: Any, controls: Any) -> Tensor:
        """At most ORIGINALS windows [M, 1, n] of the training data, evenly spread; kept until others are asked for."""
        if self._memory is None or self._memory[0] is not training or self._memory[1] != controls:
            windows = self.references(self.open(training, self.options), controls)
            places = np.linspace(0, len(windows) - 1, min(ORIGINALS, len(windows))).astype(int)
            words = streams.words(streams.stream_key("originals"), 0, len(places))
            parts = [
                windows.random_batch(places[at : at + 64].tolist(), words[at : at + 64]).x
                for at in range(0, len(places), 64)
            ]
            self._memory = training, controls, torch.cat(parts)
        return self._memory[2]

    def export_facts(self) -> Mapping[str, Any]:
        """The axes of a sound, and the range of its values; what lies beyond is clipped in a file."""
        return {"axes": ["channels", "samples"], "range": [-1, 1]}

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One sound [1, L] as the bytes of an audio file."""
        from genkit_audio import writing

        return writing.encode(sample.x, format, self.facts["rate"])

    @contextmanager
    def writer(self, file: Any, format: str, controls: Any) -> Iterator[Callable[[Sample], None]]:
        """Writes one sound to a file while it is generated; the context's value takes parts x [1, 1, L]."""
        from genkit_audio import writing

        rate, count = self.facts["rate"], None
        if not self.is_vocoder or (controls is not None and controls.seconds is not None):
            count = length(controls, self.options.samples, rate)
        with writing.write(file, format, rate, length=count) as write:
            yield lambda part: write(part.x[0])

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """Waveforms and spectrograms of many sounds x [B, 1, L] in a grid, as PNG."""
        from genkit_audio import writing

        buffer = io.BytesIO()
        writing.preview(samples.x, self.facts["rate"], columns).save(buffer, "PNG")
        return buffer.getvalue()

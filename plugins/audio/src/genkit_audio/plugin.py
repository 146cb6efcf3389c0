"""The modality of sound: facts, data, networks, files. The contract is `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, L samples of the wave (of one channel), K classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from genkit.errors import DataError
from genkit.plugin import Critique, Facts, ModalityPlugin, Networks, Sample, class_numbers
from genkit_audio import vocoder
from genkit_audio.critics import make_critics
from genkit_audio.generators import make_generator
from genkit_audio.options import Options
from genkit_audio.spectra import log_mel


class AudioPlugin(ModalityPlugin):
    """Sounds [1, L] in [-1, 1]."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Any:
        """The source as `genkit_audio.sounds.Checked`: every file heard once."""
        from genkit_audio import sounds

        return source if isinstance(source, sounds.Checked) else sounds.Checked(source, options)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """Samples per second, the names of the classes if they are to be learned.

        Raises:
            DataError: if there is nothing to train on, or classes are asked for and there are none.
        """
        checked = cls.open(source, options)
        if options.conditional and len(checked.classes.names) < 2 and len(checked.kept):
            raise DataError(
                "options.conditional is set, but the data have no classes: put the sounds into one sub-folder per "
                "class, or let file names begin with it and set options.labels=prefix"
            )
        return Facts(
            {
                "rate": int(checked.rate),
                "labels": list(checked.classes.names) if options.conditional else [],
            }
        )

    def dataset(self, source: Any) -> Any:
        """Windows of sounds; for a vocoder with their log-mel spectra."""
        from genkit_audio import sounds

        told = (
            partial(log_mel, rate=self.facts["rate"], mels=self.options.mels)
            if self.speaks
            else None
        )
        return sounds.SoundWindows(
            self.open(source, self.options), self.options, self.facts["labels"], told
        )

    def networks(self) -> Networks:
        """The networks that the options name."""
        options, classes, rate = self.options, len(self.facts["labels"]), self.facts["rate"]
        generator = (
            vocoder.Vocoder(options, rate)
            if self.speaks
            else make_generator(options, classes, rate)
        )
        return Networks(generator, make_critics(options, classes))

    @property
    def speaks(self) -> bool:
        """Whether a sound is made from the spectrum of another."""
        return self.options.architecture == "vocoder"

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B]: class numbers; without a label, sound i is of class i modulo K. For a vocoder what a sound file tells.

        Args:
            value: a label; for a vocoder the path of a sound file, without which it has no default.

        Raises:
            ConfigError: for an unknown label, any label of an unconditional model, or a path that leads to no sound.
        """
        if self.speaks:
            one = (
                None
                if value is None
                else vocoder.told(value, self.facts["rate"], self.options.mels)
            )
            return None if one is None else one.expand(len(indices), -1, -1)
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
        """`mel` and `features` of a vocoder: see `genkit_audio.vocoder.terms`."""
        if player != "generator" or not self.speaks:
            return {}
        return vocoder.terms(networks, real, fake, critiques, self.facts["rate"])

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One sound as a file."""
        from genkit_audio import writing

        return writing.encode(sample.x, format, self.facts["rate"])

    @contextmanager
    def writer(self, file: Any, format: str, controls: Any) -> Iterator[Callable[[Sample], None]]:
        """A file that one sound is written to as it is drawn; the value takes its parts [1, 1, L]."""
        from genkit_audio import writing

        with writing.write(file, format, self.facts["rate"]) as take:
            yield lambda part: take(part.x[0])

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """The spectra of many sounds as PNG."""
        from genkit_audio import writing

        buffer = io.BytesIO()
        writing.preview(samples.x, self.facts["rate"], columns).save(buffer, "PNG")
        return buffer.getvalue()

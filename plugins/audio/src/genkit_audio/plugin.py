"""The modality of sound: facts, data, networks, files. The contract is `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, L samples of the wave (of one channel), K classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from genkit.errors import DataError
from genkit.plugin import Facts, ModalityPlugin, Networks, Sample, class_numbers
from genkit_audio.critics import make_critics
from genkit_audio.generators import make_generator
from genkit_audio.options import Options


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
        if options.conditional and len(checked.names) < 2 and len(checked.kept):
            raise DataError(
                "options.conditional is set, but the data have no classes: put the sounds into one sub-folder per "
                "class, or let file names begin with it and set options.labels=prefix"
            )
        return Facts({"rate": int(checked.rate), "labels": list(checked.names) if options.conditional else []})

    def dataset(self, source: Any) -> Any:
        """Windows of sounds."""
        from genkit_audio import sounds

        return sounds.Windows(self.open(source, self.options), self.options, self.facts["labels"])

    def networks(self) -> Networks:
        """The networks that the options name."""
        options, classes = self.options, len(self.facts["labels"])
        return Networks(make_generator(options, classes, self.facts["rate"]), make_critics(options, classes))

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B]: class numbers; without a label, sound i is of class i modulo K.

        Raises:
            ConfigError: for an unknown label, or any label of an unconditional model.
        """
        return class_numbers(self.facts["labels"], value, indices)

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One sound as a file."""
        from genkit_audio import writing

        return writing.encode(sample.x, format, self.facts["rate"])

    @contextmanager
    def sink(self, file: Any, format: str, controls: Any) -> Iterator[Callable[[Sample], None]]:
        """A file that one sound is written to as it is drawn; the value takes its parts [1, 1, L]."""
        from genkit_audio import writing

        with writing.write(file, format, self.facts["rate"]) as take:
            yield lambda part: take(part.x[0])

    def sheet(self, samples: Sample, format: str, controls: Any, columns: int | None = None) -> bytes:
        """The spectra of many sounds as PNG."""
        from genkit_audio import writing

        buffer = io.BytesIO()
        writing.sheet(samples.x, self.facts["rate"], columns).save(buffer, "PNG")
        return buffer.getvalue()

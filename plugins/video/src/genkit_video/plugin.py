"""The modality of clips: facts, data, networks, files. The contract is `genkit.plugin.ModalityPlugin`.

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
from torch import Tensor
from torch.nn.functional import cross_entropy

from genkit.errors import DataError
from genkit.plugin import Critique, Facts, ModalityPlugin, Networks, Sample, class_numbers
from genkit_image.plugin import to_pixels
from genkit_video.critics import make_critics
from genkit_video.generators import make_generator
from genkit_video.options import Options


class VideoPlugin(ModalityPlugin):
    """Clips [C, T, H, W] in [-1, 1]."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Any:
        """The source as `genkit_video.clips.Checked`: every file looked at once."""
        from genkit_video import clips

        return source if isinstance(source, clips.Checked) else clips.Checked(source, options)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """Channels (1 or 3), frames per second, the names of the classes if they are to be learned.

        Raises:
            DataError: if there is nothing to train on, or classes are asked for and there are none.
        """
        checked = cls.open(source, options)
        if options.conditional and len(checked.classes.names) < 2 and len(checked.kept):
            raise DataError(
                "options.conditional is set, but the data have no classes: put the clips into one sub-folder per class"
            )
        labels = list(checked.classes.names) if options.conditional else []
        return Facts({"channels": checked.channels, "rate": float(checked.rate), "labels": labels})

    def dataset(self, source: Any) -> Any:
        """Clips, cut and scaled."""
        from genkit_video import clips

        checked = self.open(source, self.options)
        return clips.Clips(checked, self.options, self.facts["channels"], self.facts["labels"])

    def networks(self) -> Networks:
        """The networks that the options name."""
        given = self.options, self.facts["channels"], len(self._class_names())
        return Networks(make_generator(*given, self.facts["rate"]), make_critics(*given))

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B]: class numbers; without a label, clip i is of class i modulo K.

        Found categories are asked for by numbers from 0; without one, the noise chooses.

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
        """`category`: the cross-entropy of the class that MoCoGAN's clip critic reads off a clip.

        The critic learns it from real clips where these have labels (Tulyakov et al. 2018, section 3.2), else from
        the generator's, whose categories are known (Chen et al. 2016, arXiv:1606.03657, eq. 5).
        """
        if player == "generator":
            judged, told = critiques.get("video"), fake.condition
        else:
            source, sample = ("fake", fake) if real.condition is None else ("real", real)
            judged, told = critiques[source], sample.condition
        if judged is None or "category" not in judged.outputs or told is None:
            return {}
        return {"category": cross_entropy(judged.outputs["category"], told)}

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One clip as a video, an animation, or a zip of its frames."""
        from genkit_video import writing

        return writing.encode(to_frames(sample.x), format, self._fps(controls))

    @contextmanager
    def writer(self, file: Any, format: str, controls: Any) -> Iterator[Callable[[Sample], None]]:
        """A file that one clip is written to as it is drawn; the value takes its parts [1, C, T, H, W]."""
        from genkit_video import writing

        with writing.write(file, format, self._fps(controls)) as take:
            yield lambda part: take(to_frames(part.x[0]))

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """A contact sheet as PNG, frames of each clip in a row; or all clips at once as an animated WebP."""
        from genkit_video import writing

        frames, buffer = to_frames(samples.x), io.BytesIO()
        if format == "webp":
            return writing.animated_grid(
                frames, columns or math.ceil(math.sqrt(len(samples))), self._fps(controls)
            )
        writing.contact_sheet(frames).save(buffer, "PNG")
        return buffer.getvalue()

    def _class_names(self) -> list[str]:
        return self.facts["labels"] or [str(number) for number in range(self.options.categories)]

    def _fps(self, controls: Any) -> float:
        return (None if controls is None else controls.fps) or self.facts["rate"]


def to_frames(x: Tensor) -> NDArray[np.uint8]:
    """[..., C, T, H, W] in [-1, 1] -> uint8 [..., T, H, W, C].

    Raises:
        GenkitError: if a value is not finite.
    """
    return np.moveaxis(to_pixels(x).numpy(), -4, -1)

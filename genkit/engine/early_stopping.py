"""The best critics of a stage: those that gain most on real items that they have not learned.

Knows critics and their scores; no game, no data and no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkit.engine.optimizers import under
from genkit.evaluation import gains
from genkit.plugin import Sample
from genkit.recipe import EarlyStopping
from genkit.sampling.reranking import UNFITTED, Calibration, lengths, weighted_scores
from genkit.system.streams import stream_key

FIGURES = "figures"
"""The name of gain, calibration and misses in the state; names of weights have a dot."""

Measured = NDArray[np.float64]
"""[N, 2]: the score of each item, and its length in steps."""


class BestCritics:
    """Follows what critics gain (`genkit.evaluation.gains`), and keeps the weights with which they gain most.

    Args:
        critics: by name.
        weights: of each critic in the score, by name.

    Attributes:
        gain: the most so far, in nats an item; 0: nothing that is more than chance.
        calibration: of their scores for that gain; the scale is 0 if they gain nothing. None is fitted until they are
            measured.
        misses: measurements in a row that brought no more.
        best: the weights of the best critics, `<critic>.<name>`; empty: none have gained anything.
        notes: for the user, until they are told.
    """

    def __init__(self, critics: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        self.critics, self.shares = critics, weights
        self.gain, self.calibration, self.misses = 0.0, UNFITTED, 0
        self.best: dict[str, Tensor] = {}
        self.notes: list[str] = []

    @torch.no_grad()
    def score(self, pairs: Iterable[tuple[Sample, Sample]]) -> tuple[Measured, Measured]:
        """The scores of real items and of fakes, and their lengths in steps.

        Args:
            pairs: batches of both, of equal size; the critics have learned none of these.
        """
        for critic in self.critics.values():
            critic.eval()  # every update sets the mode that it needs
        scores = [[self._scores(side) for side in pair] for pair in pairs]
        real, fake = (torch.cat(side).cpu().double().numpy() for side in zip(*scores, strict=True))
        return real, fake

    def _scores(self, sample: Sample) -> Tensor:
        """[B, 2]: scores and lengths."""
        scores = weighted_scores(self.critics, self.shares, sample)
        return torch.stack([scores, lengths(sample).to(scores)], 1)

    def follow(
        self, real: Measured, fake: Measured, settings: EarlyStopping, seed: str
    ) -> dict[str, float]:
        """What the critics gain now, in nats an item, and the scale for it. They are kept if it is more than ever.

        The scale is fitted on every other item, and the gain measured on the rest. It counts if its 95 % interval lies
        above 0.

        Args:
            real, fake: what `score` returned.
            settings: of the stage.
            seed: of the resampling.
        """
        random = np.random.Generator(np.random.Philox(key=stream_key("early stopping", seed)))
        reals, fakes = ((side[0::2, 0], side[1::2, 0]) for side in (real, fake))
        figures = gains.figures(reals, fakes, None, random)
        (gain, low, *_), scale = figures["gain"], figures["critic_scale"].value or 0.0
        gain, low = gain or 0.0, low or 0.0
        if low > 0 and gain > self.gain:
            length = float(real[:, 1].mean())
            weight = gains.length_weight(scale * fake[:, 0], fake[:, 1], length)
            self.gain, self.calibration, self.misses = gain, Calibration(scale, weight), 0
            self.best = {name: value.detach().clone() for name, value in self._weights().items()}
        else:
            self.misses += 1
            if not self.best:
                self.calibration = Calibration(0.0)
            if self.stop(settings):
                result = "they gain nothing that is more than chance"
                if self.best:
                    result = f"the best gain {self.gain:.3g} nats an item, and are kept"
                self.notes.append(
                    f"no more was gained by the critics in {self.misses} measurements, so this stage ends: {result}"
                )
        return {"gain": gain, "scale": scale}

    def stop(self, settings: EarlyStopping | None) -> bool:
        """Whether the critics gain no more, and the stage is to end."""
        patience = None if settings is None else settings.patience
        return patience is not None and self.misses >= patience

    def _weights(self) -> dict[str, Tensor]:
        return {
            key: value
            for name, critic in self.critics.items()
            for key, value in critic.state_dict(prefix=f"{name}.").items()
        }

    def weights(self) -> dict[str, Tensor]:
        """The weights of the best critics, or of the critics as they are where none have gained anything."""
        return self.best or self._weights()

    def begin_stage(self, trains_critics: bool) -> None:
        """Give the critics the weights with which they gained most in the last stage, and begin anew.

        Args:
            trains_critics: whether this stage does; they have no calibration then. Else it stays.
        """
        if self.best:
            for name, critic in self.critics.items():
                critic.load_state_dict(under(name, self.best))
        self.gain, self.misses, self.best = 0.0, 0, {}
        if trains_critics:
            self.calibration = UNFITTED

    def state(self) -> dict[str, Tensor]:
        """All that is needed to continue."""
        figures = [self.gain, *self.calibration, self.misses]
        return {FIGURES: torch.tensor(figures, dtype=torch.float64), **self.best}

    @staticmethod
    def weights_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the best critics, as `weights` gives them, in a state that `state` returned."""
        return {name: value for name, value in state.items() if name != FIGURES}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state that `state` returned.

        Raises:
            KeyError, ValueError: if it is none.
        """
        self.gain, *calibration, misses = state[FIGURES].tolist()
        self.calibration = Calibration(*calibration)
        self.misses = int(misses)
        self.best = self.weights_in(state)
        if self.best and self.best.keys() != self._weights().keys():
            raise ValueError("the best critics are those of other networks")

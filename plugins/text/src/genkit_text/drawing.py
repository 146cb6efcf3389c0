"""Symbols from logits: warped as controls say, drawn by one uniform number each; and the step of an exported generator.

Knows distributions over symbols; no network and no text.

Shape letters: B batch, V symbols, N weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkit.plugin import Sample
from genkit_text.options import Controls

BLOCK = 64
"""Number of symbols whose probabilities are summed as one block when a symbol is drawn."""


def without(logits: Tensor, symbol: int) -> Tensor:
    """Logits [..., V] with -inf for one symbol, so that it is never drawn."""
    return logits.index_fill(-1, torch.tensor([symbol], device=logits.device), -torch.inf)


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from categorical distributions by inverting their cumulative distribution functions.

    A symbol whose logit is -inf is never drawn. Exponentials are float32, their sums float64. The block in which a
    symbol lies is found first, by the sums of the blocks: cumulative sums over all of a large vocabulary would cost
    several times as much.

    Args:
        logits: [B, V].
        uniform: [B], float64, in (0, 1).

    Returns:
        [B]: the symbols at which the cumulative sums of softmax(logits) pass `uniform`.
    """
    rows, count = logits.shape
    weights = logits.new_zeros(rows, -(-count // BLOCK) * BLOCK)
    torch.exp(logits - logits.amax(1, keepdim=True), out=weights[:, :count])
    blocks = weights.view(rows, -1, BLOCK)
    block, rest = _passes(blocks.sum(2).double(), None, uniform)
    block_weights = blocks[torch.arange(rows, device=logits.device), block]
    symbol, _ = _passes(block_weights.double(), rest, uniform)
    return block * BLOCK + symbol


def middle(logits: Tensor, symbols: Tensor) -> Tensor:
    """[...], float64, in (0, 1): the middle of the numbers for which `pick` draws these symbols.

    Args:
        logits: [..., V].
        symbols: [...].
    """
    weights = logits.softmax(-1).double()
    ends = (weights.cumsum(-1) - weights / 2).gather(-1, symbols[..., None])[..., 0]
    return (ends / weights.sum(-1)).clamp(2.0**-53, 1 - 2.0**-53)


def _passes(weights: Tensor, rest: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Where the cumulative sums of weights pass a target.

    Args:
        weights: [B, N].
        rest: [B], the target; None: it is `uniform` [B] times the sum of the weights. Rounding never takes it to the
            whole sum.

    Returns:
        (place [B] in the weights, what remains of the target there [B]).
    """
    sums = weights.cumsum(1)
    total = sums[:, -1]
    before_total = total * (1 - 2.0**-53)  # the next smaller number
    target = torch.minimum(uniform * total if rest is None else rest, before_total)
    if torch.compiler.is_exporting():  # ONNX has no search in sorted numbers
        place = (sums <= target[:, None]).sum(1, keepdim=True)
    else:
        place = torch.searchsorted(sums, target[:, None], right=True)
    remainder = target - (sums.gather(1, place) - weights.gather(1, place))[:, 0]
    return place[:, 0], remainder.clamp(min=0)


def warper(controls: Controls | None) -> Callable[[Tensor], Tensor]:
    """A function from logits [B, V] to those that are drawn from: Hugging Face's own warpers, in its order."""
    if controls is None:
        return lambda logits: logits
    temperature = controls.temperature  # a tensor while a step is exported
    chain: list[Callable[[Any, Tensor], Tensor]] = []
    if (controls.top_k, controls.top_p, controls.min_p) != (None, None, None):
        from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        if controls.top_k is not None:
            chain.append(TopKLogitsWarper(controls.top_k))
        if controls.top_p is not None:
            chain.append(TopPLogitsWarper(controls.top_p))
        if controls.min_p is not None:
            chain.append(MinPLogitsWarper(controls.min_p))

    def warp(logits: Tensor) -> Tensor:
        is_one = not isinstance(temperature, Tensor) and temperature == 1
        logits = logits if is_one else logits / temperature
        for each in chain:
            logits = each(None, logits)
        return logits

    return warp


class Step(nn.Module):
    """One step of an autoregressive generator, as `genkit.plugin.Stepwise` calls it: a symbol is drawn, then read.

    Besides what the network keeps, the state is `logits` [B, V] of the symbol that is drawn next, `open` [B]: the line
    has not ended, and `first` [B]: the symbol would be the line's first one.

    Args:
        generator: a `genkit_text.generators.Autoregressive`.
    """

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def state(self) -> dict[str, Tensor]:
        """[1, ...]: the state of each line before anything is read."""
        flag = torch.ones(1, dtype=torch.bool)
        logits = torch.zeros(1, self.generator.symbols)
        return {**self.generator.blank(), "logits": logits, "open": flag, "first": flag}

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Controls | None, forced: Tensor,
        state: Mapping[str, Tensor],
    ) -> tuple[Sample, dict[str, Tensor]]:  # fmt: skip
        memory = dict(state)
        logits, is_open, is_first = (memory.pop(name) for name in ("logits", "open", "first"))
        end, answers = self.generator.end, self.generator.answers
        is_drawn = forced < 0
        if end is not None:
            logits = torch.where(is_first[:, None], without(logits, end), logits)
        symbol = pick(warper(controls)(logits), noise["symbols"])
        if end is not None:
            symbol = torch.where(is_open, symbol, end)
        symbol = torch.where(is_drawn, symbol, forced)
        sample = Sample(symbol, mask=is_open)
        # A prompt that the line continues is its beginning; a prompt that it answers is not, nor is the start.
        is_beginning = torch.zeros_like(is_drawn) if answers else forced < self.generator.symbols
        is_first = is_first & ~is_drawn & ~is_beginning
        if end is not None:
            is_open = is_open & ~(is_drawn & (symbol == end))
        logits, memory = self.generator.read(symbol, condition, memory)
        return sample, {**memory, "logits": logits.float(), "open": is_open, "first": is_first}

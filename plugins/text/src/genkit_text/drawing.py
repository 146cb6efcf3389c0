"""Symbols from logits: warped as controls say, drawn by one uniform number each; and the step of an exported generator.

Knows distributions over symbols; no network and no text.

Shape letters: B batch, V symbols, N weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genkit.plugin import Sample
from genkit_text.options import Controls

BLOCK = 64
"""Number of symbols of which one block is drawn first, where there are more."""
UPPER = 2.0**26
"""The 53 binary digits of a uniform number are split behind so many."""


def without(logits: Tensor, symbol: int) -> Tensor:
    """Logits [..., V] with -inf for one symbol, so that it is never drawn."""
    return logits.index_fill(-1, torch.tensor([symbol], device=logits.device), -torch.inf)


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from categorical distributions: first a block of BLOCK symbols, then a symbol of it.

    Each is drawn by inverting a cumulative distribution function, the block by the upper digits of the uniform number,
    the symbol by the lower ones; by all of them where one block holds all symbols. One function over many symbols would
    cost more, and has as many edges, next to which the rounding of another machine, or of an exported model, draws
    another symbol.

    A symbol whose logit is -inf is never drawn. Exponentials are float32, their sums float64.

    Args:
        logits: [B, V].
        uniform: [B], float64, in (0, 1).

    Returns:
        [B]: symbols with the probabilities softmax(logits), to within 2^-26.
    """
    rows, count = logits.shape
    weights = logits.new_zeros(rows, -(-count // BLOCK) * BLOCK)
    torch.exp(logits - logits.amax(1, keepdim=True), out=weights[:, :count])
    if count <= BLOCK:
        return _passes(weights.double(), uniform)
    blocks = weights.view(rows, -1, BLOCK)
    upper = (uniform * UPPER).floor()
    block = _passes(blocks.sum(2).double(), (upper + 0.5) / UPPER)
    block_weights = blocks[torch.arange(rows, device=logits.device), block]
    return block * BLOCK + _passes(block_weights.double(), uniform * UPPER - upper)


def middle(logits: Tensor, symbols: Tensor) -> Tensor:
    """[...], float64, in (0, 1): a number for which `pick` draws these symbols, far from those of others.

    Args:
        logits: [..., V].
        symbols: [...].
    """
    weights = logits.softmax(-1).double()
    if logits.shape[-1] <= BLOCK:
        return _middle(weights, symbols).clamp(2.0**-53, 1 - 2.0**-53)
    weights = pad(weights, (0, -logits.shape[-1] % BLOCK))
    blocks = weights.view(*weights.shape[:-1], -1, BLOCK)
    block = symbols // BLOCK
    index = block[..., None, None].expand(*block.shape, 1, BLOCK)
    upper = (_middle(blocks.sum(-1), block) * UPPER).floor()
    lower = _middle(blocks.gather(-2, index)[..., 0, :], symbols % BLOCK)
    return ((upper + lower) / UPPER).clamp(2.0**-53, 1 - 2.0**-53)


def _middle(weights: Tensor, places: Tensor) -> Tensor:
    """[...]: the middle of the share of a place in the cumulative sums of weights [..., N]."""
    ends = (weights.cumsum(-1) - weights / 2).gather(-1, places[..., None])[..., 0]
    return ends / weights.sum(-1)


def _passes(weights: Tensor, uniform: Tensor) -> Tensor:
    """[B]: where the cumulative sums of weights [B, N] pass `uniform` [B] times their sum, or almost that."""
    sums = weights.cumsum(1)
    total = sums[:, -1]
    target = torch.minimum(uniform * total, total * (1 - 2.0**-53))[:, None]  # the next smaller
    if torch.compiler.is_exporting():  # ONNX has no search in sorted numbers
        return (sums <= target).sum(1)
    return torch.searchsorted(sums, target, right=True)[:, 0]


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

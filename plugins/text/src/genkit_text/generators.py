"""Networks that write a line symbol by symbol, and the one way in which all of them draw, complete, relax and score it.

A network says what follows a beginning: `Recurrent` (LSTM) or `Decoder` (a causal transformer of the transformers
library). Knows symbols as numbers; no strings, no files, no losses. Letters: K symbols of a beginning, P of a prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from genkit import user_objects
from genkit.adversarial import straight_through
from genkit.errors import ConfigError, first_line
from genkit.plugin import Facts, Noise, Sample
from genkit_text.options import Controls, Options
from genkit_text.pretrained import configuration, transformers_library

BLOCK = 64
"""Symbols that are summed up together when one is picked."""

Relax = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, V], symbol [B]) -> [B, V], see `genkit.plugin.Generator.relaxed`."""


class Autoregressive(nn.Module):
    """p(line) = product over its steps of p(symbol | prompt, symbols before).

    The first symbol is never the end, unless a prompt has begun the line. Dropout acts in `pretrain_loss` alone: what
    draws a line, and what scores it afterwards, must be the same policy.

    A model of lines that answer prompts draws L symbols behind any; in one of plain lines a prompt is the beginning of
    the line, and counts among its L.

    Args:
        facts: of the data: symbols, length, end, prompt_length.
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.symbols: int = facts["symbols"]
        self.length: int = facts["length"]
        self.end: int | None = facts["end"]
        self.answers: bool = facts["prompt_length"] > 0
        self.noise = {
            "symbols": Noise((), distribution="uniform", steps=self.length, dtype="float64")
        }

    # What a network is ------------------------------------------------------------------------------------------

    @abstractmethod
    def show(self, symbols: Tensor) -> Tensor:
        """[..., E]: what the network is shown of symbols."""

    @abstractmethod
    def begin(self, prompt: Tensor | None, symbols: Tensor) -> tuple[Tensor, Any]:
        """(logits [B, V] of what follows the beginning, the state to go on from).

        Args:
            prompt: [B, P], -1 where there is nothing; None: no prompt.
            symbols: [B, K], K >= 0.
        """

    @abstractmethod
    def advance(self, state: Any, shown: Tensor) -> tuple[Tensor, Any]:
        """(logits [B, V], state) one symbol later, of which it is shown [B, E], or a mixture of several."""

    @abstractmethod
    def follow(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        """[B, K + 1, H]: what `score` reads for the first symbol, and for what follows each of `symbols` [B, K]."""

    def score(self, hidden: Tensor) -> Tensor:
        """[..., V]: logits."""
        return hidden

    def resting(self) -> nn.Module:
        """The module whose training mode means dropout."""
        return nn.Identity()

    # What the engine asks ---------------------------------------------------------------------------------------

    def forward(
        self,
        noise: Mapping[str, Tensor],
        condition: Tensor | None = None,
        controls: Controls | None = None,
    ) -> Sample:
        """Lines, one uniform number a symbol."""
        return self._roll(noise["symbols"], condition, controls)

    def complete(self, sample: Sample, length: Tensor, noise: Mapping[str, Tensor]) -> Sample:
        """Keeps the first length[b] symbols of row b and draws the rest."""
        return self._roll(noise["symbols"], sample.condition, given=(sample.x, length))

    def relaxed(
        self,
        noise: Mapping[str, Tensor],
        condition: Tensor | None,
        controls: Controls | None,
        relax: Relax,
    ) -> Sample:
        """As `forward`, with the stand-in; later steps are shown the same symbols, with its gradient."""
        return self._roll(noise["symbols"], condition, controls, relax=relax)

    def logits(self, sample: Sample) -> Tensor:
        """[B, L, V], float32: of every step of the lines, the end ruled out at the first."""
        logits = self.score(self.follow(sample.condition, sample.x[:, :-1])).float()
        if not self._never_empty(sample.condition):
            return logits
        return torch.cat([_ruled_out(logits[:, :1], self.end or 0), logits[:, 1:]], 1)

    def log_prob(self, sample: Sample, temperature: float = 1.0) -> Tensor:
        """[B, L]: of each symbol of `sample.x`, given those before it; 0 where a step is masked out."""
        hidden, x = self.follow(sample.condition, sample.x[:, :-1]), sample.x
        rows: Any = slice(None)
        if (
            sample.mask is not None and x.device.type == "cpu"
        ):  # elsewhere to ask which are valid costs more than all
            rows = sample.mask.flatten().nonzero()[:, 0]
        logits = self.score(hidden.flatten(0, 1)[rows]).float() / temperature
        chosen = -cross_entropy(logits, x.flatten()[rows], reduction="none")
        if self._never_empty(sample.condition):  # the others share what the end would have had
            first = torch.arange(x.numel(), device=x.device)[rows] % x.shape[1] == 0
            end = logits[:, self.end] - logits.logsumexp(1)
            chosen = chosen - torch.where(first, (-end.exp()).log1p(), 0.0)
        each = chosen.new_zeros(x.numel())
        each[rows] = chosen
        return (
            each.view(x.shape)
            if sample.mask is None
            else each.view(x.shape).where(sample.mask, 0.0)
        )

    def pretrain_loss(self, real: Sample) -> Tensor:
        """Negative log-likelihood in nats, per line and per symbol of the longest line."""
        self.resting().train(self.training)
        loss = -self.log_prob(real).sum(1).mean() / self.length
        self.resting().eval()
        return loss

    def train(self, mode: bool = True) -> Self:
        """As any module's, but for dropout, which waits for `pretrain_loss`."""
        super().train(mode)
        self.resting().eval()
        return self

    def _roll(
        self,
        uniform: Tensor,
        prompt: Tensor | None,
        controls: Controls | None = None,
        given: tuple[Tensor, Tensor] | None = None,
        relax: Relax | None = None,
    ) -> Sample:
        """Draw lines.

        Args:
            uniform: [B, L], float64.
            given: (x [B, L], how many of each row are kept [B]).
            relax: makes the stand-in of each step.
        """
        rows, length = uniform.shape
        room = length if prompt is None or self.answers else length - prompt.shape[1]
        stop = min(room, (controls and controls.max_new_tokens) or room)
        warp = _warper(controls)
        x = torch.full_like(uniform, self.end or 0, dtype=torch.long)
        alive = torch.ones(rows, dtype=torch.bool, device=uniform.device)
        mask = torch.zeros_like(x, dtype=torch.bool)
        first, relaxed = 0, []
        if given is not None:
            first = min(int(given[1].min()), length - 1)
            x[:, :first] = given[0][:, :first]
            mask[:, :first] = self._valid(x[:, :first])
            alive = self._goes_on(x[:, :first], alive)
        logits, state = self.begin(prompt, x[:, :first])
        table = None if relax is None else self.show(torch.arange(self.symbols, device=x.device))
        for step in range(first, stop):
            logits = logits.float()
            if step == 0 and self._never_empty(prompt):
                logits = _ruled_out(logits, self.end or 0)
            drawn = pick(warp(logits.detach()), uniform[:, step])
            if given is not None:
                drawn = torch.where(step < given[1], given[0][:, step], drawn)
            symbol = drawn if self.end is None else torch.where(alive, drawn, self.end)
            x[:, step], mask[:, step] = symbol, alive
            if relax is None or table is None:
                shown = self.show(symbol)
            else:
                stand_in = torch.where(
                    alive[:, None], relax(logits, symbol), one_hot(symbol, self.symbols).float()
                )
                relaxed.append(stand_in)
                shown = straight_through(stand_in, symbol) @ table
            alive = self._goes_on(symbol[:, None], alive)
            if step + 1 == stop or (relax is None and self.end is not None and not alive.any()):
                break
            logits, state = self.advance(state, shown)
        if relax is not None:
            behind = one_hot(x[:, stop:], self.symbols).float()
            return Sample(x, prompt, mask, torch.cat([torch.stack(relaxed, 1), behind], 1))
        return Sample(x, prompt, mask)

    def _valid(self, symbols: Tensor) -> Tensor:
        """[B, K] bool: up to the first end, and with it."""
        if self.end is None:
            return torch.ones_like(symbols, dtype=torch.bool)
        ends = symbols == self.end
        return ends.cumsum(1) - ends.long() == 0

    def _never_empty(self, prompt: Tensor | None) -> bool:
        """Whether the first symbol cannot be the end."""
        return self.end is not None and (prompt is None or self.answers)

    def _goes_on(self, symbols: Tensor, alive: Tensor) -> Tensor:
        return alive if self.end is None else alive & (symbols != self.end).all(1)


def _ruled_out(logits: Tensor, symbol: int) -> Tensor:
    """The same logits [..., V] of all symbols but one."""
    return logits.index_fill(-1, torch.tensor([symbol], device=logits.device), -torch.inf)


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """[B]: the symbols at which the distribution function of softmax(logits [B, V]) passes `uniform` [B], in float64.

    A symbol whose logit is -inf is never picked. Exponentials are float32, their sums float64. The block in which a
    symbol lies is found first, by the blocks' sums: running sums over all of a large vocabulary would cost several
    times as much.
    """
    rows, count = logits.shape
    weights = logits.new_zeros(rows, -(-count // BLOCK) * BLOCK)
    torch.exp(logits - logits.amax(1, keepdim=True), out=weights[:, :count])
    blocks = weights.view(rows, -1, BLOCK)
    block, before = _passes(blocks.sum(2).double(), None, uniform)
    inside = blocks[torch.arange(rows, device=logits.device), block]
    symbol, _ = _passes(inside.double(), before, uniform)
    return block * BLOCK + symbol


def _passes(weights: Tensor, rest: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """(where the running sums of weights [B, N] pass a place, what of the place is left there).

    The place is a share of the sum, or given; rounding never takes it to the end.
    """
    sums = weights.cumsum(1)
    total = sums[:, -1]
    place = torch.minimum(
        uniform * total if rest is None else rest, torch.nextafter(total, torch.zeros_like(total))
    )
    found = torch.searchsorted(sums, place[:, None], right=True)
    left = place - (sums.gather(1, found) - weights.gather(1, found))[:, 0]
    return found[:, 0], left.clamp(min=0)


def _warper(controls: Controls | None) -> Callable[[Tensor], Tensor]:
    """The logits that are drawn from: Hugging Face's own warpers, in its order."""
    if controls is None:
        return lambda logits: logits
    temperature = controls.temperature
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
        logits = logits if temperature == 1 else logits / temperature
        for warper in chain:
            logits = warper(None, logits)
        return logits

    return warp


# The networks ----------------------------------------------------------------------------------------------------


class Recurrent(Autoregressive):
    """An LSTM over embedded symbols; the output layer is a matrix of its own. Source: Yu et al. 2017, section 3."""

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__(facts)
        self.embedding = nn.Embedding(
            self.symbols + 2, options.embedding
        )  # behind them: start, nothing
        nn.init.normal_(self.embedding.weight, 0.0, 0.1)
        self.lstm = nn.LSTM(options.embedding, options.hidden, options.layers, batch_first=True)
        self.out = nn.Linear(options.hidden, self.symbols)
        self.dropout = nn.Dropout(options.dropout)

    def show(self, symbols: Tensor) -> Tensor:
        return self.embedding(symbols)

    def begin(self, prompt: Tensor | None, symbols: Tensor) -> tuple[Tensor, Any]:
        hidden, state = self.lstm(self._shown(prompt, symbols))
        return self.out(hidden[:, -1]), state

    def advance(self, state: Any, shown: Tensor) -> tuple[Tensor, Any]:
        hidden, state = self.lstm(shown[:, None], state)
        return self.out(hidden[:, 0]), state

    def follow(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(self._shown(prompt, symbols)))
        return self.dropout(hidden[:, -1 - symbols.shape[1] :])

    def score(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)

    def resting(self) -> nn.Module:
        return self.dropout

    def _shown(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        return self.embedding(after_start(prompt, symbols, self.symbols, self.symbols + 1))


class Decoder(Autoregressive):
    """A causal transformer, with its keys and values kept while a line is drawn.

    Args:
        configuration: of a `transformers` causal language model, as plain data; None: a small GPT-2 of the options.
    """

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__(facts)
        chosen, library = decoder_configuration(options, facts), transformers_library()
        self.model = library.AutoModelForCausalLM.from_config(chosen, trust_remote_code=False)
        self.start = _start(chosen)

    def show(self, symbols: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(symbols)

    def begin(self, prompt: Tensor | None, symbols: Tensor) -> tuple[Tensor, Any]:
        inputs = arranged(prompt, symbols, self.start)
        seen = self.model(**inputs, use_cache=True, logits_to_keep=1)
        padding = inputs.get("attention_mask")
        return seen.logits[:, -1, : self.symbols], (seen.past_key_values, padding)

    def advance(self, state: Any, shown: Tensor) -> tuple[Tensor, Any]:
        cache, padding = state
        more = {}
        if padding is not None:
            padding = torch.cat([padding, padding.new_ones(len(padding), 1)], 1)
            more = {"attention_mask": padding, "position_ids": padding.sum(1, keepdim=True) - 1}
        seen = self.model(
            inputs_embeds=shown[:, None], past_key_values=cache, use_cache=True, **more
        )
        return seen.logits[:, -1, : self.symbols], (cache, padding)

    def follow(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        kept = symbols.shape[1] + 1
        seen = self.model(
            **arranged(prompt, symbols, self.start), use_cache=False, logits_to_keep=kept
        )
        return seen.logits[..., : self.symbols]

    def resting(self) -> nn.Module:
        return self.model


def check_decoding(generator: Decoder, name: str) -> None:
    """Nothing, for a transformer that goes on from what it has seen as if it had read it all at once.

    Raises:
        ConfigError: for another: this plugin cannot draw from it.
    """
    symbols = torch.arange(3).expand(1, 3) % generator.symbols
    generator.eval()  # without dropout; a turn chooses its mode anew
    try:
        with torch.no_grad():
            whole_line = generator.follow(None, symbols)[:, -1]
            _, state = generator.begin(None, symbols[:, :-1])
            step, _ = generator.advance(state, generator.show(symbols[:, -1]))
        agree = torch.allclose(step, whole_line, rtol=1e-3, atol=1e-3)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"options.pretrained = {name!r} cannot be drawn from ({first_line(error)})"
        ) from error
    if not agree:
        raise ConfigError(
            f"options.pretrained = {name!r} cannot be drawn from: it keeps no keys and values of a line"
        )


def make_generator(options: Options, facts: Facts) -> nn.Module:
    """The network that the options name."""
    if options.generator == "recurrent":
        return Recurrent(options, facts)
    if options.generator == "decoder":
        return Decoder(options, facts)
    return user_objects.network("options.generator", options.generator, options, facts)


# Beginnings ------------------------------------------------------------------------------------------------------


def after_start(prompt: Tensor | None, symbols: Tensor, start: int, nothing: int) -> Tensor:
    """[B, P + 1 + K]: nothing, the start, the prompt, the symbols; so that each line's prompt ends where it begins."""
    beginning = symbols.new_full((len(symbols), 1), start)
    if prompt is None:
        return torch.cat([beginning, symbols], 1)
    together = left_padded(torch.cat([beginning, prompt], 1))
    return torch.cat([together.where(together >= 0, nothing), symbols], 1)


def left_padded(prompt: Tensor) -> Tensor:
    """[B, P]: the same prompts with what is nothing (-1) in front."""
    return prompt.gather(1, (prompt >= 0).to(torch.int8).argsort(dim=1, stable=True))


def arranged(prompt: Tensor | None, symbols: Tensor, start: int) -> dict[str, Tensor]:
    """What a transformer is told of beginnings: the symbols, and where padding stands if there is any."""
    ids = after_start(prompt, symbols, start, -1)
    if prompt is None or not bool((prompt < 0).any()):
        return {"input_ids": ids}
    padding = (ids >= 0).long()
    positions = (padding.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids.clamp(min=0), "attention_mask": padding, "position_ids": positions}


def decoder_configuration(options: Options, facts: Facts) -> Any:
    """The configuration of a causal language model: that of the facts, or a small GPT-2 of the options."""
    if facts["decoder"] is not None:
        return configuration(facts["decoder"])
    return transformers_library().GPT2Config(
        vocab_size=facts["symbols"] + 1,  # the last is the start
        n_positions=1
        + facts["length"]
        + (facts["prompt_length"] or facts["length"]),  # a prompt may begin any line
        n_embd=options.hidden,
        n_layer=options.layers,
        n_head=options.heads,
        resid_pdrop=options.dropout,
        embd_pdrop=options.dropout,
        attn_pdrop=options.dropout,
        bos_token_id=facts["symbols"],
        eos_token_id=facts["end"],
    )


def _start(configuration: Any) -> int:
    known = (configuration.bos_token_id, configuration.eos_token_id)
    return next((symbol for symbol in known if isinstance(symbol, int)), 0)

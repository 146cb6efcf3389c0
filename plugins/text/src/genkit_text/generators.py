"""Autoregressive generators of lines: drawing, completing, relaxing and scoring, shared by all networks.

A network predicts the next symbol of a prefix: `Recurrent` (an LSTM) or `Decoder` (a causal transformer of the
`transformers` library). Knows symbols as numbers; no strings, no files, no losses.

Shape letters: B batch, L steps, V symbols, K symbols of a prefix, P symbols of a prompt, E numbers of an embedding,
H numbers of a hidden state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, one_hot

from genkit import user_objects
from genkit.adversarial import straight_through
from genkit.errors import ConfigError, first_line
from genkit.plugin import Facts, Noise, Posterior, Sample, Stepwise
from genkit_text.drawing import Step, middle, pick, warper, without
from genkit_text.options import Controls, Options
from genkit_text.pretrained import configuration, transformers_library

Relax = Callable[[Tensor, Tensor], Tensor]
"""The relaxation of one step: (logits [B, V], symbol [B]) -> [B, V]; see `genkit.plugin.Generator.relaxed`."""


class Autoregressive(nn.Module):
    """A distribution over lines: p(line) = product over its steps of p(symbol | prompt, earlier symbols).

    The first symbol is never the end, unless the line continues a prompt. Dropout acts in `pretrain_loss` alone, since
    the policy that draws a line and the policy that scores it must be the same.

    If the data had prompts, the model draws up to L symbols that answer the prompt. Otherwise a prompt is the beginning
    of the line, and its symbols count among the L.

    Args:
        facts: of the data: symbols, length, end, prompt_length.

    Attributes:
        symbols: V.
        length: L.
        end: the symbol that ends a line; None: there is none, and all lines have L symbols.
        answers: whether the data had prompts.
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

    # What a network implements ---------------------------------------------------------------------------------------

    @abstractmethod
    def embed(self, symbols: Tensor) -> Tensor:
        """[..., E]: the embeddings of symbols [...]."""

    @abstractmethod
    def begin(self, prompt: Tensor | None, symbols: Tensor) -> tuple[Tensor, Any]:
        """Read a prefix.

        Args:
            prompt: [B, P], padded with -1; None: no prompt.
            symbols: [B, K], the symbols of the line so far, K >= 0.

        Returns:
            (logits [B, V] of the next symbol, the state to go on from).
        """

    @abstractmethod
    def advance(self, state: Any, embedding: Tensor) -> tuple[Tensor, Any]:
        """Read one more symbol.

        Args:
            state: from `begin` or `advance`.
            embedding: [B, E], of the symbol, or a mixture of the embeddings of several symbols.

        Returns:
            (logits [B, V] of the next symbol, the state to go on from).
        """

    @abstractmethod
    def follow(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        """[B, K + 1, H]: hidden states from which `score` predicts each of `symbols` [B, K] and the one after them."""

    def score(self, hidden: Tensor) -> Tensor:
        """[..., V]: logits of the next symbol from hidden states [..., H]."""
        return hidden

    def blank(self) -> dict[str, Tensor]:
        """What `read` keeps before anything is read, [1, ...]; the default: the line, and its length, from -1."""
        return {
            "line": torch.zeros(1, self.length, dtype=torch.long),
            "length": torch.full((1,), -1),
        }

    def read(
        self, symbol: Tensor, condition: Tensor | None, memory: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Read one more symbol when exported: as `begin` and `advance`, with tensors of constant shapes alone.

        The default follows the whole line each time, which costs about L times as much.

        Args:
            symbol: [B]; the first one, V, stands for the start.
            condition: [B, P], the prompt that the line answers; None: there is none.
            memory: of `blank` or `read`, [B, ...].

        Returns:
            (logits [B, V] of the next symbol, what is kept).
        """
        place = memory["length"][:, None]
        is_place = torch.arange(self.length, device=symbol.device) == place
        line = torch.where(is_place, symbol[:, None], memory["line"])
        hidden = self.follow(condition if self.answers else None, line[:, :-1])
        places = (place + 1).clamp(max=self.length - 1)[:, :, None].expand(-1, -1, hidden.shape[2])
        return self.score(hidden.gather(1, places)[:, 0]), {"line": line, "length": place[:, 0] + 1}

    def prefix(self, condition: Tensor | None) -> Tensor:
        """[1, K]: symbols that `read` reads before a line; the default: the start, and a prompt that it continues."""
        start = torch.full((1, 1), self.symbols)
        return (
            start if condition is None or self.answers else torch.cat([start, condition.cpu()], 1)
        )

    def dropout_module(self) -> nn.Module:
        """The module whose training mode switches dropout on."""
        return nn.Identity()

    # What the engine calls -------------------------------------------------------------------------------------------

    def forward(
        self,
        noise: Mapping[str, Tensor],
        condition: Tensor | None = None,
        controls: Controls | None = None,
    ) -> Sample:
        """Lines [B, L]; each symbol is drawn by one uniform number."""
        return self._roll(noise["symbols"], condition, controls)

    def complete(self, sample: Sample, length: Tensor, noise: Mapping[str, Tensor]) -> Sample:
        """Lines that keep the first length[b] symbols of row b of `sample`; the rest is drawn."""
        return self._roll(noise["symbols"], sample.condition, prefix=(sample.x, length))

    def relaxed(
        self,
        noise: Mapping[str, Tensor],
        condition: Tensor | None,
        controls: Controls | None,
        relax: Relax,
    ) -> Sample:
        """The lines of `forward` with their relaxation, whose gradient also flows through what later steps read."""
        return self._roll(noise["symbols"], condition, controls, relax=relax)

    def stepwise(self, condition: Tensor | None, controls: Controls | None) -> Stepwise:
        """The lines of `forward` as a loop that programs without genkit can run."""
        step, prefix = Step(self), self.prefix(condition)
        return Stepwise(step, step.state(), prefix, self._steps(condition, controls))

    def logits(self, sample: Sample) -> Tensor:
        """[B, L, V], float32: the logits of every step; -inf for the end at the first step, unless it may be there."""
        logits = self.score(self.follow(sample.condition, sample.x[:, :-1])).float()
        if not self._is_never_empty(sample.condition):
            return logits
        return torch.cat([without(logits[:, :1], self.end or 0), logits[:, 1:]], 1)

    def log_prob(self, sample: Sample, temperature: float = 1.0) -> Tensor:
        """[B, L]: log p of each symbol of `sample.x`, given those before it; 0 where a step is masked out."""
        hidden, x = self.follow(sample.condition, sample.x[:, :-1]), sample.x
        rows: Any = slice(None)
        # Only valid steps are scored. On an accelerator, waiting for their number costs more than scoring all.
        if sample.mask is not None and x.device.type == "cpu":
            rows = sample.mask.flatten().nonzero()[:, 0]
        logits = self.score(hidden.flatten(0, 1)[rows]).float() / temperature
        log_probs = -cross_entropy(logits, x.flatten()[rows], reduction="none")
        if self._is_never_empty(sample.condition):
            # At the first step the other symbols share the probability of the end.
            is_first = torch.arange(x.numel(), device=x.device)[rows] % x.shape[1] == 0
            end = logits[:, self.end] - logits.logsumexp(1)
            log_probs = log_probs - torch.where(is_first, (-end.exp()).log1p(), 0.0)
        steps = log_probs.new_zeros(x.numel())
        steps[rows] = log_probs
        steps = steps.view(x.shape)
        return steps if sample.mask is None else steps.where(sample.mask, 0.0)

    def distributions(self, sample: Sample) -> Tensor:
        """[B, L, V]: log p of every symbol at each step, given the symbols of `sample.x` before it."""
        return self.logits(sample).log_softmax(-1)

    def infer(self, sample: Sample, controls: Controls | None = None) -> dict[str, Posterior]:
        """A number that draws each symbol, see `genkit_text.drawing.middle`.

        A symbol that the controls keep from being drawn has none; one with a probability of 1e-10 or so may have none.
        """
        rows = [sample[[row]] for row in range(len(sample))]  # one by one: V may be large
        warp = warper(controls)
        middles = torch.cat([middle(warp(self.logits(row)[0])[None], row.x) for row in rows])
        if sample.mask is not None:
            middles = middles.where(sample.mask, 0.5)
        return {"symbols": Posterior(middles)}

    def pretrain_loss(self, real: Sample) -> Tensor:
        """Negative log-likelihood in nats: the mean over lines of a whole line's, divided by L."""
        self.dropout_module().train(self.training)
        loss = -self.log_prob(real).sum(1).mean() / self.length
        self.dropout_module().eval()
        return loss

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all modules but dropout, which stays off until `pretrain_loss`."""
        super().train(mode)
        self.dropout_module().eval()
        return self

    def _roll(
        self,
        uniform: Tensor,
        prompt: Tensor | None,
        controls: Controls | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        relax: Relax | None = None,
    ) -> Sample:
        """Draw lines.

        Args:
            uniform: [B, L], float64: the number that draws each symbol.
            prompt: [B, P], padded with -1; None: no prompt.
            prefix: (x [B, L], lengths [B]): the first lengths[b] symbols of row b are taken from x.
            relax: makes the relaxation of each step; None: there is none.
        """
        rows, length = uniform.shape
        stop = self._steps(prompt, controls)
        warp = warper(controls)
        x = torch.full_like(uniform, self.end or 0, dtype=torch.long)
        is_open = torch.ones(rows, dtype=torch.bool, device=uniform.device)
        mask = torch.zeros_like(x, dtype=torch.bool)
        first, relaxations = 0, []
        if prefix is not None:
            first = min(int(prefix[1].min()), length - 1)
            x[:, :first] = prefix[0][:, :first]
            mask[:, :first] = self._valid(x[:, :first])
            is_open = self._still_open(x[:, :first], is_open)
        logits, state = self.begin(prompt, x[:, :first])
        table = None if relax is None else self.embed(torch.arange(self.symbols, device=x.device))
        for step in range(first, stop):
            logits = logits.float()
            if step == 0 and self._is_never_empty(prompt):
                logits = without(logits, self.end or 0)
            symbol = pick(warp(logits.detach()), uniform[:, step])
            if prefix is not None:
                symbol = torch.where(step < prefix[1], prefix[0][:, step], symbol)
            if self.end is not None:
                symbol = torch.where(is_open, symbol, self.end)
            x[:, step], mask[:, step] = symbol, is_open
            if relax is None or table is None:
                embedding = self.embed(symbol)
            else:
                relaxation = torch.where(
                    is_open[:, None], relax(logits, symbol), one_hot(symbol, self.symbols).float()
                )
                relaxations.append(relaxation)
                embedding = straight_through(relaxation, symbol) @ table
            is_open = self._still_open(symbol[:, None], is_open)
            if step + 1 == stop or (relax is None and self.end is not None and not is_open.any()):
                break
            logits, state = self.advance(state, embedding)
        if relax is not None:
            tail = one_hot(x[:, stop:], self.symbols).float()
            return Sample(x, prompt, mask, torch.cat([torch.stack(relaxations, 1), tail], 1))
        return Sample(x, prompt, mask)

    def _steps(self, prompt: Tensor | None, controls: Controls | None) -> int:
        """The largest number of symbols that are drawn."""
        limit = self.length
        if prompt is not None and not self.answers:
            limit -= prompt.shape[1]
        return min(limit, (controls and controls.max_new_tokens) or limit)

    def _valid(self, symbols: Tensor) -> Tensor:
        """[B, K] bool: the steps up to and with the first end."""
        if self.end is None:
            return torch.ones_like(symbols, dtype=torch.bool)
        ends = symbols == self.end
        return ends.cumsum(1) - ends.long() == 0

    def _is_never_empty(self, prompt: Tensor | None) -> bool:
        """Whether the first symbol cannot be the end."""
        return self.end is not None and (prompt is None or self.answers)

    def _still_open(self, symbols: Tensor, is_open: Tensor) -> Tensor:
        """[B] bool: the rows that were open and have no end among their next symbols [B, K]."""
        return is_open if self.end is None else is_open & (symbols != self.end).all(1)


# The networks --------------------------------------------------------------------------------------------------------


class Recurrent(Autoregressive):
    """An LSTM over embedded symbols; the output layer shares no weights with the embedding unless they are tied.

    Sources: Yu et al. 2017, arXiv:1609.05473, section 3; of tied weights Press and Wolf 2017, arXiv:1608.05859.
    """

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__(facts)
        # The last two rows are the start of a line and the padding in front of it.
        self.embedding = nn.Embedding(self.symbols + 2, options.embedding)
        nn.init.normal_(self.embedding.weight, 0.0, 0.1)
        self.lstm = nn.LSTM(options.embedding, options.hidden, options.layers, batch_first=True)
        self.is_tied = options.tie_word_embeddings
        self.out = nn.Linear(options.hidden, options.embedding if self.is_tied else self.symbols)
        if self.is_tied:
            self.bias = nn.Parameter(torch.zeros(self.symbols))
        self.dropout = nn.Dropout(options.dropout)

    def embed(self, symbols: Tensor) -> Tensor:
        return self.embedding(symbols)

    def begin(self, prompt: Tensor | None, symbols: Tensor) -> tuple[Tensor, Any]:
        hidden, state = self.lstm(self._inputs(prompt, symbols))
        return self.score(hidden[:, -1]), state

    def advance(self, state: Any, embedding: Tensor) -> tuple[Tensor, Any]:
        hidden, state = self.lstm(embedding[:, None], state)
        return self.score(hidden[:, 0]), state

    def follow(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(self._inputs(prompt, symbols)))
        return self.dropout(hidden[:, -1 - symbols.shape[1] :])

    def score(self, hidden: Tensor) -> Tensor:
        scores = self.out(hidden)
        if not self.is_tied:
            return scores
        return linear(scores, self.embedding.weight[: self.symbols], self.bias)

    def blank(self) -> dict[str, Tensor]:
        shape = 1, self.lstm.num_layers, self.lstm.hidden_size
        return {"hidden": torch.zeros(shape), "cell": torch.zeros(shape)}

    def read(
        self, symbol: Tensor, condition: Tensor | None, memory: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        state = tuple(memory[name].transpose(0, 1).contiguous() for name in ("hidden", "cell"))
        logits, (hidden, cell) = self.advance(state, self.embed(symbol))
        return logits, {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}

    def prefix(self, condition: Tensor | None) -> Tensor:
        """[1, K]: the start and the prompt, with the padding that the network reads too."""
        prompt = None if condition is None else condition.cpu()
        return with_start(
            prompt, torch.zeros(1, 0, dtype=torch.long), self.symbols, self.symbols + 1
        )

    def dropout_module(self) -> nn.Module:
        return self.dropout

    def _inputs(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        """[B, P + 1 + K, E]: prompt, start and symbols as embeddings."""
        return self.embedding(with_start(prompt, symbols, self.symbols, self.symbols + 1))


class Decoder(Autoregressive):
    """A causal transformer; its keys and values are cached while a line is drawn.

    Args:
        options: hidden, layers, heads, dropout, where the facts name no pretrained model.
        facts: as for `Autoregressive`; also `decoder`, the configuration of a pretrained model, or None.
    """

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__(facts)
        settings, library = decoder_configuration(options, facts), transformers_library()
        self.model = library.AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        self.start = _start(settings)

    def embed(self, symbols: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(symbols)

    def begin(self, prompt: Tensor | None, symbols: Tensor) -> tuple[Tensor, Any]:
        inputs = decoder_inputs(prompt, symbols, self.start)
        output = self.model(**inputs, use_cache=True, logits_to_keep=1)
        mask = inputs.get("attention_mask")
        return output.logits[:, -1, : self.symbols], (output.past_key_values, mask)

    def advance(self, state: Any, embedding: Tensor) -> tuple[Tensor, Any]:
        cache, mask = state
        padding = {}
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            padding = {"attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        output = self.model(
            inputs_embeds=embedding[:, None], past_key_values=cache, use_cache=True, **padding
        )
        return output.logits[:, -1, : self.symbols], (cache, mask)

    def follow(self, prompt: Tensor | None, symbols: Tensor) -> Tensor:
        inputs, count = decoder_inputs(prompt, symbols, self.start), symbols.shape[1] + 1
        output = self.model(**inputs, use_cache=False, logits_to_keep=count)
        return output.logits[..., : self.symbols]

    def dropout_module(self) -> nn.Module:
        return self.model


def check_decoding(generator: Decoder, name: str) -> None:
    """Check that a transformer predicts the same step by step, from its cache, as it does of a whole prefix.

    Args:
        name: of the pretrained model, for the message.

    Raises:
        ConfigError: if it does not: this plugin cannot draw lines from it.
    """
    symbols = torch.arange(3).expand(1, 3) % generator.symbols
    generator.eval()  # without dropout; every update sets the mode that it needs
    try:
        with torch.no_grad():
            logits = generator.follow(None, symbols)[:, -1]
            _, state = generator.begin(None, symbols[:, :-1])
            step_logits, _ = generator.advance(state, generator.embed(symbols[:, -1]))
        is_consistent = torch.allclose(step_logits, logits, rtol=1e-3, atol=1e-3)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"options.pretrained = {name!r} cannot be drawn from ({first_line(error)})"
        ) from error
    if not is_consistent:
        raise ConfigError(
            f"options.pretrained = {name!r} cannot be drawn from: it keeps no keys and values of a line"
        )


def make_generator(options: Options, facts: Facts) -> nn.Module:
    """The generator of `options.generator`, freshly built: one of this module, or the user's own class."""
    if options.generator == "recurrent":
        return Recurrent(options, facts)
    if options.generator == "decoder":
        return Decoder(options, facts)
    return user_objects.network("options.generator", options.generator, options, facts)


# Prefixes ------------------------------------------------------------------------------------------------------------


def with_start(prompt: Tensor | None, symbols: Tensor, start: int, padding: int) -> Tensor:
    """[B, P + 1 + K]: padding, the start, the prompt, the symbols; [B, 1 + K] without a prompt.

    The padding is on the left, so that every prompt ends directly in front of its line.

    Args:
        prompt: [B, P], padded on the right with -1.
        symbols: [B, K].
        start, padding: the symbols that stand for them.
    """
    beginning = symbols.new_full((symbols.shape[0], 1), start)
    if prompt is None:
        return torch.cat([beginning, symbols], 1)
    head = left_padded(torch.cat([beginning, prompt], 1))
    return torch.cat([head.where(head >= 0, padding), symbols], 1)


def left_padded(prompt: Tensor) -> Tensor:
    """[B, P]: prompts with their padding (-1) moved from the end to the front."""
    shift = (prompt < 0).sum(1, keepdim=True)
    places = torch.arange(prompt.shape[1], device=prompt.device) - shift
    return prompt.gather(1, places % prompt.shape[1])


def decoder_inputs(prompt: Tensor | None, symbols: Tensor, start: int) -> dict[str, Tensor]:
    """The arguments of a transformer for a prefix: its symbols, and if there is padding the mask and the positions."""
    ids = with_start(prompt, symbols, start, -1)
    has_padding = prompt is not None and (torch.compiler.is_exporting() or bool((prompt < 0).any()))
    if not has_padding:
        return {"input_ids": ids}
    mask = (ids >= 0).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids.clamp(min=0), "attention_mask": mask, "position_ids": positions}


def decoder_configuration(options: Options, facts: Facts) -> Any:
    """The configuration of a causal language model: that of the facts, or of a small GPT-2 as the options say."""
    if facts["decoder"] is not None:
        return configuration(facts["decoder"])
    return transformers_library().GPT2Config(
        vocab_size=facts["symbols"] + 1,  # the last one is the start
        # The start, the line, and a prompt: without prompts in the data it may be as long as a line.
        n_positions=1 + facts["length"] + (facts["prompt_length"] or facts["length"]),
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
    """The symbol that starts a line: that of the configuration, else its end symbol, else 0."""
    candidates = (configuration.bos_token_id, configuration.eos_token_id)
    return next((symbol for symbol in candidates if isinstance(symbol, int)), 0)

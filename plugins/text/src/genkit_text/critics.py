"""Critics (the field's discriminators) of lines: one logit per line, or one after every symbol.

Each reads the prompt, if there is one, and then the line: `Sample.relaxed` where it is given, else the symbols. Steps
that are masked out have no effect. Knows symbols as numbers; no strings, no files, no losses.

Shape letters: B batch, L steps, P symbols of a prompt, V symbols, E numbers of an embedding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from genkit import user_objects
from genkit.plugin import Critique, Facts, Sample
from genkit_text.generators import decoder_configuration, left_padded
from genkit_text.options import Options
from genkit_text.pretrained import transformers_library

FILTERS = {
    1: 100,
    2: 200,
    3: 200,
    4: 200,
    5: 200,
    6: 100,
    7: 100,
    8: 100,
    9: 100,
    10: 100,
    15: 160,
    20: 160,
}
"""Kernel size in symbols -> number of filters.

Source: Yu et al. 2017, arXiv:1609.05473, table 3 of the appendix (for the synthetic data of the oracle).
"""


class Embedding(nn.Embedding):
    """Symbols -> what a critic sees of each: a learned vector, and a learned projection of a known one.

    Args:
        symbols: V.
        width: E.
        vectors: [V, K], the known ones; they stay as they are, and are no part of the critic's file. None: there are
            none.
    """

    def __init__(self, symbols: int, width: int, vectors: Tensor | None) -> None:
        super().__init__(symbols, width)
        self.register_buffer("vectors", vectors, persistent=False)
        self.projection = None if vectors is None else nn.Linear(vectors.shape[1], width)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols [...] -> [..., E]."""
        own = super().forward(symbols)
        if self.projection is None:
            return own
        return own + self.projection(cast(Tensor, self.vectors)[symbols])


class ConvolutionalCritic(nn.Module):
    """Lines -> one logit each, [B]: convolutions of many widths, max-pooling over time, a highway layer.

    Source: Yu et al. 2017, arXiv:1609.05473, section 3.4 and its appendix; the highway layer is that of Srivastava
    et al. 2015, arXiv:1505.00387.
    """

    def __init__(self, options: Options, facts: Facts, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.embedding = Embedding(facts["symbols"], options.critic_embedding, vectors)
        spans = {
            span: count
            for span, count in FILTERS.items()
            if span <= facts["length"] + facts["prompt_length"]
        }
        self.convolutions = nn.ModuleList(
            nn.Conv1d(options.critic_embedding, count, span) for span, count in spans.items()
        )
        self.highway = nn.Linear(sum(spans.values()), 2 * sum(spans.values()))
        self.dropout = nn.Dropout(options.critic_dropout)
        self.out = nn.Linear(sum(spans.values()), 1)

    def forward(self, sample: Sample) -> Critique:
        inputs, valid = embedded(self.embedding, sample)
        lines = (inputs * valid[..., None]).transpose(1, 2)
        maxima = [convolution(lines).relu().amax(2) for convolution in self.convolutions]
        features = torch.cat(maxima, 1)
        change, gate = self.highway(features).chunk(2, 1)
        gate = gate.sigmoid()
        features = gate * change.relu() + (1 - gate) * features
        return Critique((self.out(self.dropout(features))[:, 0],), features=(features,))


class RecurrentCritic(nn.Module):
    """Lines -> a logit after every symbol, [B, L]: an LSTM that sees the line up to and with that symbol.

    Source: de Masson d'Autume et al. 2019, arXiv:1905.09922, section 3.2, without its pretrained embeddings.
    """

    def __init__(self, options: Options, facts: Facts, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.embedding = Embedding(facts["symbols"], options.critic_embedding, vectors)
        self.dropout = nn.Dropout(options.critic_dropout)
        self.lstm = nn.LSTM(options.critic_embedding, options.critic_hidden, batch_first=True)
        self.norm = nn.LayerNorm(options.critic_hidden)
        self.out = nn.Linear(options.critic_hidden, 1)

    def forward(self, sample: Sample) -> Critique:
        inputs, valid = embedded(self.embedding, sample)
        hidden, _ = self.lstm(self.dropout(inputs * valid[..., None]))
        hidden = hidden[:, -sample.x.shape[1] :]
        return Critique((self.out(self.dropout(self.norm(hidden)))[..., 0],), per_step=True)


class BidirectionalCritic(nn.Module):
    """Lines -> one logit each, [B]: GRUs that read the line both ways, the mean and the maximum of their states.

    It sees each symbol with what follows it, which no autoregressive generator does: a critic of the generator's own
    kind finds little that the generator has not found itself (Bakhtin et al. 2021, arXiv:2004.10188, section 5).
    """

    def __init__(self, options: Options, facts: Facts, vectors: Tensor | None = None) -> None:
        super().__init__()
        width = options.critic_hidden
        self.embedding = Embedding(facts["symbols"], options.critic_embedding, vectors)
        self.dropout = nn.Dropout(options.critic_dropout)
        self.gru = nn.GRU(options.critic_embedding, width, batch_first=True, bidirectional=True)
        self.out = nn.Linear(4 * width, 1)

    def forward(self, sample: Sample) -> Critique:
        inputs, valid = embedded(self.embedding, sample)
        lengths = valid.sum(1).clamp(min=1)
        if sample.condition is not None:
            # Prompts are padded on the left: all that is valid moves to the front.
            order = (~valid).to(torch.int8).argsort(dim=1, stable=True)
            inputs = inputs.gather(1, order[..., None].expand_as(inputs))
        sequence = pack_padded_sequence(
            self.dropout(inputs), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.gru(sequence)[0], batch_first=True)
        is_valid = torch.arange(states.shape[1], device=lengths.device) < lengths[:, None]
        states = self.dropout(states)
        mean = (states * is_valid[..., None]).sum(1) / lengths[:, None]
        largest = states.masked_fill(~is_valid[..., None], -torch.inf).amax(1)
        features = torch.cat([mean, largest], 1)
        return Critique((self.out(features)[:, 0],), features=(features,))


class DecoderCritic(nn.Module):
    """Lines -> a logit after every symbol, [B, L]: a causal transformer like the generator's, with one output."""

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__()
        settings, library = decoder_configuration(options, facts), transformers_library()
        self.model = library.AutoModel.from_config(settings, trust_remote_code=False)
        self.out = nn.Linear(self.model.config.hidden_size, 1)

    def forward(self, sample: Sample) -> Critique:
        inputs, valid = embedded(self.model.get_input_embeddings(), sample)
        padding = {}
        if sample.condition is not None:  # prompts are padded on the left
            padding = {
                "attention_mask": valid.long(),
                "position_ids": (valid.cumsum(1) - 1).clamp(min=0),
            }
        hidden = self.model(inputs_embeds=inputs, use_cache=False, **padding).last_hidden_state
        return Critique((self.out(hidden[:, -sample.x.shape[1] :])[..., 0],), per_step=True)


def make_critic(options: Options, facts: Facts, vectors: Tensor | None = None) -> nn.Module:
    """The critic of `options.critic`, freshly built: one of this module, or the user's own class.

    Args:
        options, facts: of the model.
        vectors: of the symbols, as `options.critic_vectors` asks for.
    """
    classes = {
        "convolutional": ConvolutionalCritic,
        "recurrent": RecurrentCritic,
        "bidirectional": BidirectionalCritic,
    }
    if options.critic in classes:
        return classes[options.critic](options, facts, vectors)
    if options.critic == "decoder":
        return DecoderCritic(options, facts)
    return user_objects.network("options.critic", options.critic, options, facts)


def embedded(embedding: nn.Module, sample: Sample) -> tuple[Tensor, Tensor]:
    """The input of a critic: prompt and line as embeddings, and which of their steps are valid.

    Returns:
        (embeddings [B, P + L, E], valid steps [B, P + L] bool); the prompt is padded on the left. Embeddings of a
        relaxation are mixtures of those of all symbols.
    """
    if sample.relaxed is None:
        inputs = embedding(sample.x)
    else:
        symbols = torch.arange(sample.relaxed.shape[2], device=sample.x.device)
        inputs = sample.relaxed @ embedding(symbols)
    valid = torch.ones_like(sample.x, dtype=torch.bool) if sample.mask is None else sample.mask
    if sample.condition is None:
        return inputs, valid
    prompt = left_padded(sample.condition)
    head = embedding(prompt.clamp(min=0))
    return torch.cat([head, inputs], 1), torch.cat([prompt >= 0, valid], 1)

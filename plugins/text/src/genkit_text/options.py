"""The options and controls of the text plugin. Imports no torch."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from genkit.recipe import Settings, Share
from genkit.user_objects import Named

LENGTH_MAX = 256
"""Symbols of the longest line that is used where `Options.length` is None."""


class Options(Settings):
    """Options of training: how lines become symbols, and what the networks are."""

    tokenizer: str = "auto"
    """What a symbol is: characters, words (and punctuation marks), bytes, bpe (pieces learned from the data), or the
    path of a tokenizer.json or of a folder that holds one. auto: the tokenizer of the pretrained model if there is one,
    else words if at least half of the lines have spaces (bpe if there are more than 10,000 different ones), else
    characters."""
    vocabulary: PositiveInt | None = None
    """Keep this many of the most frequent symbols; the others become one unknown symbol. None: keep all. For bpe: how
    many pieces are learned, 4096 by default."""
    length: Annotated[int, Field(ge=2, le=2**16)] | None = None
    """The largest number of symbols of a line, its end included. None: that of the longest line, at most 256."""
    field: str = "text"
    """The field of a JSONL object that holds the line."""
    prompt_field: str | None = None
    """The field of a JSONL object that holds the prompt which the line answers. None: there are no prompts."""
    encoding: str = "utf-8"
    """Encoding of text files and tables: a name that Python knows, such as latin-1, cp1251 or gbk. UTF-16 with a mark
    at its beginning is recognised."""
    generator: Annotated[str, Named("recurrent", "decoder")] = "recurrent"
    """recurrent, an LSTM; decoder, a causal transformer; or your own, `module:attribute` of a class that is called with
    (options, facts): a subclass of `genkit_text.generators.Autoregressive` can do all that the presets ask for."""
    pretrained: str | None = None
    """A causal language model to start from: a local folder, or an id on the Hugging Face Hub. Its weights and its
    tokenizer become part of the model."""
    embedding: PositiveInt = 32
    """Size of a symbol's embedding in a recurrent generator."""
    tie_word_embeddings: bool = False
    """The output layer of a recurrent generator is its embedding (Press and Wolf 2017): fewer weights, and rare symbols
    learn more from each line. A layer between them leads from `hidden` to `embedding` numbers."""
    hidden: PositiveInt = 32
    """Width of the generator's layers."""
    layers: PositiveInt = 1
    """Number of the generator's layers."""
    heads: PositiveInt = 4
    """Attention heads of a decoder; `hidden` must be a multiple of them."""
    dropout: Share = 0.0
    """Dropout of the generator, where it learns the likelihood of real lines: not of its own, and not when sampling. A
    decoder critic that is not pretrained has the same dropout, in its own updates."""
    critic: Annotated[
        str, Named("convolutional", "recurrent", "bidirectional", "decoder", "encoder")
    ] = "recurrent"
    """convolutional: one logit per line, by convolutions and a highway layer (Zhang and LeCun 2015; SeqGAN's);
    recurrent: a logit after every symbol, by an LSTM; bidirectional: one per line, by GRUs that read it both ways;
    decoder: a logit after every symbol, by a causal transformer like the generator; encoder: one per line, by a layer
    on what the pretrained `critic_encoder` makes of its text; or your own, `module:attribute` of a class that is called
    with (options, facts)."""
    critic_encoder: str = "minilm"
    """The frozen encoder (BERT and its like) of critic=encoder, which knows the language from elsewhere: minilm, in a
    package of 84 MB (extra `minilm`); a local folder; or an id on the Hugging Face Hub. It is read again wherever the
    critic is used."""
    critic_embedding: PositiveInt = 64
    """Size of a symbol's embedding in a convolutional, recurrent or bidirectional critic."""
    critic_vectors: Annotated[str, Named("wordllama")] | None = None
    """Frozen vectors of the symbols' texts that such a critic sees beside its embedding: `wordllama`, a table of word
    vectors in the package of this name (extra `wordllama`). They know words that the lines hardly have."""
    critic_hidden: PositiveInt = 64
    """Width of a recurrent critic's LSTM, of a bidirectional one's GRUs, or of the layer on an encoder."""
    critic_dropout: Share = 0.0
    """Dropout of a convolutional, recurrent or bidirectional critic, or of the layer on an encoder."""
    critic_decay: NonNegativeFloat = 0.0
    """Weight decay of the critic's last layer: its loss gets half the squared norm times this (SeqGAN: 0.2)."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)  # raises for codecs of other things than text
            return codecs.lookup(encoding).name
        except (LookupError, UnicodeError):
            raise ValueError(
                f"{encoding!r} is no encoding that Python knows, such as latin-1"
            ) from None

    @model_validator(mode="after")
    def _fits(self) -> Options:
        if self.pretrained is not None and self.generator != "decoder":
            raise ValueError("pretrained names a causal transformer: set generator=decoder as well")
        if self.critic == "decoder" and self.generator != "decoder":
            raise ValueError("critic=decoder is like the generator: set generator=decoder as well")
        if ":" in self.critic and self.critic_decay:
            raise ValueError(
                "critic_decay is of the built-in critics: leave it at 0, or name one of them"
            )
        if self.critic_vectors and (self.critic in ("decoder", "encoder") or ":" in self.critic):
            raise ValueError(
                "critic_vectors are for a convolutional, recurrent or bidirectional critic: name one of them"
            )
        if self.tie_word_embeddings and self.generator != "recurrent":
            raise ValueError(
                "tie_word_embeddings is of the recurrent generator: leave it out, or name that one"
            )
        if self.field == self.prompt_field:
            raise ValueError(
                f"prompt_field {self.prompt_field!r} is the field of the line itself: name another one"
            )
        if self.generator == "decoder" and self.pretrained is None and self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}")
        return self


class Controls(Settings):
    """Settings of one call of `generate`; their names are those of Hugging Face's `generate`."""

    temperature: Annotated[float, Field(ge=1e-3, allow_inf_nan=False)] = 1.0
    """The logits are divided by this: below 1 lines are more typical, above 1 more varied."""
    top_k: PositiveInt | None = None
    """Draw only from this many of the most likely symbols."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw only from the most likely symbols that together reach this probability (Holtzman et al. 2020)."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw only from symbols that are at least this times as likely as the likeliest (Nguyen et al. 2024)."""
    max_new_tokens: PositiveInt | None = None
    """The largest number of symbols that are drawn; never more than the model's length. None: the model's length."""

"""What can be set about text. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from genkit.recipe import Settings, Share
from genkit.user_objects import Named

LENGTH_MAX = 256
"""Symbols of the longest line that is used where `Options.length` does not say."""


class Options(Settings):
    """What is trained."""

    tokenizer: str = "auto"
    """What a symbol is: characters, words (and punctuation marks), bytes, bpe (pieces learned from the data), or the
    path of a tokenizer.json or of a folder that holds one. auto: the pretrained model's, else words where lines have
    spaces, else characters."""
    vocabulary: PositiveInt | None = None
    """Keep the so many most frequent symbols; the others become one unknown symbol. None: all. For bpe: how many pieces
    are learned, 4096 by default."""
    length: Annotated[int, Field(ge=2)] | None = None
    """Symbols of a line at most, its end included. None: those of the longest line, at most 256."""
    field: str = "text"
    """Of a JSONL file: where the line is."""
    prompt_field: str | None = None
    """Of a JSONL file: where the prompt is that the line answers. None: there are no prompts."""
    generator: Annotated[str, Named("recurrent", "decoder")] = "recurrent"
    """recurrent, an LSTM; decoder, a causal transformer; or your own, `module:attribute` of a class built with
    (options, facts): one of `genkit_text.generators.Autoregressive` has all that presets ask for."""
    pretrained: str | None = None
    """A causal language model to begin from: a local folder, or an id on the Hugging Face Hub. Its weights and its
    tokenizer become part of the model."""
    embedding: PositiveInt = 32
    """Numbers that describe a symbol, of a recurrent generator."""
    hidden: PositiveInt = 32
    """Width of a generator's layers."""
    layers: PositiveInt = 1
    """Of a generator."""
    heads: PositiveInt = 4
    """Of attention, of a decoder; they divide `hidden`."""
    dropout: Share = 0.0
    """Of a generator, in pretraining: what plays the game drops nothing out."""
    critic: Annotated[str, Named("convolutional", "recurrent", "decoder")] = "recurrent"
    """One verdict per line by convolutions and a highway (Zhang and LeCun 2015; SeqGAN's); or one after every symbol:
    recurrent, by an LSTM, or decoder, by a causal transformer like the generator; or your own,
    `module:attribute` of a class built with (options, facts)."""
    critic_embedding: PositiveInt = 64
    """Numbers that describe a symbol."""
    critic_hidden: PositiveInt = 64
    """Width of a recurrent critic."""
    critic_dropout: Share = 0.0
    """Of a critic."""
    critic_decay: NonNegativeFloat = 0.0
    """Half the squared norm of the critic's last layer is part of its loss, times this (SeqGAN: 0.2)."""

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
        if self.generator == "decoder" and self.pretrained is None and self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}")
        return self


class Controls(Settings):
    """What can be turned when generating; the names are those of Hugging Face's `generate`."""

    temperature: Annotated[float, Field(ge=1e-3, allow_inf_nan=False)] = 1.0
    """The logits are divided by it: below 1 more typical, above 1 more varied."""
    top_k: PositiveInt | None = None
    """Only the so many most likely symbols."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the most likely symbols that together reach this probability (Holtzman et al. 2020)."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only symbols at least this times as likely as the likeliest (Nguyen et al. 2024)."""
    max_new_tokens: PositiveInt | None = None
    """Symbols drawn at most; the model's own length at most, which None means."""

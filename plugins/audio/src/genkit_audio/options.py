"""What can be set about sound. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genkit.recipe import Settings

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[int, Field(ge=1000, le=192_000)]
Seed = Annotated[int, Field(ge=0)]


class Options(Settings):
    """What is trained."""

    samples: Annotated[int, Field(ge=1024, le=2**20)] = 16384
    """Samples of the wave in a window, which is what critics hear at once; a power of two."""
    rate: Rate | None = None
    """Samples per second at which windows are cut; None: the rate that most of the data have."""
    pad: Literal["end", "random", "loop"] = "end"
    """A sound shorter than a window is followed by silence, is put anywhere into it, or is repeated."""
    cut: Literal["random", "ordered", "start"] = "random"
    """random: a window begins anywhere; ordered: one begins where the last ended, and none is cut twice; start: each
    sound gives one, its beginning."""
    normalize: Literal["none", "peak"] = "none"
    """peak: every sound is as loud as it can be."""
    augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much each window is changed at random when it is read: speed, loudness, polarity, place. 0: not at all."""
    conditional: bool = False
    """Learn each class by its label."""
    labels: Literal["folders", "prefix"] = "folders"
    """Where labels come from: sub-folders, or the beginnings of file names."""
    architecture: Literal["wavegan", "stream", "vocoder"] = "wavegan"
    """How a sound is made: wavegan, a window at once (Donahue et al. 2019); stream, without an end, by convolutions
    over noise; vocoder, from its log-mel spectrum."""
    content: Width = 100
    """Numbers of noise behind a whole sound."""
    texture: Width = 16
    """Numbers of noise behind a moment of it, for stream."""
    hop: Literal[64, 256, 1024] = 1024
    """Samples from one block of texture noise to the next, for stream. One block is heard over about ten times that."""
    features: Width = 16
    """Feature maps of the generator next to the wave; they double with every layer."""
    mels: Annotated[int, Field(ge=8, le=256)] = 80
    """Bands of the spectra that a vocoder is told."""
    width: Width = 192
    """Feature maps of a vocoder, the same in all layers."""
    blocks: Width = 5
    """Residual blocks of a vocoder; each hears three frames more on either side."""
    corrections: Annotated[int, Field(ge=0, le=32)] = 12
    """How often a vocoder compares its own spectrum with what it was told, and mends it."""
    critics: Literal["wave", "spectrum", "both", "periods"] = "both"
    """Who judges: the wave itself, its spectra, or both; periods: the wave by periods and scales (Kong et al. 2020)."""
    critic_features: Width = 16
    """Feature maps of the wave critic, and of those of periods, next to the wave; they double with every layer."""
    spectrum_features: Width = 8
    """The same for the critic of spectra."""
    phase_shuffle: Annotated[int, Field(ge=0, le=8)] = 2
    """What is between the layers of the wave critic is moved by up to so many steps at random, so that phases, by which
    fakes are told too easily, do not help it; 0: never."""

    @field_validator("samples")
    @classmethod
    def _is_a_power_of_two(cls, samples: int) -> int:
        if samples & (samples - 1):
            below = 1 << samples.bit_length() - 1
            raise ValueError(f"{samples} must be a power of two: choose {below} or {2 * below}")
        return samples

    @model_validator(mode="after")
    def _is_told_one_thing(self) -> Options:
        if self.conditional and (self.architecture == "vocoder" or self.critics == "periods"):
            raise ValueError(
                "conditional: neither a vocoder nor critics of periods know labels; leave it out"
            )
        return self


class Controls(Settings):
    """What can be turned when generating."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """How long a sound lasts; None: as long as in training, or as what a vocoder was told."""
    content_seed: Seed | None = None
    """A seed for what sounds, in place of the seed; None: that."""
    texture_seed: Seed | None = None
    """The same for how a stream goes on."""

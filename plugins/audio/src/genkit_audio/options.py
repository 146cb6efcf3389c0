"""Options and controls of the audio plugin. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genkit.recipe import Settings

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[int, Field(ge=1000, le=192_000)]
Seed = Annotated[int, Field(ge=0)]


class Options(Settings):
    """Options of training: data, generator, and critics (the field's discriminators)."""

    samples: Annotated[int, Field(ge=1024, le=2**20)] = 16384
    """Samples of the wave in a window, the length that critics see; a power of two."""
    rate: Rate | None = None
    """Samples per second of the windows; None: the rate that most of the data have."""
    pad: Literal["end", "random", "loop"] = "end"
    """How a sound shorter than a window fills it. end: silence follows it; random: it is placed at random in silence;
    loop: it is repeated."""
    cut: Literal["random", "ordered", "start"] = "random"
    """Where a window begins. random: anywhere; ordered: where the last one ended, so that none overlap; start: at the
    beginning of each sound, one window per sound."""
    normalize: Literal["none", "peak"] = "none"
    """peak: every sound is scaled so that its peak is at full scale."""
    augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of the random change of speed, loudness, polarity and position each time a window is read; 0: none."""
    conditional: bool = False
    """Learn each class by its label."""
    labels: Literal["folders", "prefix"] = "folders"
    """Where class labels come from: sub-folders or a column called `label`; or the beginnings of file names."""
    label: str | None = None
    """The column that holds the classes, in a table beside the sounds (`metadata.csv`, say) or of a data set; or
    several with commas between them, of which one is 1. None: what `labels` says."""
    architecture: Literal["wavegan", "stream", "vocoder"] = "wavegan"
    """The generator. wavegan: a whole window at once (Donahue et al. 2019); stream: endless sounds, by convolutions
    over noise; vocoder: a wave from its log-mel spectrum."""
    content: Width = 100
    """Noise dimensions for a whole sound."""
    texture: Width = 16
    """Noise dimensions for each moment of a sound, for stream."""
    hop: Literal[64, 256, 1024] = 1024
    """Samples from one block of texture noise to the next, for stream. One block affects about ten times as many."""
    features: Width = 16
    """Feature maps of the generator's layer next to the wave; they double with every layer away from it."""
    encoder: bool = False
    """Give a wavegan an encoder, so that the model can infer the noise of a sound. It learns in stages of the kind
    pretrain (a variational autoencoder), and in the game by the terms prior, values and likeness (VAE-GAN)."""
    deviation: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of the wave around what an encoder's noise gives."""
    mels: Annotated[int, Field(ge=8, le=256)] = 80
    """Mel bands of the spectra that a vocoder takes as its condition."""
    width: Width = 192
    """Feature maps of a vocoder, the same in all layers."""
    blocks: Width = 5
    """Residual blocks of a vocoder; each adds three frames of context on either side."""
    corrections: Annotated[int, Field(ge=0, le=32)] = 12
    """How many times a vocoder compares the mel spectrum of its wave with its condition and corrects the wave."""
    critics: Literal["wave", "spectrum", "both", "periods"] = "both"
    """What the critics see: the wave, its spectra, or both; periods: the wave by periods and scales, as in HiFi-GAN
    (Kong et al. 2020)."""
    critic_features: Width = 16
    """Feature maps of the wave, period and scale critics in the layer next to the wave; they double with every layer,
    in those of periods and scales up to eight times."""
    spectrum_features: Width = 8
    """Feature maps of the spectrum critic in the layer next to the spectrum; they double with every layer."""
    phase_shuffle: Annotated[int, Field(ge=0, le=8)] = 2
    """Largest random shift, in steps, of the features between layers of the wave critic (phase shuffle), which keeps it
    from telling fakes by their phases; 0: none."""

    @field_validator("samples")
    @classmethod
    def _is_a_power_of_two(cls, samples: int) -> int:
        if samples & (samples - 1):
            lower = 1 << samples.bit_length() - 1
            raise ValueError(f"{samples} must be a power of two: choose {lower} or {2 * lower}")
        return samples

    @model_validator(mode="after")
    def _has_one_source_of_classes(self) -> Options:
        if self.label is not None and self.labels == "prefix":
            raise ValueError(
                "label and labels=prefix both say where classes come from: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _has_one_condition(self) -> Options:
        if self.conditional and (self.architecture == "vocoder" or self.critics == "periods"):
            raise ValueError(
                "conditional: neither a vocoder nor critics of periods take labels; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _has_a_generator_that_takes_an_encoder(self) -> Options:
        if self.encoder and self.architecture != "wavegan":
            raise ValueError(
                f"encoder: it belongs to architecture=wavegan, not to {self.architecture}; leave one of them out"
            )
        return self


class Controls(Settings):
    """Controls of generation."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """Length of a sound in seconds; None: as in training, or that of a vocoder's condition."""
    content_seed: Seed | None = None
    """Seed of the content noise, in place of the sample's seed; None: the sample's seed."""
    texture_seed: Seed | None = None
    """Seed of a stream's texture noise, in place of the sample's seed; None: the sample's seed."""

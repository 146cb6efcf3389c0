"""The options and controls of the image plugin. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genkit.recipe import AutoOnOff, Settings
from genkit.user_objects import Named

Side = Annotated[int, Field(ge=16, le=1024)]


class Sized(Settings):
    """Options of a modality with a height and a width."""

    size: Side | tuple[Side, Side] = 64
    """Height and width in pixels, or one number for both; multiples of 4. Pictures are scaled and cropped to it."""

    @field_validator("size")
    @classmethod
    def _is_divisible(cls, size: int | tuple[int, int]) -> int | tuple[int, int]:
        for side in (size, size) if isinstance(size, int) else size:
            if side % 4:
                raise ValueError(
                    f"{side} must be a multiple of 4: choose {side // 4 * 4} or {side // 4 * 4 + 4}"
                )
        return size

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Options(Sized):
    """Options of training: what the networks are, and what they see."""

    conditional: bool = False
    """Train a class-conditional model. Classes are sub-folders, or the labels of tables, IDX files and data sets."""
    label: str | None = None
    """The column that holds the classes, in a table beside the pictures (`metadata.csv`, say) or of a data set; or
    several with commas between them, of which one is 1. None: a column called `label`, or else the sub-folders."""
    channels: Literal["auto", 1, 3, 4] = "auto"
    """1 grey, 3 colour, 4 colour and transparency. auto: 4 if every picture has transparent pixels, 1 if all are grey,
    else 3. With 1 or 3, transparent pixels are laid on white."""
    flip: bool = False
    """Mirror each real picture left to right with probability 1/2, anew in every batch."""
    crop: Annotated[int, Field(ge=0, le=15)] = 0
    """Move each real picture at random by up to this many pixels each way, anew in every batch; edges are reflected."""
    augment: AutoOnOff = "auto"
    """Differentiable augmentation of what critics see, real and fake alike: brightness, saturation, contrast, position,
    and a rectangle cut out (Zhao et al. 2020). A small set overfits later with it; auto: on for fewer than 5,000."""
    latent: Annotated[int, Field(ge=1)] = 100
    """Size of the latent vector that a picture is generated from."""
    architecture: Literal["dcgan", "compact"] = "dcgan"
    """Of both networks: DCGAN's (Radford et al. 2015), or compact: DCGAN's with self-modulation and without
    checkerboards."""
    generator: Annotated[str | None, Named()] = None
    """Your own generator: `module:attribute` of a class that is called with (options, channels, classes). None: that of
    `architecture`."""
    critic: Annotated[str | None, Named()] = None
    """Your own critic: `module:attribute` of a class that is called with (options, channels, classes). None: that of
    `architecture`."""
    pretrained_critic: Literal["none", "lite0"] = "none"
    """A second critic, named `features`, on frozen features of a pretrained network (Sauer et al. 2021, Projected GAN).
    lite0: EfficientNet-lite0, a small ImageNet classifier, whose weights are installed with the plugin."""
    spectrum: bool = False
    """Give the generator a loss term, `spectrum`, that compares the mean power of each frequency with that of real
    pictures (after Durall et al. 2020): fine textures and the grids of upsampling are as strong as in real pictures."""
    encoder: bool = False
    """Give a compact generator an encoder, so that the model can infer the noise of a picture. It learns in stages of
    the kind pretrain (a variational autoencoder), and in the game by the terms prior, values and likeness (VAE-GAN)."""
    deviation: Annotated[float, Field(gt=0)] = 0.2
    """Standard deviation of values, which reach from -1 to 1, around what an encoder's noise gives: the smaller, the
    more exact reconstructions must be, and the less the noise of pictures is like that of samples."""
    features: Annotated[int, Field(ge=1)] = 64
    """Feature maps next to the picture; they double with every halving of the resolution."""
    features_max: Annotated[int, Field(ge=1)] | None = None
    """Upper bound of the feature maps at any resolution. None: there is no bound."""
    depth: Annotated[int, Field(ge=1)] = 1
    """Convolutions of a compact critic at each resolution but the last; with 2 it learns more from each picture, and
    sees fewer pictures in the same time."""
    critic_norm: Literal["batch", "spectral", "none"] = "batch"
    """Normalisation in the critic: BatchNorm (Radford et al. 2015), spectral norm (Miyato et al. 2018), or none (for
    recipes with a gradient penalty). Only DCGAN's critic takes batch."""

    @model_validator(mode="after")
    def _has_a_norm_that_fits(self) -> Options:
        if self.architecture != "dcgan" and self.critic_norm == "batch":
            raise ValueError(
                f'critic_norm "batch" is not for {self.architecture} networks: choose "none" (with penalties) or '
                '"spectral"'
            )
        return self

    @model_validator(mode="after")
    def _has_a_generator_that_takes_an_encoder(self) -> Options:
        if self.encoder and (self.architecture != "compact" or self.generator is not None):
            name = "your own generator" if self.generator else f"{self.architecture} networks"
            raise ValueError(
                f"encoder: it belongs to the generator of architecture=compact, not to {name}; leave one of them out"
            )
        return self


class Controls(Settings):
    """Settings of one call of `generate`; they change nothing of the model."""

    truncation: Annotated[float, Field(gt=0, le=1)] | None = None
    """Move the generator's first activations towards their mean, and keep this share of the distance: the smaller, the
    more typical and the less varied the pictures (Karras et al. 2019, appendix B). None or 1: they stay."""
    fps: Annotated[float, Field(gt=0, le=60)] = 12
    """Pictures per second of an animation (.webp)."""

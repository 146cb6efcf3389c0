"""The options and controls of the image plugin. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genkit.recipe import AutoOnOff, Settings
from genkit.user_objects import Named

Side = Annotated[int, Field(ge=16, le=1024)]

OWN_INPUTS = ("grey", "edges", "masked", "noisy", "small")
"""Inputs that are made of the pictures themselves."""
HALVES = ("left", "right")
"""Inputs that are one half of each picture."""
TRANSLATING = ("unet", "residual", "cycle")
"""Architectures that make pictures from pictures."""


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
    windows: bool = False
    """Cut each picture into windows of `size` at its own resolution, as many as fit side by side, instead of scaling
    it: for photographs whose details are to be learned. Smaller pictures are left out. Pictures that are to be found in
    a model are cut too."""
    flip: bool = False
    """Mirror each real picture left to right with probability 1/2, anew in every batch."""
    crop: Annotated[int, Field(ge=0, le=15)] = 0
    """Move each real picture at random by up to this many pixels each way, anew in every batch; edges are reflected."""
    augment: AutoOnOff = "auto"
    """Differentiable augmentation of what critics see, real and fake alike: brightness, saturation, contrast, position,
    and a rectangle cut out (Zhao et al. 2020). A small set overfits later with it; auto: on for fewer than 5,000.
    With `recipe.augmentation`, as in the default preset, as often as critics overfit."""
    latent: Annotated[int, Field(ge=1)] = 100
    """Size of the latent vector that a picture is generated from."""
    architecture: Literal["dcgan", "compact", "unet", "residual", "cycle"] = "dcgan"
    """Of both networks: DCGAN's (Radford et al. 2015), or compact: DCGAN's with self-modulation and without
    checkerboards. With an `input`: unet (Isola et al. 2017), or residual, which keeps the resolution or raises it
    (after Ledig et al. 2017), both with a critic of patches; or cycle, which learns both ways between two folders whose
    pictures are no pairs (Zhu et al. 2017)."""
    input: str | None = None
    """What pictures are made from. A folder of pictures: each is the input of that of its name. left, right: that half
    of each picture is the input, the other is to be made. Or made of the pictures: grey, edges, noisy, small (smaller
    by `scale`), masked (with a rectangle to be filled in). None: pictures are made from noise."""
    scale: Literal[2, 4] = 2
    """By what factor inputs are smaller, if `input` is small."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 8
    """Residual blocks of a residual generator, or of each of the two of cycle."""
    feature_matching: bool = False
    """Give the generator a loss term, `features`: the distance of the critic's features of a picture and of that which
    its input belongs to. For models with an `input`."""
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
    pictures (after Durall et al. 2020): fine textures and the grids of upsampling are as strong as in real pictures,
    and colours vary as much."""
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
    recipes with a gradient penalty). A compact or cycle critic takes no batch."""

    @model_validator(mode="after")
    def _has_a_norm_that_fits(self) -> Options:
        if self.architecture == "compact" and self.critic_norm == "batch":
            raise ValueError(
                'critic_norm "batch" is not for compact networks: choose "none" (with penalties) or "spectral"'
            )
        return self

    @model_validator(mode="after")
    def _has_an_input_that_fits(self) -> Options:
        is_translating = self.architecture in TRANSLATING
        if self.input is None:
            if is_translating or self.feature_matching:
                raise ValueError(
                    f"{self.architecture if is_translating else 'feature_matching'} needs an input: a folder of "
                    f"pictures, or one of {', '.join([*HALVES, *OWN_INPUTS])}"
                )
            return self
        if not is_translating:
            raise ValueError(
                f"architecture {self.architecture} makes pictures from noise, not from an input: choose "
                f"{' or '.join(TRANSLATING)}"
            )
        if self.architecture in ("unet", "cycle") and self.input == "small":
            raise ValueError(
                f"{self.architecture} keeps the size: choose the architecture residual"
            )
        if self.architecture == "cycle" and self.input in (*HALVES, *OWN_INPUTS):
            raise ValueError(
                f"cycle is for pictures that are no pairs, and the input {self.input} makes pairs: name a folder of "
                "the other pictures, or choose the architecture unet"
            )
        if self.conditional or self.augment == "on":
            name = "conditional" if self.conditional else "augment"
            raise ValueError(f"{name} is for pictures from noise, and these are made from an input")
        return self

    @property
    def magnification(self) -> int:
        """By what factor pictures are larger than their inputs."""
        return self.scale if self.input == "small" else 1

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
    direction: Literal["there", "back"] | None = None
    """Of a cycle model: there, from a picture like those of its input folder to one like those of its data; or back.
    None: there."""
    fps: Annotated[float, Field(gt=0, le=60)] = 12
    """Pictures per second of an animation (.webp)."""

"""What can be set about pictures. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genkit.recipe import Settings
from genkit.user_objects import Named

Side = Annotated[int, Field(ge=16, le=1024)]


class Sized(Settings):
    """What has a height and a width."""

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
        """(height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Options(Sized):
    """What is trained."""

    conditional: bool = False
    """Learn each class by its label: sub-folders, or the labels of IDX files and data sets."""
    channels: Literal["auto", 1, 3, 4] = "auto"
    """1 grey, 3 colour, 4 colour and transparency. auto: 4 if every picture has transparent pixels, 1 if all are grey,
    else 3, with what is transparent on white."""
    flip: bool = False
    """Show the critics every picture as it is or mirrored left to right, at random."""
    crop: Annotated[int, Field(ge=0, le=15)] = 0
    """Show the critics every picture moved at random by up to so many pixels each way; the edges are reflected."""
    augment: Literal["auto", "on", "off"] = "auto"
    """Change what the critics see, real and fake alike, differentiably: brightness, saturation, contrast, place, and a
    square cut out (Zhao et al. 2020). Few pictures last longer so; auto: on for fewer than 5,000."""
    latent: Annotated[int, Field(ge=1)] = 100
    """Numbers of noise behind a picture."""
    architecture: Literal["dcgan", "residual"] = "dcgan"
    """The two networks: DCGAN's (Radford et al. 2015), or norm-free residual ones (Huang et al. 2024)."""
    generator: Annotated[str | None, Named()] = None
    """Your own, `module:attribute` of a class built with (options, channels, classes). None: that of `architecture`."""
    critic: Annotated[str | None, Named()] = None
    """The same for the critic."""
    features: Annotated[int, Field(ge=1)] = 64
    """Feature maps next to the picture; they double with every halving of the resolution."""
    features_max: Annotated[int, Field(ge=1)] | None = None
    """Where that doubling ends; None: nowhere."""
    depth: Annotated[int, Field(ge=1)] = 1
    """Blocks at each resolution, for residual networks."""
    expansion: Annotated[float, Field(gt=0)] = 1.0
    """Feature maps within a block over those around it, for residual networks."""
    output_gain: Annotated[float, Field(ge=1, le=2)] = 1.0
    """What a DCGAN generator draws is stretched by this and cut to [-1, 1], for its tanh never quite reaches black and
    white. In training it is not: without that small difference critics learn more slowly at first."""
    critic_norm: Literal["batch", "spectral", "none"] = "batch"
    """What keeps the critic in bounds: BatchNorm (Radford et al. 2015), spectral norm (Miyato et al. 2018), or neither
    (for recipes with a gradient penalty). A residual critic takes spectral or none."""

    @model_validator(mode="after")
    def _has_a_norm_that_fits(self) -> Options:
        if self.architecture == "residual" and self.critic_norm == "batch":
            raise ValueError(
                'critic_norm "batch" is not for residual networks: choose "none" (with penalties) or "spectral"'
            )
        return self


class Controls(Settings):
    """What can be turned when generating."""

    truncation: Annotated[float, Field(gt=0)] | None = None
    """Noise is pressed into [-truncation, truncation]: the smaller, the more typical and the less varied (Brock et al.
    2019, section 3.1). None: it is not."""
    fps: Annotated[float, Field(gt=0, le=60)] = 12
    """Pictures per second of an animation (.webp)."""

"""Options and controls of the video plugin. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genkit.recipe import Settings
from genkit_image.options import Options as PictureOptions
from genkit_image.options import Sized

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=240)]
Seed = Annotated[int, Field(ge=0)]


class Options(Sized):
    """Options of training: data, generator, and critics (the field's discriminators)."""

    frames: Annotated[int, Field(ge=2, le=1024)] = 16
    """Frames of a training clip, the length that critics see."""
    fps: Rate | None = None
    """Frames per second of the clips; None: the rate that most of the data have."""
    cut: Literal["random", "ordered", "start"] = "random"
    """Where a clip begins. random: anywhere; ordered: where the last one ended, so that none overlap; start: at the
    beginning of each video, one clip per video, and stream gets the age of a clip as an input."""
    conditional: bool = False
    """Learn each class by its label; sub-folders are classes, or the labels of tables and data sets."""
    label: str | None = None
    """The column that holds the classes, in a table beside the videos (`metadata.csv`, say) or of a data set; or
    several with commas between them, of which one is 1. None: a column called `label`, or else the sub-folders."""
    channels: Literal["auto", 1, 3] = "auto"
    """1 grey, 3 colour; auto: 1 if all frames that are checked are grey, else 3."""
    architecture: Literal["stream", "tgan", "mocogan"] = "stream"
    """Where motion comes from. stream: convolutions over noise, and waves, for endless clips; tgan: a fixed number of
    codes made at once (Saito et al. 2017); mocogan: a recurrent cell (Tulyakov et al. 2018)."""
    renderer: Literal["dcgan", "residual", "layered"] = "dcgan"
    """The picture networks, and stream's critic of clips. dcgan: DCGAN's, whose features content noise scales and
    shifts in stream; residual: norm-free residual ones; layered: for stream, objects that are drawn once and move over
    a background that is drawn once (after Yang et al. 2017), with the critics of dcgan."""
    objects: Annotated[int, Field(ge=1, le=16)] = 2
    """Objects of the layered renderer."""
    content: Width = 64
    """Noise dimensions for a whole clip."""
    motion: Width = 16
    """Noise dimensions for each moment of a clip."""
    waves: Annotated[int, Field(ge=0)] = 8
    """Sinusoids in the motion of stream, for periodic motion; their frequencies and phases differ from clip to clip."""
    spacing: Width = 8
    """Frames from one block of motion noise to the next, for stream."""
    categories: Annotated[int, Field(ge=0)] = 0
    """Categories that mocogan finds without labels (Chen et al. 2016, arXiv:1606.03657); 0: none."""
    features: Width = 24
    """Feature maps of the picture generator at full resolution; they double with every halving of the resolution."""
    features_max: Width | None = None
    """Upper bound of the feature maps at any resolution, in critics too; None: there is no bound."""
    depth: Width = 1
    """Residual blocks at each resolution, for residual networks."""
    output_gain: Annotated[float, Field(ge=1, le=2)] = 1.06
    """When sampling, frames of stream are multiplied by this and clipped to [-1, 1], but those of residual networks."""
    critic_features: Width = 24
    """Feature maps of the critics after the first halving of the resolution; they double with every further one."""
    critic_norm: Literal["batch", "spectral", "none"] = "none"
    """Normalisation in stream's critics: BatchNorm, spectral norm, or none (for recipes with a gradient penalty). The
    critics of tgan and mocogan have BatchNorm, as published."""
    critic_frames: Annotated[int, Field(ge=0)] = 2
    """Random frames of each clip that a critic of single frames sees; 0: no such critic. tgan never has one."""

    @model_validator(mode="after")
    def _fits_together(self) -> Options:
        if self.architecture == "stream":
            if self.renderer == "residual" and self.critic_norm == "batch":
                raise ValueError(
                    'critic_norm "batch" is not for residual networks: choose "none" or "spectral"'
                )
        elif self.renderer != "dcgan" or self.critic_norm != "batch":
            raise ValueError(
                f'architecture "{self.architecture}" is as published: renderer must be "dcgan" and critic_norm "batch"'
            )
        if self.architecture == "tgan" and (self.frames < 4 or self.frames & (self.frames - 1)):
            raise ValueError(
                f"frames = {self.frames}: tgan makes a power of two, at least 4: choose 16"
            )
        if self.categories and (
            self.architecture != "mocogan" or self.conditional or self.categories == 1
        ):
            raise ValueError(
                f"categories = {self.categories}: two or more, only for mocogan, and not together with conditional=true"
            )
        if self.critic_frames > self.frames:
            raise ValueError(
                f"critic_frames = {self.critic_frames}: a clip has {self.frames} (frames)"
            )
        return self

    def of_pictures(self, features: int, latent: int = 1) -> PictureOptions:
        """Options of the image plugin for a picture network within a network of clips.

        Args:
            features: feature maps at full resolution.
            latent: dimensions of the generator's latent vector.
        """
        return PictureOptions(
            size=self.size,
            latent=latent,
            features=features,
            features_max=self.features_max,
            critic_norm=self.critic_norm,
        )


class Controls(Settings):
    """Controls of generation."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """Length of a clip in seconds; None: as many frames as in training."""
    fps: Rate | None = None
    """Frames per second; None: the rate of the data. A higher rate shows the same motion more smoothly."""
    content_seed: Seed | None = None
    """Seed of the content noise (what is shown), in place of the sample's seed; None: the sample's seed."""
    motion_seed: Seed | None = None
    """Seed of the motion noise (how it moves), in place of the sample's seed; None: the sample's seed."""

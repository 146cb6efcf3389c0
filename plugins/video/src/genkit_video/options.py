"""What can be set about clips. Torch-free."""

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
    """What is trained."""

    frames: Annotated[int, Field(ge=2, le=1024)] = 16
    """Frames of a clip that critics see."""
    fps: Rate | None = None
    """Frames per second at which clips are cut; None: the rate that most of the data have."""
    cut: Literal["random", "ordered", "start"] = "random"
    """random: a clip begins anywhere; ordered: one begins where the last ended, and none is cut twice; start: the
    first of each video alone, and stream is told how long ago that was, for what has a beginning."""
    conditional: bool = False
    """Learn each class by its label: sub-folders."""
    channels: Literal["auto", 1, 3] = "auto"
    """1 grey, 3 colour. auto: 1 if all frames are grey, else 3."""
    architecture: Literal["stream", "tgan", "mocogan"] = "stream"
    """How frames follow one another: stream, without an end, by convolutions over noise and by waves; tgan, a fixed
    number of codes made at once (Saito et al. 2017); mocogan, a recurrent cell (Tulyakov et al. 2018)."""
    renderer: Literal["dcgan", "residual"] = "dcgan"
    """The picture networks, and the clip critic of stream: DCGAN's, whose layers content steers in stream, or norm-free
    residual ones."""
    content: Width = 64
    """Numbers of noise behind a whole clip."""
    motion: Width = 16
    """Numbers of noise behind a moment of it."""
    waves: Annotated[int, Field(ge=0)] = 8
    """Sinusoids in the motion of stream, each clip's with frequencies and phases of its own: what goes to and fro."""
    spacing: Width = 8
    """Frames from one block of motion noise to the next, for stream."""
    categories: Annotated[int, Field(ge=0)] = 0
    """Categories that mocogan finds by itself (Chen et al. 2016, arXiv:1606.03657)."""
    features: Width = 24
    """Feature maps of the picture generator next to the picture; they double with every halving of the resolution."""
    features_max: Width | None = None
    """Where that doubling ends, in critics too; None: nowhere."""
    depth: Width = 1
    """Blocks at each resolution, for residual networks."""
    output_gain: Annotated[float, Field(ge=1, le=2)] = 1.06
    """As for pictures: what a DCGAN renderer of stream draws is stretched by this and cut to [-1, 1]."""
    critic_features: Width = 24
    """Feature maps of the critics next to the frames."""
    critic_norm: Literal["batch", "spectral", "none"] = "none"
    """What keeps stream's critics in bounds: BatchNorm, spectral norm, or neither (for recipes with a gradient
    penalty). Those of tgan and mocogan have BatchNorm, as published."""
    critic_frames: Annotated[int, Field(ge=0)] = 2
    """Frames of each clip, chosen at random, that a critic of single frames judges; 0: there is none. tgan has none."""

    @model_validator(mode="after")
    def _fits_together(self) -> Options:
        if self.architecture == "stream":
            if self.renderer == "residual" and self.critic_norm == "batch":
                raise ValueError(
                    'critic_norm "batch" is not for residual networks: choose "none" or "spectral"'
                )
        elif self.renderer == "residual" or self.critic_norm != "batch":
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
                f"categories = {self.categories}: two or more, for mocogan alone, and not beside conditional=true"
            )
        if self.critic_frames > self.frames:
            raise ValueError(
                f"critic_frames = {self.critic_frames}: a clip has {self.frames} (frames)"
            )
        return self

    def of_pictures(self, features: int, latent: int = 1) -> PictureOptions:
        """The options of a picture network that is part of one for clips."""
        return PictureOptions(
            size=self.size,
            latent=latent,
            architecture=self.renderer,
            features=features,
            features_max=self.features_max,
            depth=self.depth,
            output_gain=self.output_gain if self.architecture == "stream" else 1.0,
            critic_norm=self.critic_norm,
        )


class Controls(Settings):
    """What can be turned when generating."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """How long a clip lasts; None: as many frames as in training."""
    fps: Rate | None = None
    """Frames per second; None: as many as the data have. More of them show the same motion more smoothly."""
    content_seed: Seed | None = None
    """A seed for what is shown, in place of the seed; None: that."""
    motion_seed: Seed | None = None
    """The same for how it moves."""

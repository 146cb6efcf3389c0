"""Manifest of the video plugin. Imports no torch; classes are named by strings and imported when needed."""

from genkit.plugin import Modality, Preset

_ESTIMATOR = {"kind": "pathwise", "reuse_fakes": True}
_LAZY_PENALTY = {"weight": 2.0, "interval": 8}
# Over the last third of the run, whatever its length.
_DECAY = {"end": 1e-4, "delay": 2 / 3, "share": 1 / 3, "shape": "cosine"}
_STREAM = {
    "batch_size": 16,
    "loss": "relativistic",
    "penalties": {"r1": _LAZY_PENALTY, "r2": _LAZY_PENALTY},
    "estimator": _ESTIMATOR,
    "generator": {"learning_rate": {"start": 1e-3, **_DECAY}, "betas": (0.0, 0.99)},
    "critic": {"learning_rate": {"start": 5e-4, **_DECAY}, "betas": (0.0, 0.99)},
    "ema_halflife_items": 20_000,
}
_MOCOGAN_ADAM = {"learning_rate": 2e-4, "betas": (0.5, 0.999), "weight_decay": 1e-5}


def _tgan(rate: float) -> dict[str, object]:
    """The recipe of TGAN at a learning rate. Source: Saito et al. 2017, sections 3.3 and 4.1."""
    optimizer = {"optimizer": "rmsprop", "learning_rate": rate}
    constraint = {"kind": "singular_values", "bound": 1.0, "interval": 5}
    return {
        "batch_size": 32,
        "loss": "wasserstein",
        "estimator": _ESTIMATOR,
        "generator": optimizer,
        "critic": {**optimizer, "constraint": constraint},
        "ema_halflife_items": 0,
    }


modality = Modality(
    id="video",
    title="Clips",
    summary="Clips of any length, trained on videos, animations, folders of frames or arrays; optionally by class.",
    plugin="genkit_video.plugin:VideoPlugin",
    options="genkit_video.options:Options",
    controls="genkit_video.options:Controls",
    media_type="video/mp4",
    formats=("mp4", "webp", "gif", "webm", "png", "zip"),
    preview_formats=("png", "webp"),
    data="builtin:moving",
    models={"moving": "genkit_video:models/moving"},
    presets={
        "stream": Preset(
            summary="Endless clips at any frame rate, narrow networks; relativistic loss, lazy R1 and R2. For a CPU.",
            options={"size": 32, "critic_features": 32},
            recipe=_STREAM,
            run={"items": 120_000},
        ),
        "layered": Preset(
            summary="Things that keep their look while they move, drawn once, over a background that stands still.",
            options={"size": 32, "critic_features": 32, "renderer": "layered"},
            recipe=_STREAM,
            run={"items": 120_000},
        ),
        "tgan-small": Preset(
            summary="A narrow TGAN at 32 x 32 with four times the published learning rate. For a CPU.",
            options={
                "architecture": "tgan",
                "size": 32,
                "content": 100,
                "motion": 100,
                "features": 8,
                "critic_features": 8,
                "critic_norm": "batch",
            },
            recipe=_tgan(2e-4),
            run={"items": 200_000},
        ),
        "tgan": Preset(
            summary="TGAN as published (Saito et al. 2017): Wasserstein loss, singular values clipped, RMSprop 5e-5.",
            options={
                "architecture": "tgan",
                "content": 100,
                "motion": 100,
                "features": 32,
                "critic_features": 64,
                "critic_norm": "batch",
            },
            recipe=_tgan(5e-5),
            run={"items": 3_200_000},
        ),
        "mocogan": Preset(
            summary="MoCoGAN (Tulyakov et al. 2018): separate content and motion, critics of frames and of clips.",
            options={
                "architecture": "mocogan",
                "content": 50,
                "motion": 10,
                "features": 64,
                "critic_features": 64,
                "critic_norm": "batch",
                "critic_frames": 1,
            },
            recipe={
                "batch_size": 32,
                "loss": "non_saturating",
                "estimator": _ESTIMATOR,
                "generator": _MOCOGAN_ADAM,
                "critic": _MOCOGAN_ADAM,
                "terms": {"category": 1.0},
                "ema_halflife_items": 0,
            },
            run={"items": 3_200_000},
        ),
    },
)

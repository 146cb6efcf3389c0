"""Clips for genkit: the manifest. Torch-free; everything heavy is named by strings."""

from genkit.plugin import Modality, Preset

_REUSE = {"kind": "pathwise", "reuse_fakes": True}
_LAZY = {"weight": 2.0, "interval": 8}
_LATE = {"end": 1e-4, "after": 80_000, "items": 40_000, "shape": "cosine"}
_USUAL = {"learning_rate": 2e-4, "betas": (0.5, 0.999), "weight_decay": 1e-5}


def _tgan(rate: float) -> dict[str, object]:
    """Saito et al. 2017, sections 3.3 and 4.1."""
    learner = {"optimizer": "rmsprop", "learning_rate": rate}
    bounded = {"kind": "singular_values", "bound": 1.0, "interval": 5}
    return {
        "batch_size": 32,
        "loss": "wasserstein",
        "estimator": _REUSE,
        "generator": learner,
        "critic": {**learner, "constraint": bounded},
        "ema_halflife_items": 0,
    }


modality = Modality(
    id="video",
    title="Clips",
    summary="Clips from videos, animations, folders of frames or arrays; of any length; class-conditional if asked.",
    plugin="genkit_video.plugin:VideoPlugin",
    options="genkit_video.options:Options",
    controls="genkit_video.options:Controls",
    media_type="video/mp4",
    formats=("mp4", "webp", "gif", "webm", "png", "zip"),
    preview_formats=("png", "webp"),
    data="builtin:moving",
    presets={
        "stream": Preset(
            summary="Clips without an end, at any frame rate; relativistic loss, lazy R1 and R2: narrow, for a CPU.",
            options={"size": 32, "critic_features": 32},
            recipe={
                "batch_size": 16,
                "loss": "relativistic",
                "penalties": {"r1": _LAZY, "r2": _LAZY},
                "estimator": _REUSE,
                "generator": {"learning_rate": {"start": 1e-3, **_LATE}, "betas": (0.0, 0.99)},
                "critic": {"learning_rate": {"start": 5e-4, **_LATE}, "betas": (0.0, 0.99)},
                "ema_halflife_items": 20_000,
            },
            run={"items": 120_000},
        ),
        "tgan-small": Preset(
            summary="A narrow TGAN at 32 x 32 that learns four times as fast: for a CPU.",
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
            summary="MoCoGAN (Tulyakov et al. 2018): content and motion apart, critics of frames and of clips.",
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
                "estimator": _REUSE,
                "generator": _USUAL,
                "critic": _USUAL,
                "terms": {"category": 1.0},
                "ema_halflife_items": 0,
            },
            run={"items": 3_200_000},
        ),
    },
)

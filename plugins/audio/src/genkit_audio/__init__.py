"""Sound for genkit: the manifest. Torch-free; everything heavy is named by strings."""

from genkit.plugin import Modality, Preset

_LAZY = {"weight": 0.1, "interval": 8}
_ADAM = {"learning_rate": 5e-4, "betas": (0.0, 0.99)}
_PUBLISHED = {"learning_rate": 1e-4, "betas": (0.5, 0.9)}

_QUICK = {
    "batch_size": 16,
    "loss": "relativistic",
    "penalties": {"r1": _LAZY, "r2": _LAZY},
    "estimator": {"kind": "pathwise", "reuse_fakes": True},
    "generator": _ADAM,
    "critic": _ADAM,
    "ema_halflife_items": 10_000,
}

_TOLD = {"optimizer": "adamw", "betas": (0.8, 0.99), "weight_decay": 0.01}
_RISING = {"start": 1e-5, "end": 1e-3, "items": 1_000}
_FALLING = {"start": 5e-4, "end": 1e-4, "items": 20_000, "after": 24_000, "shape": "cosine"}

modality = Modality(
    id="audio",
    title="Sounds",
    summary="Sounds from audio files or arrays, a window at once or without an end, by class or by spectrum.",
    plugin="genkit_audio.plugin:AudioPlugin",
    options="genkit_audio.options:Options",
    controls="genkit_audio.options:Controls",
    media_type="audio/wav",
    formats=("wav", "flac", "ogg", "mp3"),
    preview_formats=("png",),
    data="builtin:drums",
    presets={
        "wavegan-small": Preset(
            summary="A narrow WaveGAN and a critic of spectra; relativistic loss, lazy R1 and R2: for a CPU.",
            options={"augment": 1.0, "normalize": "peak"},
            recipe=_QUICK,
            run={"items": 30_000},
        ),
        "stream": Preset(
            summary="Sounds without an end, by WaveGAN's convolutions over noise; the same critics and losses.",
            options={"architecture": "stream"},
            recipe=_QUICK,
            run={"items": 50_000},
        ),
        "vocoder": Preset(
            summary="From log-mel spectra back to waves, for a CPU; the critics and losses of HiFi-GAN.",
            options={
                "architecture": "vocoder",
                "samples": 8192,
                "augment": 1.0,
                "critics": "periods",
                "critic_features": 8,
            },
            recipe={
                "batch_size": 16,
                "loss": "least_squares",
                "stages": [
                    {"kind": "pretrain", "items": 24_000, "generator": {"learning_rate": _RISING}},
                    {"kind": "game"},
                ],
                "generator": {**_TOLD, "learning_rate": _FALLING},
                # LSGAN's losses have a half here that HiFi-GAN's have not.
                "critic": {**_TOLD, "learning_rate": 2e-4, "weight": 2.0},
                "terms": {"mel": 45.0, "features": 2.0},
                "estimator": {"kind": "pathwise", "reuse_fakes": True},
                "ema_halflife_items": 2_000,
            },
            run={"items": 44_000},
        ),
        "wavegan": Preset(
            summary="WaveGAN as published (Donahue et al. 2019): phase shuffle, WGAN-GP, five critic steps to one.",
            options={"features": 64, "critic_features": 64, "critics": "wave"},
            recipe={
                "batch_size": 64,
                "loss": "wasserstein",
                "penalties": {"wgan_gp": {"weight": 10.0}},
                "generator": _PUBLISHED,
                "critic": {**_PUBLISHED, "steps": 5},
                "ema_halflife_items": 0,
            },
            run={"items": 64_000_000},
        ),
    },
)

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

modality = Modality(
    id="audio",
    title="Sounds",
    summary="Sounds from audio files or arrays, a window at once or without an end; class-conditional if asked.",
    plugin="genkit_audio.plugin:AudioPlugin",
    options="genkit_audio.options:Options",
    controls="genkit_audio.options:Controls",
    media_type="audio/wav",
    formats=("wav", "flac", "ogg", "mp3"),
    sheets=("png",),
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

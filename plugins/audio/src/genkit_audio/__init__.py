"""Manifest of the audio plugin. Imports no torch; classes are named by strings and imported when needed."""

from genkit.plugin import Modality, Preset

_LAZY_PENALTY = {"weight": 0.1, "interval": 8}
_ADAM = {"learning_rate": 5e-4, "betas": (0.0, 0.99)}
_WAVEGAN_ADAM = {"learning_rate": 1e-4, "betas": (0.5, 0.9)}

_CPU_RECIPE = {
    "batch_size": 16,
    "loss": "relativistic",
    "penalties": {"r1": _LAZY_PENALTY, "r2": _LAZY_PENALTY},
    "estimator": {"kind": "pathwise", "reuse_fakes": True},
    "generator": _ADAM,
    "critic": _ADAM,
    "ema_halflife_items": 10_000,
}

_VOCODER_ADAMW = {"optimizer": "adamw", "betas": (0.8, 0.99), "weight_decay": 0.01}
_WARMUP = {"start": 1e-5, "end": 1e-3, "items": 1_000}
_DECAY = {"start": 5e-4, "end": 1e-4, "items": 20_000, "delay": 24_000, "shape": "cosine"}

modality = Modality(
    id="audio",
    title="Sounds",
    summary="Sounds, trained on audio files or arrays: fixed windows, endless streams, or a vocoder of mel spectra.",
    plugin="genkit_audio.plugin:AudioPlugin",
    options="genkit_audio.options:Options",
    controls="genkit_audio.options:Controls",
    media_type="audio/wav",
    formats=("wav", "flac", "ogg", "mp3"),
    preview_formats=("png",),
    data="builtin:drums",
    models={"drums": "genkit_audio:models/drums"},
    presets={
        "wavegan-small": Preset(
            summary="A narrow WaveGAN, critics of wave and spectra; relativistic loss, lazy R1 and R2. For a CPU.",
            options={"augment": 1.0, "normalize": "peak"},
            recipe=_CPU_RECIPE,
            run={"items": 30_000},
        ),
        "stream": Preset(
            summary="Endless sounds: WaveGAN's convolutions over noise, with the critics and losses of wavegan-small.",
            options={"architecture": "stream"},
            recipe=_CPU_RECIPE,
            run={"items": 50_000},
        ),
        "vae-gan": Preset(
            summary="wavegan-small with an encoder, compared by the critics' features (Larsen et al. 2016).",
            options={"normalize": "peak", "encoder": True},
            recipe={
                **_CPU_RECIPE,
                "terms": {"prior": 1.0, "values": 0.25, "likeness": 1.0},
                "stages": [{"kind": "pretrain", "items": 10_000}, {"kind": "game"}],
            },
            run={"items": 40_000},
        ),
        "vocoder": Preset(
            summary="Log-mel spectra to waves, with the critics and losses of HiFi-GAN. For a CPU.",
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
                    {"kind": "pretrain", "items": 24_000, "generator": {"learning_rate": _WARMUP}},
                    {"kind": "game"},
                ],
                "generator": {**_VOCODER_ADAMW, "learning_rate": _DECAY},
                # genkit's least-squares loss has a factor 1/2 that HiFi-GAN's has not; weight 2 cancels it.
                "critic": {**_VOCODER_ADAMW, "learning_rate": 2e-4, "weight": 2.0},
                "terms": {"mel": 45.0, "features": 2.0},
                "estimator": {"kind": "pathwise", "reuse_fakes": True},
                "ema_halflife_items": 2_000,
            },
            run={"items": 44_000},
        ),
        "wavegan": Preset(
            summary="WaveGAN as published (Donahue et al. 2019): phase shuffle, WGAN-GP, 5 critic updates to 1.",
            options={"features": 64, "critic_features": 64, "critics": "wave"},
            recipe={
                "batch_size": 64,
                "loss": "wasserstein",
                "penalties": {"wgan_gp": {"weight": 10.0}},
                "generator": _WAVEGAN_ADAM,
                "critic": {**_WAVEGAN_ADAM, "steps": 5},
                "ema_halflife_items": 0,
            },
            run={"items": 64_000_000},
        ),
    },
)

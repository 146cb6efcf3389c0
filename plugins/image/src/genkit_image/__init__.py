"""Pictures for genkit: the manifest. Torch-free; everything heavy is named by strings."""

from genkit.plugin import Modality, Preset

_CAN = frozenset({"condition", "sheet"})

modality = Modality(
    id="image",
    title="Pictures",
    summary="Grey or colour pictures from a folder, IDX files or arrays; class-conditional if asked.",
    plugin="genkit_image.plugin:ImagePlugin",
    options="genkit_image.options:Options",
    media_type="image/png",
    formats=("png",),
    sheets=("png",),
    data="builtin:fashion",
    presets={
        "dcgan-small": Preset(
            summary="A narrow DCGAN with spectral norm, hinge loss and averaged weights: minutes on a CPU.",
            options={"size": 32, "features": 32, "latent": 64, "critic_norm": "spectral"},
            recipe={
                "batch_size": 64,
                "loss": "hinge",
                "generator": {"learning_rate": 2e-3, "betas": (0.0, 0.99)},
                "critic": {"learning_rate": 2e-3, "betas": (0.0, 0.99)},
                "ema_halflife_items": 20_000,
            },
            run={"items": 300_000},
            capabilities=_CAN,
        ),
        "dcgan": Preset(
            summary="DCGAN as published (Radford et al. 2015): 64 x 64, BatchNorm in both, Adam 2e-4, batch 128.",
            options={"size": 64, "features": 64, "latent": 100, "critic_norm": "batch"},
            recipe={
                "batch_size": 128,
                "loss": "non_saturating",
                "generator": {"learning_rate": 2e-4, "betas": (0.5, 0.999)},
                "critic": {"learning_rate": 2e-4, "betas": (0.5, 0.999)},
                "ema_halflife_items": 0,
            },
            run={"items": 2_000_000},
            capabilities=_CAN,
        ),
    },
)

"""The manifest of the image plugin. Imports no torch: networks and options are named by `"module:Class"` strings."""

from genkit.plugin import Modality, Preset

_PATHWISE_ESTIMATOR = {"kind": "pathwise", "reuse_fakes": True}
_PUBLISHED_ADAM = {"learning_rate": 2e-4, "betas": (0.5, 0.999)}  # of DCGAN and pix2pix
_CYCLE_ADAM = {
    "learning_rate": {"start": 2e-4, "end": 0.0, "delay": 0.5, "share": 0.5},
    "betas": (0.5, 0.999),
}

# Constant for most of the run, then down to a twentieth: at any length of the run its last part refines.
_FALLING_RATE = {"start": 2e-3, "end": 1e-4, "delay": 0.7, "share": 0.3}
_FALLING_TRANSLATION_RATE = {"start": 1e-3, "end": 5e-5, "delay": 0.5, "share": 0.5}
_TRANSLATION_OPTIONS = {
    "size": 64,
    "architecture": "unet",
    "features": 32,
    "critic_norm": "spectral",
    "flip": True,
}
_TRANSLATION_RECIPE = {
    "batch_size": 16,
    "loss": "hinge",
    "estimator": _PATHWISE_ESTIMATOR,
    "generator": {"learning_rate": _FALLING_TRANSLATION_RATE, "betas": (0.5, 0.999)},
    "critic": {"learning_rate": _FALLING_TRANSLATION_RATE, "betas": (0.5, 0.999)},
    "terms": {"l1": 30.0},
    "ema_halflife_items": 2_000,
}
_COMPACT_OPTIONS = {
    "size": 32,
    "architecture": "compact",
    "features": 32,
    "features_max": 256,
    "latent": 64,
    "critic_norm": "spectral",
    "spectrum": True,
}
_COMPACT_RECIPE = {
    "batch_size": 64,
    "loss": "hinge",
    "augmentation": {"target": 0.3},
    "estimator": _PATHWISE_ESTIMATOR,
    "generator": {"learning_rate": _FALLING_RATE, "betas": (0.0, 0.99)},
    "critic": {"learning_rate": _FALLING_RATE, "betas": (0.0, 0.99)},
    "ema_halflife_items": 10_000,
}
_SLOWER = {
    "learning_rate": {**_FALLING_RATE, "start": 1e-3},
    "betas": (0.0, 0.99),
}  # an encoder diverges at 2e-3
_ENCODER_TERMS = {"prior": 1.0, "values": 0.25, "likeness": 1.0}

modality = Modality(
    id="image",
    title="Pictures",
    summary="Pictures from folders, zip files, IDX files, arrays or data sets; class-conditional if asked.",
    plugin="genkit_image.plugin:ImagePlugin",
    options="genkit_image.options:Options",
    controls="genkit_image.options:Controls",
    media_type="image/png",
    pipeline_tag="unconditional-image-generation",
    formats=("png",),
    preview_formats=("png", "webp"),
    data="builtin:fashion",
    models={
        "garments": "genkit_image:models/garments",
        "classes": "genkit_image:models/classes",
    },
    presets={
        "projected": Preset(
            summary="The networks of compact, and a second critic on features of a pretrained network (Projected GAN).",
            options={**_COMPACT_OPTIONS, "pretrained_critic": "lite0"},
            recipe=_COMPACT_RECIPE,
            run={"items": 120_000},
        ),
        "compact": Preset(
            summary="Small networks without checkerboards, spectral norm, hinge loss; nothing pretrained.",
            options=_COMPACT_OPTIONS,
            recipe=_COMPACT_RECIPE,
            run={"items": 300_000},
        ),
        "vae-gan": Preset(
            summary="The networks of compact with an encoder, compared by the critic's features (Larsen et al. 2016).",
            options={**_COMPACT_OPTIONS, "encoder": True},
            recipe={
                **_COMPACT_RECIPE,
                "generator": _SLOWER,
                "terms": _ENCODER_TERMS,
                "stages": [{"kind": "pretrain", "items": 30_000}, {"kind": "game"}],
            },
            run={"items": 300_000},
        ),
        "vae": Preset(
            summary="The networks of vae-gan, trained on the evidence bound alone (a VAE); no critic learns.",
            options={**_COMPACT_OPTIONS, "encoder": True, "spectrum": False},
            recipe={
                **_COMPACT_RECIPE,
                "augmentation": None,
                "generator": {**_SLOWER, "betas": (0.9, 0.99)},
                "stages": [{"kind": "pretrain"}],
            },
            run={"items": 300_000},
        ),
        "dcgan": Preset(
            summary="DCGAN as published (Radford et al. 2015): 64 x 64, BatchNorm in both, Adam 2e-4, batch 128.",
            options={"size": 64, "features": 64, "latent": 100, "critic_norm": "batch"},
            recipe={
                "batch_size": 128,
                "loss": "non_saturating",
                "estimator": _PATHWISE_ESTIMATOR,
                "generator": _PUBLISHED_ADAM,
                "critic": _PUBLISHED_ADAM,
                "ema_halflife_items": 0,
            },
            run={"items": 2_000_000},
        ),
        "translate": Preset(
            summary="Pictures from pictures in minutes: a U-Net, spectral norm, hinge loss, L1, falling rates.",
            options={**_TRANSLATION_OPTIONS, "input": "edges", "spectrum": True},
            recipe=_TRANSLATION_RECIPE,
            run={"items": 200_000},
        ),
        "pix2pix": Preset(
            summary="Pictures from pictures (Isola et al. 2017): a U-Net, a critic of patches, L1 of weight 100.",
            options={
                "size": 256,
                "architecture": "unet",
                "input": "edges",
                "features": 64,
                "flip": True,
            },
            recipe={
                "batch_size": 16,
                "loss": "non_saturating",
                "estimator": _PATHWISE_ESTIMATOR,
                "generator": _PUBLISHED_ADAM,
                "critic": _PUBLISHED_ADAM,
                "terms": {"l1": 100.0},
                "ema_halflife_items": 2_000,
            },
            run={"items": 200_000},
        ),
        "upscale": Preset(
            summary="Larger pictures from small ones: a residual network, L1, features of a critic of patches.",
            options={
                "size": 64,
                "architecture": "residual",
                "input": "small",
                "features": 32,
                "blocks": 6,
                "critic_norm": "spectral",
                "feature_matching": True,
                "windows": True,
                "flip": True,
            },
            recipe={
                "batch_size": 16,
                "loss": "relativistic",
                "estimator": _PATHWISE_ESTIMATOR,
                "generator": {"learning_rate": _FALLING_TRANSLATION_RATE, "betas": (0.5, 0.999)},
                "critic": {"learning_rate": 2e-4, "betas": (0.5, 0.999), "weight": 0.05},
                "terms": {"l1": 10.0, "features": 1.0},
                "ema_halflife_items": 2_000,
            },
            run={"items": 100_000},
        ),
        "inpaint": Preset(
            summary="Holes filled in: the preset translate on pictures with a rectangle cut out.",
            options={**_TRANSLATION_OPTIONS, "input": "masked"},
            recipe=_TRANSLATION_RECIPE,
            run={"items": 200_000},
        ),
        "cyclegan": Preset(
            summary="Both ways between two folders of pictures that are no pairs (Zhu et al. 2017).",
            options={
                "size": 128,
                "architecture": "cycle",
                "input": "others/",
                "features": 32,
                "blocks": 6,
                "critic_norm": "spectral",
                "flip": True,
            },
            recipe={
                "batch_size": 8,
                "loss": "least_squares",
                "estimator": _PATHWISE_ESTIMATOR,
                "generator": _CYCLE_ADAM,
                "critic": {**_CYCLE_ADAM, "pool": 50},
                "terms": {"cycle": 10.0, "identity": 5.0},
                "ema_halflife_items": 2_000,
            },
            run={"items": 200_000},
        ),
    },
)

"""The contract, kept: plain, and conditional with everything that can be changed about pictures, and encoded."""

import pytest

from genkit.testing import ModalityConformance, check_modality


class TestPlain(ModalityConformance):
    modality = "image"
    options = {"size": 16, "features": 4}
    minimum = 25


class TestConditional(ModalityConformance):
    modality = "image"
    preset = "compact"
    options = {
        "size": 16,
        "features": 4,
        "conditional": True,
        "augment": "on",
        "flip": True,
        "crop": 2,
    }
    minimum = 25


OWN_CHECKS = {
    "vae-gan": ["infer_finds_noise", "pretrain_loss_learns"],
    "translate": [
        "conditions_matter",
        "pretrain_loss_learns",
        "resume_equals_uninterrupted",
        "unroll_is_one_sample",
    ],
}
"""What a preset asks of the contract that others do not, beside COMMON_CHECKS."""
COMMON_CHECKS = [
    "training_is_finite_and_moves_all",
    "gradients_stay_separate",
    "rows_stand_alone",
    "terms_are_scalars",
]


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("vae-gan", {"conditional": True}),
        ("translate", {"input": "grey", "feature_matching": True}),
    ],
)
def test_other_networks_keep_what_they_touch(preset, options):
    names = [*COMMON_CHECKS, *OWN_CHECKS[preset]]
    options = {"size": 16, "features": 4, **options}
    report = check_modality("image", preset, options=options, only=names, minimum=len(names))
    assert report.ok, str(report)
    assert report.applied == len(names)

"""Clips keep the contract, as anybody's modality does."""

from genkit.testing.conformance import ModalityConformance

SMALL = {"size": 16, "content": 8, "motion": 8, "features": 4, "critic_features": 4}


class TestStream(ModalityConformance):
    modality = "genkit_video:modality"
    options = {**SMALL, "frames": 6, "spacing": 4}


class TestTgan(ModalityConformance):
    modality = "genkit_video:modality"
    preset = "tgan-small"
    options = {**SMALL, "frames": 8}


class TestMocogan(ModalityConformance):
    modality = "genkit_video:modality"
    preset = "mocogan"
    options = {**SMALL, "frames": 8, "categories": 3}

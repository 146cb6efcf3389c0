"""The contract, kept: plain, and conditional with everything that can be changed about pictures, and encoded."""

from genkit.testing import ModalityConformance


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


class TestEncoded(ModalityConformance):
    modality = "image"
    preset = "vae-gan"
    options = {"size": 16, "features": 4, "conditional": True}
    minimum = 27

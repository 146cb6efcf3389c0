"""Sounds keep the contract, as anybody's modality does."""

from genkit.testing import ModalityConformance

SMALL = {"samples": 1024, "content": 8, "features": 4, "critic_features": 4, "spectrum_features": 2}


class TestWaveganSmall(ModalityConformance):
    modality = "genkit_audio:modality"
    options = SMALL


class TestStream(ModalityConformance):
    modality = "genkit_audio:modality"
    preset = "stream"
    options = {**SMALL, "texture": 4, "hop": 64, "conditional": True}


class TestWavegan(ModalityConformance):
    modality = "genkit_audio:modality"
    preset = "wavegan"
    options = {**SMALL, "samples": 2048}


class TestEncoded(ModalityConformance):
    modality = "genkit_audio:modality"
    preset = "vae-gan"
    options = {**SMALL, "conditional": True}


class TestVocoder(ModalityConformance):
    modality = "genkit_audio:modality"
    preset = "vocoder"
    options = {
        "samples": 1024,
        "mels": 16,
        "width": 8,
        "blocks": 1,
        "corrections": 1,
        "critic_features": 2,
    }

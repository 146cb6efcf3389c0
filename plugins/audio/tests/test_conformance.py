"""Sounds keep the contract, as anybody's modality does."""

from genkit.testing import ModalityConformance, check_modality

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


def test_an_encoded_wavegan_keeps_what_an_encoder_touches():
    names = [
        "training_is_finite_and_moves_all",
        "gradients_stay_separate",
        "rows_stand_alone",
        "terms_are_scalars",
        "pretrain_loss_learns",
        "infer_finds_noise",
    ]
    options = {**SMALL, "conditional": True}
    modality = "genkit_audio:modality"
    report = check_modality(modality, "vae-gan", options=options, only=names, minimum=len(names))
    assert report.ok, str(report)
    assert report.applied == len(names)

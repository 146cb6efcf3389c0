"""Clips keep the contract, as anybody's modality does."""

import numpy as np
import pytest

from genkit.testing import ModalityConformance
from genkit_video import features
from genkit_video.moving import Moving

SMALL = {"size": 16, "content": 8, "motion": 8, "features": 2, "critic_features": 2}


class FewClips(ModalityConformance):
    """Twenty clips in memory: each game compares its samples with up to 4,096 real ones, which are made one by one."""

    modality = "genkit_video:modality"

    @pytest.fixture(autouse=True)
    def _train_shortly(self, monkeypatch):
        """The network that is trained on the spot is a function after any training; see test_evaluation.py."""
        monkeypatch.setattr(features, "STEPS", 2)

    def source(self, tmp_path):
        moving = Moving((16, 16))
        return np.stack([moving.clip(number)[..., None] for number in range(20)])


class TestStream(FewClips):
    options = {**SMALL, "frames": 6, "spacing": 4}


class OtherNetworks(FewClips):
    """Other networks of the same plugin, which evaluates the clips of all alike: TestStream asks how."""

    test_feature_networks_are_functions = None
    test_measures_are_numbers = None


class TestLayered(OtherNetworks):
    preset = "layered"
    options = {**SMALL, "frames": 6, "spacing": 4}


class TestTgan(OtherNetworks):
    preset = "tgan-small"
    options = {**SMALL, "frames": 8}


class TestMocogan(OtherNetworks):
    preset = "mocogan"
    options = {**SMALL, "frames": 8, "categories": 3}

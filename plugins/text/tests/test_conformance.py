"""The contract, kept: an LSTM scored step by step, one with prompts whose rollouts are scored, a pretrained model."""

import json

import pytest
from language_models import write_language_model

from genkit.testing import ModalityConformance

SMALL = {"embedding": 8, "hidden": 8, "critic_embedding": 8, "critic_hidden": 8}
LINES = [
    "the king said unto him",
    "go and see",
    "what hast thou done",
    "and the people went out",
    "see thou do it",
]


class TestPlain(ModalityConformance):
    modality = "text"
    data = LINES
    options = SMALL
    minimum = 30


class TestPrompted(ModalityConformance):
    modality = "text"
    preset = "seqgan"
    options = {**SMALL, "prompt_field": "prompt"}
    minimum = 30

    def source(self, tmp_path):
        rows = [{"prompt": line.split()[0], "text": line} for line in LINES]
        path = tmp_path / "lines.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path


@pytest.mark.slow
class TestPretrained(ModalityConformance):
    """A causal language model as Hugging Face writes it, tiny and on disk: nothing is fetched."""

    modality = "text"
    preset = "lm"
    minimum = 30

    def source(self, tmp_path):
        folder = write_language_model(tmp_path / "model", LINES)
        type(self).options = {"pretrained": str(folder)}
        return LINES

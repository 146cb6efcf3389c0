"""What genkit expects of every modality."""

from genkit.testing import ModalityConformance


class TestConformance(ModalityConformance):
    """Everything that genkit relies on; a failure says what to do."""

    modality = "tabular_gan:modality"

"""The contract between genkit and a modality: what a plugin declares, and what passes between it and the engine.

Torch-free at import: a manifest must cost nothing to read. Knows no modality, no file, no loss.

Shape letters, used in every docstring of genkit:

    B batch    Z latent    C channels    L steps    V symbols    P logits per sample    F features

`*event` is the shape of one sample without its batch axis. A plugin adds letters of its own (H W pixels, T frames).

    manifest    what a plugin declares: Modality, Preset, Facts, Conditions
    datasets    data sets of a modality
    networks    what passes between its networks and the engine: Noise, Sample, Critique, Networks, what a generator is
    evaluation  what a plugin adds to evaluation: FeatureNetwork, Evidence
    modality    its class, ModalityPlugin
"""

from genkit.plugin.datasets import BatchedDataset, Dataset, RandomDataset, Remark, Skipped
from genkit.plugin.evaluation import Evidence, FeatureNetwork
from genkit.plugin.manifest import Conditions, Facts, Modality, Preset
from genkit.plugin.modality import (
    CAPABILITIES,
    GENERATOR_CAPABILITIES,
    PLUGIN_CAPABILITIES,
    ModalityPlugin,
    capabilities_of,
    class_numbers,
)
from genkit.plugin.networks import (
    Critique,
    Generator,
    Networks,
    Noise,
    Posterior,
    Sample,
    Stepwise,
    Unrolling,
    full_precision,
)

API = (1, 0)
"""Version of this contract. The major is part of the entry-point group, so it is readable without an import."""

ENTRY_POINT_GROUP = f"genkit.modality.v{API[0]}"

__all__ = [
    "API",
    "CAPABILITIES",
    "ENTRY_POINT_GROUP",
    "GENERATOR_CAPABILITIES",
    "PLUGIN_CAPABILITIES",
    "BatchedDataset",
    "Conditions",
    "Critique",
    "Dataset",
    "Evidence",
    "Facts",
    "FeatureNetwork",
    "Generator",
    "Modality",
    "ModalityPlugin",
    "Networks",
    "Noise",
    "Posterior",
    "Preset",
    "RandomDataset",
    "Remark",
    "Sample",
    "Skipped",
    "Stepwise",
    "Unrolling",
    "capabilities_of",
    "class_numbers",
    "full_precision",
]

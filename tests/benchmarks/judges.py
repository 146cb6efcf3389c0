"""What pictures are judged by: several judges that disagree usefully, so that no recipe is fitted to one of them.

    fd-lite0     Frechet distance over EfficientNet-lite0 (ImageNet) at 64 x 64
    fd-random    the same over a convolutional network with fixed random weights
    fd-nsfw      the same over a network trained on photographs, where it is installed (see open_nsfw.py)
    fd-classes   the same over garments-cnn, for garments alone (see garments.py)
    coverage     share of real pictures with a sample among their 5 nearest neighbours' distance, over lite0; density
                 likewise counts samples (Naeem et al. 2020, arXiv:2002.09797)
    copies       share of samples that lie nearer to a real picture, over lite0, than the nearest hundredth of real
                 pictures to another one; real pictures that no model has seen have about 0.01
    spectrum     mean power spectrum of the samples against that of real pictures, in dB: mean and worst over all
                 frequencies, and on the lattices of a stride-2 and a stride-4 upsampler (rows and columns N/2 and N/4)

None of the distances is an FID, and each is comparable only with figures of the same judge and number of pictures.
`genkit evaluate` has the same judges, with intervals; here they look at samples that no model folder holds.

Shape letters: N pictures, C channels, H W pixels, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import open_nsfw
from torch import Tensor

from genkit.kit.distances import frechet, memorised, neighbourhoods
from genkit.plugin import Sample
from genkit_image import features
from genkit_image.measures import power, spectra
from genkit_image.pictures import to_pixels

Features = Callable[[Tensor], Tensor]
CLOUD = 4000


class Panel:
    """All judges of one set of real pictures.

    Args:
        real: [N, C, H, W] in [-1, 1].
        others: further judges by name, such as a classifier's features.
    """

    def __init__(self, real: Tensor, others: Mapping[str, Features] | None = None) -> None:
        self.real = real
        networks = features.networks({})
        self.judges = {name: judge_of(network) for name, network in networks.items()}
        if open_nsfw.is_installed():
            self.judges["nsfw"] = open_nsfw.features
        self.judges |= others or {}
        self.reference = {name: judge(real) for name, judge in self.judges.items()}
        self.spectrum = power(to_pixels(real) / 255)

    def figures(self, samples: Tensor) -> dict[str, float]:
        """Everything that is measured of samples [N, C, H, W] in [-1, 1]."""
        clouds = {name: judge(samples) for name, judge in self.judges.items()}
        row = {f"fd-{name}": frechet(cloud, self.reference[name]) for name, cloud in clouds.items()}
        cloud, real = clouds["lite0"][:CLOUD], self.reference["lite0"][:CLOUD]
        around = neighbourhoods(cloud, real)
        row |= {"density": around.density.mean(), "coverage": around.coverage.mean()}
        row["copies"] = memorised(cloud, real).mean()
        gaps = spectra(power(to_pixels(samples) / 255), self.spectrum)
        names = {"mean": "mean", "worst": "worst", "stride2": "stride 2", "stride4": "stride 4"}
        return row | {f"dB {name}": gaps[f"spectrum_{key}_db"] for key, name in names.items()}


def judge_of(network) -> Features:
    """The features of a network of the plugin, of pictures [N, C, H, W] in [-1, 1]."""
    return lambda x: network.features(Sample(x))

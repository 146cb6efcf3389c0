"""What the quality benchmarks share: a classifier of garments, and the Fréchet distance over its features.

"garments-cnn" (five convolutions, 128 features, two linear layers) learns the 60,000 labelled training pictures of
Fashion-MNIST and is measured on its 10,000 test pictures. Nothing of it is ever used in training a model. A distance
over its features is no FID, and comparable only with figures of the same classifier file.

    python tests/benchmarks/garments.py --data FASHION_MNIST_FOLDER --classifier garments-cnn.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genkit.kit.distances import frechet
from genkit_image.options import Options
from genkit_image.pictures import CheckedPictures, Pictures
from genkit_image.sources import open_source

CLASSES = 10


class Judge:
    """A classifier of garments at 32 x 32.

    Args:
        data: the folder of Fashion-MNIST's four files.
        file: where the classifier is, or will be.
    """

    def __init__(self, data: str, file: str) -> None:
        self.learn, self.held = pictures(data), pictures(f"{data}/t10k-images-idx3-ubyte.gz")
        self.network = network()
        if not Path(file).exists():
            train(self.network, self.learn)
            weights = self.network.state_dict()
            save_file({name: weight.contiguous() for name, weight in weights.items()}, file)
        self.network.load_state_dict(load_file(file))
        self.network.eval()
        x, labels = whole(self.held)
        _, classes = self.features(x)
        self.accuracy = (classes == labels).float().mean().item()
        self.reference = self.features(whole(self.learn)[0])[0]
        self.real = frechet(self.features(x)[0], self.reference)

    @torch.no_grad()
    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(features [N, 128], classes [N])."""
        found = [self.network[:-1](part) for part in x.split(500)]
        return torch.cat(found), torch.cat([self.network[-1](part).argmax(1) for part in found])

    def distance(self, draw: Callable[[int], Tensor], count: int = 10_000) -> tuple[float, int]:
        """(Fréchet distance of `count` samples to the 60,000 training pictures, classes that hold at least 1 %)."""
        features, classes = self.features(draw(count))
        held = (torch.bincount(classes, minlength=CLASSES) >= count / 100).sum()
        return frechet(features, self.reference), int(held)


def features(file: str) -> Callable[[Tensor], Tensor]:
    """The features of a classifier's file: pictures [N, 1, 32, 32] -> [N, 128]."""
    classifier = network()
    classifier.load_state_dict(load_file(file))
    classifier.eval()

    @torch.no_grad()
    def of(x: Tensor) -> Tensor:
        return torch.cat([classifier[:-1](part) for part in x.split(500)])

    return of


def pictures(source: str) -> Pictures:
    """Labelled pictures at 32 x 32."""
    options = Options(size=32, conditional=True)
    checked = CheckedPictures(open_source(source), options)
    return Pictures(checked, options, 1, checked.classes.names)


def whole(data: Pictures) -> tuple[Tensor, Tensor]:
    """(x [N, 1, 32, 32], labels [N])."""
    sample = data.__getitems__(list(range(len(data))))
    return sample.x, sample.condition


def network() -> nn.Sequential:
    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *(*layer(1, 32), *layer(32, 32), nn.MaxPool2d(2)),
        *(*layer(32, 64), *layer(64, 64), nn.MaxPool2d(2)),
        *(*layer(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)),
        *(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    ).to(memory_format=torch.channels_last)


def train(classifier: nn.Module, data: Pictures, epochs: int = 5, batch: int = 128) -> None:
    torch.manual_seed(0)
    x, labels = whole(data)
    steps = epochs * len(x) // batch
    optimizer = torch.optim.AdamW(classifier.parameters(), 3e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,))
        seen = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x[rows].flip(3), x[rows])
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(classifier(seen).float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--classifier", default="garments-cnn.safetensors")
    arguments = parser.parse_args()
    judge = Judge(arguments.data, arguments.classifier)
    print(f"garments-cnn: {judge.accuracy:.1%} of 10,000 test pictures right")
    print(
        f"Frechet distance of the 10,000 test pictures to the 60,000 training ones: {judge.real:.3f}"
    )


if __name__ == "__main__":
    main()

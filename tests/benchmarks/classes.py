"""Which classes of garment a model makes: 1,000 samples sorted by a classifier trained here on real pictures.

    python tests/benchmarks/classes.py runs/demo [--samples 1000]

The classifier ("classes-cnn": two convolutions, two linear layers) learns from 8,000 of the built-in pictures and is
measured on the other 2,000; nothing of it is ever used in training a model.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import genkit
from genkit.discovery.registry import load
from genkit.sampling.opening import open_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    model = open_model(arguments.model, "cpu")
    size = tuple(model.generate(1).x.shape[2:])
    classifier, accuracy, names = train_classifier(model, size)
    print(f"classes-cnn: {accuracy:.1%} of 2,000 held-out real pictures right")
    counts = torch.zeros(len(names), dtype=torch.long)
    with torch.no_grad():
        for chunk in model.stream(arguments.samples, seed=1):
            counts += torch.bincount(classifier(chunk.x).argmax(1), minlength=len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        print(f"  {name:<12}{count / arguments.samples:6.1%}")
    held = int((counts >= 0.02 * arguments.samples).sum())
    print(f"classes that hold at least 2 % of {arguments.samples} samples: {held} of 10")


def train_classifier(
    model: genkit.Model, size: tuple[int, int], epochs: int = 12
) -> tuple[nn.Module, float, list[str]]:
    """(classifier, accuracy on held-out pictures, names of the classes), at the model's own resolution."""
    cls = load(model.modality)
    options = model.plugin.options.model_copy(update={"size": size, "conditional": True})
    plugin = cls(options, cls.inspect("builtin:fashion", options))
    whole = plugin.dataset("builtin:fashion").__getitems__(list(range(10_000)))
    torch.manual_seed(0)
    order = torch.randperm(10_000)
    learn, held = whole[order[:8000]], whole[order[8000:]]
    side = (size[0] // 4) * (size[1] // 4)
    classifier = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(32)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(64)),
        *(nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * side, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    steps = epochs * 8000 // 100
    optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(8000, (100,))
        x = learn.x[rows]
        x = torch.where(torch.rand(100, 1, 1, 1) < 0.5, x.flip(3), x)
        loss = cross_entropy(classifier(x), learn.condition[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        del step
    classifier.eval()
    with torch.no_grad():
        accuracy = (classifier(held.x).argmax(1) == held.condition).float().mean().item()
    return classifier, accuracy, plugin.facts["labels"]


if __name__ == "__main__":
    main()

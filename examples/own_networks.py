"""Train and sample your own generator, critic (the field's discriminator) and data with genkit: one file, no package.

python examples/own_networks.py
"""

import tempfile

import torch
from torch import nn

import genkit
from genkit.plugin import Critique, Modality, ModalityPlugin, Networks, Noise, Sample


class Generator(nn.Module):
    """Noise [B, 8] -> points [B, 2]."""

    def __init__(self):
        super().__init__()
        self.noise = {"z": Noise(shape=(8,))}
        self.body = nn.Sequential(
            nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )

    def forward(self, noise, condition=None, controls=None):
        return Sample(self.body(noise["z"]))


class Critic(nn.Module):
    """Points [B, 2] -> one logit each; high means real."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        )

    def forward(self, sample):
        return Critique((self.body(sample.x).squeeze(1),))


class SpiralPlugin(ModalityPlugin):
    """The default data set and files (.npy), and two networks of your own."""

    def networks(self):
        return Networks(Generator(), {"critic": Critic()})


# 20,000 points [N, 2] on a spiral of 6 radians, with normal noise of standard deviation 0.02.
angle = 6 * torch.rand(20_000, 1)
points = torch.cat([angle * angle.cos(), angle * angle.sin()], 1) / 6 + 0.02 * torch.randn(
    20_000, 2
)

if __name__ == "__main__":
    spiral = Modality(id="spiral", title="Points on a spiral", plugin=SpiralPlugin)
    model = genkit.train(
        spiral, points, out=tempfile.mkdtemp(), items=100_000, batch_size=256,
        recipe={"loss": "relativistic", "penalties": {"r1": {"weight": 0.1}, "r2": {"weight": 0.1}},
                "generator": {"learning_rate": 2e-3}, "critic": {"learning_rate": 2e-3}},
    )  # fmt: skip
    samples = model.generate(1000, seed=0).x
    distances = torch.cdist(samples, points).min(1).values  # to the nearest point of the data
    print(f"1,000 points; half of them lie within {distances.median():.3f} of the spiral's points")

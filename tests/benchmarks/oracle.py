"""The oracle experiment of language GANs, with its controls: is anything learned beyond a lower temperature?

    python tests/benchmarks/oracle.py [--presets mle seqgan-fast ...] [--seeds 0 1 2] [--out FOLDER] [--minutes 10]

A recurrent network with standard normal weights (Yu et al. 2017: 5,000 symbols, 20 steps; ours is seeded) writes 10,000
lines to learn from and 10,000 to test with. Of each preset: NLL_oracle, what the oracle thinks of the model's lines
(quality), and NLL_test, what the model thinks of the oracle's (diversity), both in nats a symbol; beside the pair, where
the curve of maximum likelihood over temperatures has the same NLL_oracle. `constant` is the control of Caccia et al.
2020: adversarial training whose critic says nothing. Results go to FOLDER/oracle.jsonl, the picture to oracle.png.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from genkit_text import modality as text
from genkit_text.critics import make_critic
from genkit_text.generators import make_generator
from genkit_text.options import Controls, Options
from torch.nn.functional import log_softmax

import genkit
from genkit.plugin import Facts, ModalityPlugin, Networks, Sample
from genkit.sampling import CHUNK

SYMBOLS, LENGTH, LINES = 5000, 20, 10_000
TEMPERATURES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7)
FACTS = {"symbols": SYMBOLS, "length": LENGTH, "end": None, "unknown": None, "prompt_length": 0, "decoder": None}


class Numbers(ModalityPlugin):
    """Lines of symbols without names."""

    @classmethod
    def inspect(cls, source, options):
        return Facts(FACTS)

    def networks(self):
        networks = make_generator(self.options, self.facts), {"critic": make_critic(self.options, self.facts)}
        return Networks(*networks)


class Lines:
    """A data set of lines [N, L]."""

    def __init__(self, x) -> None:
        self.sample = Sample(x, mask=torch.ones_like(x, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, row):
        return self.sample[row]

    __getitems__ = __getitem__


def nothing(logits):
    """The reward of the control."""
    return torch.ones_like(logits)


class Oracle:
    """The truth, its lines, and its entropy."""

    def __init__(self, seed: int) -> None:
        self.network = make_generator(Options(embedding=32, hidden=32), Facts(FACTS)).eval()
        numbers = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.normal_(generator=numbers)
                if "bias_hh" in name:
                    parameter.zero_()  # torch's LSTM has two biases where one is meant
        self.lines = draw(self.network, range(LINES), f"oracle {seed}")
        self.test = draw(self.network, range(LINES, 2 * LINES), f"oracle {seed}")
        self.entropy = nll(self.network, self.test)


@torch.no_grad()
def draw(network, indices, seed, temperature=1.0):
    """[N, L] lines."""
    from genkit.sampling import draw_chunk

    chunks = range(indices.start, indices.stop, 4 * CHUNK)
    controls, device = Controls(temperature=temperature), torch.device("cpu")
    return torch.cat(
        [
            draw_chunk(network, range(at, min(at + 4 * CHUNK, indices.stop)), seed, None, controls, device).x
            for at in chunks
        ]
    )


@torch.no_grad()
def nll(network, lines, temperature=1.0) -> float:
    """Nats a symbol."""
    return float(np.mean([-network.log_prob(Sample(part), temperature).mean().item() for part in lines.split(250)]))


def measured(model, oracle, temperature=1.0) -> dict[str, float]:
    """The pair of one model at one temperature."""
    lines = draw(model.generator, range(LINES), 1, temperature)
    return {
        "temperature": temperature,
        "nll_oracle": nll(oracle.network, lines),
        "nll_test": nll(model.generator, oracle.test, temperature),
        "distinct_symbols": len(lines.unique()),
        "distinct_lines": len({tuple(line) for line in lines.tolist()}),
    }


def beyond(pair, curve) -> float:
    """NLL_test of maximum likelihood at the same NLL_oracle, minus the pair's: above 0 it lies beyond the curve."""
    curve = sorted(curve, key=lambda row: row["nll_oracle"])
    return float(
        np.interp(pair["nll_oracle"], [row["nll_oracle"] for row in curve], [row["nll_test"] for row in curve])
        - pair["nll_test"]
    )

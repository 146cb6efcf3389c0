"""The oracle experiment of language GANs, with its controls: is anything learned beyond a lower temperature?

    python tests/benchmarks/oracle.py [--presets seqgan-fast ...] [--seeds 0 1 2] [--out FOLDER] [--threads 2]

A recurrent network with standard normal weights (Yu et al. 2017: 5,000 symbols, 20 steps; ours is seeded) writes 10,000
lines to learn from and 10,000 to test with. Of each preset: NLL_oracle, what the oracle thinks of the model's lines
(quality), and NLL_test, what the model thinks of the oracle's (diversity), in nats a symbol; and by how much it lies
beyond the curve of maximum likelihood over temperatures, at its own NLL_oracle. `constant` is the control
of LantaoYu/SeqGAN's issue 21: a reward that says nothing, without a baseline, at a high rate. All but `scratchgan`
begin with the same model of maximum likelihood; `--alone` gives each its own, and its whole time. Rows go to
FOLDER/oracle.jsonl; the picture, which matplotlib draws where it is installed, to FOLDER/oracle.png.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

import genkit
from genkit.plugin import Facts, ModalityPlugin, Networks, Sample
from genkit.sampling.drawing import CHUNK, Place, draw_chunk
from genkit_text import modality as text
from genkit_text.critics import make_critic
from genkit_text.generators import make_generator
from genkit_text.options import Controls, Options

SYMBOLS, LENGTH, LINES = 5000, 20, 10_000
TEMPERATURES = (1.1, 1.05, 1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7)
FACTS = {
    "symbols": SYMBOLS,
    "length": LENGTH,
    "end": None,
    "unknown": None,
    "prompt_length": 0,
    "decoder": None,
}


# What is different from the presets: the networks of the paper's size, and the reduced counts.
SIZE = {"embedding": 32, "hidden": 32, "dropout": 0.3}
LIKELIHOOD = 240_000
GAMES = {
    "seqgan-fast": 100_000,
    "constant": 12_800,
    "seqgan": 10_000,
    "relgan": 50_000,
    "scratchgan": 250_000,
}


class Numbers(ModalityPlugin):
    """Lines of symbols without names."""

    @classmethod
    def inspect(cls, source, options):
        return Facts(FACTS)

    def networks(self):
        networks = (
            make_generator(self.options, self.facts),
            {"critic": make_critic(self.options, self.facts)},
        )
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


def nothing(logits: torch.Tensor) -> torch.Tensor:
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
    chunks = range(indices.start, indices.stop, 4 * CHUNK)
    controls, device = Controls(temperature=temperature), torch.device("cpu")
    return torch.cat(
        [
            draw_chunk(
                network,
                range(at, min(at + 4 * CHUNK, indices.stop)),
                seed,
                None,
                controls,
                Place(device),
            ).x
            for at in chunks
        ]
    )


@torch.no_grad()
def nll(network, lines, temperature=1.0) -> float:
    """Nats a symbol."""
    return float(
        np.mean(
            [
                -network.log_prob(Sample(part), temperature).mean().item()
                for part in lines.split(250)
            ]
        )
    )


def measured(model, oracle, temperature=1.0) -> dict[str, float]:
    """The pair of one model at one temperature."""
    lines = draw(model.generator, range(LINES), 1, temperature)
    return {
        "temperature": temperature,
        "nll_oracle": nll(oracle.network, lines),
        "nll_test": nll(model.generator, oracle.test, temperature),
        "distinct_lines": len({tuple(line) for line in lines.tolist()}),
    }


def beyond(pair, curve) -> float | None:
    """NLL_test of maximum likelihood at the pair's NLL_oracle, minus the pair's: above 0 it lies beyond the curve."""
    curve = sorted((row["nll_oracle"], row["nll_test"]) for row in curve)
    at = pair["nll_oracle"]
    if not curve[0][0] <= at <= curve[-1][0]:
        return None  # no such quality on the curve
    return float(np.interp(at, *zip(*curve, strict=True))) - pair["nll_test"]


def train(name: str, oracle: Oracle, seed: int, out: Path, threads: int, init: Path | None):
    """(the model, seconds of training)."""
    began = time.monotonic()
    preset = text.presets["seqgan-fast" if name == "constant" else name]
    recipe, stages = dict(preset.recipe), list(preset.recipe.get("stages", ({"kind": "game"},)))
    if init is not None:
        stages = [stage for stage in stages if stage["kind"] != "pretrain"]
    if name == "constant":
        recipe["estimator"] = {
            "kind": "score_function",
            "reward": f"{__name__}:nothing",
            "baseline": "none",
        }
        recipe["generator"] = {**recipe["generator"], "learning_rate": 1e-2}
        stages = [stage for stage in stages if stage["kind"] != "critics"]
    if name == "relgan":  # from the beginning of this game to its end
        schedule = {
            "start": 1.0,
            "end": 0.1,
            "items": GAMES[name],
            "delay": 0 if init else LIKELIHOOD,
        }
        recipe["estimator"] = {**recipe["estimator"], "temperature": schedule}
    stages = [
        {**stage, "items": LIKELIHOOD} if stage["kind"] == "pretrain" else stage
        for stage in stages[:-1]
    ] + stages[-1:]
    items = GAMES.get(name, LIKELIHOOD) + sum(stage["items"] for stage in stages[:-1])
    own = replace(preset, options={**preset.options, **SIZE}, recipe=recipe)
    oracles = replace(text, id="oracle", plugin=Numbers, data=None, presets={name: own})
    settings = {
        "items": items,
        "seed": seed,
        "threads": threads,
        "init": init,
        "recipe": {"stages": stages},
    }
    settings["options"] = (
        own.options
    )  # else a game that begins with another model has that model's critic
    model = genkit.train(
        oracles, Lines(oracle.lines), out=out / f"{name}-{seed}", overwrite=True, **settings
    )
    return model, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=list(GAMES), choices=list(GAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/oracle"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--alone", action="store_true", help="each preset from scratch, with pretraining of its own"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in arguments.seeds:
        oracle = Oracle(seed)
        print(
            f"seed {seed}: the oracle's entropy is {oracle.entropy:.3f} nats a symbol", flush=True
        )
        likelihood, seconds = train("mle", oracle, seed, arguments.out, arguments.threads, None)
        curve = [measured(likelihood, oracle, temperature) for temperature in TEMPERATURES]
        tell(
            rows,
            [
                {"preset": "mle", "seed": seed, "seconds": seconds, **pair, "beyond": None}
                for pair in curve
            ],
        )
        for name in arguments.presets:
            init = (
                None if arguments.alone or name == "scratchgan" else arguments.out / f"mle-{seed}"
            )
            model, seconds = train(name, oracle, seed, arguments.out, arguments.threads, init)
            pair = measured(model, oracle)
            tell(
                rows,
                [
                    {
                        "preset": name,
                        "seed": seed,
                        "seconds": seconds,
                        **pair,
                        "beyond": beyond(pair, curve),
                    }
                ],
            )
    (arguments.out / "oracle.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary(rows)
    picture(rows, arguments.out / "oracle.png")


def tell(rows, more) -> None:
    """Print rows as they come."""
    for row in more:
        lies = "" if row["beyond"] is None else f"  beyond the curve by {row['beyond']:+.3f}"
        print(
            f"{row['preset']:<12} T {row['temperature']:.2f}  NLL_oracle {row['nll_oracle']:.3f}  NLL_test "
            f"{row['nll_test']:.3f}  {row['distinct_lines']:,} lines of {LINES:,} differ  {row['seconds']:.0f} s{lies}",
            flush=True,
        )
    rows += more


def summary(rows) -> None:
    """Means and standard deviations over seeds."""
    for name in dict.fromkeys(row["preset"] for row in rows):
        own = [row for row in rows if row["preset"] == name and row["temperature"] == 1]
        columns = []
        for key in ("nll_oracle", "nll_test", "beyond"):
            values = [row[key] for row in own if row[key] is not None]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            spread += f" ({len(values)} of {len(own)} seeds)" if len(values) < len(own) else ""
            columns.append(f"{fmean(values):.3f}{spread}" if values else "")
        print(f"| `{name}` | {' | '.join(columns)} |")


def picture(rows, path: Path) -> None:
    """The pairs of all seeds, maximum likelihood as a line."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path} is not drawn: pip install matplotlib")
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(row["preset"] for row in rows)):
        for seed in (seeds := dict.fromkeys(row["seed"] for row in rows)):
            own = [row for row in rows if (row["preset"], row["seed"]) == (name, seed)]
            x, y = [row["nll_oracle"] for row in own], [row["nll_test"] for row in own]
            style = (
                {"color": "grey", "marker": "."}
                if name == "mle"
                else {"marker": "osD^vP"[number], "linestyle": ""}
            )
            color = {} if name == "mle" else {"color": f"C{number - 1}", "alpha": 0.8}
            axes.plot(x, y, **style, **color, label=name if seed == next(iter(seeds)) else None)
    axes.set_xlabel("NLL_oracle, nats a symbol: quality, better to the left")
    axes.set_ylabel("NLL_test, nats a symbol: diversity, better below")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

"""kill -9 at random moments of a training, resume each time: the same weights as a run that was left alone?

    python tests/benchmarks/kills.py [--modality image] [--kills 20 --items 160000 --seed 0]

Prints whether all tensors (weights, averages, optimiser states, exported model) are equal bit for bit, the most work
that was done twice (checkpoints are 2 s apart here), and whether any resume found an unreadable folder.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--modality", default="image", choices=list(SMALL))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--items", type=int, default=160_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        began = time.monotonic()
        start(arguments, whole).wait()
        seconds = time.monotonic() - began
        print(f"left alone: {arguments.items} items in {seconds:.0f} s")
        kills, unreadable, twice, places = 0, 0, 0.0, []
        while True:
            process = start(arguments, killed)
            started = time.time()
            try:
                process.wait(chance.uniform(0, 10) if kills < arguments.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                twice = max(twice, time.time() - max(started, saved_at(killed)))
                places.append(items_saved(killed))
                continue
            unreadable += process.returncode != 0
            if process.returncode == 0 or unreadable > 3:
                break
        one, two = tensors(whole), tensors(killed)
        different = [
            name for name in one if name not in two or not torch.equal(one[name], two[name])
        ]
        print(
            f"{kills} kills; resumes that failed: {unreadable}; most work done twice, start-up included: {twice:.1f} s"
        )
        print(f"items saved at each kill: {places}")
        print(f"tensors: {len(one)}, different: {len(different)} (aim: 0)")
        if kills < arguments.kills:
            print(f"the run ended after {kills} of {arguments.kills} kills: give it more --items")
        sys.exit(bool(different or unreadable or kills < arguments.kills))


SMALL = {
    "audio": [
        "options.samples=4096",
        "options.features=4",
        "options.critic_features=4",
        "options.spectrum_features=4",
    ],
    "image": ["options.features=8"],
    "text": [
        "options.embedding=16",
        "options.hidden=16",
        "recipe.stages=[{kind: pretrain, items: 20000}, {kind: game}]",
    ],
    "video": [
        "options.size=16",
        "options.frames=8",
        "options.features=4",
        "options.critic_features=4",
    ],
}
"""What makes a training of each modality small."""


def start(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    """A training in a process of its own, which resumes if it can."""
    items = arguments.items
    words = [
        "train",
        arguments.modality,
        "--resume",
        "-q",
        "--items",
        items,
        "--out",
        out,
        "--threads",
        1,
    ]
    words += [
        *SMALL[arguments.modality],
        "run.checkpoint_seconds=2",
        f"run.sample_items={items // 5}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "genkit", *map(str, words)], stdout=subprocess.DEVNULL
    )


def saved_at(run: Path) -> float:
    """When the newest checkpoint was written."""
    pointer = run / "latest"
    return pointer.stat().st_mtime if pointer.exists() else 0.0


def items_saved(run: Path) -> int:
    """How far the newest checkpoint is."""
    pointer = run / "latest"
    return int(pointer.read_text().partition("-")[0]) if pointer.exists() else 0


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Everything that a run leaves behind."""
    folder = run / "checkpoints" / (run / "latest").read_text().strip()
    files = [*sorted(folder.glob("*.safetensors")), run / "model" / "model.safetensors"]
    return {
        f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()
    }


if __name__ == "__main__":
    main()

"""A million small pictures into tar files: memory as it goes on, kill -9 and resume, and one share of several.

    python tests/benchmarks/bulk.py [--count 1000000 --per-tar 10000 --kills 10 --shard 3/7] [--single] [--folder DIR]

Writes them once by a process that is left alone, once by one that is killed at random moments and resumed, and once one
share of several; each is `genkit generate` in a process of its own, with one thread. Prints the resident memory of the
first (after each tenth), which finished files were ever touched again, and which files differ at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import genkit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--per-tar", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--shard", default="3/7")
    parser.add_argument("--single", action="store_true", help="single files, no tar files")
    parser.add_argument("--folder", help="where 4 GB of files may lie for a while")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        model = make_model(root / "run")
        words = ["generate", str(model), "-n", str(arguments.count)]
        words += [] if arguments.single else ["--per-tar", str(arguments.per_tar)]
        seconds, memory = left_alone(words, root / "whole", arguments.count)
        print(
            f"left alone: {arguments.count:,} samples in {seconds:.0f} s, "
            f"{1e6 * seconds / arguments.count:.0f} us each"
        )
        print(
            f"resident memory after each tenth, MB: {' '.join(f'{value:.0f}' for value in memory)}"
        )
        print(
            f"growth from the first tenth to the highest: {max(memory) - memory[0]:.1f} MB (aim: 50)"
        )
        whole = digests(root / "whole")
        is_wrong = max(memory) - memory[0] > 50

        kills, touched, repeated = killed(words, root / "killed", arguments.kills, seconds, chance)
        print(f"{kills} kills; finished files that were written again: {touched} (aim: 0)")
        print(f"time of all tries over the time of one: {repeated:.2f}")
        again = digests(root / "killed")
        different = [
            name for name in whole.keys() | again.keys() if whole.get(name) != again.get(name)
        ]
        print(f"files: {len(whole):,}, different after the kills: {len(different)} (aim: 0)")
        is_wrong |= bool(touched or different or kills < arguments.kills)

        start([*words, "--shard", arguments.shard, "--out", str(root / "share")]).wait()
        share = {
            name: digest for name, digest in digests(root / "share").items() if ".part" not in name
        }
        different = [name for name in share if share[name] != whole.get(name)]
        print(
            f"share {arguments.shard}: {len(share):,} files, different: {len(different)} (aim: 0)"
        )
        sys.exit(bool(is_wrong or different or not share))


def make_model(out: Path) -> Path:
    """A conditional model of pictures of 16 x 16 that has hardly learned anything."""
    options = {"size": 16, "features": 4, "conditional": True}
    model = genkit.train(
        "image", preset="compact", out=out, items=320, options=options,
        recipe={"batch_size": 16}, run={"plan": "fp32", "threads": 1},
    )  # fmt: skip
    return model.path


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """`genkit` in a process of its own, with one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "genkit", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def left_alone(words: list[str], out: Path, count: int) -> tuple[float, list[float]]:
    """(seconds, resident MB after each tenth of the samples and at the end)."""
    began = time.monotonic()
    process = start([*words, "--out", str(out)])
    memory: list[float] = []
    highest = 0.0
    while process.poll() is None:
        time.sleep(0.2)
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        lines = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        if not lines or not out.is_dir():
            continue
        highest = max(highest, int(lines[0]) / 1000)
        if 10 * samples_noted(out) >= (len(memory) + 1) * count:
            memory.append(highest)
            highest = 0.0
            print(f"  {memory[-1]:.0f} MB after {len(memory)} tenths", flush=True)
    assert process.wait() == 0
    return time.monotonic() - began, [*memory, highest]


def samples_noted(out: Path) -> int:
    """How many samples are finished, by the notes of the job."""
    import json

    for notes in out.glob("*.part"):
        with notes.open() as file:
            job = json.loads(file.readline())["job"]
            return sum(1 for _ in file) * (job["per_tar"] or 64)
    return 0


def killed(
    words: list[str], out: Path, kills: int, seconds: float, chance: random.Random
) -> tuple[int, int, float]:
    """(kills, finished files that were written again, time of all tries over the time of one)."""
    count, touched, spent = 0, 0, 0.0
    times: dict[str, int] = {}
    while True:
        began = time.monotonic()
        process = start([*words, "--resume", "--out", str(out)])
        try:
            process.wait(chance.uniform(0, 2 * seconds / (kills + 1)) if count < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            count += 1
        process.wait()
        spent += time.monotonic() - began
        latest = {
            entry.name: entry.stat().st_mtime_ns
            for entry in os.scandir(out)
            if entry.name[0].isdigit()
        } if out.is_dir() else {}  # fmt: skip
        touched += sum(latest.get(name) != time_then for name, time_then in times.items())
        times = latest
        if process.returncode >= 0:
            assert process.returncode == 0
            return count, touched, spent / seconds


def digests(folder: Path) -> dict[str, str]:
    """The hash of each file, hidden ones too."""
    found = {}
    for entry in os.scandir(folder):
        with open(entry.path, "rb") as file:
            found[entry.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


if __name__ == "__main__":
    main()

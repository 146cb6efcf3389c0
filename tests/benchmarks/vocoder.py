"""The preset `vocoder` on sounds it never heard, against Griffin-Lim at 60 iterations: mel error and speed.

    python tests/benchmarks/vocoder.py [--minutes 30] [--threads 2] [--train builtin:drums/train]
                                       [--held-out builtin:drums/held-out] [--out runs/vocoder] [key=value ...]

The error of a sound is the mean L1 distance of its log-mel spectrum (`genkit_audio.spectra.log_mel`, 80 bands, natural
logarithms) from that which the method was told; the printed one is the mean over sounds. Griffin-Lim is torchaudio's
(momentum 0.99), after its `InverseMelScale` (least squares, what is below 0 cut off), and is told of silence on both
sides; its error is the mean over five random beginnings. `untrained` is the same network before its first step: what
its own corrections do by themselves. Since these mend the very spectrum that the mel error is measured by, there is a
second error, `quarter hop`, of spectra with windows and hops a quarter as long, which no method was told. Speed is that
of one sound of ten seconds in one thread: seconds of computing for each second of sound, the median of five.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import genkit
from genkit.config import parse_overrides
from genkit.kit import compat
from genkit_audio import modality
from genkit_audio.sources import Sound, open_sounds
from genkit_audio.spectra import hop_of, log_mel
from genkit_audio.writing import encode

ITERATIONS, BEGINNINGS, MELS, SECONDS = 60, 5, 80, 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", default="builtin:drums/train")
    parser.add_argument("--held-out", default="builtin:drums/held-out")
    parser.add_argument("--out", default=None)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    settings = [parse_overrides(arguments.settings)]
    with tempfile.TemporaryDirectory() as folder:
        out, how = (
            Path(arguments.out or folder) / "run",
            {"threads": arguments.threads, "settings": settings},
        )
        began = time.perf_counter()
        model = genkit.train(
            modality, arguments.train, "vocoder", out, minutes=arguments.minutes, **how
        )
        seen, seconds = model.info["items"], time.perf_counter() - began
        untrained = genkit.train(
            modality, arguments.train, "vocoder", Path(folder) / "untrained", items=1, **how
        )
        rate, sounds = model.plugin.facts["rate"], open_sounds(arguments.held_out).items
        print(
            f"{seen:,} items in {seconds:.0f} s with {arguments.threads} threads; {len(sounds)} sounds held out"
        )
        torch.set_num_threads(1)
        ways = {
            "vocoder": lambda path: speak(model, path),
            "untrained": lambda path: speak(untrained, path),
            f"Griffin-Lim, {ITERATIONS}": lambda path: griffin_lim(waves(path, rate), rate),
        }
        path = Path(folder) / "sound.wav"
        print(f"{'':<18}{'mel error':>10}{'median':>10}{'quarter hop':>13}{'real-time factor':>18}")
        for name, way in ways.items():
            errors, finer = zip(*(error(way, sound, rate, path) for sound in sounds), strict=True)
            print(f"{name:<18}{statistics.mean(errors):>10.4f}{statistics.median(errors):>10.4f}"
                  f"{statistics.mean(finer):>13.4f}{factor(way, sounds, rate, path):>18.4f}")  # fmt: skip


def waves(path: Path, rate: int) -> Tensor:
    """[1, n]: a sound file."""
    (sound,) = open_sounds(path).items
    return torch.from_numpy(sound.read(0, sound.count(rate), rate))[None]


def speak(model: genkit.Model, path: Path) -> Tensor:
    """[1, n]: what a vocoder makes of a sound file."""
    return model.generate(1, label=str(path)).x[:, 0]


def griffin_lim(x: Tensor, rate: int) -> Tensor:
    """[1, n]: a wave with the log-mel spectrum of another; the same random phases for the same global seed."""
    compat.torchaudio()
    from torchaudio.transforms import GriffinLim, InverseMelScale

    hop = hop_of(rate)
    magnitudes = InverseMelScale(2 * hop + 1, MELS, rate, norm="slaney", mel_scale="slaney")
    phases = GriffinLim(4 * hop, ITERATIONS, hop_length=hop, power=1.0)
    around = torch.nn.functional.pad(log_mel(x, rate, MELS).exp(), (2, 2))
    return phases(magnitudes(around))[:, 3 * hop // 2 :][
        :, : x.shape[1]
    ]  # it begins in the middle of the first frame


def error(
    way: Callable[[Path], Tensor], sound: Sound, rate: int, path: Path
) -> tuple[float, float]:
    """The mel error of one sound, and that of a quarter of the hop: means over some beginnings."""
    path.write_bytes(encode(sound.read(0, sound.count(rate), rate)[None], "wav", rate))
    x, hops = waves(path, rate), (hop_of(rate), hop_of(rate) // 4)
    errors: list[list[float]] = []
    for seed in range(BEGINNINGS):
        torch.manual_seed(seed)
        made = way(path)
        assert made.shape == x.shape, f"{sound.name}: {made.shape} for {x.shape}"
        gaps = (log_mel(made, rate, MELS, hop) - log_mel(x, rate, MELS, hop) for hop in hops)
        errors.append([gap.abs().mean().item() for gap in gaps])
    mel, finer = map(statistics.mean, zip(*errors, strict=True))
    return mel, finer


def factor(way: Callable[[Path], Tensor], sounds: list[Sound], rate: int, path: Path) -> float:
    """Seconds of computing for each second of sound."""
    joined = torch.cat(
        [torch.from_numpy(sound.read(0, sound.count(rate), rate)) for sound in sounds]
    )
    count = SECONDS * rate
    path.write_bytes(encode(joined.repeat(-(-count // len(joined)))[:count][None], "wav", rate))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        way(path)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / SECONDS


if __name__ == "__main__":
    main()

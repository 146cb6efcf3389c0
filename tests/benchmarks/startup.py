"""What it costs to start, with 300 other distributions installed.

    python tests/benchmarks/startup.py [--others 300 --runs 15]

CPU seconds (user + system, children included) of `genkit plugins list` and `genkit --help`, in turn with
`python -c "import typer, pydantic"`; the ratios of the medians; and whether torch was imported.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), arguments.others)
        environment = {**os.environ, "PYTHONPATH": folder}
        commands = {
            "import typer, pydantic": [sys.executable, "-c", "import typer, pydantic"],
            "genkit plugins list": [sys.executable, "-m", "genkit", "plugins", "list"],
            "genkit --help": [sys.executable, "-m", "genkit", "--help"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(arguments.runs + 1):
            for name, command in commands.items():
                spent = cpu_seconds(command, environment)
                if run:  # the first round warms the caches
                    seconds[name].append(spent)
        base = statistics.median(seconds["import typer, pydantic"])
        for name, values in seconds.items():
            middle = statistics.median(values)
            print(f"{name:<24}{1e3 * middle:7.0f} ms CPU   ratio {middle / base:.2f}")
        code = "import sys\ntry: __import__('genkit.cli').cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        for words in (["plugins", "list"], ["--help"]):
            check = [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)", *words]
            clean = (
                subprocess.run(
                    check, env=environment, stdout=subprocess.DEVNULL, check=False
                ).returncode
                == 0
            )
            print(f"genkit {' '.join(words)}: torch {'not imported' if clean else 'IMPORTED'}")


def install(folder: Path, count: int) -> None:
    """Fake distributions of a usual size, a quarter of them with entry points of other groups."""
    for number in range(count):
        info = folder / f"other_{number}-1.0.dist-info"
        info.mkdir()
        about = (
            f"Metadata-Version: 2.1\nName: other-{number}\nVersion: 1.0\n\n"
            + "A line of a long description.\n" * 400
        )
        (info / "METADATA").write_text(about)
        (info / "RECORD").write_text("")
        if number % 4 == 0:
            (info / "entry_points.txt").write_text(
                f"[console_scripts]\nother{number} = other_{number}:main\n"
            )


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of a command and of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

"""Damaged and hostile files: nothing may crash, hang, eat memory or run code, and each fault is one sentence.

    python tests/benchmarks/mutations.py [--count 300] [--kinds image audio video text models runs]

For each modality, `--count` files of several formats are damaged (cut, bytes changed, inserted, removed, swapped with
another file's) and read as a run would read them; so are model folders and run folders of a small model, whose files
are damaged as bytes and as JSON. All is drawn from a fixed seed. Each case has 10 seconds and 1 GB of memory. A worker
process reads them one after the other; where it dies or hangs, the next one goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, MEGABYTES = 10.0, 1024
KINDS = ("image", "audio", "video", "text", "models", "runs")
FORBIDDEN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "pickle.find_class",
    "socket.connect",
)
"""Audit events that reading data or a model must not raise: they would mean that something in a file was run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, folder, start = arguments.worker
        work(kind, Path(folder), int(start))
        return
    is_sound = True
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory(prefix="genkit-mutations-") as folder:
            cases = MAKERS[kind](Path(folder), random.Random(f"{kind} 7"), arguments.count)
            faults, counts, peak = watch(kind, Path(folder), len(cases))
        is_sound = is_sound and not faults
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(
            f"{kind:<7}{len(cases):>4} cases: {told}; peak {peak} MB; faults: {len(faults)}",
            flush=True,
        )
        for place, fault in faults:
            print(f"    {cases[place]}: {fault}")
    sys.exit(not is_sound)


# Watching --------------------------------------------------------------------------------------------------------


def watch(kind: str, folder: Path, count: int) -> tuple[list[tuple[int, str]], dict[str, int], int]:
    """Have all cases read; returns (place, fault) of those that must not happen, counts of outcomes, the peak in MB."""
    faults: list[tuple[int, str]] = []
    counts: dict[str, int] = {}
    place, peak = 0, 0
    while place < count:
        words = [sys.executable, __file__, "--worker", kind, str(folder), str(place)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        is_first = True
        while place < count:
            limit = 60.0 if is_first else SECONDS  # the first has the imports
            ready, _, _ = select.select([process.stdout], [], [], limit)
            line = process.stdout.readline().decode() if ready else ""
            is_first = False
            if not line:
                process.kill()
                _, errors = process.communicate()
                reason = (
                    "it takes more than 10 s"
                    if not ready
                    else f"the process died: {errors[-300:]!r}"
                )
                faults.append((place, reason))
                place += 1
                break
            answer = json.loads(line)
            peak = max(peak, answer["megabytes"])
            counts[answer["outcome"]] = counts.get(answer["outcome"], 0) + 1
            if answer["fault"]:
                faults.append((place, answer["fault"]))
            place += 1
        process.kill()
        process.communicate()
    return faults, counts, peak


def work(kind: str, folder: Path, start: int) -> None:
    """Read the cases from `start` on, and print a line of JSON for each."""
    import torch

    from genkit.errors import GenkitError

    torch.set_num_threads(1)
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if event in FORBIDDEN else None)
    out, sys.stdout = sys.stdout, io.StringIO()
    for case in sorted(folder.iterdir())[start:]:
        events.clear()
        began, fault = time.monotonic(), ""
        try:
            outcome = READERS[kind](case)
        except GenkitError as error:
            outcome = "refused"
            if "\n" in str(error) or "Traceback" in str(error) or len(str(error)) > 1500:
                fault = f"no sentence: {error}"
        except BaseException as error:
            outcome, fault = "crashed", f"{type(error).__name__}: {error}"
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if events:
            fault = f"it ran {events[0]}"
        if time.monotonic() - began > SECONDS:
            fault = "it takes more than 10 s"
        if megabytes > MEGABYTES:
            fault = fault or f"{megabytes} MB"
        print(
            json.dumps({"outcome": outcome, "fault": fault, "megabytes": megabytes}),
            file=out,
            flush=True,
        )


# Reading ---------------------------------------------------------------------------------------------------------

OPTIONS = {
    "image": ("compact", {"size": 32, "features": 4}),
    "audio": ("wavegan-small", {"samples": 1024}),
    "video": (None, {"size": 16, "frames": 4}),
    "text": (None, {}),
}


def read_data(kind: str, case: Path) -> str:
    from genkit import config
    from genkit.engine.data import Batches, open_data

    preset, options = OPTIONS[kind]
    chosen = config.build(kind, preset, str(case), [{"options": options}])
    _, dataset, notes = open_data(chosen)
    Batches(dataset, 0).take(0, 4)
    return "named" if notes else "used"


def read_model(case: Path) -> str:
    import genkit

    genkit.load(case).generate(2).encode()
    return "used"


def read_run(case: Path) -> str:
    import genkit

    genkit.train("image", out=case, resume=True, items=320, threads=1)
    return "used"


READERS = {
    **{kind: (lambda case, kind=kind: read_data(kind, case)) for kind in OPTIONS},
    "models": read_model,
    "runs": read_run,
}


# Making ----------------------------------------------------------------------------------------------------------


def damaged(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """Bytes with one to four faults."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        kind, size = draw.randrange(7), len(data)
        place = draw.randrange(min(size, 200) if draw.random() < 0.5 else size) if size else 0
        if kind == 0:
            del data[place:]
        elif kind == 1 and size:
            data[place] = draw.randrange(256)
        elif kind == 2:
            data[place : place + 4] = draw.choice(
                [b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"]
            )
        elif kind == 3:
            data[place:place] = draw.randbytes(draw.randint(1, 64))
        elif kind == 4:
            del data[place : place + draw.randint(1, 64)]
        elif kind == 5:
            start = draw.randrange(max(1, len(other)))
            data[place : place + 32] = other[start : start + 32]
        else:
            data[place : place + 64] = data[place : place + 64][::-1]
    return bytes(data)


def cases_of(folder: Path, draw: random.Random, count: int, files: dict[str, bytes]) -> list[str]:
    """A folder for each case, with a damaged file beside a whole one of the same kind."""
    names, cases = list(files), []
    for number in range(count):
        name = names[number % len(names)]
        case = folder / f"{number:04d}"
        case.mkdir()
        (case / f"whole{Path(name).suffix}").write_bytes(files[name])
        content = damaged(files[name], draw, files[draw.choice(names)])
        (case / f"damaged{''.join(Path(name).suffixes)}").write_bytes(content)
        cases.append(name)
    return cases


def make_images(folder: Path, draw: random.Random, count: int) -> list[str]:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    files = {}
    formats = {
        "png": "PNG",
        "jpg": "JPEG",
        "webp": "WEBP",
        "gif": "GIF",
        "tif": "TIFF",
        "bmp": "BMP",
        "avif": "AVIF",
    }
    formats |= {
        "jp2": "JPEG2000",
        "tga": "TGA",
        "ico": "ICO",
        "dds": "DDS",
        "pcx": "PCX",
        "sgi": "SGI",
        "ppm": "PPM",
    }
    for ending, format in formats.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        files[f"a.{ending}"] = buffer.getvalue()
    files["b.zip"], files["b.tar"] = packed({"x/1.png": files["a.png"], "y/2.jpg": files["a.jpg"]})
    files["b.parquet"] = parquet(
        {"image": [{"bytes": files["a.png"], "path": "a"}] * 3, "label": ["a", "b", "a"]}
    )
    return cases_of(folder, draw, count, files)


def packed(files: dict[str, bytes]) -> tuple[bytes, bytes]:
    """(a zip file, a tar file) of some files."""
    import tarfile
    import zipfile

    one, other = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(one, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with tarfile.open(fileobj=other, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return one.getvalue(), other.getvalue()


def parquet(columns: dict[str, list]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def make_sounds(folder: Path, draw: random.Random, count: int) -> list[str]:
    import av
    import numpy as np
    import soundfile

    values = np.random.default_rng(0).normal(0, 0.1, 8000)
    files = {}
    kinds = {
        "wav": "PCM_16",
        "flac": "PCM_16",
        "ogg": "VORBIS",
        "mp3": "MPEG_LAYER_III",
        "aiff": "PCM_16",
        "au": "PCM_16",
    }
    for ending, subtype in kinds.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, values, 16000, subtype, format=ending.upper())
        files[f"a.{ending}"] = buffer.getvalue()
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(values[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    files["a.m4a"] = buffer.getvalue()
    files["b.zip"], files["b.tar"] = packed({"x/1.wav": files["a.wav"], "y/2.mp3": files["a.mp3"]})
    return cases_of(folder, draw, count, files)


def make_clips(folder: Path, draw: random.Random, count: int) -> list[str]:
    import av
    import numpy as np
    from PIL import Image

    rows = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    files = {}
    kinds = {
        "mp4": "libx264",
        "mkv": "mpeg4",
        "webm": "libvpx-vp9",
        "avi": "mpeg4",
        "mpg": "mpeg2video",
    }
    for ending, codec in kinds.items():
        path = folder / f"made.{ending}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for row in rows:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(row, "rgb24")))
            container.mux(stream.encode(None))
        files[f"a.{ending}"] = path.read_bytes()
        path.unlink()
    first, *others = map(Image.fromarray, rows)
    for ending, format in {"gif": "GIF", "webp": "WEBP", "apng": "PNG"}.items():
        buffer = io.BytesIO()
        first.save(buffer, format, save_all=True, append_images=others, duration=40)
        files[f"a.{ending}"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, rows)
    files["a.npy"] = buffer.getvalue()
    files["b.zip"], files["b.tar"] = packed({"x/1.mp4": files["a.mp4"], "y/2.gif": files["a.gif"]})
    return cases_of(folder, draw, count, files)


def make_texts(folder: Path, draw: random.Random, count: int) -> list[str]:
    import gzip

    lines = [f"line {number} of {number % 7}" for number in range(200)]
    rows = [{"text": line, "n": number} for number, line in enumerate(lines)]
    plain = "\n".join(lines).encode()
    files = {
        "a.txt": plain,
        "a.csv": ("text,n\n" + "\n".join(f'"{row["text"]}",{row["n"]}' for row in rows)).encode(),
        "a.json": json.dumps(rows).encode(),
        "a.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "a.parquet": parquet({"text": lines}),
        "a.txt.gz": gzip.compress(plain),
        "a.md": "\n".join(lines).encode("utf-16"),
    }
    files["b.zip"], files["b.tar"] = packed({"1.txt": plain, "2.jsonl": files["a.jsonl"]})
    return cases_of(folder, draw, count, files)


def odd_json(value: object, draw: random.Random) -> object:
    """JSON data with one fault: a value of another kind, a missing or a foreign key, somewhere in the tree."""
    odd = [
        None,
        -1,
        0,
        1e308,
        10**30,
        "",
        "../../etc/passwd",
        "os:system",
        [],
        {},
        True,
        "\ud800",
        ["x"] * 3,
    ]
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.15:
            return {name: one for name, one in value.items() if name != key}
        if kind < 0.25:
            return {**value, draw.choice(["extra", "__class__", ""]): draw.choice(odd)}
        return {**value, key: odd_json(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], odd_json(value[place], draw), *value[place + 1 :]]
    return draw.choice(odd)


def spoiled(case: Path, draw: random.Random, files: list[str]) -> str:
    """Damage one file of a copied folder; returns its name."""
    name = draw.choice([name for name in files if (case / name).is_file()])
    file = case / name
    if draw.random() < 0.05:
        file.unlink()
    elif name.endswith(".json") and draw.random() < 0.7:
        file.write_text(json.dumps(odd_json(json.loads(file.read_text()), draw)))
    elif name.endswith(".yaml") and draw.random() < 0.7:
        import yaml

        file.write_text(
            yaml.safe_dump(odd_json(yaml.safe_load(file.read_text()), draw), allow_unicode=False)
        )
    else:
        content = file.read_bytes()
        file.write_bytes(damaged(content, draw, content))
    return name


def small_run(folder: Path) -> Path:
    import genkit

    run = folder.parent / f"{folder.name}-run"
    recipe = {"batch_size": 32}
    options = {"size": 16, "features": 4, "conditional": True}
    genkit.train(
        "image",
        None,
        "compact",
        run,
        options=options,
        recipe=recipe,
        items=192,
        threads=1,
        overwrite=True,
    )
    return run


def make_models(folder: Path, draw: random.Random, count: int) -> list[str]:
    run, cases = small_run(folder), []
    for number in range(count):
        case = folder / f"{number:04d}"
        shutil.copytree(run / "model", case)
        files = [str(path.relative_to(case)) for path in sorted(case.rglob("*")) if path.is_file()]
        cases.append(spoiled(case, draw, files))
    shutil.rmtree(run)
    return cases


def make_runs(folder: Path, draw: random.Random, count: int) -> list[str]:
    run, cases = small_run(folder), []
    for number in range(count):
        case = folder / f"{number:04d}"
        shutil.copytree(run, case)
        files = [str(path.relative_to(case)) for path in sorted(case.rglob("*")) if path.is_file()]
        cases.append(
            spoiled(case, draw, [name for name in files if not name.startswith("samples")])
        )
    shutil.rmtree(run)
    return cases


MAKERS = {
    "image": make_images, "audio": make_sounds, "video": make_clips, "text": make_texts,
    "models": make_models, "runs": make_runs,
}  # fmt: skip


if __name__ == "__main__":
    main()

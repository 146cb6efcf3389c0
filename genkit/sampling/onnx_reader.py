"""Draw samples of an exported model: python draw.py MODEL.onnx OUT.npy SEED INDEX... [condition=LABEL] [NAME=VALUE]"""

import json
import sys
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np
import onnxruntime


def noise(part: Any, seed: Any, index: int) -> Any:
    """A part of a sample's noise: words of Philox as uniform numbers, or as their normal quantiles."""
    name = f"str:noise\x1f{type(seed).__name__}:{seed}\x1fstr:{part['name']}"
    key = int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")
    stream, start = part["streams"] * (index + 1), part["start"] + part["stride"] * index
    philox = np.random.Philox(key=key, counter=(stream << 128) + start // 4)
    words = philox.random_raw(part["count"] + start % 4)[start % 4 :]
    values = np.minimum(((words >> np.uint64(11)) + 0.5) * 2.0**-53, part["limit"])
    change = NormalDist().inv_cdf if part["distribution"] == "normal" else float
    return np.vectorize(change, [part["dtype"]])(values).reshape(part["shape"])


def draw(file: Any, indices: Any, seed: Any = 0, condition: Any = None, **controls: Any) -> Any:
    """Samples [B, *event] of an InferenceSession, their valid steps [B, L] or None, their lines as text."""
    about = json.loads(file.get_modelmeta().custom_metadata_map["genkit"])
    if unknown := controls.keys() - about["controls"]:
        sys.exit(f"no control {', '.join(unknown)}: the file has {about['controls']}")
    loop, count, values = about["loop"], len(indices), {**about["controls"], **controls}
    for part in about["noise"]:
        seeds = [own for own in (values.get(part["seed"]), seed) if own is not None]
        values[f"noise.{part['name']}"] = np.stack([noise(part, seeds[0], i) for i in indices])
    row = about["labels"].get(condition, condition) if isinstance(condition, str) else condition
    rows = about["conditions"] if row is None else [row]
    values["condition"] = rows and [rows[index % len(rows)] for index in indices]
    values |= {f"state.{name}": [value] * count for name, value in loop["state"].items()}
    prefix, outputs = values.get("prefix", []), []
    for step in range(-len(prefix), loop["length"]):
        values["forced"] = [prefix[step] if step < 0 else -1] * count
        slices = {**values, **{name: values[name][:, max(step, 0)] for name in loop["noise"]}}
        feeds = {name: np.asarray(slices[name], kind) for name, kind in about["inputs"].items()}
        outputs.append(dict(zip(about["outputs"], file.run(None, feeds), strict=True)))
        values |= {name.replace("next", "state", 1): value for name, value in outputs[-1].items()}
    steps: Any = [[step.get(name) for step in outputs[len(prefix) :]] for name in ("x", "mask")]
    x, mask = (np.stack(each, 1) if loop["joined"] else each[0] for each in steps)
    names, lead = about["facts"].get("vocabulary"), about["facts"].get("lead", "")
    text = ["".join(names[i] for i in x[n, mask[n]]) for n in range(count) if names]
    text = [bytes(line.removeprefix(lead), "latin-1").decode(errors="replace") for line in text]
    return x, mask, text


if __name__ == "__main__":
    path, out, seed, *words = sys.argv[1:]
    pairs = (word.split("=", 1) for word in words if "=" in word)
    settings = {name: value if name == "condition" else json.loads(value) for name, value in pairs}
    session, indices = onnxruntime.InferenceSession(path), [int(w) for w in words if "=" not in w]
    samples, _, lines = draw(session, indices, int(seed), **settings)
    np.save(out, samples)
    sys.stdout.writelines(f"{line}\n" for line in lines)

"""A model as an ONNX file that draws the same samples without genkit and torch; how equal they are; a reader beside it.

The graph is the generator's forward pass, or one step of it where the generator tells its loop (`stepwise`). Noise,
condition and controls are inputs. What a reader needs besides is JSON in the file's metadata. The samples of genkit are
compared with those of `genkit.sampling.onnx_reader`, whose text is written beside the file. Knows generators and
plugins; no particular modality.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from genkit.discovery import registry
from genkit.errors import ConfigError, GenkitError
from genkit.plugin import Noise, capabilities_of
from genkit.sampling.drawing import CHUNK, noise_of
from genkit.sampling.parity import TOLERANCE as TOLERANCE
from genkit.sampling.parity import Parity, compare
from genkit.sampling.tracing import Drawable, Graph, fault_of, graph_of, silence, traced
from genkit.system.files import make_folder, user_path, write_whole

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `export` installs."""

OPSET = 18
"""Version of ONNX's operators in a file: the oldest that torch writes itself, which most programs read."""

READER = "draw.py"
"""The name of the reader that is written beside a file."""

LARGEST_TABLE = 4096
"""So many numbers of conditions are written into a file's metadata at most."""


@dataclass(frozen=True)
class Export:
    """An exported model that is not on disk yet.

    Args:
        content: of the ONNX file.
        about: what the file says of itself: the JSON data of its metadata `genkit`.
        parity: with the samples of genkit.
    """

    content: bytes
    about: Mapping[str, Any]
    parity: Parity

    def save(self, path: str | Path) -> list[Path]:
        """Write the file, and READER beside it; returns both paths.

        Raises:
            ConfigError: as `check_path`.
            GenkitError: if the samples are not equal enough; then nothing is written.
        """
        place = check_path(path)
        if not self.parity.passed:
            cure = "" if self.parity.largest is None else ". A larger --tolerance would take it"
            raise GenkitError(
                f"{path} is not written, since it would not draw the samples of genkit: {self.parity}{cure}"
            )
        make_folder(place.parent)
        write_whole(place.with_name(READER), _reader_text().encode())
        write_whole(place, self.content)
        return [place, place.with_name(READER)]

    def to_json(self) -> dict[str, Any]:
        """The parity and what the file says of itself as JSON data, without vocabulary and states."""
        about = {**self.about, "facts": dict(self.about["facts"]), "loop": dict(self.about["loop"])}
        about["facts"].pop("vocabulary", None)
        about["loop"]["state"] = sorted(about["loop"]["state"])
        figures = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self.parity).items()
        }
        parity = {**figures, "passed": self.parity.passed}
        return {"schema": 1, "bytes": len(self.content), "parity": parity, "about": about}


def check_path(path: str | Path) -> Path:
    """The place of an ONNX file that is to be written: the path, with `~` for the home folder replaced.

    Raises:
        ConfigError: if it is a folder or does not end in .onnx, or if there is another file READER beside it.
    """
    place = user_path(path)
    if place.is_dir() or place.suffix.lower() != ".onnx":
        kind = "is a folder" if place.is_dir() else "does not end in .onnx"
        raise ConfigError(f"{path} {kind}: name a file for the model, such as model.onnx")
    reader_path = place.with_name(READER)
    if reader_path.exists():
        beginning = _reader_text().partition(":")[0].encode()
        if reader_path.is_dir() or not reader_path.read_bytes().startswith(beginning):
            raise ConfigError(
                f"{reader_path} is a file of your own, and the reader of the model would replace it: choose another "
                "folder, or rename it"
            )
    return place


def check_libraries() -> None:
    """Raise ConfigError if a library of the extra `export` is not installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"exporting needs {', '.join(missing)}, which is not installed: pip install 'genkit-gan[export]'"
        )


def check_numbers(samples: int, opset: int, tolerance: float) -> None:
    """Raise ConfigError for numbers that no export has."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ConfigError(f"opset = {opset}: from {OPSET} to {newest} can be written here")
    if samples < 1 or not tolerance > 0:
        raise ConfigError(
            f"samples = {samples}, tolerance = {tolerance}: at least one sample, and a tolerance above 0, are needed"
        )


def export_model(
    model: Drawable,
    controls: Mapping[str, Any] | None = None,
    label: str | None = None,
    samples: int = 1000,
    seed: int = 0,
    opset: int = OPSET,
    tolerance: float = TOLERANCE,
) -> Export:
    """Export a model, and compare samples of both.

    Args:
        controls: values of the modality's controls; the numbers among them become inputs of the graph with these as
            defaults, where the generator computes with them as tensors. All others are fixed.
        label: the default condition; None: the model's.
        samples: that are compared, those of the indices from 0 on; one for a generator without noise.
        seed: of these samples.
        opset: version of ONNX's operators.
        tolerance: the largest difference of a value that is taken for equal.

    Raises:
        ConfigError: for controls, a label or numbers that cannot be; if a library is missing; if the plugin says that
            this model cannot be exported.
        PluginError: if the generator cannot be exported; it says why.
    """
    check_libraries()
    check_numbers(samples, opset, tolerance)
    settings = model.settings(controls)
    graph = graph_of(model, label, settings)
    about = _description(model, graph, label, settings)
    content = _encoded(model, graph, about, opset)
    parity = compare(model, content, about, label, settings, samples, seed, tolerance)
    return Export(content, about, parity)


# The file ----------------------------------------------------------------------------------------------------------


def _encoded(model: Drawable, graph: Graph, about: dict[str, Any], opset: int) -> bytes:
    """The bytes of the ONNX file; `about` gets what is known of inputs and outputs only now."""
    import onnx

    program = traced(model, graph)
    try:
        with silence():
            onnx_program: Any = torch.onnx.export(
                program, input_names=list(graph.inputs), output_names=graph.outputs, opset_version=opset,
                dynamo=True, verbose=False,
            )  # fmt: skip
            file = onnx_program.model_proto
    except Exception as error:
        raise fault_of(model, "its graph cannot be written as ONNX", error) from error
    written_opset = next(entry.version for entry in file.opset_import if not entry.domain)
    if written_opset != opset:
        raise ConfigError(
            f"opset = {opset}: this model cannot be written in it, but in {written_opset}"
        )
    used_names = _tidied(file.graph)
    inputs = [value for value in file.graph.input if value.name in used_names]
    del file.graph.input[:]
    file.graph.input.extend(inputs)
    for value in (*file.graph.input, *file.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes and axes[0].dim_param:
            axes[0].dim_param = "batch"
    about["inputs"] = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in inputs
    }
    about["outputs"] = [value.name for value in file.graph.output]
    if "mask" not in about["outputs"]:
        about["facts"].pop("vocabulary", None)  # the reader writes the valid steps of a line
    about["opset"] = opset
    _describe_inputs(model, graph, about)
    file.producer_name, file.producer_version = "genkit", registry.core_version()
    onnx.helper.set_model_props(file, {"genkit": json.dumps(about)})
    if file.ByteSize() >= 2**31:
        raise GenkitError(
            f"the model has {file.ByteSize() / 1e9:.1f} GB, and one ONNX file holds 2: it cannot be exported"
        )
    content: bytes = file.SerializeToString()
    return content


def _tidied(graph: Any) -> set[str]:
    """Remove from a graph and its inner graphs what torch notes about its source; returns the names that are read."""
    names = {value.name for value in graph.output}
    for part in (
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                names |= _tidied(inner)
    return names


def _description(model: Drawable, graph: Graph, label: str | None, controls: Any) -> dict[str, Any]:
    """What a file says of itself, but for its inputs and outputs.

    Raises:
        ConfigError: if the plugin says that the model cannot be exported.
        PluginError: if what it says besides is no JSON data.
    """
    plugin, info, stepwise = model.plugin, model.info, graph.stepwise
    facts = dict(plugin.facts.values)
    if "export_facts" in capabilities_of(plugin, graph.generator):
        with registry.asking(model.modality, "export_facts") as fault:
            more = plugin.export_facts()
            try:
                facts |= json.loads(json.dumps(more))
            except (TypeError, ValueError) as error:
                raise fault(f"it returned no JSON data ({error})") from error
    loop: dict[str, Any] = {"length": 1, "joined": False, "noise": [], "state": {}}
    if stepwise is not None:
        state = {name: row[0].tolist() for name, row in stepwise.state.items()}
        stepped = [
            f"noise.{part}"
            for part, spec in noise_of(graph.generator).items()
            if spec.steps is not None
        ]
        loop = {"length": stepwise.length, "joined": True, "noise": stepped, "state": state}
    return {
        "schema": 1,
        "genkit": registry.core_version(),
        "torch": torch.__version__,
        "modality": model.modality.id,
        "plugin": info.get("plugin"),
        "preset": info.get("preset"),
        "items": info.get("items"),
        "sha256": model.sha256,
        "options": info.get("options"),
        "facts": facts,
        "label": label,
        "noise": [
            _noise_part(part, spec, graph.windows.get(part), controls)
            for part, spec in noise_of(graph.generator).items()
        ],
        "loop": loop,
    }


def _noise_part(part: str, spec: Noise, window: range | None, controls: Any) -> dict[str, Any]:
    """How the numbers of a noise part are drawn: `count` words of stream `streams * (index + 1)` of its key, from word
    `start + stride * index` on, each a uniform number of at most `limit`."""
    size = math.prod(spec.shape)
    seed = f"{part.partition('.')[0]}_seed"
    steps = spec.steps if window is None else len(window)
    place = {"streams": 0, "start": 0, "stride": size, "count": size}
    if steps is not None:
        start = 0 if window is None else window.start * size
        place = {"streams": 1, "start": start, "stride": 0, "count": steps * size}
    is_capped = spec.distribution == "uniform" and spec.dtype == "float32"
    return {
        "name": part,
        "shape": [*([] if steps is None else [steps]), *spec.shape],
        "steps": steps,
        "distribution": spec.distribution,
        "dtype": spec.dtype,
        "seed": seed if seed in getattr(type(controls), "model_fields", ()) else None,
        "limit": 1 - 2.0 ** (-24 if is_capped else -53),
        **place,
    }


def _describe_inputs(model: Drawable, graph: Graph, about: dict[str, Any]) -> None:
    """Add to a description what a reader passes to the inputs: controls, conditions by label, default conditions."""
    values = {} if graph.controls is None else graph.controls.model_dump(mode="json")
    seeds = {part["seed"] for part in about["noise"]} - {None}
    variable = {name for name in graph.numbers if name in about["inputs"]} | seeds
    about["controls"] = {name: value for name, value in values.items() if name in variable}
    about["fixed"] = {name: value for name, value in values.items() if name not in variable}
    if graph.stepwise is not None:
        about["controls"]["prefix"] = graph.stepwise.prefix[0].tolist()
    about["labels"], about["conditions"] = {}, []
    if "condition" not in about["inputs"]:
        return
    with registry.asking(model.modality, "conditions"):
        labels = model.plugin.conditions().labels
    rows = {name: cast(Tensor, model.conditions_for(name)([0]))[0] for name in labels}
    if sum(row.numel() for row in rows.values()) <= LARGEST_TABLE:
        about["labels"] = {name: row.tolist() for name, row in rows.items()}
    conditions = model.conditions_for(about["label"])
    for period in dict.fromkeys([1, len(about["labels"])]):
        whole = cast(Tensor, conditions(range(max(2 * period, CHUNK))))
        is_periodic = torch.equal(whole, whole[torch.arange(len(whole)) % max(period, 1)])
        if is_periodic and whole[:period].numel() <= LARGEST_TABLE:
            about["conditions"] = whole[:period].tolist()
            break


def _reader_text() -> str:
    """The text of the reader, without importing it, which would need ONNX Runtime."""
    return Path(__file__).with_name("onnx_reader.py").read_text(encoding="utf-8")

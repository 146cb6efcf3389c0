"""A generator as a graph of tensors: its forward pass, or one step of it, traced by torch with names for all inputs.

Knows generators, their noise and their loops; no file.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from genkit.discovery import registry
from genkit.errors import PluginError, first_line
from genkit.plugin import Sample, Stepwise, Unrolling, capabilities_of
from genkit.sampling.drawing import noise_for, noise_of, unrolls
from genkit.sampling.samples import Source

ROWS = 3
"""Rows of the batch that a graph is traced with: torch takes 0 and 1 for constants."""

LIBRARIES = {"torch", "onnx", "onnxscript", "onnxruntime"}
"""Folders of code in which the place of a fault tells its author nothing."""

HINTS = {
    "Constraints violated (batch)": "it takes the number of rows as a plain number, by len(x) say, where x.shape[0] "
    "would do",
    "data-dependent": "a number or a branch in Python depends on the values of a tensor",
}
"""What torch says of a forward pass that cannot be traced, in part -> the same in plain words."""


class Drawable(Source, Protocol):
    """The parts of a model that its export uses; `genkit.sampling.model.Model` has them."""

    @property
    def generator(self) -> nn.Module: ...

    def conditions_for(self, label: str | None) -> Callable[[Sequence[int]], Tensor | None]: ...

    def draw(
        self, indices: Sequence[int], seed: int, label: str | None, controls: Any
    ) -> Sample: ...


class Graph(nn.Module):
    """A generator as a function from tensors to tensors, with names for both.

    Args:
        generator: in eval mode, on the CPU.
        controls: numbers among the inputs replace those of the same name.
        rows: examples of the inputs with a batch axis, by name: `noise.<part>`, `condition`, `forced`, `state.<name>`.
        windows: of the noise parts with steps, where samples of any length are drawn.
        steps: of such samples; None: there are none.
        stepwise: how the generator's loop goes; None: it has none.
    """

    def __init__(
        self, generator: nn.Module, controls: Any, rows: Mapping[str, Tensor], windows: Mapping[str, range],
        steps: range | None, stepwise: Stepwise | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.generator, self.controls, self.stepwise = generator, controls, stepwise
        self.step = None if stepwise is None else stepwise.step
        self.rows, self.windows, self.steps = rows, windows, steps
        self.numbers: dict[str, Tensor] = {}
        self.outputs: list[str] = []

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Examples of all inputs: those with a batch axis, and the controls that are inputs."""
        return {**self.rows, **self.numbers}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.inputs, tensors, strict=True))
        numbers = {name: values[name] for name in self.numbers}
        controls = self.controls.model_copy(update=numbers) if numbers else self.controls
        noise, state = (
            {
                name.removeprefix(kind): value
                for name, value in values.items()
                if name.startswith(kind)
            }
            for kind in ("noise.", "state.")
        )
        condition = values.get("condition")
        if self.step is not None:
            sample, state = self.step(noise, condition, controls, values["forced"], state)
            if sample.mask is None:
                mask = torch.ones_like(values["forced"], dtype=torch.bool)
                sample = replace(sample, mask=mask)
        elif self.steps is not None:
            sample = cast(Unrolling, self.generator).unroll(noise, condition, controls, self.steps)
        else:
            sample = self.generator(noise, condition, controls)
        results = {"x": sample.x} | ({} if sample.mask is None else {"mask": sample.mask})
        results |= {f"next.{name}": value for name, value in state.items()}
        self.outputs = list(results)
        return tuple(results.values())


def graph_of(model: Drawable, label: str | None, controls: Any) -> Graph:
    """The graph of a model's generator, with the inputs that it will have."""
    generator = copy.deepcopy(model.generator).cpu()
    condition = model.conditions_for(label)(range(ROWS))
    with registry.asking(model.modality, "the generator"), torch.no_grad():
        windows: Mapping[str, range] = {}
        steps = stepwise = None
        if "stepwise" in capabilities_of(model.plugin, generator):
            first = None if condition is None else condition[:1]
            stepwise = cast(Any, generator).stepwise(first, controls)
        elif unrolls(generator):
            unrolling = cast(Unrolling, generator)
            steps = range(unrolling.length(controls, condition))
            windows = unrolling.needs(steps, controls)
        noise = noise_for(generator, 0, range(ROWS), torch.device("cpu"), controls, windows)
        rows = {}
        for part, spec in noise_of(generator).items():
            is_stepped = stepwise is not None and spec.steps is not None
            rows[f"noise.{part}"] = noise[part][:, 0] if is_stepped else noise[part]
        if condition is not None:
            rows["condition"] = condition.cpu()
        if stepwise is not None:
            rows["forced"] = torch.full((ROWS,), -1)
            for name, row in stepwise.state.items():
                rows[f"state.{name}"] = row.cpu().repeat(ROWS, *(1,) * (row.ndim - 1))
        graph = Graph(generator, controls, rows, windows, steps, stepwise).eval()
        graph(*rows.values())  # what it raises is not hidden among the faults of tracing
    return graph


def _numbers(controls: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The controls that are numbers as tensors []: float32 and int64."""
    numbers = {}
    for name in getattr(type(controls), "model_fields", ()):
        value = getattr(controls, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (
            is_number
            and not name.endswith("_seed")
            and name not in (*inputs, "x", "mask", "prefix")
        ):
            numbers[name] = torch.tensor(value)
    return numbers


def _trace(graph: Graph, numbers: Mapping[str, Tensor]) -> ExportedProgram:
    """The traced graph with these numbers as inputs. It raises whatever torch does."""
    graph.numbers = dict(numbers)
    batch = Dim("batch")
    shapes = tuple({0: batch} if name in graph.rows else None for name in graph.inputs)
    with silence(), torch.no_grad():
        return export(graph, tuple(graph.inputs.values()), dynamic_shapes=(shapes,), strict=False)


def traced(model: Drawable, graph: Graph) -> ExportedProgram:
    """The traced graph, with all numbers as inputs that the generator computes with as tensors.

    Raises:
        PluginError: if it cannot be traced even without them.
    """
    numbers = _numbers(graph.controls, graph.rows)
    with contextlib.suppress(Exception):
        return _trace(graph, numbers)
    try:
        program = _trace(graph, {})
    except Exception as error:
        raise fault_of(model, "its generator cannot be traced", error) from error
    possible: dict[str, Tensor] = {}
    for name, value in numbers.items() if len(numbers) > 1 else ():
        with contextlib.suppress(Exception):
            program = _trace(graph, {**possible, name: value})
            possible[name] = value
    graph.numbers = possible
    return program


def fault_of(model: Drawable, fault: str, error: BaseException) -> PluginError:
    """What to raise for an error of torch or ONNX, which says more than anybody wants to read."""
    while error.__cause__ is not None:
        error = error.__cause__
    hints = [words for sign, words in HINTS.items() if sign in str(error)]
    frames = [
        (Path(frame.filename), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not LIBRARIES & {*Path(frame.filename).parts}
    ]
    own = [(path, line) for path, line in frames if path.parent != Path(__file__).parent]
    place = f" in line {own[-1][1]} of {own[-1][0].name}" if own else ""
    reason = f"{fault}: {(hints or [first_line(error)])[0]}{place}"
    return PluginError(registry.origin(model.modality), "export", reason)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """A context in which torch and its exporter print, log and warn of nothing."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(level)

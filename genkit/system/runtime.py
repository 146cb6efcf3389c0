"""The machine under a run: its device, its threads, its processes, and how numbers are computed on it.

Many processes are torchrun's to start; accelerate joins them, and it lives here and nowhere else. Knows nothing of
games, data or files.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from genkit.errors import ConfigError, did_you_mean

Value = TypeVar("Value")
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}

WORKERS = min(4, os.cpu_count() or 1)
"""Threads beside the one that computes, for work that mostly waits or leaves Python's lock (files, compression)."""

Item = TypeVar("Item")


class Runtime:
    """Where a run computes, and how.

    Args:
        device: auto (cuda, else mps, else cpu), or a torch device.
        threads: CPU threads; None leaves torch's choice.
        plan: memory format and precision, out of `genkit.recipe.PLANS`.

    Raises:
        ConfigError: if the device does not exist here.
    """

    def __init__(
        self, device: str = "auto", threads: int | None = None, plan: str = "fp32"
    ) -> None:
        self.rank, self.processes = (
            int(os.environ.get("RANK", 0)),
            int(os.environ.get("WORLD_SIZE", 1)),
        )
        self.device = pick_device(device)
        if self.processes > 1:
            from accelerate import PartialState

            state = PartialState(cpu=self.device.type == "cpu")
            self.device = state.device
            atexit.register(state.destroy_process_group)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.plan = plan
        self.threads = torch.get_num_threads() if threads is None else threads

    @property
    def threads(self) -> int:
        """CPU threads of torch."""
        return torch.get_num_threads()

    @threads.setter
    def threads(self, count: int) -> None:
        if count != torch.get_num_threads():
            torch.set_num_threads(count)

    def fingerprint(self) -> dict[str, Any]:
        """What the bits of a result depend on beyond the configuration."""
        return {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": self.threads,
            "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "device": torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else str(self.device),
            "processes": self.processes,
        }

    # How numbers are computed ------------------------------------------------------------------------------------

    def computing(self, exactly: bool = False) -> AbstractContextManager[Any]:
        """The plan's precision; `exactly`: float32 whatever the plan.

        Weights are cast anew in every pass: a cache filled without gradients would cut those of the next pass off
        (pytorch#65766).
        """
        half = self.plan.startswith("bf16") and not exactly
        return (
            torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
            if half
            else nullcontext()
        )

    def lay_out(self, module: nn.Module) -> None:
        """Move a module to the device and its weights into the plan's memory format, in place."""
        lay_out(module.to(self.device), self.plan.endswith("channels-last"))

    def wait(self) -> None:
        """Until the device has done what it was asked to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    # Many processes ----------------------------------------------------------------------------------------------

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return is_main_process()

    def share_of(self, count: int) -> range:
        """This process's rows of a batch of `count`."""
        own = count // self.processes
        return range(self.rank * own, (self.rank + 1) * own)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in one exchange."""
        if self.processes == 1 or not tensors:
            return
        from accelerate.utils import reduce

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        parts = reduce(flat, "mean").split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_reduce(self, number: Tensor) -> Tensor:
        """A number summed over all processes."""
        if self.processes == 1:
            return number
        from accelerate.utils import reduce

        summed: Tensor = reduce(number, "sum")
        return summed

    def broadcast(self, value: Value) -> Value:
        """The main process's value, in all processes."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        shared: list[Value] = broadcast_object_list([value])
        return shared[0]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.processes > 1:
            torch.distributed.barrier()


def lay_out(module: nn.Module, channels_last: bool) -> None:
    """Bring a module's spatial weights into a memory format, in place; what they compute follows it."""
    for parameter in module.parameters():
        if parameter.ndim in _LAYOUTS:
            layout = _LAYOUTS[parameter.ndim] if channels_last else torch.contiguous_format
            parameter.data = parameter.data.contiguous(memory_format=layout)


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next step: to return and fault them in again costs a tenth of it.

    A setting of the whole process (mallopt(3)), which then holds what it held at its peak. Other C libraries are left
    alone.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def open_trackers(name: str | None, folder: Path, settings: Mapping[str, Any]) -> list[Any]:
    """What follows a run beside its own log, by accelerate's name (tensorboard, wandb, mlflow ...), ready to log.

    Args:
        folder: where those that write files write them.
        settings: of the run.

    Raises:
        ConfigError: for an unknown name, or one whose package is not installed.
    """
    if name is None:
        return []
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise ConfigError(f"run.track = {name!r}: no such tracker.{did_you_mean(name, known)}")
    if name not in map(str, get_available_trackers()):
        raise ConfigError(f"run.track = {name!r}: its package is not installed: pip install {name}")
    PartialState()
    cls = LOGGER_TYPE_TO_CLASS[name]
    tracker = cls("track", folder) if cls.requires_logging_directory else cls(folder.name)
    tracker.start()
    tracker.store_init_configuration(dict(settings))
    return [tracker]


def is_main_process() -> bool:
    """Whether this process is alone, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def pick_device(name: str) -> torch.device:
    """A torch device by name, `auto` for the best there is.

    Raises:
        ConfigError: if it does not exist here.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # torch raises each of them for a device it lacks
        here = (
            ["cpu"]
            + ["cuda"] * torch.cuda.is_available()
            + ["mps"] * torch.backends.mps.is_available()
        )
        raise ConfigError(
            f"device {name!r} does not exist here; there is: {', '.join(here)}"
        ) from error
    return device


def overlapped(
    work: Callable[[Item], object], items: Iterable[Item], workers: int = WORKERS
) -> Iterator[Item]:
    """Each item as it comes, while threads work on those before it.

    The first error, of an item or of the work, ends it; what was begun is done before that is raised.

    Args:
        workers: threads, and how many items may wait for them; 0: no threads, each item is done before it is given.
    """
    if not workers:
        for item in items:
            work(item)
            yield item
        return
    pool, begun = ThreadPoolExecutor(workers), deque[Future[object]]()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            yield item
            while begun and (len(begun) > workers or begun[0].done()):
                begun.popleft().result()
        for future in begun:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)

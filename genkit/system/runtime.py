"""The machine that a run uses: its device, threads, processes, precision and memory format.

torchrun starts the processes of a run and accelerate connects them; accelerate is used in this module only. Nothing
here depends on games or data.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from genkit.errors import ConfigError, did_you_mean

PATIENCE = 2.0
"""After so many seconds of silence the user is told what takes long."""

Value = TypeVar("Value")
Item = TypeVar("Item")

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}

WORKERS = min(4, os.cpu_count() or 1)
"""Background threads for work that mostly waits or releases Python's lock (files, compression)."""


class Runtime:
    """The device, threads, processes and precision of a run.

    Args:
        device: auto (cuda, else mps, else cpu), or the name of a torch device.
        threads: CPU threads; None leaves torch's choice.
        plan: precision and memory format, one of `genkit.recipe.PLANS`.

    Attributes:
        device: the torch device of this process.
        rank, processes: number of this process, and of all, as torchrun sets them; 0 and 1 without it.
        plan: as given; may be changed.

    Raises:
        ConfigError: if the device does not exist on this machine.
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
        """Number of CPU threads of torch; can be set."""
        return torch.get_num_threads()

    @threads.setter
    def threads(self, count: int) -> None:
        if count != torch.get_num_threads():
            torch.set_num_threads(count)

    def fingerprint(self) -> dict[str, Any]:
        """What the bits of a result depend on besides the configuration: versions, threads, CPU, device, processes."""
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
        """A context in which the plan's precision is used.

        Autocast's cache of converted weights is off: filled in a pass without gradients, it would detach the weights in
        the next pass (pytorch#65766).

        Args:
            exactly: use float32 whatever the plan is.
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
        """Wait until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def peak_memory(self) -> int:
        """Bytes: the most memory that this process has had so far, of a GPU if it computes there; 0 if unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        if sys.platform == "win32":
            return 0
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    # Many processes ----------------------------------------------------------------------------------------------

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes files and reports progress."""
        return is_main_process()

    def share_of(self, count: int) -> range:
        """The rows of a batch that this process computes.

        Args:
            count: rows of the whole batch, a multiple of the number of processes.
        """
        rows = count // self.processes
        return range(self.rank * rows, (self.rank + 1) * rows)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place and in one communication."""
        if self.processes == 1 or not tensors:
            return
        from accelerate.utils import reduce

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        parts = reduce(flat, "mean").split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_reduce(self, number: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.processes == 1:
            return number
        from accelerate.utils import reduce

        summed: Tensor = reduce(number, "sum")
        return summed

    def broadcast(self, value: Value) -> Value:
        """The main process's value, which must be picklable, in all processes."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values: list[Value] = broadcast_object_list([value])
        return values[0]

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.processes > 1:
            torch.distributed.barrier()


def lay_out(module: nn.Module, channels_last: bool) -> None:
    """Change the memory format of a module's weights with 4 or 5 axes, in place; convolutions then use it as well.

    Args:
        channels_last: channels_last (channels_last_3d for 5 axes), or contiguous.
    """
    for parameter in module.parameters():
        if parameter.ndim in _LAYOUTS:
            layout = _LAYOUTS[parameter.ndim] if channels_last else torch.contiguous_format
            # With one input channel a tensor is in both formats, by whichever strides; convolutions go by the strides.
            laid_out = torch.empty_like(parameter.data, memory_format=layout)
            if laid_out.stride() != parameter.data.stride():
                parameter.data = laid_out.copy_(parameter.data)


def keep_freed_memory() -> None:
    """Let glibc keep large blocks of freed memory for the next training step instead of returning them to the system.

    Returning them and faulting them in again takes a tenth of a step. It is a setting of the whole process
    (mallopt(3)), whose memory then stays at its peak. With other C libraries nothing happens.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def open_trackers(name: str | None, folder: Path, settings: Mapping[str, Any]) -> list[Any]:
    """Start the experiment tracker of a run.

    Args:
        name: accelerate's name of the tracker: tensorboard, wandb, mlflow ...; None: no tracker.
        folder: the folder for trackers that write files; for others its name is the name of the run.
        settings: of the run, which the tracker records.

    Returns:
        The tracker, ready to log, as a list of one; empty without one.

    Raises:
        ConfigError: for an unknown tracker, or one whose package is not installed.
    """
    if name is None:
        return []
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    names = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in names:
        raise ConfigError(f"run.track = {name!r}: no such tracker.{did_you_mean(name, names)}")
    if name not in map(str, get_available_trackers()):
        raise ConfigError(f"run.track = {name!r}: its package is not installed: pip install {name}")
    PartialState()
    cls = LOGGER_TYPE_TO_CLASS[name]
    tracker = cls("track", folder) if cls.requires_logging_directory else cls(folder.name)
    tracker.start()
    tracker.store_init_configuration(dict(settings))
    return [tracker]


def total_memory() -> int:
    """Bytes of main memory of this machine; 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def is_main_process() -> bool:
    """Whether this process is the only one of the run, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def environment_share() -> tuple[int, int] | None:
    """(number from 1, count): this process among those that torchrun or a SLURM array started; None: neither did.

    Where each task of an array starts processes by torchrun, all of them are counted.

    Raises:
        ConfigError: if the tasks of the array are not numbered evenly, or a variable of the environment is no number.
    """
    places: list[tuple[int, int]] = []  # (place from 0, count), the widest first
    if os.environ.keys() >= {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"}:
        task, count = _variable("SLURM_ARRAY_TASK_ID"), _variable("SLURM_ARRAY_TASK_COUNT")
        first, step = (
            _variable("SLURM_ARRAY_TASK_MIN", "0"),
            _variable("SLURM_ARRAY_TASK_STEP", "1"),
        )
        place, uneven = divmod(task - first, max(step, 1))
        if uneven or not 0 <= place < count:
            raise ConfigError(
                f"the task {task} has no place among the {count} of this SLURM array, which are not numbered evenly: "
                "submit all of them as --array=1-N, or say the shard as K/N"
            )
        places.append((place, count))
    if os.environ.keys() >= {"RANK", "WORLD_SIZE"}:
        places.append((_variable("RANK"), _variable("WORLD_SIZE")))
    if not places:
        return None
    number, of = 0, 1
    for place, count in places:
        number, of = number * count + place, of * count
    return number + 1, of


def _variable(name: str, default: str = "") -> int:
    """A number in the environment.

    Raises:
        ConfigError: if it is none.
    """
    value = os.environ.get(name, default)
    if not value.isdecimal():
        raise ConfigError(f"{name} = {value!r} in the environment: a number is needed")
    return int(value)


def pick_device(name: str) -> torch.device:
    """A torch device by name; `auto`: cuda if available, else mps, else cpu.

    Of several GPUs, a process that torchrun started takes its own for `auto` and `cuda`.

    Raises:
        ConfigError: if the device does not exist on this machine.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.device_count() > 1:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # Torch raises any of these for a device that does not exist.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        names = (
            ["cpu"]
            + ["cuda"] * torch.cuda.is_available()
            + ["mps"] * torch.backends.mps.is_available()
        )
        raise ConfigError(
            f"device {name!r} does not exist here; there is: {', '.join(names)}"
        ) from error
    return device


def overlapped(
    work: Callable[[Item], Value], items: Iterable[Item], workers: int = WORKERS
) -> Generator[Value, None, None]:
    """Yield what the work makes of each item, in order, while background threads work on the next ones.

    The first exception, of the iterator or of the work, is raised here; work in progress is finished before.

    Args:
        work: called with each item.
        items: an iterator, which runs in this thread.
        workers: number of threads, and how many items may wait for them; 0: no threads, each item is worked on before
            the next is taken.
    """
    if not workers:
        yield from map(work, items)
        return
    pool, futures = ThreadPoolExecutor(workers), deque[Future[Value]]()
    try:
        for item in items:
            futures.append(pool.submit(work, item))
            while futures and (len(futures) > workers or futures[0].done()):
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def waiting(work: str | Callable[[], str], tell: Callable[[str], object] | None) -> Iterator[None]:
    """A context for work that may take long: its user is told so after `PATIENCE` seconds, and then ever more seldom.

    Args:
        work: what is done, in a few words; or a function that says how far it is.
        tell: is called from a thread of its own; None: nobody is told.
    """
    if tell is None:
        yield
        return
    is_over, start = threading.Event(), time.monotonic()

    def watch() -> None:
        seconds = PATIENCE
        while not is_over.wait(start + seconds - time.monotonic()):
            tell(f"{work if isinstance(work, str) else work()}: {seconds:,.0f} s so far")
            seconds *= 2

    watcher = threading.Thread(target=watch, name="genkit-waiting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()

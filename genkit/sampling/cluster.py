"""A job of many samples on a Ray cluster: each share of it is a task.

A task writes its share with `Model.generate_to`, into a folder that all machines see; nothing comes back but names. Ray
places the tasks, and repeats those whose machine is lost: they go on where they stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from genkit.errors import ConfigError, GenkitError, first_line
from genkit.sampling.drawing import DTYPES
from genkit.sampling.listing import Files
from genkit.sampling.opening import open_model
from genkit.system.files import user_path


def generate_on_ray(
    model: str | Path,
    path: str | Path,
    n: int,
    shards: int,
    *,
    device: str = "auto",
    dtype: str = DTYPES[0],
    user_objects: Sequence[str] = (),
    progress: Callable[[int, int], object] | None = None,
    **arguments: Any,
) -> Sequence[Path]:
    """Draw samples into a folder as tasks of a Ray cluster, each with a CPU of its own, or a GPU.

    Ray must be installed (`pip install "genkit-gan[ray]"`). The cluster is the one that `ray.init` was called for, else
    that of `RAY_ADDRESS` or of this machine; where there is none, one is started on this machine and stopped at the
    end. Files that are finished are kept, as with `resume`.

    Args:
        model: a model folder or run folder, that all machines see under this path.
        path: of the folder, which they see as well.
        n: number of samples.
        shards: number of tasks; as many at a time run as the cluster has room for.
        device: of each task; `auto`: a GPU each, if the cluster has any, else a CPU.
        dtype: as for `genkit.load`.
        user_objects: as for `genkit.load`; the modules are installed on all machines.
        progress: is called with the number of finished tasks, and of all.
        arguments: further ones of `Model.generate_to`.

    Returns:
        The paths of the files; `samples.json` is the last.

    Raises:
        ConfigError: if Ray is not installed or `shards` is less than 1; and as `Model.generate_to` does.
        GenkitError: if a task could not be finished.
    """
    if shards < 1:
        raise ConfigError(f"{shards} tasks on Ray: at least one is needed")
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise ConfigError(
            f"Ray cannot be imported ({first_line(error)}): pip install 'genkit-gan[ray]'"
        ) from error
    # Relative paths stay as they are written, for samples.json: the tasks go to the folder that they start from.
    places = [str(model), str(path)]
    base = os.getcwd() if not all(user_path(place).is_absolute() for place in places) else None
    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            ray.init(log_to_driver=False)
        except ConnectionError as error:
            raise ConfigError(
                f"the Ray cluster of RAY_ADDRESS cannot be reached: {first_line(error)}"
            ) from error
    tasks: list[Any] = []
    try:
        gpus = device.startswith("cuda") or (
            device == "auto" and cast(Any, ray).cluster_resources().get("GPU", 0) > 0
        )
        write: Any = ray.remote(_write_share).options(num_cpus=1, num_gpus=int(gpus))
        settings = {**arguments, "n": n, "resume": True}
        tasks = [
            write.remote(
                *places, base, device, dtype, list(user_objects), f"{number}/{shards}", settings
            )
            for number in range(1, shards + 1)
        ]
        shares: list[Files] = []
        pending, report = list(tasks), progress or (lambda *_: None)
        report(0, shards)
        while pending:
            finished_tasks, pending = ray.wait(pending)
            shares += ray.get(finished_tasks)
            report(len(shares), shards)
    except RayTaskError as error:
        if isinstance(error.cause, GenkitError):
            raise error.cause from None
        raise GenkitError(f"a task on Ray failed: {first_line(error.cause)}") from error
    except RayError as error:
        raise GenkitError(f"the work on Ray failed: {first_line(error)}") from error
    finally:
        for task in tasks:
            with contextlib.suppress(Exception):  # nothing happens to those that have finished
                ray.cancel(task)
        if is_ours:
            ray.shutdown()
    written = [share for share in shares if share.numbers]
    first = min(share.numbers[0] for share in written)
    last = max(share.numbers[-1] for share in written)
    return Files(user_path(path), range(first, last + 1), written[0].ending)


def _write_share(
    model: str, path: str, base: str | None, device: str, dtype: str, user_objects: Sequence[str],
    shard: str, arguments: dict[str, Any],
) -> Sequence[Path]:  # fmt: skip
    """What a task does: write one share; the names of its files."""
    with contextlib.nullcontext() if base is None else contextlib.chdir(base):
        opened_model = open_model(model, device, user_objects=user_objects, dtype=dtype)
        return opened_model.generate_to(path, shard=shard, **arguments)

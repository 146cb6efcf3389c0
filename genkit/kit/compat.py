"""The pure-Python parts of torchvision and torchaudio beside a torch that their native parts do not fit.

PyPI's wheels of both are linked against CUDA; beside a CPU build of torch their imports fail. Most of what they offer
is Python: transforms, data sets, models, filters. Import them through here, and before any library that imports them
itself. Beside a matching build nothing is touched. Knows nothing else of the house.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

from genkit.errors import GenkitError

_kept_alive: list[Any] = []


class NativePartMissing(GenkitError):
    """Something was called that only the compiled part of torchvision or torchaudio can do."""


@cache
def torchvision() -> ModuleType:
    """The package torchvision, imported; also makes `import torchvision` safe from here on.

    Where its native library does not fit this torch, `transforms.v2`, `models`, `datasets` and `utils` work;
    its compiled operators (`ops.nms`) and image decoders (`io`) raise.

    Raises:
        ImportError: if it is not installed.
    """
    if "torchvision" not in sys.modules and not _native_part_loads("torchvision", "_C"):
        # The import registers rules for two operators that only the native library declares.
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.impl(
                name,
                _refuser(f"torchvision.ops.{name}", "torchvision"),
                "CompositeExplicitAutograd",
            )
        _kept_alive.append(library)  # the declarations live as long as the object
    return importlib.import_module("torchvision")


@cache
def torchaudio() -> ModuleType:
    """The package torchaudio, imported; also makes `import torchaudio` safe from here on.

    Where its native library does not fit this torch, `transforms`, `functional`, `models` and `datasets` work
    (filters in plain torch); `functional.forced_align` raises.

    Raises:
        ImportError: if it is not installed.
    """
    if "torchaudio" not in sys.modules and not _native_part_loads("torchaudio", "lib/_torchaudio"):
        stand_in: Any = ModuleType("torchaudio._extension")
        stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False
        stand_in._IS_ALIGN_AVAILABLE = False
        stand_in._check_cuda_version = lambda: None
        stand_in.fail_if_no_align = lambda function: _refuser(
            f"torchaudio.functional.{function.__name__}", "torchaudio"
        )
        sys.modules["torchaudio._extension"] = stand_in
    return importlib.import_module("torchaudio")


def prepare() -> None:
    """Import whichever of the two are installed, so that a library may import them from here on."""
    for name, package in (("torchvision", torchvision), ("torchaudio", torchaudio)):
        if importlib.util.find_spec(name) is not None:
            package()


def _native_part_loads(package: str, library: str) -> bool:
    """Whether a package's compiled library fits this torch; runs none of the package's Python.

    Raises:
        ImportError: if the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed: pip install {package}", name=package)
    stem = Path(spec.origin).parent / library
    for path in sorted(stem.parent.glob(f"{stem.name}.*")):
        if path.suffix in (".so", ".pyd", ".dylib"):
            try:
                torch.ops.load_library(path)  # type: ignore[no-untyped-call]
            except OSError:  # what the dynamic linker says to a missing symbol or library
                return False
            return True
    return False


def _refuser(name: str, package: str) -> Callable[..., NoReturn]:
    def refuse(*arguments: Any, **keywords: Any) -> NoReturn:
        raise NativePartMissing(
            f"{name} needs the compiled part of {package}, which does not fit torch {torch.__version__}: install the "
            f"build of {package} made for it (see pytorch.org/get-started, same CPU or CUDA variant as torch)"
        )

    return refuse

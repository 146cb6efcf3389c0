"""torchvision and torchaudio whose compiled libraries do not fit the installed torch: their Python parts still work.

The wheels of both on PyPI are linked against CUDA; with a CPU build of torch their imports fail. Most of what they
offer is pure Python: transforms, data sets, models, filters. Import them with the functions here, before any library
that imports them itself:

    from genkit.kit import compat
    torchvision = compat.torchvision()

If the compiled library fits, the import is an ordinary one.
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

__all__ = ["NativePartMissing", "prepare", "torchaudio", "torchvision"]

_libraries: list[Any] = []
"""Operator declarations, which are valid as long as these objects live."""


class NativePartMissing(GenkitError):
    """A function was called whose compiled part does not fit this torch; the message says which build to install."""


@cache
def torchvision() -> ModuleType:
    """Import torchvision; afterwards `import torchvision` works as well.

    If its compiled library does not fit this torch, `transforms.v2`, `models`, `datasets` and `utils` work; its
    compiled operators (`ops.nms`) and image decoders (`io`) raise.

    Returns:
        The package.

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
                _unavailable(f"torchvision.ops.{name}", "torchvision"),
                "CompositeExplicitAutograd",
            )
        _libraries.append(library)
    return importlib.import_module("torchvision")


@cache
def torchaudio() -> ModuleType:
    """Import torchaudio; afterwards `import torchaudio` works as well.

    If its compiled library does not fit this torch, `transforms`, `functional`, `models` and `datasets` work (filters
    in plain torch); `functional.forced_align` raises.

    Returns:
        The package.

    Raises:
        ImportError: if it is not installed.
    """
    if "torchaudio" not in sys.modules and not _native_part_loads("torchaudio", "lib/_torchaudio"):
        extension: Any = ModuleType("torchaudio._extension")
        extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
        extension._IS_ALIGN_AVAILABLE = False
        extension._check_cuda_version = lambda: None
        extension.fail_if_no_align = lambda function: _unavailable(
            f"torchaudio.functional.{function.__name__}", "torchaudio"
        )
        sys.modules["torchaudio._extension"] = extension
    return importlib.import_module("torchaudio")


def prepare() -> None:
    """Import torchvision and torchaudio if they are installed, so that other libraries can import them afterwards."""
    for name, package in (("torchvision", torchvision), ("torchaudio", torchaudio)):
        if importlib.util.find_spec(name) is not None:
            package()


def _native_part_loads(package: str, library: str) -> bool:
    """Whether a package's compiled library fits this torch; none of the package's Python is run.

    Args:
        package: its import name.
        library: path of the library within the package, without an ending.

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
            except OSError:  # a missing symbol or library
                return False
            return True
    return False


def _unavailable(name: str, package: str) -> Callable[..., NoReturn]:
    """A function that raises `NativePartMissing` for the function `name` of a package."""

    def fail(*arguments: Any, **keywords: Any) -> NoReturn:
        raise NativePartMissing(
            f"{name} needs the compiled part of {package}, which does not fit torch {torch.__version__}: install the "
            f"build of {package} made for it (see pytorch.org/get-started, same CPU or CUDA variant as torch)"
        )

    return fail

"""Files that are written whole or not at all. Knows paths and bytes, nothing of what they mean."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from genkit.errors import StorageError


def write_whole(path: str | Path, content: bytes, durable: bool = True) -> None:
    """Write a file whole or not at all: see `writing`."""
    with writing(path, durable) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: str | Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file that is there, whole, once the block has ended; where the block fails nothing is changed.

    Args:
        durable: survive a power cut as well as a crash of the process.

    Raises:
        StorageError: if the disk is full, or it may not be written.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise StorageError(f"cannot write {path}: {error.strerror or error}. Nothing of it was changed") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        StorageError: if that is impossible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror or error}") from error

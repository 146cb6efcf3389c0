"""Files that are written whole or not at all. Knows paths and bytes, nothing of what they mean."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from genkit.errors import ModelError, StorageError, first_line


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
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. Nothing of it was changed"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        StorageError: if that is impossible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror or error}") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON data whole or not at all."""
    write_whole(path, (json.dumps(data, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ModelError: if it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)})") from error


def recall(name: str) -> dict[str, Any]:
    """What was remembered on this machine; {} where nothing can be read."""
    try:
        content = json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(name: str, facts: Mapping[str, Any]) -> None:
    """Add to what is remembered on this machine, where that is possible."""
    with contextlib.suppress(OSError, StorageError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_json(cache_folder() / name, {**recall(name), **facts})


def cache_folder() -> Path:
    """Where this user's programs keep what can be found out anew."""
    return Path(platformdirs.user_cache_dir("genkit", appauthor=False))


def settings_folder() -> Path:
    """Where this user's settings of programs lie."""
    return Path(platformdirs.user_config_dir("genkit", appauthor=False))


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write ordinary files into a folder, each whole or not at all; their names, in order."""
    make_folder(folder)
    names = []
    for name, content in files:
        write_whole(os.path.join(folder, plain_name(name)), content, durable=False)
        names.append(name)
    return names


def plain_name(name: str) -> str:
    if not name or os.path.basename(name) != name or name.startswith("."):
        raise ModelError(f"{name!r} is no plain file name")
    return name

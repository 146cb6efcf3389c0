"""Writing files completely or not at all, JSON files, and this user's cache and settings folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from genkit.errors import ConfigError, ModelError, StorageError, first_line

LONGEST_NAME = 60
"""Characters of a file name that every system takes, in any script and with the ending of a file in work."""


def write_whole(path: str | Path, content: bytes, durable: bool = True) -> None:
    """Write a file completely or not at all.

    Args:
        durable: flush to the disk, so that the file survives a power failure.

    Raises:
        StorageError: if the disk is full, or the file may not be written; an existing file is then unchanged.
    """
    with writing(path, durable) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: str | Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A context that gives a binary file to write; it replaces `path` at the end of the block, if nothing was raised.

    Args:
        durable: flush to the disk, so that the file survives a power failure and not only a crash of the process.

    Raises:
        StorageError: if the disk is full, or the file may not be written; an existing file is then unchanged.
    """
    folder, name = os.path.split(path)
    # `unfinished` reads this form of name.
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


def names_in(folder: str | Path) -> Iterator[str]:
    """The names of all entries of a folder, one by one, in no order; none if there is no such folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def unfinished(folder: Path) -> Iterator[tuple[Path, str]]:
    """What killed processes have left of files that they were writing into a folder: (path, name of the file)."""
    for name in names_in(folder):
        if match := _UNFINISHED.fullmatch(name):
            yield folder / name, match[1]


_UNFINISHED = re.compile(r"\.(.+)\.\d+\.\d+\.tmp", re.DOTALL)


def make_folder(path: Path) -> None:
    """Make a folder and its parents; an existing one is no error.

    Raises:
        StorageError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror or error}") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON data to a file completely or not at all.

    Raises:
        StorageError: if the file cannot be written.
    """
    write_whole(path, (json.dumps(data, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ModelError: if it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)})") from error


def user_path(path: str | Path) -> Path:
    """A path as a user writes it: `~` at its start is the home folder, as in a shell.

    Raises:
        ConfigError: for an empty name, such as that of a variable of the shell that is not set.
    """
    if isinstance(path, str) and not path.strip():
        raise ConfigError(f"{path!r} names no file or folder (. is the current one)")
    return Path(os.path.expanduser(path))  # Path.expanduser raises where there is no home folder


def without_place(name: str | None) -> str | None:
    """What names data or a model, as strangers may read it: of a path, only its last part."""
    is_path = name and (os.path.exists(name) or os.path.isabs(name))
    return os.path.basename(os.path.normpath(str(name))) if is_path else name


def recall(name: str) -> dict[str, Any]:
    """What `remember` has stored in a file of the cache folder; {} if there is nothing readable."""
    try:
        content = read_json(cache_folder() / name)
    except ModelError:
        return {}
    return content if isinstance(content, dict) else {}


def remember(name: str, facts: Mapping[str, Any]) -> None:
    """Add JSON data to a file of the cache folder, to be read by `recall`; nothing happens if that is impossible."""
    with contextlib.suppress(StorageError):
        make_folder(cache_folder())
        write_json(cache_folder() / name, {**recall(name), **facts})


def cache_folder() -> Path:
    """This user's cache folder of genkit, for data that can be computed again."""
    return _user_folder(platformdirs.user_cache_dir, "cache")


def settings_folder() -> Path:
    """This user's settings folder of genkit."""
    return _user_folder(platformdirs.user_config_dir, "settings")


def _user_folder(find: Callable[..., str], name: str) -> Path:
    """A folder by the conventions of the system; where the user has no home folder, one for temporary files."""
    try:
        return Path(find("genkit", appauthor=False))
    except RuntimeError:  # no HOME, and no entry for this user, as in some containers
        user = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir(), f"genkit-{user}", name)


def file_hash(path: Path) -> str:
    """The SHA-256 hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write files into a folder, each completely or not at all, without flushing to the disk.

    Args:
        files: (name, content) of each.

    Returns:
        The names, in order.

    Raises:
        ModelError: if a name is not a plain file name.
        StorageError: if a file cannot be written.
    """
    make_folder(folder)
    names = []
    for name, content in files:
        write_whole(os.path.join(folder, plain_name(name)), content, durable=False)
        names.append(name)
    return names


def plain_name(name: str) -> str:
    """The name, unchanged, if it is a plain file name.

    Raises:
        ModelError: if it is empty, hidden or longer than `LONGEST_NAME`, or has a folder or unprintable characters.
    """
    is_long = len(name) > LONGEST_NAME
    if not name or is_long or os.path.basename(name) != name or name.startswith("."):
        raise ModelError(f"{name[:80]!r} is no plain file name")
    if not name.isprintable() or "\\" in name:
        raise ModelError(
            f"{name!r} is no plain file name: it has characters that not every system takes"
        )
    return name

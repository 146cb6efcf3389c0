"""The run folder on disk: its configuration, checkpoints and log, held by one process at a time.

A file or folder is written whole or not at all. Knows names, tensors and plain data; what they mean is others' business.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from genkit.errors import RunError, StorageError, first_line
from genkit.system.files import make_folder, write_json, write_whole
from genkit.system.tensors import Tensors, write_tensors

SCHEMA = 1
"""Of the folder's layout."""


LOCK = ".genkit.lock"


MARK = "genkit_run"
"""The key by which config.yaml is known to be a run's own."""


OWNED = ("config.yaml", "latest", "metrics.jsonl", "checkpoints", "samples", "model")
"""What a run writes, and all that is ever deleted of a run folder."""


class RunFolder:
    """One training run on disk; held by one process at a time.

        config.yaml   metrics.jsonl   samples/   checkpoints/<items>/   latest   model/

    Args:
        path: of the folder.
        resume: go on with what is there, if anything.
        overwrite: let `begin` delete what an earlier run left.
        is_main_process: False in a process that only reads along, beside the one that writes.

    Raises:
        RunError: if the folder is in use, holds a run and neither was asked for, or holds something else.
    """

    def __init__(
        self,
        path: str | Path,
        resume: bool = False,
        overwrite: bool = False,
        is_main_process: bool = True,
    ) -> None:
        self.path, self._lock = Path(path), None
        if not is_main_process:
            return
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run needs a folder")
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        if names - {LOCK} and not self._is_ours():
            raise RunError(
                f"{self.path} is not empty and no run of genkit's: choose another folder"
            )
        make_folder(self.path)
        self._lock = FileLock(self.path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{self.path} is in use by another training: wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror or error}") from error
        try:
            if (self.path / "config.yaml").exists() and not (resume or overwrite):
                raise RunError(
                    f"{self.path} holds a run already: --resume goes on with it, --overwrite starts anew, "
                    "--out chooses another folder"
                )
            self._tidy()
        except BaseException:
            self.close()
            raise

    def _is_ours(self) -> bool:
        return MARK in (self.config or {})

    def begin(self, config: Mapping[str, Any]) -> None:
        """Start a run here: delete what an earlier one left, write down the configuration."""
        for name in OWNED:  # config.yaml first: without it nothing of the rest is taken for a run
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self.config = config

    def close(self) -> None:
        """Let others have the folder; one in which nothing was begun is left as it was found."""
        if self._lock is None:
            return
        self._lock.release()
        if not (self.path / "config.yaml").exists():
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink()
                self.path.rmdir()

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the run that is there; None: there is none."""
        file = self.path / "config.yaml"
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{file} cannot be read ({first_line(error)})") from error
        if content is not None and not isinstance(content, dict):
            raise RunError(f"{file} is no configuration of a run")
        return content

    @config.setter
    def config(self, plain: Mapping[str, Any]) -> None:
        write_whole(
            self.path / "config.yaml",
            yaml.safe_dump({MARK: SCHEMA, **plain}, sort_keys=False).encode(),
        )

    # Checkpoints -------------------------------------------------------------------------------------------------

    def save_checkpoint(
        self, items: int, state: Mapping[str, Any], groups: Mapping[str, Tensors], keep: int
    ) -> Path:
        """Write a checkpoint, then point `latest` at it, then drop all but the newest `keep`.

        Args:
            items: seen so far; names the folder.
            state: plain data.
            groups: file stem -> tensors.
        """
        folder = self.path / "checkpoints"
        name, number = f"{items:012d}", 0
        while (folder / name).exists():  # the same place reached twice gets a name of its own
            number += 1
            name = f"{items:012d}-{number}"
        temporary = folder / f".{name}.tmp"
        make_folder(temporary)
        try:
            for stem, tensors in groups.items():
                write_tensors(temporary / f"{stem}.safetensors", tensors)
            write_json(temporary / "state.json", {"schema": SCHEMA, **state})
            _sync_folder(temporary)
            temporary.replace(folder / name)
            _sync_folder(folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise StorageError(
                    f"cannot write {folder / name}: {error.strerror or error}"
                ) from error
            raise
        write_whole(self.path / "latest", f"{name}\n".encode())
        for old in self.checkpoints()[:-keep]:
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
        return folder / name

    def checkpoints(self) -> list[Path]:
        """All whole checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        every = folder.iterdir() if folder.is_dir() else ()
        found = [
            entry
            for entry in every
            if not entry.name.startswith(".") and (entry / "state.json").is_file()
        ]
        return sorted(
            found, key=lambda entry: (entry.name.partition("-")[0], len(entry.name), entry.name)
        )

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        pointer = self.path / "latest"
        name = pointer.read_text(errors="replace").strip() if pointer.exists() else ""
        every = self.checkpoints()
        named = [entry for entry in every if entry.name == name] or every
        return named[-1] if named else None

    # The log -----------------------------------------------------------------------------------------------------

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror or error}") from error

    def log_size(self) -> int:
        """Bytes in metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        return file.stat().st_size if file.exists() else 0

    def cut_log(self, size: int) -> None:
        """Cut metrics.jsonl back to what it was at a checkpoint."""
        if self.log_size() > size:
            os.truncate(self.path / "metrics.jsonl", size)

    def _tidy(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in (
            self.path,
            self.path / "checkpoints",
            self.path / "model",
            self.path / "samples",
        ):
            for entry in list(folder.iterdir()) if folder.is_dir() else []:
                if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

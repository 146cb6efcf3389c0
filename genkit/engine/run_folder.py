"""The run folder on disk: configuration, checkpoints and log, locked by one process at a time.

Configuration and checkpoints are written atomically: whole or not at all. Knows file names, tensors and plain data,
but not what they mean.
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
from genkit.sampling.model_folder import FILES
from genkit.system.files import make_folder, user_path, write_json, write_whole
from genkit.system.tensors import Tensors, write_tensors

SCHEMA = 1
"""Version of the folder's layout."""

LOCK = ".genkit.lock"

MARK = "genkit_run"
"""The key that marks a config.yaml as that of a genkit run."""

TEACHER = "teacher"
"""The folder of the model that the run learns from."""

OWNED = (
    *("config.yaml", "latest", "metrics.jsonl", "checkpoints", "samples", "model", "best"),
    TEACHER,
)
"""The entries that a run writes; a new run in the folder deletes these and nothing else."""


class RunFolder:
    """One training run on disk; locked by one process at a time.

        config.yaml   metrics.jsonl   samples/   checkpoints/<items>/   latest   model/   best/   teacher/

    Args:
        path: of the folder.
        resume: continue the run in the folder, if there is one.
        overwrite: let `begin` replace an existing run.
        is_main_process: False in a process that only reads: it takes no lock and checks nothing.

    Raises:
        RunError: if the folder is locked, holds something else than a run, or holds a run and neither resume nor
            overwrite is set.
        StorageError: if the folder cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        resume: bool = False,
        overwrite: bool = False,
        is_main_process: bool = True,
    ) -> None:
        self.path, self._lock = user_path(path), None
        if not is_main_process:
            return
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run needs a folder")
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        if names - {LOCK} and not self._is_ours():
            raise RunError(
                f"{self.path} is not empty and holds no genkit run: choose another folder"
            )
        make_folder(self.path)
        self._lock = FileLock(self.path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{self.path} is in use by another training run: wait for it to end, or choose another folder"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror or error}") from error
        try:
            if (self.path / "config.yaml").exists() and not (resume or overwrite):
                raise RunError(
                    f"{self.path} already holds a run: continue it with --resume, replace it with --overwrite, or "
                    "choose another folder with --out"
                )
            self._tidy()
        except BaseException:
            self.close()
            raise

    def _is_ours(self) -> bool:
        return MARK in (self.config or {})

    def begin(self, config: Mapping[str, Any], teacher: Path | None = None) -> None:
        """Start a new run: delete the entries of an earlier run, then write the configuration.

        Args:
            teacher: the folder of the model that the run learns from, which is copied; None: it learns from none.
        """
        own_teacher = self.path / TEACHER
        for name in OWNED:  # config.yaml first: without it the rest no longer counts as a run
            entry = self.path / name
            if teacher == own_teacher == entry:  # a run that was killed before its first checkpoint
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self.config = config
        if teacher is not None and teacher != own_teacher:
            self._copy(teacher, own_teacher)

    def _copy(self, model: Path, target: Path) -> None:
        """Copy a model folder, whole or not at all."""
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            for pattern in FILES:
                for file in model.glob(pattern):
                    copy = temporary / file.relative_to(model)
                    make_folder(copy.parent)
                    shutil.copyfile(file, copy)
            _sync_folder(temporary)
            temporary.replace(target)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise StorageError(f"cannot write {target}: {error.strerror or error}") from error

    def close(self) -> None:
        """Unlock the folder; if no run was begun in it, remove the lock file, and the folder if it is empty."""
        if self._lock is None:
            return
        self._lock.release()
        if not (self.path / "config.yaml").exists():
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink()
                self.path.rmdir()

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the run in the folder; None: there is no config.yaml.

        Raises:
            RunError: if config.yaml cannot be read, or is no mapping.
        """
        file = self.path / "config.yaml"
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{file} cannot be read ({first_line(error)})") from error
        if content is not None and not isinstance(content, dict):
            raise RunError(f"{file} is not the configuration of a run")
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
        """Write a checkpoint, point `latest` at it, and delete all but the newest `keep`; returns its folder.

        Args:
            items: real samples seen so far; the name of the checkpoint.
            state: plain data.
            groups: file stem -> tensors.
            keep: how many checkpoints to keep.

        Raises:
            StorageError: if it cannot be written; nothing of it is left then.
        """
        folder = self.path / "checkpoints"
        name, number = f"{items:012d}", 0
        while (folder / name).exists():  # a run may pass the same number of items again
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
        """All complete checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        entries = folder.iterdir() if folder.is_dir() else ()
        complete = [
            entry
            for entry in entries
            if not entry.name.startswith(".") and (entry / "state.json").is_file()
        ]

        def age(entry: Path) -> tuple[str, int, str]:
            return entry.name.partition("-")[0], len(entry.name), entry.name

        return sorted(complete, key=age)

    def latest(self) -> Path | None:
        """The checkpoint that `latest` points at, else the newest complete one; None: there is none."""
        pointer = self.path / "latest"
        name = pointer.read_text(errors="replace").strip() if pointer.exists() else ""
        checkpoints = self.checkpoints()
        candidates = [entry for entry in checkpoints if entry.name == name] or checkpoints
        return candidates[-1] if candidates else None

    # The log -----------------------------------------------------------------------------------------------------

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl.

        Raises:
            StorageError: if it cannot be written.
        """
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror or error}") from error

    def log_size(self) -> int:
        """The size of metrics.jsonl in bytes; 0 if there is none."""
        file = self.path / "metrics.jsonl"
        return file.stat().st_size if file.exists() else 0

    def cut_log(self, size: int) -> None:
        """Truncate metrics.jsonl to `size` bytes, its size at a checkpoint."""
        if self.log_size() > size:
            os.truncate(self.path / "metrics.jsonl", size)

    def _tidy(self) -> None:
        """Remove temporary files and folders that a killed process left behind."""
        for name in (".", "checkpoints", "model", "best", "samples"):
            folder = self.path / name
            for entry in list(folder.iterdir()) if folder.is_dir() else []:
                if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, on POSIX systems."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

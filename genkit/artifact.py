"""Every byte on disk: the run folder, its checkpoints and log, the model folder.

safetensors, JSON, YAML, JSONL; never a pickle. A file or folder is written whole or not at all. Knows names, tensors
and plain data; what they mean is others' business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml
from filelock import FileLock, Timeout
from torch import Tensor, nn

from genkit.errors import ModelError, RunError, StorageError, first_line
from genkit.files import make_folder, write_whole

SCHEMA = 1
LOCK = ".genkit.lock"
MARK = "genkit_run"
"""The key by which config.yaml is known to be a run's own."""
CRITICS = "critics.safetensors"
"""The file of a model folder with its critics' weights, `<critic>.<name>`."""
OWNED = ("config.yaml", "latest", "metrics.jsonl", "checkpoints", "samples", "model")
"""What a run writes, and all that is ever deleted of a run folder."""
Tensors = Mapping[str, Tensor]


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


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, whole or not at all; tied tensors are written twice."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    write_whole(path, safetensors.torch.save(plain, {"format": "pt", **(metadata or {})}))  # {} makes a broken header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        ModelError: if the file is missing, truncated or no safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({first_line(error)})") from error


def load_state(module: Any, tensors: Tensors, where: Path) -> None:
    """Load tensors into a module.

    Raises:
        ModelError: if names or shapes differ, naming the first difference.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise ModelError(
            f"{where} does not fit the network that its configuration describes: {lines[0][:300]}"
        ) from error


def build(networks: Callable[[], Mapping[str, nn.Module]], tensors: Tensors, where: Path) -> Mapping[str, nn.Module]:
    """Fresh modules with these tensors, compared before they are allocated: no file can ask for any amount of memory.

    Args:
        networks: makes them, each by the prefix of its tensors' names.

    Raises:
        ModelError: if names or shapes differ.
    """
    try:
        with torch.device("meta"):
            made = networks().items()
        wanted = {name: tensor for prefix, module in made for name, tensor in module.state_dict(prefix=prefix).items()}
    except Exception:  # a network that cannot be built without memory is compared when it is loaded
        wanted = dict(tensors)
    for name in sorted({*wanted, *tensors}):
        here, there = (tuple(found[name].shape) if name in found else None for found in (wanted, tensors))
        if here != there:
            raise ModelError(
                f"{where} does not fit the network that its configuration describes: {name} is "
                f"{there or 'missing'} in the file and {here or 'not there'} in the network"
            )
    modules = networks()
    for prefix, module in modules.items():
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        load_state(module, own, where)
    return modules


def recall(name: str) -> dict[str, Any]:
    """What was remembered on this machine; {} where nothing can be read."""
    try:
        content = json.loads((_cache() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(name: str, facts: Mapping[str, Any]) -> None:
    """Add to what is remembered on this machine, where that is possible."""
    with contextlib.suppress(OSError, StorageError):
        _cache().mkdir(parents=True, exist_ok=True)
        write_json(_cache() / name, {**recall(name), **facts})


def _cache() -> Path:
    """Where this user's programs keep what can be found out anew (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genkit"


# The run folder --------------------------------------------------------------------------------------------------


class RunFolder:
    """One training run on disk; held by one process at a time.

        config.yaml   metrics.jsonl   samples/   checkpoints/<items>/   latest   model/

    Args:
        path: of the folder.
        resume: go on with what is there, if anything.
        overwrite: let `begin` delete what an earlier run left.
        leads: False in a process that only reads along, beside the one that writes.

    Raises:
        RunError: if the folder is in use, holds a run and neither was asked for, or holds something else.
    """

    def __init__(self, path: str | Path, resume: bool = False, overwrite: bool = False, leads: bool = True) -> None:
        self.path, self._lock = Path(path), None
        if not leads:
            return
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run needs a folder")
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        if names - {LOCK} and not self._is_ours():
            raise RunError(f"{self.path} is not empty and no run of genkit's: choose another folder")
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
        write_whole(self.path / "config.yaml", yaml.safe_dump({MARK: SCHEMA, **plain}, sort_keys=False).encode())

    # Checkpoints -------------------------------------------------------------------------------------------------

    def save_checkpoint(self, items: int, state: Mapping[str, Any], groups: Mapping[str, Tensors], keep: int) -> Path:
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
                raise StorageError(f"cannot write {folder / name}: {error.strerror or error}") from error
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
        found = [entry for entry in every if not entry.name.startswith(".") and (entry / "state.json").is_file()]
        return sorted(found, key=lambda entry: (entry.name.partition("-")[0], len(entry.name), entry.name))

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
        for folder in (self.path, self.path / "checkpoints", self.path / "model", self.path / "samples"):
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


# The model folder ------------------------------------------------------------------------------------------------


def save_model(
    path: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    assets: Mapping[str, bytes],
    metadata: Mapping[str, str],
    critics: Tensors | None = None,
) -> None:
    """Write a model folder: config.json, model.safetensors, assets/, README.md, with critics critics.safetensors.

    In a folder that holds the same model at an earlier time only the weights change, each file in one atomic step.

    Raises:
        ModelError: if the folder holds something else.
    """
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _is_model(path))):
        raise ModelError(f"{path} is not empty and no model folder of genkit's: choose another path")
    for name in assets:
        _plain_name(name)
    make_folder(path)
    write_tensors(path / "model.safetensors", tensors, metadata)
    if critics:
        write_tensors(path / CRITICS, critics, metadata)
    else:
        (path / CRITICS).unlink(missing_ok=True)
    make_folder(path / "assets" if assets else path)
    for stale in (path / "assets").iterdir() if (path / "assets").is_dir() else ():
        if stale.is_file() and stale.name not in assets:
            stale.unlink()
    for name, content in assets.items():
        write_whole(path / "assets" / name, content)
    write_json(path / "config.json", {"schema": SCHEMA, **config})
    write_whole(path / "README.md", _model_card(config).encode())


def _is_model(path: Path) -> bool:
    """Whether a folder is a model's, or what a killed process left of its first writing."""
    names = {entry.name for entry in path.iterdir()}
    if "config.json" not in names:
        return "model.safetensors" in names or all(name.endswith(".tmp") for name in names)
    try:
        read_model_config(path)
    except ModelError:
        return False
    return True


def find_model(path: str | Path) -> Path:
    """The model folder that a path means: itself, or that of a run folder.

    Raises:
        ModelError: if there is none.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise ModelError(f"there is no model at {path}: it does not exist")
    if (path / "config.yaml").exists():
        raise ModelError(f"the run {path} has no model yet: train on with --resume")
    raise ModelError(f"{path} is neither a model folder (config.json, model.safetensors) nor a run folder")


def read_model_config(path: Path) -> dict[str, Any]:
    """A model folder's configuration.

    Raises:
        ModelError: if it is missing, damaged, not genkit's, or of a newer layout.
    """
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'} is not genkit's: it holds a {type(config).__name__}")
    if isinstance(config.get("schema"), int) and config["schema"] != SCHEMA:
        raise ModelError(f"{path} has layout {config['schema']!r}, this genkit reads {SCHEMA}: upgrade genkit")
    needed = {"schema": int, "modality": str, "plugin": dict, "options": dict, "facts": dict, "items": int}
    wrong = [key for key, kind in needed.items() if not isinstance(config.get(key), kind)]
    if wrong:
        raise ModelError(f"{path / 'config.json'} is not genkit's: {', '.join(wrong)} missing or of the wrong kind")
    return config


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, bytes]]:
    """A model folder's configuration, tensors and assets.

    Raises:
        ModelError: if a part is missing, damaged, or of a newer layout.
    """
    config = read_model_config(path)
    folder = path / "assets"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    assets = {entry.name: entry.read_bytes() for entry in entries if entry.is_file() and not entry.name.startswith(".")}
    return config, read_tensors(path / "model.safetensors"), assets


def read_critics(path: Path | None) -> dict[str, Tensor]:
    """The critics' tensors of a model folder; {} where it has none.

    Raises:
        ModelError: if they are damaged.
    """
    return read_tensors(path / CRITICS) if path is not None and (path / CRITICS).exists() else {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write ordinary files into a folder, each whole or not at all; their names, in order."""
    make_folder(folder)
    names = []
    for name, content in files:
        write_whole(os.path.join(folder, _plain_name(name)), content, durable=False)
        names.append(name)
    return names


def _plain_name(name: str) -> str:
    if not name or os.path.basename(name) != name or name.startswith("."):
        raise ModelError(f"{name!r} is no plain file name")
    return name


def _model_card(config: Mapping[str, Any]) -> str:
    plugin = config["plugin"]
    return f"""---
library_name: genkit
tags: [gan, {config["modality"]}]
---

# {config.get("title", config["modality"])}

Made with genkit {config.get("genkit", "")} and {plugin.get("distribution")} {plugin.get("version")}
(preset `{config.get("preset")}`, {config.get("items", 0):,} items seen).

    genkit generate PATH-OF-THIS-FOLDER -n 16 --seed 0 --out samples/

The folder holds weights (safetensors) and settings (JSON), nothing executable.
"""

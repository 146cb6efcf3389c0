"""Models on the Hugging Face Hub: names, download, upload, and what this machine has of them already.

The only module that knows huggingface_hub, which is imported when it is needed. Of a repository only the files of a
model folder are read, and nothing in it is run. Its `ModelHubMixin` is not used: it sets attributes of the models that
it makes, and ours are frozen; it would have to be imported before the first model is, for a class of which most users
need nothing; and it spreads config.json over the arguments of a constructor.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from genkit.errors import ModelError, first_line
from genkit.sampling.model_folder import CONFIG, CRITICS, FILES, read_model_config

PREFIX = "hub:"
"""In front of a name that must not be read as a path."""


class HubName(NamedTuple):
    """What names a model on the Hub.

    Args:
        repository: `user/name`.
        revision: a branch, tag or commit; None: the newest of the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def hub_name(text: str, revision: str | None = None) -> HubName | None:
    """The model on the Hub that a text of the form `[hub:]user/name[@revision]` names; None if it has another form.

    Args:
        text: as a user wrote it.
        revision: replaces that of the text.
    """
    match = re.fullmatch(r"(?:hub:)?(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", text, re.ASCII)
    return None if match is None else HubName(match[1], revision or match[2])


def is_available() -> bool:
    """Whether huggingface_hub is installed."""
    return importlib.util.find_spec("huggingface_hub") is not None


def download(name: HubName) -> Path:
    """The folder of a model of the Hub, in the Hub's cache on this machine; without a network, what the cache has.

    Its config.json is read first: of a repository that holds no model of genkit's, nothing else is downloaded.

    Raises:
        ModelError: if huggingface_hub is not installed, there is no such model, or it cannot be reached; if it is no
            model of genkit's.
    """
    with _talking(name, ", and it is not in the cache of this machine"):
        from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

        settings: Any = {"repo_id": name.repository, **_library()}
        if not try_to_load_from_cache(name.repository, CONFIG, revision=name.revision):
            # This asks once; a download of a commit would go on trying for half a minute.
            info = HfApi(**_library()).model_info(name.repository, revision=name.revision)
            if CONFIG not in [file.rfilename for file in info.siblings or ()]:
                raise ModelError(f"{name} on the Hub is no model of genkit's: it has no {CONFIG}")
        folder = Path(
            snapshot_download(revision=name.revision, allow_patterns=[CONFIG], **settings)
        )
        read_model_config(folder)
        # The folder is named after its commit: both downloads are of the same one.
        snapshot_download(revision=folder.name, allow_patterns=list(FILES), **settings)
    return folder


def upload(
    folder: Path, name: HubName, private: bool | None = None, message: str | None = None
) -> str:
    """Write a model folder to a repository of the Hub, in one commit; returns the address of the commit.

    The repository and a branch of the name's revision are made if there are none. Other files in it stay, but those of
    an earlier model of genkit's go.

    Args:
        folder: of the model.
        name: of the repository, and of the branch that is written to.
        private: whether a new repository is private; None: as the user's settings on the Hub say.
        message: of the commit; None: one that names genkit.

    Raises:
        ModelError: if huggingface_hub is not installed, or the Hub cannot be reached or refuses.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    with _talking(name):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api, branch = HfApi(**_library()), name.revision
        api.create_repo(name.repository, private=private, exist_ok=True)
        if branch:
            api.create_branch(name.repository, branch=branch, exist_ok=True)
        earlier = api.list_repo_files(name.repository, revision=branch)
        stale = [
            file
            for file in earlier
            if file not in files and (file == CRITICS or file.startswith("assets/"))
        ]
        operations: list[Any] = [
            *(CommitOperationAdd(file, path) for file, path in files.items()),
            *(CommitOperationDelete(file) for file in stale),
        ]
        commit = api.create_commit(
            name.repository,
            operations,
            commit_message=message or "Model of genkit",
            revision=branch,
        )
    return str(commit.commit_url)


def cached() -> Iterator[tuple[HubName, Path]]:
    """(name, folder) of all models of genkit's that the Hub's cache on this machine holds."""
    if not is_available():
        return
    from huggingface_hub import constants

    if not Path(constants.HF_HUB_CACHE).is_dir():
        return
    from huggingface_hub import scan_cache_dir

    for repository in sorted(
        scan_cache_dir(constants.HF_HUB_CACHE).repos, key=lambda one: str(one.repo_id)
    ):
        for revision in repository.revisions if repository.repo_type == "model" else ():
            folder = Path(revision.snapshot_path)
            with contextlib.suppress(ModelError):  # another library's model
                read_model_config(folder)
                refs = sorted(revision.refs) or [revision.commit_hash]
                for ref in refs:
                    yield HubName(repository.repo_id, None if ref == "main" else ref), folder


def _library() -> dict[str, Any]:
    """What requests to the Hub say of the program that makes them."""
    from genkit.discovery.registry import core_version

    return {"library_name": "genkit", "library_version": core_version()}


@contextlib.contextmanager
def _talking(name: HubName, note: str = "") -> Iterator[None]:
    """A context for calls of huggingface_hub: what it raises becomes a `ModelError` of one sentence.

    Args:
        name: of the model.
        note: what else is to be said where the Hub cannot be reached.
    """
    if not is_available():
        raise ModelError(
            f'{name} on the Hub needs the package huggingface_hub: pip install "genkit-gan[hub]"'
        )
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except errors.GatedRepoError as error:
        reason = (
            "its author has to let you in: ask for it on its page, then log in with `hf auth login`"
        )
        raise ModelError(f"{name} on the Hub is closed: {reason}") from error
    except errors.RepositoryNotFoundError as error:
        reason = "there is none of this name, or it is not open to you (`hf auth login` logs in)"
        raise ModelError(f"{name} on the Hub cannot be used: {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{name.repository} on the Hub has no revision {name.revision!r}"
        ) from error
    except Exception as error:  # its HTTP library, another one in each major version, has its own
        raise ModelError(f"{name} on the Hub cannot be used: {_reason(error, note)}") from error


def _reason(error: Exception, note: str) -> str:
    """Why the Hub did not answer as it should, in a few words."""
    from huggingface_hub import constants, errors

    if constants.is_offline_mode():
        return f"HF_HUB_OFFLINE is set{note}"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"it refuses (HTTP {status}): log in with `hf auth login`, as somebody who may do that"
        )
    if status is not None:
        text = getattr(cause, "server_message", None) or first_line(cause or error)
        return f"it answers {text} (HTTP {status})"
    if isinstance(error, ValueError):  # of a name that the Hub does not take
        return first_line(error)
    return f"no answer from {constants.ENDPOINT} ({first_line(cause or error)}){note}"

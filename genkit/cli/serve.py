"""The command `genkit serve`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.cli.models import UserObjects
from genkit.errors import ConfigError
from genkit.kit.program import Device

UNITS = {"MB": 1, "GB": 1000}
"""Units of --memory, in megabytes."""


def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="Models, as for `genkit generate`; NAME=MODEL gives one another name."),
    ],
    host: Annotated[
        str, typer.Option(help="Address; one that others reach needs --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any that is free.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file of tokens, one a line: whoever presents one may use the server."),
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Samples that may wait [default: 1024].", min=1)
    ] = None,
    batch_wait_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds that a batch waits for as many requests as the last had [default: measured]."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Bound of loaded models, 500MB or 4GB; the least recently used are unloaded."
        ),
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Further settings as NAME=VALUE: max_samples=64 max_seconds=10 ..."
        ),
    ] = None,
    user_object: UserObjects = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
) -> None:
    """Serve models over HTTP, with a page to play with at /. Prints the address once requests are accepted."""
    from genkit import config
    from genkit.serving.settings import ServeSettings

    values: dict[str, Any] = config.parse_overrides(limits or [])
    values |= {
        "models": named_models(models),
        "device": device,
        "user_objects": tuple(user_object or ()),
        "tokens": read_tokens(token_file),
        "memory_mb": megabytes(memory),
    }
    optional = {"max_queue": max_queue, "batch_wait_ms": batch_wait_ms}
    values |= {name: value for name, value in optional.items() if value is not None}
    settings = config.validate(ServeSettings, values, "")
    if user_object:
        sys.path.append(os.getcwd())  # its module may be a file of the working folder
    try:
        from genkit.serving.server import serve as run
    except ImportError as error:
        raise ConfigError(
            f"genkit serve needs {error.name}: pip install 'genkit-gan[serve]'"
        ) from error
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    run(settings, host, port, lambda url: print(url, flush=True))


def named_models(words: Sequence[str]) -> dict[str, str]:
    """Name -> model, of words `MODEL` or `NAME=MODEL`; without a name it is the last part of a path that tells.

    Raises:
        ConfigError: for two models of one name.
    """
    models: dict[str, str] = {}
    for word in words:
        name, equals, model = word.rpartition("=")
        if not equals:
            parts = [part for part in Path(model).parts if part not in ("model", os.sep, "..")]
            is_path = Path(model).exists()
            name = parts[-1] if is_path and parts else model
        if not name or name in models:
            raise ConfigError(
                f"{word}: there is a model {name!r} already; give it a name of its own: NAME={model}"
            )
        models[name] = model
    return models


def read_tokens(path: Path | None) -> tuple[str, ...]:
    """The tokens of a file, one a line; lines that begin with # are left out.

    Raises:
        ConfigError: if it cannot be read, or has none, or one that is easily guessed.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error}") from error
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not tokens or min(map(len, tokens)) < 16 or not all(map(str.isascii, tokens)):
        raise ConfigError(
            f"--token-file {path}: a token a line is needed, each of at least 16 ASCII characters, such as `openssl "
            "rand -hex 16` prints"
        )
    return tokens


def megabytes(text: str | None) -> int | None:
    """Megabytes of `500MB` or `4GB`.

    Raises:
        ConfigError: for anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text.strip().upper())
    if match is None or not (size := round(float(match[1]) * UNITS[match[2]])):
        raise ConfigError(f"--memory {text}: a size such as 500MB or 4GB is expected")
    return size

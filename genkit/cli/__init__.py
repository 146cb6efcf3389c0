"""The command line `genkit`. Together with `genkit.kit.program` the only code that prints or exits.

    commands    all commands, as one application
    models      train, generate, info, explain, data check
    evaluation  evaluate
    sharing     models, copy, card, push
    export      export
    plugins     plugins list, show, doctor, disable, enable, new, check
    progress    the progress of a command in the terminal

Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 success, 2 an error that the
user can correct, 1 any other error, 130 after Ctrl-C, 143 after SIGTERM. Each command imports what it needs when it
runs: `--help` and `plugins list` never import torch.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genkit.cli.commands import app

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: the words after `genkit`; None: those of this process.
    """
    ctrl_c = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(ValueError):  # outside of the main thread
        # While the command line itself is imported, Ctrl-C ends the process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from genkit.cli.commands import app
        from genkit.kit.program import run
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, ctrl_c)
    run(app, "genkit", arguments)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'genkit.cli' has no attribute {name!r}")
    from genkit.cli.commands import app

    return app

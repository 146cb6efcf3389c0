"""The command line `genkit`. Together with `genkit.kit.program` the only code that prints or exits.

    commands    all commands, as one application
    models      train, info, explain, data check
    distilling  distill
    generating  generate
    projecting  project
    evaluation  evaluate
    sharing     models, copy, card, push
    export      export
    plugins     plugins list, show, doctor, disable, enable, new, check
    serve       serve
    progress    the progress of a command in the terminal

Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 success, 2 an error that the
user can correct, 1 any other error, 130 after Ctrl-C, 143 after SIGTERM. Each command imports what it needs when it
runs: `--help` and `plugins list` never import torch.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = (
    False  # as in typing, which is slow to import: until `main` runs, Ctrl-C leaves a traceback
)
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from genkit.cli.commands import app

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    While the command line itself is imported, and once a command has ended, Ctrl-C ends the process without a
    traceback; a command has its own ways to stop.

    Args:
        arguments: the words after `genkit`; None: those of this process.
    """
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        if ctrl_c is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # outside of the main thread
        ctrl_c = None
    try:
        from genkit.cli.commands import app
        from genkit.kit.program import run

        run(app, "genkit", arguments)
    finally:
        if arguments is not None and ctrl_c is signal.default_int_handler:
            signal.signal(signal.SIGINT, ctrl_c)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'genkit.cli' has no attribute {name!r}")
    from genkit.cli.commands import app

    return app

"""Questions answered in processes of their own, within a time limit: for code that may hang, print, crash or leave.

Knows no plugin: a question is a function by its name and words for it, an answer is JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import subprocess

Key = TypeVar("Key")


class Answer(NamedTuple):
    """What became of a question.

    Args:
        value: what the function returned; None where it never did.
        fault: why there is no value, or why the process had to be ended after it; empty if all went well.
    """

    value: Any
    fault: str = ""


def ask(
    questions: Mapping[Key, Sequence[str]], seconds: float, ending: bool = False
) -> dict[Key, Answer]:
    """All questions at once, each in a process of its own, which is ended with all that it has started.

    Args:
        questions: `module`, `function` and the function's words, by any key.
        seconds: for all of them together.
        ending: whether the processes must also come to an end by themselves; else they are ended once they answer.
    """
    started = {key: _start(question, ending) for key, question in questions.items()}
    deadline = time.monotonic() + seconds
    try:
        return {key: _collect(process, deadline, seconds) for key, process in started.items()}
    finally:
        for process in started.values():  # after Ctrl-C, which does not reach them
            if process.returncode is None:
                _end(process)


def _start(question: Sequence[str], ending: bool) -> subprocess.Popen[bytes]:
    import subprocess

    # -P: a file of the user's that is named like a module of the standard library must not be what is imported.
    command = [
        sys.executable,
        "-P",
        "-c",
        "from genkit.discovery.probing import _answer; _answer()",
        str(int(ending)),
        *question,
    ]
    null = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=null, stdout=subprocess.PIPE, stderr=null, start_new_session=True
    )


def _collect(process: subprocess.Popen[bytes], deadline: float, seconds: float) -> Answer:
    import subprocess

    fault = ""
    try:
        output, _ = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired as error:
        output, fault = error.stdout or b"", f"did not end within {seconds:g} s"
    finally:
        _end(process)
    try:
        return Answer(json.JSONDecoder().raw_decode(output.decode(errors="replace"))[0], fault)
    except ValueError:
        return Answer(None, fault or f"ended the process (exit code {process.returncode})")


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process.pid)
    process.kill()  # where there are no groups
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(
        AttributeError, OSError
    ):  # a system without groups, or none of the group is left
        os.killpg(leader, signal.SIGKILL)


def _answer() -> None:
    """Call the function that the command line names and write what it returns where nobody else can write."""
    ending, module, function, *words = sys.argv[1:]
    private = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    answer = json.dumps(getattr(importlib.import_module(module), function)(*words))
    os.write(private, answer.encode())  # and left open: its end is the end of the process
    if not int(ending):
        _kill_group(0)
        os._exit(0)

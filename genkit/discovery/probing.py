"""Calls functions in child processes with a time limit: for code that may hang, print, crash or exit.

A question is the name of a function and strings for its arguments; the answer is what it returns, as JSON.
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
    """The outcome of a call in a child process.

    Args:
        value: what the function returned; None if it did not return.
        fault: why there is no value, or why the process had to be killed after it returned; else empty. A predicate:
            `did not end within 20 s`.
    """

    value: Any
    fault: str = ""


def ask(
    questions: Mapping[Key, Sequence[str]], seconds: float, ending: bool = False
) -> dict[Key, Answer]:
    """Call functions at the same time, each in a child process, which is killed with all processes that it started.

    Args:
        questions: by any key, `(module, function, *arguments)`, all strings.
        seconds: time limit of all calls together.
        ending: whether the processes must also end by themselves within the limit, so that one that does not has a
            fault; else they are killed as soon as they have answered.

    Returns:
        The answers by the keys of `questions`.
    """
    processes = {key: _start(question, ending) for key, question in questions.items()}
    deadline = time.monotonic() + seconds
    try:
        return {key: _collect(process, deadline, seconds) for key, process in processes.items()}
    finally:
        for process in processes.values():  # after Ctrl-C: it does not reach other sessions
            if process.returncode is None:
                _end(process)


def _start(question: Sequence[str], ending: bool) -> subprocess.Popen[bytes]:
    import subprocess

    # -P: a file of the working folder may be named like a module of the standard library.
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
    process.kill()  # on systems without process groups
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _kill_group(leader: int) -> None:
    # Suppressed: the system has no process groups, or no process of the group is left.
    with contextlib.suppress(AttributeError, OSError):
        os.killpg(leader, signal.SIGKILL)


def _answer() -> None:
    """In the child process: call the function that the command line names, and write its result as JSON.

    The result goes to the original standard output; whatever else writes to file descriptor 1 goes to the null device.
    """
    ending, module, function, *arguments = sys.argv[1:]
    private = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    answer = json.dumps(getattr(importlib.import_module(module), function)(*arguments))
    os.write(private, answer.encode())  # not closed: the parent reads until the process ends
    if not int(ending):
        _kill_group(0)
        os._exit(0)

"""Processes that know of a plugin only what they are told: new interpreters, and forks of one that is kept.

To import torch takes a new interpreter seconds. Where the system can fork, one is kept that has imported what a
function of the toolkit needs, and no plugin; it forks for every call, so that none sees what another has left behind.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from subprocess import CompletedProcess
from typing import TextIO, cast

SECONDS = 120
"""Time limit of a process."""


def child(code: str, arguments: Iterable[str]) -> CompletedProcess[str]:
    """Run code in a new interpreter with the same import path, and wait for it."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def call(function: str, arguments: Iterable[str]) -> CompletedProcess[str]:
    """Call `module:function` without arguments, in a process that has imported its module alone, and wait for it.

    Args:
        function: of a module of the toolkit.
        arguments: what it finds in `sys.argv[1:]`.
    """
    if sys.platform != "linux":  # elsewhere a fork of a process with torch may hang
        return child(f"from pkgutil import resolve_name; resolve_name({function!r})()", arguments)
    try:
        return _parent(function).call(list(arguments))
    except BrokenPipeError:  # something has ended it since the last call
        _parent.cache_clear()
        return _parent(function).call(list(arguments))


class _Parent:
    """The process that is kept for a function: it reads a request from a line, forks, and answers the exit status."""

    def __init__(self, function: str) -> None:
        self.function, self.is_late = function, False
        code = "from genkit.testing.processes import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, function],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.requests, self.answers = (
            cast(TextIO, self.process.stdin),
            cast(TextIO, self.process.stdout),
        )
        atexit.register(self.close)

    def call(self, arguments: list[str]) -> CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            request = {
                "arguments": arguments,
                "folder": folder,
                "path": sys.path,
                "environment": dict(os.environ),
                "place": os.getcwd(),
            }
            guard = threading.Timer(SECONDS, self.expire)
            guard.start()
            try:
                self.requests.write(json.dumps(request) + "\n")
                self.requests.flush()
                answer = self.answers.readline()
            finally:
                guard.cancel()
            if self.is_late:
                _parent.cache_clear()
                raise subprocess.TimeoutExpired(self.function, SECONDS)
            if not answer:
                raise BrokenPipeError(f"the process for {self.function} has ended")
            texts = [Path(folder, name).read_text(errors="replace") for name in ("out", "err")]
            return CompletedProcess([self.function, *arguments], int(answer), *texts)

    def expire(self) -> None:
        """End it, because it takes too long."""
        self.is_late = True
        self.close()

    def close(self) -> None:
        """End the process and its forks."""
        with suppress(OSError), self.process:
            os.killpg(self.process.pid, signal.SIGKILL)


@cache
def _parent(function: str) -> _Parent:
    return _Parent(function)


def serve() -> None:
    """Answer the requests on the standard input; runs in the process that is kept."""
    function = resolve_name(sys.argv[1])
    for line in sys.stdin:
        number = os.fork()
        if not number:
            _run(function, **json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


def _run(
    function: Callable[[], object],
    arguments: list[str],
    folder: str,
    path: list[str],
    environment: dict[str, str],
    place: str,
) -> None:
    """Call the function in this process, which is a fork, and end it."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(place)
        sys.path[:], sys.argv[1:] = path, arguments
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

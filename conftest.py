"""What holds for all tests: the README's Python is one, in a folder of its own, and few wait for the disk."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

MEMORY, ROOM = Path("/dev/shm"), 4e9
"""A folder that is no disk, and the bytes that have to be free for the files of tests to lie there."""


def pytest_configure():
    """Tests write many small files: in memory, if there is room."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM and os.access(MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def _enter(namespace):
    namespace["_before"], namespace["_folder"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def _leave(namespace):
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md"], setup=_enter, teardown=_leave
).pytest()


@pytest.fixture(autouse=True, scope="session")
def _no_power_failure():
    """Files are flushed to the disk for fear of a power failure, which no test brings about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield

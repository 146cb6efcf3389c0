"""What holds for all tests: the README's Python is one, in a folder of its own, and nobody waits for the disk."""

import os
import tempfile

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


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

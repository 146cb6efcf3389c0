"""Processes that know of a plugin only what they are told."""

import os
import signal
import subprocess
import sys

import pytest

from genkit.testing import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none is kept")


CODE = """
import os, signal, sys

def tell():
    print(sys.argv[1:], os.getpid(), os.environ.get("LEFT"), sys.stdin.read())
    os.environ["LEFT"] = "something"

def fail():
    raise ValueError("on purpose")

def hang():
    open(sys.argv[1], "w").write(str(os.getpid()))
    signal.pause()
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "told.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    processes._parent.cache_clear()


def test_each_call_is_a_process_of_its_own_that_knows_nothing_of_the_others():
    one, other = (processes.call("told:tell", [name]) for name in ("a", "b"))
    assert (one.returncode, other.returncode) == (0, 0), one.stderr + other.stderr
    assert one.stdout.split()[0::2] == ["['a']", "None"]
    assert other.stdout.split()[0::2] == ["['b']", "None"]
    assert one.stdout.split()[1] != other.stdout.split()[1] != str(os.getpid())


def test_an_exception_is_a_status_and_its_traceback():
    process = processes.call("told:fail", [])
    assert process.returncode == 1
    assert process.stderr.strip().endswith("ValueError: on purpose")


def test_a_kept_process_that_was_ended_is_replaced():
    kept = processes._parent("told:tell")
    os.killpg(kept.process.pid, signal.SIGKILL)
    kept.process.wait()
    assert processes.call("told:tell", []).returncode == 0


def test_what_takes_too_long_is_ended_with_all_that_it_began(monkeypatch, tmp_path, ends):
    monkeypatch.setattr(processes, "SECONDS", 3)
    with pytest.raises(subprocess.TimeoutExpired):
        processes.call("told:hang", [str(tmp_path / "number")])
    assert ends((tmp_path / "number").read_text())


def test_a_function_that_does_not_exist_is_no_time_out():
    with pytest.raises(BrokenPipeError, match="has ended"):
        processes.call("no_such_module:function", [])

"""Runs in every page's kernel at its start: see conf.py."""

import subprocess

from IPython.core.magic import register_cell_magic


@register_cell_magic
def bash(line, cell):
    """Run a shell script; its output and errors appear in the order in which they were written."""
    command = ["bash", "-e", "-o", "pipefail", "-c", cell]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="")
    done.check_returncode()

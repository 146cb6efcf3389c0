"""Start-up file of every page's kernel: the cell magic `%%bash`. Installed by conf.py."""

import subprocess

from IPython.core.magic import register_cell_magic


@register_cell_magic
def bash(line, cell):
    """Run a shell script; its output and errors are printed in the order in which they were written."""
    command = ["bash", "-e", "-o", "pipefail", "-c", cell]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout, end="")
    result.check_returncode()

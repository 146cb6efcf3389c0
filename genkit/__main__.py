"""Runs the command line: `python -m genkit`."""

from genkit.cli import main

main()

"""`python -m genkit`."""

from genkit.cli import main

main()

"""What can be set about tables. Torch-free."""

from __future__ import annotations

from typing import Annotated

from genkit.recipe import Settings
from pydantic import Field


class Options(Settings):
    """What is trained."""

    few: Annotated[int, Field(ge=0)] = 10
    """A column of numbers with at most so many different ones is learned as categories: counts, grades, years."""
    many: Annotated[int, Field(ge=2)] = 64
    """A column of words with more different ones than this is refused: names and keys cannot be learned."""
    latent: Annotated[int, Field(ge=1)] = 16
    """Numbers of noise behind a row, beside those that choose its categories."""
    width: Annotated[int, Field(ge=1)] = 128
    """Units in each hidden layer."""
    softness: Annotated[float, Field(gt=0)] = 0.3
    """Temperature of the softened categories that critics see in training; towards 0 they become the categories."""

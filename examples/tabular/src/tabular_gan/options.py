"""The options of the table plugin. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from genkit.recipe import Settings
from pydantic import Field


class Options(Settings):
    """Options of training: how columns are read, and what the networks are."""

    few: Annotated[int, Field(ge=0)] = 10
    """A numeric column with at most this many different values is learned as categories: counts, grades, years."""
    many: Annotated[int, Field(ge=2)] = 64
    """A text column with more different values than this is an error: names and keys cannot be learned."""
    latent: Annotated[int, Field(ge=1)] = 16
    """Size of the latent vector of a row; the noise that draws its categories is not counted."""
    width: Annotated[int, Field(ge=1)] = 128
    """Units in each hidden layer."""
    softness: Annotated[float, Field(gt=0)] = 0.3
    """Temperature of the Gumbel-softmax: the smaller, the closer the relaxed categories are to one-hot codes."""

"""Seeding the global random generators of torch, NumPy and Python by the name of a stream."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from genkit.system.streams import torch_seed


def seed_everything(*words: str | int) -> None:
    """Seed the global generators of torch (CPU, CUDA if in use, MPS), NumPy and Python.

    Args:
        words: strings and numbers that name the stream; equal names give equal seeds.
    """
    seed_cpu(*words)
    if _cuda_is_in_use():
        torch.cuda.manual_seed_all(torch_seed(*words))
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(torch_seed(*words))


@contextmanager
def global_seeds(*words: str | int) -> Iterator[None]:
    """A context in which the global generators are seeded as by `seed_everything`.

    Afterwards their states are restored, but for that of MPS.

    Args:
        words: strings and numbers that name the stream.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if _cuda_is_in_use() else []
    try:
        seed_everything(*words)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def seed_cpu(*words: str | int) -> None:
    """Seed the global CPU generators: torch's, NumPy's and Python's.

    Args:
        words: strings and numbers that name the stream.
    """
    seed = torch_seed(*words)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # third-party transforms use NumPy's legacy generator
    random.seed(seed)


def _cuda_is_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]

"""Data sets of a modality, as the engine reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genkit.plugin.networks import Sample


class Skipped(NamedTuple):
    """One item of a data source that cannot be used.

    Args:
        name: of the item, as the user knows it: a path within the source, say.
        reason: in a few words.
    """

    name: str
    reason: str


class Remark(NamedTuple):
    """What of a data source is not read, or is used otherwise than it lies there: its name, and a few words."""

    name: str
    text: str


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set of one modality, as `torch.utils.data.Dataset`; a tensor or array [N, *event] is one too.

    An item is a `Sample` without batch axis, its `x` alone, or a pair (x, condition). All items have one shape. What is
    random about an item is drawn from the global generators of torch, NumPy or Python, which are seeded for each item.

    It may have the attributes `skipped`, a sequence of `Skipped` (where nothing can be used, it may be empty: the user
    is told why), `remarks`, a sequence of `Remark`, and `notes`, sentences about what the data decided.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class BatchedDataset(Dataset, Protocol):
    """A data set that reads a whole batch at once; not for items that are random."""

    def __getitems__(self, indices: list[int], /) -> Any:
        """A `Sample` with batch axis [B, ...], or a list of items, in the order of the indices."""
        ...


@runtime_checkable
class RandomDataset(Dataset, Protocol):
    """A data set whose items are random by words that they are given: read ahead of time, in a thread of its own."""

    def random_batch(self, indices: list[int], words: NDArray[np.uint64], /) -> Sample:
        """A batch [B, ...]; `words` [B] has 64 random bits for each item, for all that is random about it.

        No global generator may be touched: the same words give the same items.
        """
        ...

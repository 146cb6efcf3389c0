"""Parts of a data set: which of some files are trained on, by the names of folders and files. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from genkit.plugin import Remark

__all__ = [
    "SPLITS",
    "HeldOut",
    "Parts",
    "group",
    "lies_in",
    "split_of",
    "trained_as_well",
    "training_part",
]

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Parts of a data set, and the names of folders and files that hold them (as on the Hugging Face Hub)."""

HELD_OUT = "held out"
"""Why a part of a data set is not trained on."""


class HeldOut(Remark):
    """A remark on what is left out on purpose, such as another part of a data set; `strict` takes it."""


class Parts(NamedTuple):
    """What is trained on of some files.

    Args:
        names: of the files to train on, with their paths; folders that hold a part are left out of the names.
        excluded: what is not trained on: paths of files and folders, as their parts.
        remarks: on what is left, `HeldOut` for other parts, and on what is named like one and was not taken for it.
    """

    names: dict[str, PurePosixPath]
    excluded: Collection[tuple[str, ...]]
    remarks: list[Remark]


def training_part(paths: Collection[PurePosixPath], depth: int, kind: str) -> Parts:
    """The files to train on.

    Args:
        paths: of all files.
        depth: of the folder that is the root.
        kind: what the files are, in the plural, for messages.
    """
    contents: dict[tuple[str, ...], Counter[str]] = {}
    for path in paths:
        for level in range(depth, len(path.parts)):
            contents.setdefault(path.parts[:level], Counter())[path.parts[level]] += 1
    excluded: dict[tuple[str, ...], tuple[str, str]] = {}
    dropped: set[tuple[str, ...]] = set()
    unclear: list[tuple[str, ...]] = []
    for folder, counts in contents.items():  # each after the folder that holds it
        splits = {name: split for name in counts if (split := split_of(name))}
        if not splits or lies_in(PurePosixPath(*folder), excluded):
            continue
        training = {name for name, split in splits.items() if split == "train"}
        exact = {name for name in splits if _is_only_split(name)}
        is_most = 2 * len(splits) >= len(counts)
        has_others = len(training) < len(splits)
        if training and ((is_most and has_others) or counts.keys() == training & exact):
            dropped |= {(*folder, name) for name in training}
            for name in counts.keys() - training:
                cause = HELD_OUT if name in splits else "beside the parts of the data set"
                excluded[(*folder, name)] = cause, splits.get(name, "")
            continue
        if len(counts) == 1:
            dropped |= {(*folder, name) for name in exact}
        unclear += [
            (*folder, name)
            for name in exact
            if (*folder, name) in contents or (is_most and name not in training)
        ]
    if excluded:  # a folder that holds nothing but a part held out lacks the part for training that others have
        lone_parts = [path for path in unclear if len(contents[path[:-1]]) == 1]
        excluded |= {path: (HELD_OUT, split_of(path[-1]) or "") for path in lone_parts}
    remarks = _named(excluded, contents, depth, kind)
    doubtful = sorted("/".join(path[depth:]) for path in unclear if path not in excluded)
    if doubtful:
        text = f"named like a part of a data set, and read like all other {kind}"
        remarks.append(Remark(group(doubtful, "parts"), text))
    included = [path for path in paths if not lies_in(path, excluded)]
    short = {_without(path, depth, dropped): path for path in included}
    is_clear = len(short) == len(included)
    return Parts(
        short if is_clear else {_without(path, depth, ()): path for path in included},
        excluded,
        remarks,
    )


def _named(
    excluded: Mapping[tuple[str, ...], tuple[str, str]],
    contents: Mapping[tuple[str, ...], Counter[str]],
    depth: int,
    kind: str,
) -> list[Remark]:
    """Remarks on what is not trained on: one for what is left for the same reason and has the same name."""
    groups: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for path, (cause, split) in sorted(excluded.items()):
        name = path[-1] if path in contents else split  # folders by name, files by what they hold
        groups.setdefault((cause, split, name), []).append(path)
    return [
        (HeldOut if cause == HELD_OUT else Remark)(
            group(["/".join(path[depth:]) for path in paths], "parts"),
            f"{cause}: {sum(contents[path[:-1]][path[-1]] for path in paths):,} {kind}, not trained on",
        )
        for (cause, *_), paths in sorted(groups.items())
    ]


def _without(path: PurePosixPath, depth: int, dropped: Collection[tuple[str, ...]]) -> str:
    """A path from some depth on, without the folders among its parents that are dropped."""
    *folders, name = path.parts
    included = [
        folder
        for level, folder in enumerate(folders)
        if level >= depth and path.parts[: level + 1] not in dropped
    ]
    return "/".join([*included, name])


def lies_in(path: PurePosixPath, places: Collection[tuple[str, ...]]) -> bool:
    """Whether a path is one of some places, or below one."""
    return any(path.parts[:level] in places for level in range(1, len(path.parts) + 1))


_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
_WORDS = re.compile(rf"(?<![^\W\d_])({'|'.join(_SPLIT_OF)})(?![^\W\d_])", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """The part of a data set that a folder or file holds by a word of its name; None: it names none."""
    word = _WORDS.search(name)
    return _SPLIT_OF[word[1].lower()] if word else None


def trained_as_well(column: str, first: Any, values: Callable[[], Iterable[Any]]) -> str:
    """What a remark says of a column that tells the part of each item, all of which are trained on; empty: it does not.

    Args:
        column: its name.
        first: its value for one item.
        values: gives those for all items; it is called if the first names a part.
    """

    def part(value: Any) -> str | None:
        return split_of(value) if isinstance(value, str) and _is_only_split(value) else None

    counts = Counter(map(part, values() if part(first) else ()))
    if None in counts or len(counts) < 2:
        return ""
    held_out = " and ".join(sorted(str(split) for split in counts if split != "train"))
    count = counts.total() - counts["train"]
    return (
        f"its column {column!r} tells parts: {count:,} items of {held_out} are trained on as well"
    )


def _is_only_split(name: str) -> bool:
    """Whether a name, up to its first dot, has no other word than that of a part of a data set."""
    return re.sub(r"[\W\d_]", "", name.partition(".")[0]).lower() in _SPLIT_OF


def group(names: Sequence[str], kind: str = "files") -> str:
    """What a `Remark` calls some files or other items: the only one, or how many there are and the first one.

    Args:
        names: at least one.
        kind: what they are, in the plural.
    """
    return names[0] if len(names) == 1 else f"{len(names):,} {kind} ({names[0]} ...)"

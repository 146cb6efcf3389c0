"""Names of the entries of zip files, also of those that were packed with an old encoding. Imports no torch."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

__all__ = ["zip_names"]


def zip_names(infos: Sequence[zipfile.ZipInfo]) -> tuple[list[str], str]:
    """(names of entries, the old encoding that they were read in; empty: none).

    A name without the flag of UTF-8 (APPNOTE.TXT, 4.4.4) is in whatever encoding the packing system used. All such
    names of a file are read in the first of `_OLD_ENCODINGS` that gives letters of an alphabet.
    """
    raw = [None if info.flag_bits & 0x800 else info.orig_filename.encode("cp437") for info in infos]
    odd = b"\n".join(name for name in raw if name is not None and not name.isascii())
    if not odd:
        return [info.filename for info in infos], ""
    encoding = next((each for each in _OLD_ENCODINGS if _is_likely(odd, each)), "cp437")
    names = [
        info.filename if name is None else name.decode(encoding, "replace").replace("\\", "/")
        for info, name in zip(infos, raw, strict=True)
    ]
    return names, "" if encoding == "utf-8" else encoding


_OLD_ENCODINGS = ("utf-8", "cp437", "cp866", "euc-kr", "gbk", "cp932", "big5", "cp1252")
"""Encodings of names in zip files, in the order in which they are tried."""

_COMMON = {
    "gbk": (0xB0, 0xD7), "euc-kr": (0xB0, 0xC8), "big5": (0xA4, 0xC6), "cp932": (0x82, 0x97),
}  # fmt: skip
"""Lead bytes of the characters that are frequent in an encoding of two bytes: the first level of its table."""


def _is_likely(raw: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding: they decode, and to letters that are in use."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    odd = [character for character in text if not character.isascii()]
    if encoding == "utf-8":
        return True
    if encoding in _COMMON:
        first, last = _COMMON[encoding]
        first_bytes = [character.encode(encoding)[0] for character in odd]
        return sum(first <= lead <= last for lead in first_bytes) > 0.7 * len(first_bytes)
    return all(character.isalpha() for character in odd)

"""A second set of lines for the benchmarks of text, made from a package of a public registry.

gcide   about 270,000 definitions, remarks and quotations of 4 to 20 words, in small letters: Debian's `dict-gcide` (the
        GNU Collaborative International Dictionary of English, from Webster's of 1913; GPL 3)

apt-get download dict-gcide && dpkg-deb -x dict-gcide_*.deb gcide
python tests/benchmarks/text_sets.py gcide/usr/share/dictd/gcide.dict.dz gcide.txt
"""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterator
from pathlib import Path

WORDS = range(4, 21)
NOTES = re.compile(r"\[[^\]]*\]|--[A-Z][^.]*\.?(?: \([^)]*\))?\.?|[{}\\]|\([^)]*\)")
"""Sources, authors, cross-references, and what is in brackets."""
NUMBER = re.compile(r"^\s*(?:\d+\.|\([a-z]\)|Note:|Syn:|--)\s*")


def gcide(file: Path) -> Iterator[str]:
    """The lines, each once, in the order of the dictionary."""
    with gzip.open(file, "rt", encoding="utf-8", errors="replace") as stream:
        paragraphs = re.split(r"\n\s*\n", stream.read())
    known = set()
    for paragraph in paragraphs:
        text = " ".join(line.strip() for line in paragraph.split("\n"))
        if not paragraph.startswith(" "):  # a headword, whose etymology ends with a bracket
            text = re.sub(r"^.*?\]\s+(?=[A-Z1(])", "", text, count=1) if "]" in text else ""
        text = NUMBER.sub("", NOTES.sub(" ", text))
        for sentence in re.split(r"(?<=[.;?!])\s+", text):
            line = re.sub(r"[^a-z',; -]", "", NUMBER.sub("", sentence).lower())
            words = re.sub(r"([,;])", r" \1 ", line).strip(" ;,-").split()
            line = " ".join(words)
            if len(words) in WORDS and words[0] != words[1] and line not in known:
                known.add(line)
                yield line


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text("".join(f"{line}\n" for line in gcide(source)))

"""Make the data that the video plugin bundles: the glyphs of `moving`, and the pen paths of `strokes`.

    python plugins/video/bundle.py STROKES.jsonl.gz QUATRAINS.txt

STROKES is hanzi-writer-data (npm, 2.0.1) with one JSON object {"character", "medians"} per line. QUATRAINS is a text
whose most frequent characters are taken. Glyphs are drawn with Aileron (CC0), the font that comes with Pillow.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DATA = Path(__file__).parent / "src/genkit_video/data"
SLANTS = (-0.3, -0.15, 0.0, 0.15, 0.3)
"""Shears of the glyphs, of which each row of the picture has one."""
SIDE, SCALE = 28, 8
"""Side of a glyph in pixels, and how many times larger it is drawn."""
CHARACTERS, STROKES = 1000, range(3, 11)
"""Number of characters, and how many strokes they may have."""


def main() -> None:
    glyphs().save(DATA / "glyphs.png", optimize=True)
    (DATA / "strokes.json.gz").write_bytes(
        gzip.compress(characters(*map(Path, sys.argv[1:])).encode(), 9, mtime=0)
    )


def glyphs() -> Image.Image:
    """A picture of all glyphs, with digits in columns and slants in rows; drawn large and averaged down."""
    atlas, size = Image.new("L", (10 * SIDE, len(SLANTS) * SIDE)), SIDE * SCALE
    font = ImageFont.load_default(size=0.85 * size)
    for row, slant in enumerate(SLANTS):
        for digit in range(10):
            glyph = Image.new("L", (size, size))
            ImageDraw.Draw(glyph).text(
                (size / 2, size / 2), str(digit), 255, font, "mm", stroke_width=SCALE // 2
            )
            glyph = glyph.transform(
                glyph.size,
                Image.Transform.AFFINE,
                (1, slant, -slant * size / 2, 0, 1, 0),
                Image.Resampling.BILINEAR,
            )
            atlas.paste(glyph.reduce(SCALE), (digit * SIDE, row * SIDE))
    return atlas


def characters(strokes: Path, quatrains: Path) -> str:
    """JSON {character: its strokes, each a list of [x, y]}, the most frequent characters first."""
    lines = gzip.decompress(strokes.read_bytes()).decode().splitlines()
    paths = {row["character"]: row["medians"] for row in map(json.loads, lines)}
    ranking = [character for character, _ in Counter(quatrains.read_text("utf-8")).most_common()]
    names = [character for character in ranking if len(paths.get(character, ())) in STROKES]
    return json.dumps(
        {name: paths[name] for name in names[:CHARACTERS]},
        ensure_ascii=False,
        separators=(",", ":"),
    )


if __name__ == "__main__":
    main()

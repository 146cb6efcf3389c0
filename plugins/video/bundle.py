"""Make the data that the video plugin bundles: glyphs that bounce, and characters that are written.

    python plugins/video/bundle.py STROKES.jsonl.gz QUATRAINS.txt

STROKES is hanzi-writer-data (npm, 2.0.1) with one JSON object {"character", "medians"} per line; QUATRAINS says by its
characters which of them are common. Glyphs come from Aileron (CC0), the font within Pillow.
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
SIDE, FINE = 28, 8
CHARACTERS, STROKES = 1000, range(3, 11)


def main() -> None:
    glyphs().save(DATA / "glyphs.png", optimize=True)
    (DATA / "strokes.json.gz").write_bytes(
        gzip.compress(characters(*map(Path, sys.argv[1:])).encode(), 9, mtime=0)
    )


def glyphs() -> Image.Image:
    """Digits in columns, slants in rows; drawn large and averaged."""
    preview, large = Image.new("L", (10 * SIDE, len(SLANTS) * SIDE)), SIDE * FINE
    font = ImageFont.load_default(size=0.85 * large)
    for row, slant in enumerate(SLANTS):
        for digit in range(10):
            glyph = Image.new("L", (large, large))
            ImageDraw.Draw(glyph).text(
                (large / 2, large / 2), str(digit), 255, font, "mm", stroke_width=FINE // 2
            )
            glyph = glyph.transform(
                glyph.size,
                Image.Transform.AFFINE,
                (1, slant, -slant * large / 2, 0, 1, 0),
                Image.Resampling.BILINEAR,
            )
            preview.paste(glyph.reduce(FINE), (digit * SIDE, row * SIDE))
    return preview


def characters(strokes: Path, quatrains: Path) -> str:
    """JSON {character: its strokes, each a list of [x, y]}, the most common first."""
    lines = gzip.decompress(strokes.read_bytes()).decode().splitlines()
    paths = {row["character"]: row["medians"] for row in map(json.loads, lines)}
    common = [character for character, _ in Counter(quatrains.read_text("utf-8")).most_common()]
    chosen = [character for character in common if len(paths.get(character, ())) in STROKES][
        :CHARACTERS
    ]
    return json.dumps(
        {name: paths[name] for name in chosen}, ensure_ascii=False, separators=(",", ":")
    )


if __name__ == "__main__":
    main()

"""Sets of colour pictures for the quality benchmarks, made from packages of public registries.

openmoji    4,147 emoji at 72 x 72 on white: npm `openmoji@15.0.0` (CC BY-SA 4.0), drawn by PyPI `resvg-py`
crops       9,700 crops at 64 x 64 of the photographs and drawings in Debian's `plasma-workspace-wallpapers`,
            `mate-backgrounds` and `ukui-wallpapers` (CC BY-SA and others, see the packages)
sprites     4,224 figures of a game at 72 x 72 on white: Debian's `wesnoth-1.16-data` (GPL-2+). No recipe was chosen by
            them: they show what a claim is worth elsewhere

npm pack openmoji@15.0.0 && mkdir moji && tar xzf openmoji-15.0.0.tgz -C moji
pip install resvg-py
python tests/benchmarks/picture_sets.py openmoji moji/package OUT/openmoji
apt-get download plasma-workspace-wallpapers mate-backgrounds ukui-wallpapers
for file in *.deb; do dpkg-deb -x $file walls; done
python tests/benchmarks/picture_sets.py crops walls OUT/crops
apt-get download wesnoth-1.16-data && dpkg-deb -x wesnoth-1.16-data*.deb wesnoth
python tests/benchmarks/picture_sets.py sprites wesnoth OUT/sprites
"""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

from PIL import Image

CROPS = 10_000
SIDES = (192, 256, 384)
"""Of a crop, in a picture whose shorter side is 1,024; scaled to 64."""
LEAST_CONTRAST = 60
"""Between the darkest and the brightest value of some channel; flatter crops are left out."""


def openmoji(package: Path, out: Path) -> int:
    import resvg_py

    files = sorted((package / "color" / "svg").glob("*.svg"))
    for file in files:
        content = resvg_py.svg_to_bytes(svg_path=str(file), width=72, height=72)
        on_white(Image.open(io.BytesIO(bytes(content)))).save(out / f"{file.stem}.png")
    return len(files)


def sprites(folder: Path, out: Path) -> int:
    count = 0
    for file in sorted(folder.rglob("units/**/*.png")):
        with Image.open(file) as figure:
            if (figure.size, figure.mode) == ((72, 72), "RGBA"):
                on_white(figure).save(out / f"{count:05d}.png")
                count += 1
    return count


def on_white(drawing: Image.Image) -> Image.Image:
    drawing = drawing.convert("RGBA")
    picture = Image.new("RGBA", drawing.size, "white")
    picture.alpha_composite(drawing)
    return picture.convert("RGB")


def crops(folder: Path, out: Path) -> int:
    Image.MAX_IMAGE_PIXELS = None
    numbers, count = random.Random(0), 0
    files = [file for file in sorted(folder.rglob("*")) if is_wanted(file)]
    each = max(1, CROPS // max(1, len(files)))
    for file in files:
        picture = Image.open(file).convert("RGB")
        scale = 1024 / min(picture.size)
        size = round(picture.width * scale), round(picture.height * scale)
        picture, left = picture.resize(size, Image.Resampling.LANCZOS), each
        for _ in range(4 * each):
            side = numbers.choice(SIDES)
            x, y = (numbers.randrange(length - side) for length in picture.size)
            crop = picture.crop((x, y, x + side, y + side)).resize(
                (64, 64), Image.Resampling.LANCZOS
            )
            if max(high - low for low, high in crop.getextrema()) >= LEAST_CONTRAST:
                crop.save(out / f"{count:05d}.png")
                count, left = count + 1, left - 1
            if not left:
                break
    return count


def is_wanted(file: Path) -> bool:
    if file.suffix.lower() not in (".jpg", ".jpeg", ".png") or not file.is_file():
        return False
    if "screenshot" in file.name or "dark" in str(file).lower():
        return False
    try:
        with Image.open(file) as picture:
            return min(picture.size) >= 800
    except OSError:
        return False


if __name__ == "__main__":
    kind, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    print(
        {"openmoji": openmoji, "crops": crops, "sprites": sprites}[kind](source, target),
        "pictures in",
        target,
    )

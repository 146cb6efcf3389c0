"""Make the data that the audio plugin bundles: drums and other short sounds at 16 kHz, in one folder per family.

    python plugins/audio/bundle.py FOLDER

FOLDER holds the one-shots of Debian's package sonic-pi-samples (CC0) as FLAC files, named FAMILY_SOUND.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

from genkit_audio.sources import Sound, open_sounds
from genkit_audio.writing import encode

DATA = Path(__file__).parent / "src/genkit_audio/data"
RATE = 16000


def main() -> None:
    # FLAC is compressed already, so the zip file is not; ZipInfo's fixed date makes equal bytes each time.
    with zipfile.ZipFile(DATA / "drums.zip", "w") as archive:
        for sound in open_sounds(sys.argv[1], "prefix").items:
            archive.writestr(zipfile.ZipInfo(f"{sound.label}/{Path(sound.name).name}"), flac(sound))


def flac(sound: Sound) -> bytes:
    """The sound as a FLAC file at 16 kHz, made quieter as a whole where resampling exceeds full scale."""
    values = sound.read(0, sound.count(RATE), RATE)
    return encode(values[None] / max(1, np.abs(values).max()), "flac", RATE)


if __name__ == "__main__":
    main()

"""Video files decoded where they are asked for: from the keyframe before, or on from where they were left.

Knows time stamps as a file counts them, and neither seconds nor clips.

Shape letters: H W pixels, C channels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

OPEN = 8
"""Files that stay open, ready to go on."""


class Decoders:
    """Files that stay open: whoever comes back to one goes on where it was left. The longest unused is closed."""

    def __init__(self) -> None:
        self._idle: list[tuple[Path, Decoder]] = []
        self._lock = threading.Lock()

    @contextmanager
    def of(self, path: Path, counted: bool) -> Iterator[Decoder]:
        """A decoder of a file, for one thread alone; closed if it fails."""
        with self._lock:
            place = next((place for place, (of, _) in enumerate(self._idle) if of == path), None)
            decoder = None if place is None else self._idle.pop(place)[1]
        decoder = decoder or Decoder(path, counted)
        try:
            yield decoder
        except BaseException:  # also where not all frames were asked for
            decoder.close()
            raise
        with self._lock:
            self._idle.append((path, decoder))
            most = max(0, len(self._idle) - OPEN)
            surplus, self._idle = self._idle[:most], self._idle[most:]
        for _, old in surplus:
            old.close()


class Decoder:
    """One open file, decoded forwards from wherever it is.

    Args:
        counted: its frames go by their number from the beginning instead of by their time.
    """

    def __init__(self, path: Path, counted: bool) -> None:
        self._path, self._counted = path, counted
        self._reformatter = VideoReformatter()
        self._container: InputContainer | None = None
        self._frame: av.VideoFrame | None = None
        self._first = 0
        self._begin()

    def close(self) -> None:
        """Give the file back."""
        if self._container is not None:
            self._container.close()

    def frames(self, wanted: Sequence[int], key: int) -> Iterator[NDArray[np.uint8]]:
        """[H, W, C] each: the frames shown at these times, which ascend; from the keyframe `key` if they are not near.

        Raises:
            ValueError: if a frame is damaged.
        """
        self._first = wanted[0]
        if not key <= self._at < wanted[0]:
            self._seek(key)
        for want in wanted:
            while self._at < want and self._advance():
                pass
            if self._frame is None or self._frame.is_corrupt:
                raise ValueError(f"its frame at time stamp {want} is damaged")
            yield self._picture(self._frame)

    def _begin(self) -> None:
        self.close()
        self._container = av.open(str(self._path))
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # threads decode other files
        self._rest, self._at, self._frame = self._decoded(), -(2**63), None

    def _seek(self, key: int) -> None:
        """To the keyframe; to the beginning where frames are counted, or where a container finds only later ones."""
        assert self._container is not None
        if not self._counted:
            self._container.seek(key, stream=self._stream)
            self._rest, self._at, self._frame = self._decoded(), -(2**63), None
            if self._advance() and self._at <= self._first:
                return
        self._begin()

    def _advance(self) -> bool:
        following = next(self._rest, None)
        if following is not None:
            self._at, self._frame = following
        return following is not None

    def _decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        assert self._container is not None
        number = 0
        for packet in self._container.demux(self._stream):
            # Frames before the first wanted one that no other frame needs are not decoded at all.
            early = not self._counted and packet.pts is not None and packet.pts < self._first
            self._stream.codec_context.skip_frame = "NONREF" if early else "DEFAULT"
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                yield number if self._counted or frame.pts is None else frame.pts, frame
                number += 1

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """[H, W, C], upright."""
        alpha = frame.format.has_palette or any(
            component.is_alpha for component in frame.format.components
        )
        shown = self._reformatter.reformat(frame, format="rgba" if alpha else "rgb24")
        return np.rot90(cast(NDArray[np.uint8], shown.to_ndarray()), frame.rotation // 90)

"""Named random streams: the same numbers on any machine, in any order, beside whatever else is drawn."""

from genkit.system.streams import stream_key, words

__all__ = ["stream_key", "words"]

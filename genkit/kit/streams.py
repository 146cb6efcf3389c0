"""Named random streams: equal numbers on every machine, in any order, independent of other draws.

Use them where a plugin needs random numbers of its own that must be reproducible and must not touch a global generator:

    key = stream_key("evaluation", seed)
    numbers = words(key, start=0, count=8)  # [8] uint64, always the same for this key and start
"""

from genkit.system.streams import stream_key, words

__all__ = ["stream_key", "words"]

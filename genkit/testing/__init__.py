"""What plugin authors and the engine's own tests stand on: toy modalities whose truth is known.

The conformance suite that third parties inherit will live here too.
"""

"""What genkit asks of the machine: devices, random streams, files.

runtime   device, threads, processes, precision, work beside the computation
streams   named random streams: keys, seeds, words
seeding   the global random generators, seeded and given back
tensors   named tensors as files, and into modules
files     files that are written whole or not at all; what is remembered on this machine
"""

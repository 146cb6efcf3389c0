"""What genkit needs of the machine: devices, random numbers, files.

runtime   device, threads, processes, precision, background threads
streams   named random streams: keys, seeds, random words
seeding   seeding and restoring the global random generators
tensors   named tensors in safetensors files, and loading them into modules
files     files that are written completely or not at all; this user's cache and settings folders
"""

"""What authors of plugins share. All of it is public.

items       items that are checked once, cut into windows, with classes; what is said of those left out
files       files of a folder or a zip file, found and opened; files written whole or not at all
blocks      network blocks of any rank
distances   distances between two sets of features
program     a plugin's own command line
streams     named random streams
compat      torchvision and torchaudio beside a torch that their compiled parts do not fit
"""

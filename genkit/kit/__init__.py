"""Building blocks for authors of plugins. Everything that a module lists in `__all__` is public.

Use what fits; no plugin has to use any of it. Import a module when it is needed (`from genkit.kit import files`): some
of them import torch.

items       data sets: items that are checked once, read in threads, cut into windows, with classes     imports torch
sources     items of any data source (files, tables, Parquet, objects) with their classes               no torch
files       reading the files of a folder, a zip or a tar file; writing files completely or not at all  no torch
endings     what a container of streams lacks at its end, where it is cut off                           no torch
tables      rows of CSV, JSON and Parquet files; what tables and sidecars say about files beside them   no torch
blocks      network blocks for 1, 2 or 3 spatial axes, initial weights, truncation                      imports torch
terms       loss terms that modalities share                                                            imports torch
distances   Frechet distance between two sets of features                                               no torch
features    what plugins share about feature networks: files of weights, batches                        imports torch
program     a command line of the plugin's own, `python -m PACKAGE`                                     no torch
streams     named random streams, equal on every machine                                                no torch
compat      torchvision and torchaudio whose compiled parts do not fit the installed torch              imports torch
"""

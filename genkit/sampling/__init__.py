"""Sampling: from a sample's identity (seed, index) to noise, to samples, to files.

model          a trained generator, opened by any name of a model, that draws samples
unrolled       files of samples of any length, drawn and written part by part
model_names    what names a model: a path, a modality's id, a name on the Hub; lists of models
hub            models on the Hugging Face Hub
cluster        a job of many samples as tasks of Ray
bulk           many samples in turn, written as single files or tar files, alone or as one of several processes
jobs           which pieces many samples are divided into, and which of them are a process's share
ledger         what of a job is finished in a folder
exporting      a model as an ONNX file, and a reader beside it
parity         how equal the samples are that genkit and an exported file draw
tracing        a generator as a graph of tensors
samples        drawn samples with their identities, and the files that they are saved to
listing        samples.json, read and written row by row
drawing        identities to samples: chunks, latent interpolations, samples of any length block by block
reranking      a model's critics, which choose the best of several candidates for a sample
onnx_reader    what draws from an exported file; its text is written beside it
conditions     what a plugin makes of a label, checked
noise          the noise of a sample, a function of (seed, part, index, position)
batching       batches of samples: stacked, joined, divided
model_folder   the model folder on disk
card           what is known of a model, for people, the Hub and notebooks
"""

"""Sampling: from a sample's identity (seed, index) to noise, to samples, to files.

model          a trained generator, opened from a folder, that draws samples
samples        drawn samples with their identities, and the files that they are saved to
drawing        identities to samples: chunks, latent interpolations, samples of any length block by block
reranking      a model's critics, which choose the best of several candidates for a sample
noise          the noise of a sample, a function of (seed, part, index, position)
batching       batches of samples: stacked, joined, divided
model_folder   the model folder on disk
"""

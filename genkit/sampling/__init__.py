"""The sampler: identities to noise to samples to files.

model          a generator that can be drawn from, opened from a folder
samples        what was drawn, and the files it becomes
drawing        identities to samples: chunks, latent interpolations, samples of any length block by block
reranking      a model's critics, choosing among several candidates for a sample
noise          (seed, part, index, position) to noise
batching       batches of samples: stacked, joined, cut
model_folder   the model on disk
"""

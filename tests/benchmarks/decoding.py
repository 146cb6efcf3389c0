"""Symbols per second of a causal transformer: genkit's sampler beside `generate` of transformers, on the same weights.

    python tests/benchmarks/decoding.py [--rounds 3 --threads 2 --vocabulary 5000 --batch 64]

Full batches of lines without an end, temperature 1, keys and values cached, taken in turn; genkit's in both precisions
that `genkit.load` has. Last, an LSTM of the same width, for its price.
"""

from __future__ import annotations

import argparse

import torch
from rollouts import in_turn, noises

from genkit.plugin import Facts
from genkit.sampling.drawing import Place, forward
from genkit.system.runtime import keep_freed_memory
from genkit_text.generators import make_generator
from genkit_text.options import Options

SIZES = ((64, 2, 20), (256, 4, 64), (512, 8, 64), (256, 4, 512))
"""Width, layers, and symbols of a line."""


def main() -> None:
    from transformers import GenerationConfig

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    symbols, batch = arguments.vocabulary, arguments.batch
    for width, layers, length in SIZES:
        facts = Facts(
            {"symbols": symbols, "length": length, "end": None, "unknown": None}
            | {"prompt_length": 0, "decoder": None}
        )
        options = Options(generator="decoder", hidden=width, layers=layers)
        attentive = make_generator(options, facts).eval()
        recurrent = make_generator(Options(hidden=width, embedding=width), facts).eval()
        start, mask = torch.full((batch, 1), symbols), torch.ones(batch, 1, dtype=torch.long)
        settings = GenerationConfig(
            max_new_tokens=length, min_new_tokens=length, do_sample=True,
            top_k=0, top_p=1.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip

        def theirs(generator=attentive, start=start, mask=mask, settings=settings):
            generator.model.generate(start, attention_mask=mask, generation_config=settings)

        def ours(generator, dtype="float32"):
            place, noise = Place(torch.device("cpu"), dtype), noises(generator)
            return lambda: forward(generator, noise("lines", batch), None, None, place)

        ways = {
            "transformers": theirs,
            "genkit": ours(attentive),
            "genkit, bfloat16": ours(attentive, "bfloat16"),
            "LSTM": ours(recurrent),
            "LSTM, bfloat16": ours(recurrent, "bfloat16"),
        }
        with torch.no_grad():
            seconds = in_turn(ways, arguments.rounds)
        rates = {name: batch * length / value for name, value in seconds.items()}
        print(f"width {width}, {layers} layers, {length} symbols a line")
        for name, rate in rates.items():
            print(f"  {name:<18}{rate:9,.0f} a second{rate / rates['transformers']:8.2f}")


if __name__ == "__main__":
    main()

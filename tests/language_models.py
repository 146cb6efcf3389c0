"""Pretrained language models, tiny and on disk, so that nothing is fetched."""

import torch
from tokenizers import Tokenizer

from genkit_text.options import Options
from genkit_text.plugin import TextPlugin
from genkit_text.pretrained import transformers_library


def write_language_model(folder, lines):
    """A folder as Hugging Face writes it: a decoder of the words of lines, and its tokenizer; returns it."""
    library = transformers_library()
    torch.manual_seed(0)
    facts = TextPlugin.inspect(lines, Options(tokenizer="words"))
    words = Tokenizer.from_str(facts.files["tokenizer.json"].decode())
    tokenizer = library.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokenizer.save_pretrained(folder)
    configuration = library.GPT2Config(
        vocab_size=facts["symbols"],
        n_positions=32,
        n_embd=8,
        n_layer=1,
        n_head=2,
        eos_token_id=0,
        bos_token_id=0,
    )
    library.GPT2LMHeadModel(configuration).save_pretrained(folder)
    return folder

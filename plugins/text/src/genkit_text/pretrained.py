"""The configuration, the vocabulary and the weights of a pretrained language model.

Only this module reads them from files by the `transformers` library. Knows no data and no game.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from genkit.errors import ConfigError, first_line
from genkit.kit import compat
from genkit_text.vocabulary import Vocabulary, vocabulary_of

_PLACE_KEYS = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "quantization_config")
"""Entries of a configuration that name where its weights and its code lie, or how the weights are stored.

They are removed: a model is trained in float32, is saved elsewhere, and brings no code.
"""


def transformers_library() -> Any:
    """The library `transformers`, safe to use beside a torch that torchvision and torchaudio do not fit.

    It imports both on its way to a model, where they are installed; `genkit.kit.compat` does so first.
    """
    compat.prepare()
    import transformers

    return transformers


def describe(place: str) -> tuple[Vocabulary, dict[str, Any]]:
    """The vocabulary of a causal language model, and its configuration as plain JSON data.

    Args:
        place: a folder, or an id on the Hugging Face Hub.

    Raises:
        ConfigError: if it cannot be loaded, names no end symbol, or its tokenizer has more symbols than its network.
    """
    with _library_for("pretrained", place, "a causal language model") as library:
        settings = library.AutoConfig.from_pretrained(place, trust_remote_code=False)
        plain = _without_place(json.loads(settings.to_json_string(use_diff=False)))
        its_tokenizer = library.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        size, ids = plain["vocab_size"], plain.get("eos_token_id")
        ends = [*(ids if isinstance(ids, list) else [ids]), its_tokenizer.eos_token_id]
        end = next((symbol for symbol in ends if symbol is not None and 0 <= symbol < size), None)
        vocabulary = Vocabulary(its_tokenizer.backend_tokenizer, end)
        if end is None:
            raise ValueError("neither its config.json nor its tokenizer names an eos_token")
        _check_sizes(vocabulary.size, size)
        return vocabulary, plain


def configuration(plain: Mapping[str, Any]) -> Any:
    """The library's configuration object from plain data; entries that name code or another place are dropped."""
    safe = {
        key: value
        for key, value in _without_place(dict(plain)).items()
        if key != "model_type"
        and not key.endswith(("attn_implementation", "experts_implementation"))
    }
    return transformers_library().AutoConfig.for_model(plain["model_type"], **safe)


def tokenizer(folder: str) -> Vocabulary:
    """The vocabulary of a folder with the files of a tokenizer but no tokenizer.json.

    Raises:
        ConfigError: if it cannot be loaded, or the `tokenizers` library cannot represent it.
    """
    with _library_for("tokenizer", folder, "a tokenizer") as library:
        its_tokenizer = library.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return vocabulary_of(its_tokenizer.backend_tokenizer, its_tokenizer.eos_token)


def load_weights(model: nn.Module, place: str) -> None:
    """Load the weights of a pretrained model into `model`, in place, from safetensors, as float32.

    Args:
        place: a folder, or an id on the Hugging Face Hub.

    Raises:
        ConfigError: if there are no weights, or some are missing.
    """
    with _library_for("pretrained", place, "a causal language model") as library:
        pretrained_model, report = library.AutoModelForCausalLM.from_pretrained(
            place,
            dtype="float32",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        if missing_keys := sorted(report["missing_keys"]):
            raise ValueError(
                f"it lacks weights of a causal language model: {', '.join(map(str, missing_keys[:3]))}"
            )
        model.load_state_dict(pretrained_model.state_dict())


def encoder(place: str, depth: float) -> tuple[nn.Module, Any]:
    """An encoder of texts, as float32, and its tokenizer, of the `tokenizers` library; texts are cut to what it reads.

    Args:
        place: a folder, or an id on the Hugging Face Hub.
        depth: the share of its layers that is wanted, from the first on.

    Raises:
        ConfigError: if it cannot be loaded, or its tokenizer has more symbols than its network.
    """
    with _library_for(
        "critic_encoder", place, "an encoder of texts (BERT and its like)"
    ) as library:
        settings = library.AutoConfig.from_pretrained(place, trust_remote_code=False)
        positions = getattr(settings, "max_position_embeddings", None)
        if settings.is_encoder_decoder or not isinstance(positions, int) or positions < 1:
            raise ValueError("it is no encoder alone, or does not say how many tokens it reads")
        settings.num_hidden_layers = math.ceil(depth * settings.num_hidden_layers)
        # It draws what a checkpoint lacks (an unused layer), and what follows must not depend on that.
        with torch.random.fork_rng(devices=[]):
            model, report = library.AutoModel.from_pretrained(
                place,
                config=settings,
                dtype="float32",
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        if missing_keys := [key for key in report["missing_keys"] if not key.startswith("pooler.")]:
            raise ValueError(
                f"it lacks weights of an encoder: {', '.join(sorted(missing_keys)[:3])}"
            )
        its_tokenizer = library.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        pieces = its_tokenizer.backend_tokenizer
        if not set(pieces.get_vocab()) - set(its_tokenizer.all_special_tokens):
            raise ValueError("it has no tokenizer")
        _check_sizes(pieces.get_vocab_size(), settings.vocab_size)
        pieces.no_padding()
        pieces.encode_special_tokens = True  # a text may hold "[SEP]" as text
        offsets = [
            1 + layer.padding_idx
            for name, layer in model.named_modules()
            if name.endswith("position_embeddings") and layer.padding_idx is not None
        ]  # RoBERTa and its like number the positions from there on
        pieces.enable_truncation(
            min(positions - max(offsets, default=0), its_tokenizer.model_max_length)
        )
        return model, pieces


@contextmanager
def _library_for(option: str, place: str, kind: str) -> Iterator[Any]:
    """A context that gives the library; inside it no progress bar is drawn, and no report is written.

    Args:
        option: the name of the option that names the place, for the message.
        place: a folder or an id that is loaded.
        kind: what should be there, for the message.

    Raises:
        ConfigError: for any exception inside.
    """
    library = transformers_library()
    log = library.utils.logging
    had_progress_bar, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield library
    except Exception as error:  # of the hub, parsers, modelling code: they have no common base
        raise ConfigError(
            f"options.{option} = {place!r} cannot be loaded as {kind} ({first_line(error)}); what can be is a folder "
            "or an id on the Hugging Face Hub"
        ) from error
    finally:
        log.set_verbosity(level)
        if had_progress_bar:
            log.enable_progress_bar()


def _check_sizes(tokenizer: int, network: int) -> None:
    if tokenizer > network:
        raise ValueError(f"its tokenizer has {tokenizer:,} symbols, its network {network:,}")


def _without_place(plain: Any) -> Any:
    """JSON data without the entries of `_PLACE_KEYS`, at any depth of nested objects."""
    if not isinstance(plain, dict):
        return plain
    return {key: _without_place(value) for key, value in plain.items() if key not in _PLACE_KEYS}

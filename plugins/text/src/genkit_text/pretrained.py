"""What comes from a pretrained language model: its configuration, its vocabulary, its weights.

The one room that asks `transformers` for them. Knows no data and no game.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from genkit.errors import ConfigError, first_line
from genkit.kit import compat
from genkit_text.vocabulary import Vocabulary, ended

_OF_A_PLACE = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "quantization_config")
"""What a configuration says of where its weights and its code lay, and how; a model is trained in float32, lies
elsewhere, and brings no code."""


def transformers_library() -> Any:
    """The library, which imports torchvision and torchaudio on its way to a model where they are installed."""
    compat.prepare()
    import transformers

    return transformers


def described(where: str) -> tuple[Vocabulary, dict[str, Any]]:
    """The vocabulary of a causal language model and its configuration, as plain JSON data.

    Args:
        where: a folder, or an id on the Hugging Face Hub.

    Raises:
        ConfigError: if there is none, or it does not know where a line ends.
    """
    with _asked("pretrained", where, "a causal language model") as library:
        found = library.AutoConfig.from_pretrained(where, trust_remote_code=False)
        plain = _without_place(json.loads(found.to_json_string(use_diff=False)))
        beside = library.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        size, known = plain["vocab_size"], plain.get("eos_token_id")
        ends = [*(known if isinstance(known, list) else [known]), beside.eos_token_id]
        end = next((symbol for symbol in ends if symbol is not None and 0 <= symbol < size), None)
        vocabulary = Vocabulary(beside.backend_tokenizer, end)
        if end is None:
            raise ValueError("neither its config.json nor its tokenizer names an eos_token")
        if vocabulary.size > size:
            raise ValueError(f"its tokenizer has {vocabulary.size:,} symbols, its network {size:,}")
        return vocabulary, plain


def configuration(plain: Mapping[str, Any]) -> Any:
    """A configuration of the library from plain data, of which nothing can name code or another place."""
    safe = {
        key: value
        for key, value in _without_place(dict(plain)).items()
        if key != "model_type"
        and not key.endswith(("attn_implementation", "experts_implementation"))
    }
    return transformers_library().AutoConfig.for_model(plain["model_type"], **safe)


def tokenizer(folder: str) -> Vocabulary:
    """The vocabulary of a folder that holds the files of a tokenizer, but no tokenizer.json.

    Raises:
        ConfigError: if the `tokenizers` library cannot hold it.
    """
    with _asked("tokenizer", folder, "a tokenizer") as library:
        found = library.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return ended(found.backend_tokenizer, found.eos_token)


def load_weights(model: nn.Module, where: str) -> None:
    """Give a model the weights of a folder or id, from safetensors, as float32.

    Raises:
        ConfigError: if they are not there, or not all of them.
    """
    with _asked("pretrained", where, "a causal language model") as library:
        found, report = library.AutoModelForCausalLM.from_pretrained(
            where,
            dtype="float32",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"it lacks weights of a causal language model: {', '.join(map(str, missing[:3]))}"
            )
        model.load_state_dict(found.state_dict())


@contextmanager
def _asked(option: str, where: str, what: str) -> Iterator[Any]:
    """The library, whose complaints about a place become one sentence, and whose progress bars are not drawn."""
    library = transformers_library()
    log = library.utils.logging
    drawn = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        yield library
    except (
        Exception
    ) as error:  # of the hub, of parsers, of modelling code: its errors have no common base
        raise ConfigError(
            f"options.{option} = {where!r} cannot be loaded as {what} ({first_line(error)}); what can be is a folder "
            "or an id on the Hugging Face Hub"
        ) from error
    finally:
        if drawn:
            log.enable_progress_bar()


def _without_place(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    return {key: _without_place(value) for key, value in plain.items() if key not in _OF_A_PLACE}

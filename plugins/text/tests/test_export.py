"""Exported generators of lines draw the same lines, as symbols and as text: minutes of work."""

import numpy as np
import onnxruntime
import pytest
import torch

from genkit.sampling import onnx_reader
from genkit.sampling.exporting import export_model
from genkit.sampling.model import Model
from genkit_text import modality
from genkit_text.options import Options
from genkit_text.plugin import TextPlugin

KINDS = {
    "recurrent": {"embedding": 6, "hidden": 8, "layers": 2},
    "decoder": {"generator": "decoder", "hidden": 8, "heads": 2},
}
LINES = ["the cat sat on the mat.", "a dog, a hen", "the hen is a cat", "äußerst naïve 犬"]
pytestmark = pytest.mark.slow
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def firm(generator):
    """The generator with weights that make up its mind."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return generator.eval().requires_grad_(False)


def of_lines(tokenizer, generator, prompts=False):
    """A model of LINES that was never trained."""
    options = Options(
        tokenizer=tokenizer, prompt_field="ask" if prompts else None, **KINDS[generator]
    )
    source = [{"ask": line[:3], "text": line} for line in LINES] if prompts else LINES
    plugin = TextPlugin(options, TextPlugin.inspect(source, options))
    network = firm(plugin.networks().generator)
    info = {"conditional": prompts, "options": options.model_dump(mode="json")}
    return Model(modality, plugin, network, info, torch.device("cpu"))


@every_kind
@pytest.mark.parametrize("tokenizer", ["characters", "words", "bytes", "bpe"])
def test_exported_lines_are_those_of_genkit(options, tokenizer):
    model = of_lines(tokenizer, options.get("generator", "recurrent"))
    export = export_model(model, {"top_p": 0.9}, samples=200)
    assert export.parity.equal == 1
    assert export.about["controls"]["temperature"] == 1.0
    assert export.about["fixed"]["top_p"] == 0.9
    session = onnxruntime.InferenceSession(export.content)
    _, _, lines = onnx_reader.draw(session, range(50), 3, temperature=0.7)
    samples = model.generate(50, seed=3, controls={"temperature": 0.7, "top_p": 0.9})
    assert lines == [content.decode(errors="replace") for content in samples.encode("txt")]


@every_kind
def test_other_prompts_than_the_exported_one_are_read_as_symbols(options):
    kind = options.get("generator", "recurrent")
    model = of_lines("characters", kind)
    session = onnxruntime.InferenceSession(export_model(model, samples=64).content)
    prompt = model.plugin.condition("the ", [0])[0].tolist()
    start = model.generator.symbols
    x, mask, _ = onnx_reader.draw(session, range(40), 1, prefix=[start, *prompt])
    sample = model.generate(40, seed=1, label="the ").sample
    limit = model.generator.length - len(prompt)
    assert np.array_equal(mask[:, :limit], sample.mask[:, :limit])
    valid = mask[:, :limit]
    assert np.array_equal(x[:, :limit][valid], sample.x[:, :limit].numpy()[valid])


@every_kind
def test_answers_are_exported_with_a_prompt(options):
    model = of_lines("characters", options.get("generator", "recurrent"), prompts=True)
    export = export_model(model, label="th", samples=200)
    assert export.parity.equal == 1
    assert ("condition" in export.about["inputs"]) == ("generator" in options)

"""torchvision and torchaudio work beside whatever torch is installed: asked in one fresh process, which has neither."""

import json

import pytest

from genkit.kit import compat

CODE = """
import json, torch
from genkit.kit import compat

facts = {"native": compat._native_part_loads("torchvision", "_C")}
vision, audio = compat.torchvision(), compat.torchaudio()
facts["once"] = vision is compat.torchvision() and audio is compat.torchaudio()
import torchaudio, torchvision
facts["plain"] = torchvision is vision and torchaudio is audio

from torchvision import datasets, models, utils
from torchvision.transforms import v2
x = torch.rand(4, 3, 20, 20)
facts["resized"] = list(v2.Resize((8, 8), antialias=True)(x).shape)
facts["grid"] = list(utils.make_grid(x, nrow=2, padding=0).shape)
facts["logits"] = list(models.resnet18(weights=None).eval()(torch.rand(1, 3, 32, 32)).shape)
facts["items"] = len(datasets.FakeData(size=3))

x = torch.randn(1, 16000)
facts["mels"] = list(torchaudio.transforms.MelSpectrogram(16000, n_mels=40)(x).shape)
facts["resampled"] = list(torchaudio.functional.resample(x, 16000, 8000).shape)
facts["finite"] = torchaudio.functional.lowpass_biquad(x, 16000, 1000.0).isfinite().all().item()

facts["errors"] = []
for call in (
    lambda: torch.ops.torchvision.nms(torch.rand(1, 4), torch.rand(1), 0.5),
    lambda: torchaudio.functional.forced_align(torch.rand(1, 4, 3), torch.tensor([[1]])),
):
    try:
        if not facts["native"]:
            call()
    except compat.NativePartMissing as error:
        facts["errors"].append(str(error))
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts(python):
    """What a fresh process found, where a warning is an error."""
    return json.loads(python(CODE, "-W", "error"))


def test_torchvision_transforms_models_datasets_and_grids_work(facts):
    assert (facts["resized"], facts["grid"]) == ([4, 3, 8, 8], [3, 40, 40])
    assert (facts["logits"], facts["items"]) == ([1, 1000], 3)


def test_torchaudio_transforms_and_filters_work(facts):
    assert (facts["mels"], facts["resampled"]) == ([1, 40, 81], [1, 8000])
    assert facts["finite"] is True


def test_what_needs_the_native_part_says_which_build_to_install(facts):
    if facts["native"]:
        pytest.skip("torchvision's native part fits this torch")
    assert len(facts["errors"]) == 2
    assert all("install the build of torch" in error for error in facts["errors"])


def test_both_are_imported_once_and_leave_the_plain_import_working(facts):
    assert facts["once"]
    assert facts["plain"]


def test_torchaudio_alone_works_too(python):
    """What torchvision brings with it is not what makes torchaudio work."""
    code = (
        "import sys, torch; from genkit.kit import compat; audio = compat.torchaudio()\n"
        "assert 'torchvision' not in sys.modules\n"
        "print(tuple(audio.functional.resample(torch.randn(1, 16000), 16000, 8000).shape))"
    )
    assert python(code, "-W", "error") == "(1, 8000)\n"


def test_a_package_that_is_missing_is_an_import_error_that_names_it():
    with pytest.raises(ImportError, match="pip install no_such_package"):
        compat._native_part_loads("no_such_package", "_C")

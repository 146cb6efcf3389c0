"""torchvision and torchaudio work beside whatever torch is installed, in a fresh process each."""

import subprocess
import sys

import pytest


def run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_transforms_models_datasets_and_grids_work():
    out = run(
        "import torch; from genkit import compat; tv = compat.torchvision()\n"
        "from torchvision.transforms import v2; from torchvision import datasets, models, utils\n"
        "x = torch.rand(4, 3, 20, 20)\n"
        "print(tuple(v2.Resize((8, 8), antialias=True)(x).shape), tuple(utils.make_grid(x, nrow=2, padding=0).shape))\n"
        "net = models.resnet18(weights=None).eval()\n"
        "print(tuple(net(torch.rand(1, 3, 32, 32)).shape), len(datasets.FakeData(size=3)))"
    )
    assert out.split("\n")[:2] == ["(4, 3, 8, 8) (3, 40, 40)", "(1, 1000) 3"]


def test_torchaudio_transforms_and_filters_work():
    out = run(
        "import torch; from genkit import compat; ta = compat.torchaudio()\n"
        "import torchaudio\n"
        "x = torch.randn(1, 16000)\n"
        "print(tuple(torchaudio.transforms.MelSpectrogram(16000, n_mels=40)(x).shape))\n"
        "print(tuple(torchaudio.functional.resample(x, 16000, 8000).shape))\n"
        "print(torchaudio.functional.lowpass_biquad(x, 16000, 1000.0).isfinite().all().item())"
    )
    assert out.split() == ["(1,", "40,", "81)", "(1,", "8000)", "True"]


def test_what_needs_the_native_part_says_which_build_to_install():
    native = run(
        "from genkit import compat; print(compat._native_part_loads('torchvision', '_C'))"
    ).strip()
    if native == "True":
        pytest.skip("torchvision's native part fits this torch")
    out = run(
        "import torch; from genkit import compat; compat.torchvision(); compat.torchaudio()\n"
        "import torchaudio\n"
        "calls = [lambda: torch.ops.torchvision.nms(torch.rand(1, 4), torch.rand(1), 0.5),\n"
        "         lambda: torchaudio.functional.forced_align(torch.rand(1, 4, 3), torch.tensor([[1]]))]\n"
        "for call in calls:\n"
        "    try: call()\n"
        "    except compat.NativePartMissing as error: print(error)\n"
    )
    assert out.count("install the build of torch") == 2


def test_both_are_imported_once_and_leave_the_plain_import_working():
    run(
        "from genkit import compat; assert compat.torchvision() is compat.torchvision()\n"
        "assert compat.torchaudio() is compat.torchaudio()\n"
        "import torchvision, torchaudio; assert torchvision is compat.torchvision()"
    )


def test_a_package_that_is_missing_is_an_import_error_that_names_it():
    run(
        "import sys; from genkit import compat\n"
        "try: compat._native_part_loads('no_such_package', '_C')\n"
        "except ImportError as error: assert 'pip install no_such_package' in str(error); sys.exit(0)\n"
        "sys.exit(1)"
    )

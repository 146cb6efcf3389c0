"""What the kit offers for evaluation: files of weights, and batches."""

import numpy as np
import pytest
import torch
from torch import nn

from genkit.errors import ConfigError
from genkit.kit.features import check_weights, file_hash, in_batches, torchscript


def test_a_network_sees_batches_and_leaves_no_graph():
    seen = []

    def network(x):
        seen.append(len(x))
        return (x * torch.ones(1, requires_grad=True)).double()

    x = torch.arange(14.0).view(7, 2)
    features = in_batches(network, x, 3)
    assert seen == [3, 3, 1]
    assert torch.equal(features, x)
    assert (features.dtype, features.requires_grad) == (torch.float32, False)


class Double(nn.Module):
    def forward(self, x, flat: bool = True):
        return 2 * x if flat else 2 * x[:, :, None]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_a_network_or_a_sentence(tmp_path):
    torch.jit.script(Double()).save(tmp_path / "double.pt")
    network = torchscript("big", tmp_path / "double.pt", "points [B, 2]")
    assert network(torch.ones(3, 2)).tolist() == [[2, 2]] * 3
    (tmp_path / "text.pt").write_text("no")
    for mistake, text in (
        (
            lambda: torchscript("big", tmp_path / "text.pt", ""),
            "weights for 'big': .* is no TorchS",
        ),
        (lambda: network(torch.ones(3, 2), steep=True), r"does not take points \[B, 2\] \("),
        (
            lambda: network(torch.ones(3, 2), flat=False),
            r"gives \[3, 2, 1\] for 3 samples; features",
        ),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            mistake()
        assert "\n" not in str(caught.value)


def test_weights_belong_to_a_network_and_exist(tmp_path):
    file = tmp_path / "big.pt"
    file.write_bytes(np.arange(3, dtype=np.uint8).tobytes())
    check_weights({"big": file}, ["small", "big"])
    with pytest.raises(
        ConfigError, match=r"'bgi': no network of .*; these do: small, big\. Did you"
    ):
        check_weights({"bgi": file}, ["small", "big"])
    with pytest.raises(ConfigError, match="these do: none"):
        check_weights({"big": file}, [])
    with pytest.raises(ConfigError, match="weights for 'big': there is no "):
        check_weights({"big": tmp_path / "nowhere"}, ["big"])
    assert file_hash(file).startswith("ae4b3280")

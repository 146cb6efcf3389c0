"""Averaged weights and the statistics that belong to them."""

import pytest
import torch
from torch import nn

from genkit.engine.averages import Average, batch_norms, recalibrated


def test_average_forgets_half_after_its_halflife():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average = Average(layer)
    layer.weight.data.fill_(1.0)
    for _ in range(10):
        average.update(100, 10)
    assert average.module().weight.item() == pytest.approx(0.5)
    average.update(0, 10)
    assert average.module().weight.item() == 1.0


def test_recalibrated_statistics_are_those_of_the_weights_which_stay_as_they_are():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    data = torch.randn(16, 64, 3)
    before = {name: value.clone() for name, value in module.named_parameters()}
    recalibrated(module, lambda net, number: net(data[number]))
    hidden = module[0](data).detach()
    torch.testing.assert_close(module[1].running_mean, hidden.mean((0, 1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module[1].running_var, hidden.var(1).mean(0), rtol=1e-4, atol=1e-5)
    assert not module[1].training
    assert module[1].momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    assert len(batch_norms(module)) == 1

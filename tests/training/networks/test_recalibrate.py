"""Statistics of batch norms taken anew."""

import torch
from torch import nn

from fsg.training.networks.layers import BinaryActivation, BinaryConv2d
from fsg.training.networks.recalibrate import recalibrate


def test_statistics_are_the_means_of_those_of_the_batches():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.9), BinaryActivation(), BinaryConv2d(3, 4, 3, padding=1)),
        *(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)),
    )
    model(torch.randn(8, 3, 5, 5) * 9 + 4)
    model[3].unquantized = True  # as within the first of two stages: what counts are the bits
    batches = [torch.randn(6, 3, 5, 5) * scale + scale for scale in (1, 2, 3)]
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    recalibrate(model, batches)

    first, last = [], []
    for x in batches:
        first.append((x.mean((0, 2, 3)), x.var((0, 2, 3))))
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        y = model[3](model[2]((x - mean) / (variance + 1e-5).sqrt()))
        last.append((y.mean((0, 2, 3)), y.var((0, 2, 3))))
    for norm, found in ((model[0], first), (model[4], last)):
        for value, expected in zip((norm.running_mean, norm.running_var), zip(*found, strict=True), strict=True):
            torch.testing.assert_close(value, torch.stack(expected).mean(0))
    assert [model[index].momentum for index in (0, 4)] == [0.3, 0.1]
    assert not any(module.training for module in model.modules())
    assert all(map(torch.equal, model.parameters(), parameters))

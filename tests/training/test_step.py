"""The one training step that runs and bench-train share."""

import pytest
import torch
from torch import fx, nn

from fsg.training.config import Config
from fsg.training.data.sets import DataInfo
from fsg.training.distributed import Processes
from fsg.training.step import Learner, to_device

CPU = torch.device("cpu")
INFO = DataInfo(("a", "b", "c"), (0.5,), (0.25,), (1, 32, 32))


class Viewer(nn.Module):
    """A forward as people write it, which takes a view of a map larger than 1x1."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv(x), 4)
        return self.fc(x.view(x.size(0), -1))


def test_a_forward_that_needs_contiguous_values_gets_them():
    model = Viewer()
    assert to_device(model, CPU, (1, 32, 32)) is torch.contiguous_format
    assert model.training and model.conv.weight.is_contiguous()
    model(torch.zeros(2, 1, 32, 32)).sum().backward()
    assert to_device(nn.Sequential(nn.Conv2d(1, 2, 3)), CPU, (1, 8, 8)) is torch.channels_last


def test_a_traced_forward_that_needs_contiguous_values_is_no_screen_of_its_code(capfd):
    assert to_device(fx.symbolic_trace(Viewer()), CPU, (1, 32, 32)) is torch.contiguous_format
    assert capfd.readouterr() == ("", "")


def test_what_fails_in_any_order_fails():
    with pytest.raises(RuntimeError):
        to_device(nn.Sequential(nn.Linear(7, 3)), CPU, (1, 8, 8))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_steps_are_taken_counted_and_restored(ema):
    config = Config(method="ste", ema=ema, threads=1)
    learner = Learner(config, INFO, CPU, Processes())
    learner.model.train()
    images, labels = torch.randn(8, 1, 32, 32), torch.arange(8) % 3
    first, logits = learner.step(images, labels)
    assert logits.shape == (8, 3) and not logits.requires_grad and not first.requires_grad
    for _ in range(5):
        last, _ = learner.step(images, labels)
    assert learner.steps == 6 and last < first
    assert (learner.tested is learner.model) == (not ema)

    again = Learner(config, INFO, CPU, Processes())
    again.load_state_dict(learner.state_dict())
    assert again.steps == 6
    for mine, other in ((again.model, learner.model), (again.tested, learner.tested)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in mine.state_dict().items())

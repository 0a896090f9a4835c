"""What moves the weights: parameter groups, clipping, the moving average."""

import pytest
import torch
from torch import nn

from grcn.config import OptimConfig
from grcn.model.detector import build_detector
from grcn.training.optimizer import clip_gradients, make_average, make_optimizer


def network() -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    layers[0].weight.requires_grad_(False)
    return layers


def test_norm_layers_and_biases_are_not_decayed():
    model = network()
    decayed, plain = make_optimizer(model, OptimConfig(weight_decay=0.1), lr=0.5).param_groups
    assert [p.shape for p in decayed["params"]] == [model[2].weight.shape]  # the frozen weight is in neither
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].bias)
    }
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    assert (decayed["lr"], decayed["momentum"]) == (0.5, 0.9)
    assert isinstance(make_optimizer(model, OptimConfig(name="adamw"), lr=1e-3), torch.optim.AdamW)


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 1.0), (100.0, 5.0), (0.0, 5.0)])
def test_gradients_are_clipped_by_their_common_norm(limit, expected):
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert float(clip_gradients(model, limit)) == pytest.approx(5)
    assert float(torch.cat((model.weight.grad[0], model.bias.grad)).norm()) == pytest.approx(expected, rel=1e-5)


def test_the_average_follows_weights_and_statistics(tiny):
    torch.manual_seed(0)
    model = build_detector(tiny.tiny_model(), 2, None)
    average = make_average(model, 0.9)
    name, weight = next(iter(model.named_parameters()))
    expected, mean = weight.detach().clone(), 0.0
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
            model.get_buffer("separation.trunk.conv1.conv1.1.running_mean").add_(1)
            model.get_buffer("separation.trunk.conv1.conv1.1.num_batches_tracked").add_(1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
        mean = decay * mean + (1 - decay) * step
        average.update_parameters(model)
    own = average.module
    assert torch.allclose(dict(own.named_parameters())[name], expected, atol=1e-6)
    assert float(own.get_buffer("separation.trunk.conv1.conv1.1.running_mean")[0]) == pytest.approx(mean)
    assert int(own.get_buffer("separation.trunk.conv1.conv1.1.num_batches_tracked")) == 29
    assert torch.equal(own.rpn.cells, model.rpn.cells)
    assert not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad for parameter in average.parameters())

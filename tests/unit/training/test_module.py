"""Parts of a step: parameter groups, clipping, the moving average, the seeds."""

import pytest
import torch
from torch import nn

from grcn.config import OptimConfig
from grcn.model.detector import build_detector
from grcn.training.module import EMA, Training, clip_gradients, make_optimizer, step_seed


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
    ema = EMA(model, 0.9)
    name, weight = next(iter(model.named_parameters()))
    expected, mean = weight.detach().clone(), 0.0
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
            model.get_buffer("separation.trunk.conv1.1.running_mean").add_(1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
        mean = decay * mean + (1 - decay) * step
        ema.update(model, step)
    assert torch.allclose(dict(ema.model.named_parameters())[name], expected, atol=1e-6)
    assert float(ema.model.get_buffer("separation.trunk.conv1.1.running_mean")[0]) == pytest.approx(mean)
    assert torch.equal(ema.model.rpn.cells, model.rpn.cells)
    ema.train()
    assert not any(module.training for module in ema.modules())
    assert not any(parameter.requires_grad for parameter in ema.parameters())


@pytest.mark.parametrize(("batch", "accumulate", "expected"), [(16, 1, 0.02), (8, 1, 0.01), (8, 4, 0.04)])
def test_the_learning_rate_is_scaled_to_the_images_of_a_step(tiny, batch, accumulate, expected):
    model = build_detector(tiny.tiny_model(), 2, None)
    optim = OptimConfig(lr=0.02, accumulate=accumulate)
    config = tiny.tiny_config("data", "out", batch_size=batch, optim=optim)
    assert Training(model, config).base_lr == pytest.approx(expected)


def test_a_steps_seed_depends_on_all_three_and_is_one_that_torch_takes():
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert len({step_seed(*seeds) for seeds in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4
    for place in range(20):
        torch.Generator().manual_seed(step_seed(2**31, 10**9, place))

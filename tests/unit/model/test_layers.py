"""The quick layers against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grcn.model.backbones.layers import Conv2d, ReLU6, quicken
from grcn.model.backbones.norm import fold_norms, freeze_norms

CASES = [
    # kernel, stride, padding, dilation, size of the map
    ((3, 3), 1, 1, 1, (7, 9)),
    ((3, 3), 1, 2, 2, (7, 9)),
    ((3, 3), 2, 1, 1, (8, 10)),
    ((3, 3), 2, 2, 2, (9, 12)),
    ((5, 5), 1, 2, 1, (6, 4)),
    ((5, 5), 1, 4, 2, (6, 9)),
    ((5, 5), 1, 0, 1, (9, 7)),
    ((5, 5), 2, 2, 1, (9, 12)),  # 12: the last column is left over
    ((6, 6), 2, 2, 1, (8, 10)),
    ((7, 7), 1, 3, 1, (4, 5)),
    ((1, 5), 1, (0, 2), 1, (6, 9)),
    ((5, 1), 3, (4, 0), 2, (11, 5)),
    ((5, 5), 1, 6, 1, (5, 5)),  # more padding than the kernel reaches
]


def depthwise(*geometry: Any, channels: int = 3) -> Conv2d:
    kernel, stride, padding, dilation = geometry
    conv: Any = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels).double()
    quicken(conv)
    assert type(conv) is Conv2d
    return conv


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "size"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_depthwise_convolutions_and_their_gradients_are_torchs(
    kernel: Any,
    stride: int,
    padding: Any,
    dilation: int,
    size: tuple[int, int],
    channels_last: bool,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    conv = depthwise(kernel, stride, padding, dilation).to(dtype)
    x = torch.randn(2, 3, *size, dtype=dtype)
    if channels_last:
        x, conv = x.to(memory_format=torch.channels_last), conv.to(memory_format=torch.channels_last)
    inputs: Any = [x.requires_grad_(), conv.weight, conv.bias]
    found = conv(x)
    expected = F.conv2d(*inputs, stride, padding, dilation, groups=3)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    ours = torch.autograd.grad(found, inputs, direction)
    theirs = torch.autograd.grad(expected, inputs, direction)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_depthwise_gradients_of_one_input_alone(wanted: tuple[bool, bool, bool]) -> None:
    torch.manual_seed(0)
    conv = depthwise(5, 1, 2, 1)
    tensors: Any = [torch.randn(2, 3, 6, 6, dtype=torch.float64), conv.weight, conv.bias]
    for tensor, on in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(on)
    one = [tensor for tensor, on in zip(tensors, wanted, strict=True) if on]
    ours = torch.autograd.grad(conv(tensors[0]).square().sum(), one)
    theirs = torch.autograd.grad(F.conv2d(*tensors, padding=2, groups=3).square().sum(), one)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_uneven_padding(groups: int, kernel: int) -> None:
    """Of the kernel in place of the map: the same result and gradients."""
    torch.manual_seed(0)
    conv: Any = nn.Conv2d(6, 6, kernel, 2, groups=groups).double()
    x = torch.randn(2, 6, 8, 10, dtype=torch.float64, requires_grad=True)
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    expected = conv(F.pad(x, (before, after, before, after)))
    conv.__class__, conv.pad = Conv2d, (before, after, before, after)
    torch.testing.assert_close(conv(x), expected)
    ours, theirs = (torch.autograd.grad(y.square().sum(), [x, conv.weight, conv.bias]) for y in (conv(x), expected))
    torch.testing.assert_close(ours, theirs)


def test_relu6_keeps_its_output_alone() -> None:
    kept: list[Tensor] = []
    x = torch.tensor([-1.0, 0.0, 1e-3, 3.0, 6.0, 7.0], requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = ReLU6(inplace=True)(x + 0)
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(F.relu6(x).sum(), x)
    assert torch.equal(y, F.relu6(x))
    assert torch.equal(gradient, expected)


def test_quicken_leaves_what_it_cannot_do_better() -> None:
    layers = [nn.Conv2d(4, 8, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4, padding_mode="reflect")]
    network = nn.Sequential(*layers, nn.ReLU())
    before = [type(layer) for layer in network]
    quicken(network)
    assert [type(layer) for layer in network] == before


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    conv: Any = nn.Conv2d(3, 3, 5, padding=padding, groups=3)
    x = torch.randn(1, 3, 8, 8)
    expected = conv(x)
    quicken(conv)
    assert torch.equal(conv(x), expected)


def test_depthwise_under_autocast() -> None:
    conv = depthwise(5, 1, 2, 1).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(torch.randn(1, 3, 8, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_on_nothing(kernel: int) -> None:
    """Protocol C4 runs conv5 on RoIs, of which a batch may have none."""
    conv = depthwise(kernel, 1, kernel // 2, 1)
    x = torch.zeros(0, 3, 7, 7, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(conv(x).sum(), [x, conv.weight, conv.bias])
    assert [g.shape for g in gradients] == [x.shape, conv.weight.shape, conv.bias.shape]
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_norm_inside_a_convolution_keeps_its_padding(mode: str, groups: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=groups, padding_mode=mode), nn.BatchNorm2d(4)).double()
    norm: Any = network[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expected = network.eval()(x)
    freeze_norms(network)
    quicken(network)
    torch.testing.assert_close(network.train()(x), expected)
    fold_norms(network)
    torch.testing.assert_close(network(x), expected)

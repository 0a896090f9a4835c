"""Stages are the classification network's own, whoever made it, and what is made of them computes the same."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from building import TIMM
from grcn.config import DetectorConfig, Norm
from grcn.errors import CheckpointError, ConfigError
from grcn.model.backbones import Backbone, Timm, make_backbone
from grcn.model.backbones.layers import fix_padding
from grcn.model.backbones.norm import FoldedConv2d, FoldedNorm, fold_norms, freeze_norms, norm_pairs
from grcn.model.backbones.pretrained import load_backbone
from grcn.model.detector import RCNN
from grcn.model.separation import run

LITE0 = "timm:tf_efficientnet_lite0"
NAMES = ["resnet18", "resnext50_32x4d", "vgg16", *TIMM]
WITH_NORM = [name for name in NAMES if not any(layer in name for layer in ("convnext", "swin"))]
IMAGE = (1, 3, 64, 96)


def enliven(network: nn.Module) -> None:
    """Norms and biases that do something, small enough for fifty layers of them."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.0)
            norm.bias.data.normal_(std=0.1)


_MADE: dict[str, Backbone] = {}


def made(name: str) -> Backbone:
    """The backbone with trainable norm that does something, made once; tests leave it as it is."""
    if name not in _MADE:
        torch.manual_seed(0)
        _MADE[name] = make_backbone(name)
        assert _MADE[name].network is not None
        enliven(_MADE[name].network)
    return _MADE[name]


@pytest.fixture(params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return made(request.param)


def stages_of(backbone: Backbone, *, smallest: int = 32) -> list[nn.Sequential]:
    """All five, in evaluation mode; strides above `smallest` are reduced to it."""
    strides = [1, *(min(stride, smallest) for stride in backbone.strides)]
    return [backbone.stage(n, *ends).eval() for n, ends in enumerate(pairwise(strides), start=1)]


def maps_of(stages: list[nn.Sequential], x: Tensor) -> list[Tensor]:
    """What each stage gives out, the first at `x`."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def features_of(name: str, network: Any, image: Tensor) -> list[Tensor]:
    """What the network's makers say that its stages give out."""
    if name == "vgg16":
        maps, x = [], image
        for layer in network.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps
    if not name.startswith("timm:"):
        conv1 = network.relu(network.bn1(network.conv1(image)))
        conv2 = network.layer1(network.maxpool(conv1))
        return [conv1, conv2, *maps_of([network.layer2, network.layer3, network.layer4], conv2)]
    options = {"strict_img_size": False} if "swin" in name else {}
    extractor = timm.create_model(name.removeprefix("timm:"), pretrained=False, features_only=True, **options).eval()
    own = {key.replace(".", "_"): value for key, value in network.state_dict().items()}
    extractor.load_state_dict({key: own[key.replace(".", "_")] for key in extractor.state_dict()})
    return [maps.permute(0, 3, 1, 2) if "swin" in name else maps for maps in extractor(image)]


def test_stages_give_what_the_makers_say(backbone: Backbone) -> None:
    """But for rounding; with it that SAME padding, which is fixed here, is timm's own."""
    torch.manual_seed(1)
    image = torch.rand(IMAGE)
    network = deepcopy(backbone.network).eval()
    with torch.no_grad():
        maps = maps_of(stages_of(backbone), image)
        expected = features_of(backbone.name, network, image)
    for found, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert found.shape == (1, channels, 64 // stride, 96 // stride)
    assert len(expected) in (4, 5)
    if len(expected) == 4:  # conv1 is empty
        assert maps[0] is image
    for found, wanted in zip(maps[-len(expected) :], expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_after_the_stages_comes_the_networks_answer(name: str) -> None:
    backbone = made(name)
    network: Any = deepcopy(backbone.network).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        last = maps_of(stages_of(backbone), image)[-1]
        if name == "vgg16":
            ours = network.classifier(network.avgpool(nn.functional.max_pool2d(last, 2)).flatten(1))
        else:
            ours = network.fc(network.avgpool(last).flatten(1))
        torch.testing.assert_close(ours, network(image))


def test_copies_start_equal_and_share_nothing(backbone: Backbone) -> None:
    before, after = backbone.strides[3:]
    one, other = (list(backbone.stage(5, before, after).state_dict().values()) for _ in range(2))
    assert len(one) == len(other) >= 2
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert backbone.network is not None
    own = {tensor.untyped_storage().data_ptr() for tensor in backbone.network.state_dict().values()}
    copied = [tensor.untyped_storage().data_ptr() for tensor in (*one, *other)]
    assert len(own.union(copied)) == len(own) + len(copied)


# Reduced strides: at every second, or fourth, cell of a map the original's, begun at the first (None: nowhere).
ORIGINALS: dict[str, tuple[int | None, int | None]] = {
    "resnet18": (0, 0),
    "resnext50_32x4d": (0, 0),
    "timm:resnet18": (0, 0),
    "timm:mobilenetv4_conv_small": (0, 0),
    LITE0: (1, 3),  # SAME padding looks further to the right and down
    "timm:convnext_tiny": (0, 1),  # so do its 2x2 convolutions, where dilated
    "timm:regnety_004": (None, None),  # its gates look at means of whole maps
    "vgg16": (None, None),  # loses a pooling layer
}


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("stride", [16, 8])
def test_a_reduced_stage_is_the_original_seen_more_densely(name: str, stride: int) -> None:
    backbone = made(name)
    torch.manual_seed(2)
    features = torch.randn(1, backbone.channels[2], 64 // backbone.strides[2], 96 // backbone.strides[2])
    if stride >= backbone.strides[4]:
        return
    with torch.no_grad():
        original = maps_of(stages_of(backbone)[3:], features)[-1]
        found = maps_of(stages_of(backbone, smallest=stride)[3:], features)[-1]
    assert found.shape == (1, backbone.channels[4], 64 // stride, 96 // stride)
    first, step = ORIGINALS[name][(16, 8).index(stride)], backbone.strides[4] // stride
    size = original.abs().max().item()
    assert size > 0.01
    if first is not None:
        torch.testing.assert_close(found[:, :, first::step, first::step], original, rtol=1e-4, atol=1e-4 * size)
    else:
        assert (found[:, :, ::step, ::step] - original).abs().max() > 1e-3 * size


def test_conv5_may_halve_what_conv4_no_longer_does() -> None:
    """A trunk of stride 8, and a task at 16: torchvision's networks have it, timm's do not."""
    backbone = made("resnet18")
    features = torch.randn(1, 128, 16, 16)
    with torch.no_grad():
        original = backbone.stage(5, 16, 32).eval()(backbone.stage(4, 8, 16).eval()(features))
        found = backbone.stage(5, 8, 16).eval()(backbone.stage(4, 8, 8).eval()(features))
    torch.testing.assert_close(found[:, :, ::2, ::2], original, rtol=1e-4, atol=1e-4 * original.abs().max().item())
    with pytest.raises(
        ConfigError, match=r"conv5 from stride 8 to 16: timm reduces all later stages .* separate earlier"
    ):
        made("timm:resnet18").stage(5, 8, 16)


@pytest.mark.parametrize("height", [16, 17])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "vgg16"])
def test_dilation_is_what_keeps_a_reduced_stage_the_same(name: str, height: int) -> None:
    """Odd maps too. Of VGG16 without its pooling layer, which a reduced stage loses."""
    backbone = made(name)
    before, after = backbone.strides[3:]
    features = torch.randn(2, backbone.channels[3], height, 12)
    dense, plain = (backbone.stage(5, before, before, dilation=dilation).eval() for dilation in (True, False))
    stage = backbone.stage(5, before, after).eval()
    with torch.no_grad():
        original = stage[1:](features[:, :, ::2, ::2]) if name == "vgg16" else stage(features)
        found, undilated = dense(features), plain(features)
    assert found.shape == undilated.shape == (2, original.shape[1], height, 12)
    torch.testing.assert_close(found[:, :, ::2, ::2], original, rtol=1e-4, atol=1e-4 * original.abs().max().item())
    assert (undilated[:, :, ::2, ::2] - original).abs().max() > 0.01 * original.abs().max()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("timm:")])
def test_strides_that_timm_cannot_reduce_are_refused(name: str) -> None:
    backbone = made(name)
    if name in ORIGINALS:
        with pytest.raises(ConfigError, match=f"'{name}': dilation false: timm always dilates where"):
            backbone.stage(5, 16, 16, dilation=False)
    else:
        with pytest.raises(ConfigError, match=f"'{name}': timm cannot change its strides, .* reduced to 16"):
            backbone.stage(5, 16, 16)
    assert backbone.stage(5, 16, 32, dilation=False)  # nothing to dilate


def test_a_stage_reduced_before_weights_are_loaded_does_not_keep_the_old_ones() -> None:
    torch.manual_seed(0)
    backbone = Timm("resnet18")
    backbone.stage(5, 16, 16)
    assert backbone.network is not None
    nn.init.constant_(backbone.network.get_parameter("layer4.0.conv1.weight"), 7.0)
    weights = dict(backbone.stage(5, 16, 16).named_parameters())
    assert (weights["layer4.0.conv1.weight"] == 7).all()


# Norms


@pytest.mark.parametrize("name", WITH_NORM)
def test_folded_equals_eager(name: str) -> None:
    stages = [stage.double() for stage in stages_of(made(name))]
    image = torch.rand(IMAGE, dtype=torch.float64)
    with torch.no_grad():
        expected = maps_of(stages, image)
        for stage in stages:
            fold_norms(stage)
        found = maps_of(stages, image)
    assert not [m for stage in stages for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


@pytest.mark.parametrize("name", WITH_NORM)
def test_frozen_norm_in_training_is_batch_norm_in_evaluation(name: str) -> None:
    """Forward and gradient, with the norm inside the convolutions."""
    trainable, frozen = made(name), make_backbone(name, "frozen_bn")
    assert trainable.network is not None
    assert frozen.network is not None
    assert not [m for m in frozen.network.modules() if isinstance(m, nn.BatchNorm2d)]
    frozen.network.load_state_dict(trainable.network.state_dict(), strict=False)
    expected = [stage.double() for stage in stages_of(trainable)]
    stages = [stage.double().train() for stage in stages_of(frozen)]
    for stage in stages:
        folded = [m for m in stage.modules() if isinstance(m, FoldedConv2d)]
        assert folded or not norm_pairs(stage)
        assert all(any(conv.norm is norm for norm in stage.modules()) for conv in folded)  # a copy's own
    image = torch.rand(IMAGE, dtype=torch.float64)
    outputs, gradients = [], []
    for chain in (stages, expected):
        output = maps_of(chain, image)[-1]
        weights = [m.weight for stage in chain for m in stage.modules() if isinstance(m, nn.Conv2d)]
        outputs.append(output)
        gradients.append(torch.autograd.grad(output.square().mean(), weights))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9 * outputs[1].abs().max().item())
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * theirs.abs().max().item())


@pytest.mark.parametrize(("norm", "kind"), [("frozen_bn", FoldedNorm), ("bn", nn.BatchNorm2d), ("group", nn.GroupNorm)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "vgg16"])
def test_norm_kinds(name: str, norm: Norm, kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        network = make_backbone(name, norm).network
    assert network is not None
    kinds = {type(m) for m in network.modules()} & {FoldedNorm, nn.BatchNorm2d, nn.GroupNorm}
    assert kinds == {kind}
    assert all(m.num_groups == 32 for m in network.modules() if isinstance(m, nn.GroupNorm))


def test_vgg_without_norm_is_the_published_network() -> None:
    with torch.device("meta"):
        network: Any = make_backbone("vgg16", pretrained=True).network
    assert not [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d | nn.BatchNorm2d | nn.GroupNorm)]
    assert len([m for m in network.features if isinstance(m, nn.Conv2d)]) == 13


@pytest.mark.parametrize(
    ("name", "pretrained", "norm"),
    [
        ("resnet18", True, "frozen_bn"),
        ("resnet18", False, "bn"),
        ("vgg16", True, "none"),
        ("vgg16", False, "bn"),
        (LITE0, True, "frozen_bn"),
        (LITE0, False, "bn"),
        ("timm:convnext_tiny", True, "none"),
        ("timm:convnext_tiny", False, "none"),
    ],
)
def test_the_norm_that_auto_is(name: str, pretrained: bool, norm: str) -> None:
    with torch.device("meta"):
        assert make_backbone(name, pretrained=pretrained).norm == norm


def test_frozen_norms_that_follow_no_convolution_are_left_where_they_are() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)
            self.act, self.last = nn.ReLU(), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.act(self.conv(self.first(x))))
            return y

    network = Branches().eval()
    enliven(network)
    expected = network(image := torch.rand(2, 3, 8, 8))
    freeze_norms(network)
    torch.testing.assert_close(network.train()(image), expected)
    assert not [m for m in network.modules() if isinstance(m, FoldedConv2d | FoldedNorm)]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2), (2, 2, 1)])
def test_fixed_padding_is_same_padding_on_maps_of_whole_cells(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(Conv2dSame(4, 4, kernel, stride, dilation=dilation, groups=2))
    maps = [torch.randn(1, 4, *size) for size in ((8, 12), (2, 6), (32, 4))]
    expected = [layer(x) for x in maps]
    fix_padding(layer, Conv2dSame)
    assert type(layer[0]) is not Conv2dSame
    for x, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("name", [LITE0, "timm:swin_tiny_patch4_window7_224"])
def test_checkpointed_stages_compute_the_same(name: str) -> None:
    """Swin drops paths at random in training: the second computation must drop the same."""
    found = []
    for checkpointed in (False, True):
        stages = [stage.double().train() for stage in stages_of(made(name))]
        torch.manual_seed(3)
        output = run(stages, torch.rand(2, 3, 32, 64, dtype=torch.float64).requires_grad_(), checkpointed)
        output.square().mean().backward()
        chain = nn.Sequential(*stages)
        found.append((output, [p.grad for p in chain.parameters()], list(chain.buffers())))
    (output, gradients, buffers), (output2, gradients2, buffers2) = found
    assert torch.equal(output, output2)
    torch.testing.assert_close(gradients, gradients2)
    assert all(torch.equal(one, other) for one, other in zip(buffers, buffers2, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vgg16"])
def test_any_network_of_the_usual_strides_serves_a_pyramid(name: str) -> None:
    """Also those that no stage of which can be had at another stride."""
    backbone = made(name)
    config = DetectorConfig(backbone.name, norm=backbone.norm, frozen_stages=0, neck="fpn", neck_channels=8, head="fc2")
    model = RCNN(config, 2, backbone).train()
    image, box = torch.rand(3, 64, 96), torch.tensor([[10.0, 10.0, 50.0, 60.0]])
    losses = model([image], [{"boxes": box, "labels": torch.tensor([1])}], seeds=[0])
    sum(losses.values()).backward()
    for block in model.separation.neck.inner_blocks:
        assert block[0].weight.grad.abs().sum() > 0
    for stage in model.separation.trunk[1:]:
        assert all(p.grad is not None for p in stage.parameters())


# Weights


def classifier(name: str) -> dict[str, Tensor]:
    """The whole network as its makers publish it, with what comes after the stages."""
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = timm.create_model(name.removeprefix("timm:"), pretrained=False)
    return {key: value + 0.01 if value.is_floating_point() else value for key, value in network.state_dict().items()}


LARGE = ("timm:convnext_tiny", "timm:swin_tiny_patch4_window7_224")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in NAMES if n.startswith("timm:")],
)
def test_a_file_of_the_whole_network_fills_the_stages(name: str, tmp_path: Path) -> None:
    state, file = classifier(name), tmp_path / "network.safetensors"
    safetensors.torch.save_file(state, file)
    backbone = make_backbone(name, pretrained=True)
    load_backbone(backbone, file)
    assert backbone.network is not None
    filled = {k: v for k, v in backbone.network.state_dict().items() if not k.startswith(backbone.behind)}
    behind = {key.partition(".")[0] for key in state if key.startswith(backbone.behind)}
    assert behind & {"classifier", "fc", "head"}
    assert len(filled) > 50
    for key, value in filled.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key
    file.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn1.weight"}, r"1 missing \(-\), 0 .*: -bn1\.weight"),
        (lambda s: s | {"conv_stem.weight": s["conv_stem.weight"][:, :1]}, r"1 that do not fit \(\+\): \+conv_stem"),
        (lambda s: s | {"blocks.7.weight": torch.zeros(1)}, r"\+blocks\.7\.weight"),
        (lambda s: {"layer1": torch.zeros(1)}, "missing"),
    ],
)
def test_a_file_of_another_network_is_refused(change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    torch.save(change(classifier(LITE0)), tmp_path / "w.pth")
    backbone = make_backbone(LITE0, pretrained=True)
    with pytest.raises(CheckpointError, match=rf"w\.pth: not the weights of {LITE0} with .*{said}") as caught:
        load_backbone(backbone, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_weights_without_a_known_address_are_named() -> None:
    with torch.device("meta"):
        backbone = make_backbone("timm:regnety_004", pretrained=True)
    with pytest.raises(
        ConfigError, match=r"timm:regnety_004': no address .* download them and give them as --weights FILE"
    ):
        load_backbone(backbone, "imagenet")


# What cannot be had


@pytest.mark.parametrize(
    ("name", "norm", "said"),
    [
        ("resnet51", "auto", "backbone 'resnet51': unknown; did you mean 'resnet50'"),
        ("network", "auto", "unknown; pass a network of your own as `backbone`, or use vgg16, .* or timm:NAME"),
        ("two\nlines", "auto", r"backbone 'two\\nlines': unknown"),
        ("timm:two\nlines", "auto", r"backbone 'timm:two\\nlines': not a name"),
        ("timm:", "auto", r"'timm:': not a name in timm\.list_models\(\)"),
        ("timm:resnet19", "auto", r"'timm:resnet19': not a name in timm\.list_models\(\)"),
        ("timm:hf_hub:timm/resnet18.a1_in1k", "auto", r"not a name in timm\.list_models\(\)"),
        ("resnet18", "none", "ResNet has norm layers"),
        ("timm:resnet18", "group", "norm 'group' with backbone 'timm:resnet18': use 'frozen_bn' or 'bn'"),
        ("timm:convnext_tiny", "bn", "norm 'bn' with backbone 'timm:convnext_tiny': use 'none'"),
        ("timm:vit_tiny_patch16_224", "auto", r"strides \[16\]; a detector needs 4, 8, 16 and 32"),
        ("timm:coat_tiny", "auto", "does not take photos of any size|strides"),
        ("timm:hrnet_w18_small", "auto", "cannot be cut after 'stem'"),
        ("timm:sam2_hiera_tiny", "auto", "'blocks_0' does not take what the module before it gives"),
        ("timm:repvit_m0_9", "auto", "'bn' in RepVggDw normalises more than 'conv1' gives"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(name: str, norm: Norm, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught, torch.device("meta"):
        make_backbone(name, norm)
    assert "\n" not in str(caught.value)


def test_a_network_that_cuts_cells_at_the_border_is_refused() -> None:
    backbone = Timm("resnet18")
    assert backbone.network is not None
    backbone.network.maxpool = nn.MaxPool2d(3, 2)
    with pytest.raises(
        ConfigError, match=r"photo of 64x96 pixels becomes a map of \(15, 23\), where stride 4 needs whole"
    ):
        backbone._check(backbone.network, 32)


def test_without_timm_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm:resnet18': timm is not installed; pip install 'grcn\[train\]'"):
        make_backbone("timm:resnet18")
    assert make_backbone("resnet18").name == "resnet18"

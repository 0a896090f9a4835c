"""Trunk and branches: the sizes of their maps, whose weights are whose, and which task teaches which."""

from __future__ import annotations

import contextlib
from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import Any, Literal, get_args

import pytest
import torch
from torch import nn

from building import build, objects, random_images, small, total
from grcn.config import DetectorConfig, Head, RPNConfig, Separation, Stride
from grcn.errors import ConfigError
from grcn.model.backbones import Backbone, make_backbone
from grcn.model.detector import RCNN
from grcn.model.separation import Separation as SeparationModule
from grcn.model.separation import check_strides


def possible(backbone: Backbone, head: Head) -> list[DetectorConfig]:
    """Every combination of separation and strides that can exist."""
    found = []
    for separation, cls, loc in product(get_args(Separation), get_args(Stride), get_args(Stride)):
        with contextlib.suppress(ConfigError):
            config = DetectorConfig(
                backbone=backbone.name, separation=separation, cls_stride=cls, loc_stride=loc, head=head
            )
            check_strides(config, backbone)
            found.append(config)
    return found


@pytest.mark.parametrize(
    ("name", "head", "count"),
    # One map for both tasks at each stride (none, roi, conv5: 3 each); any pair of strides after conv3 (9) and conv4
    # (9, less 8 beside 32 for ResNet, whose conv4 would be at 8, and conv5 halves only once). Head conv5: 8 and 16.
    [
        ("resnet18", "light_fc2", 25),
        ("resnet50", "light_fc2", 25),
        ("vgg16", "light_fc2", 27),
        ("resnet18", "conv5", 4),
        ("vgg16", "conv5", 2),  # its conv4 ends at 8
    ],
)
def test_map_sizes_are_those_that_the_strides_say(name: str, head: Head, count: int) -> None:
    with torch.device("meta"):
        backbone = make_backbone(name, "group")
        configs = possible(backbone, head)
        assert len(configs) == count
        for config in configs:
            module = SeparationModule(config, backbone)
            maps = module(torch.zeros(2, 3, 96, 160))
            assert module.strides[1:] == ((config.cls_stride,), (config.loc_stride,))
            for (features,), (stride,), channels in zip(maps, module.strides, module.channels, strict=True):
                assert features.shape == (2, channels, 96 // stride, 160 // stride), config
            if config.separation in ("conv3", "conv4"):
                own = backbone.strides[int(config.separation[-1]) - 1]
                assert module.strides[0] == (min(own, config.cls_stride, config.loc_stride),)
            else:
                assert maps.rpn[0] is maps.cls[0] is maps.loc[0]


def test_dilation_is_a_choice() -> None:
    for dilation, wanted in ((True, {(1, 1), (2, 2)}), (False, {(1, 1)})):
        with torch.device("meta"):
            backbone = make_backbone("resnet18", "bn")
            module = SeparationModule(DetectorConfig(backbone="resnet18", dilation=dilation), backbone)
        assert {m.dilation for m in module.trunk.conv5.modules() if isinstance(m, nn.Conv2d)} == wanted


def tensors(module: nn.Module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
@pytest.mark.parametrize("separation", ["conv4", "conv3"])
def test_branches_start_equal_and_share_no_storage(backbone: str, separation: Separation) -> None:
    torch.manual_seed(0)
    model = build(small(DetectorConfig(backbone=backbone, separation=separation, cls_stride=16, loc_stride=8)))
    cls, loc = tensors(model.separation.cls_branch), tensors(model.separation.loc_branch)
    assert len(cls) == len(loc) >= 6
    assert all(torch.equal(a, b) for a, b in zip(cls, loc, strict=True))
    places = [tensor.untyped_storage().data_ptr() for tensor in tensors(model)]
    assert len(set(places)) == len(places)


def test_heads_of_protocol_c4_start_equal_and_share_no_storage() -> None:
    model = build(small("faster_rcnn_r18_c4", separation="roi"))
    cls, loc = tensors(model.roi.heads["cls"]), tensors(model.roi.heads["loc"])
    assert len(cls) == len(loc) >= 20
    assert all(torch.equal(a, b) for a, b in zip(cls, loc, strict=True))
    places = [tensor.untyped_storage().data_ptr() for tensor in tensors(model)]
    assert len(set(places)) == len(places)


def taught(model: RCNN, *losses: str) -> set[str]:
    """Which parts of the model the losses of those names reach."""
    torch.manual_seed(2)
    model.train().zero_grad(set_to_none=True)
    found = model(random_images((64, 64)), [objects(3)])
    torch.stack([found[name] for name in losses]).sum().backward()
    parts = {
        "trunk": model.separation.trunk,
        "cls branch": model.separation.cls_branch,
        "loc branch": model.separation.loc_branch,
        "rpn": model.rpn,
        **{f"{key} head": head for key, head in model.roi.heads.items()},
        **{f"{key} reduce": layer for key, layer in model.roi.reduce.items()},
        "scores": model.roi.scores,
        "deltas": model.roi.deltas,
    }
    reached = set()
    for name, part in parts.items():
        gradients = [p.grad for p in part.parameters()]
        if gradients and all(g is not None and g.abs().sum() > 0 for g in gradients):
            reached.add(name)
        else:
            assert all(g is None or (g == 0).all() for g in gradients), name
    return reached


CLS_OWN, LOC_OWN = {"cls head", "cls reduce", "scores"}, {"loc head", "loc reduce", "deltas"}


@pytest.mark.parametrize(
    ("source", "taught_by_rpn"),
    [
        ("trunk", {"trunk", "rpn"}),
        ("conv4", {"trunk", "rpn"}),
        ("cls", {"trunk", "rpn", "cls branch"}),
        ("loc", {"trunk", "rpn", "loc branch"}),
    ],
)
def test_each_branch_learns_from_its_own_task_alone(source: str, taught_by_rpn: set[str]) -> None:
    torch.manual_seed(0)
    model = build(looking_at(small("paper_r18"), source))
    assert taught(model, "loss_classifier") == {"trunk", "cls branch"} | CLS_OWN
    assert taught(model, "loss_box_reg") == {"trunk", "loc branch"} | LOC_OWN
    assert taught(model, "loss_objectness", "loss_rpn_box_reg") == taught_by_rpn


@pytest.mark.parametrize(
    ("separation", "cls", "loc"),
    [
        ("none", {"shared head", "shared reduce", "scores"}, {"shared head", "shared reduce", "deltas"}),
        ("roi", {"cls head", "shared reduce", "scores"}, {"loc head", "shared reduce", "deltas"}),
        ("conv5", CLS_OWN, LOC_OWN),
    ],
)
def test_later_separation_shares_more(separation: Separation, cls: set[str], loc: set[str]) -> None:
    torch.manual_seed(0)
    model = build(small("faster_rcnn_r18_c5", separation=separation))
    assert taught(model, "loss_classifier") == {"trunk"} | cls
    assert taught(model, "loss_box_reg") == {"trunk"} | loc
    assert taught(model, "loss_objectness", "loss_rpn_box_reg") == {"trunk", "rpn"}


def looking_at(config: DetectorConfig, source: Any) -> DetectorConfig:
    return replace(config, rpn=replace(config.rpn, source=source))


@pytest.mark.parametrize(
    ("separation", "source", "stride", "width"),
    [
        ("conv3", "trunk", 8, 128),
        ("conv3", "conv3", 8, 128),
        ("conv3", "cls", 32, 512),
        ("conv3", "loc", 16, 512),
        ("conv4", "conv3", 8, 128),
        ("conv4", "conv4", 16, 256),
    ],
)
def test_the_rpn_looks_at_the_map_it_is_told(separation: Separation, source: str, stride: int, width: int) -> None:
    model = build(looking_at(small("paper_r18", separation=separation), source))
    assert (model.rpn.stride, model.rpn.conv.in_channels) == (stride, width)
    seen = []
    model.rpn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = random_images((96, 128))
    with torch.no_grad():
        model.eval()(images)
        maps = model.separation(model.batch(images)[0])
        stages = dict(model.separation.trunk.named_children())
        x = model.batch(images)[0]
        for name, stage in stages.items():
            x = stages[name] = stage(x)
    expected = {"trunk": x, "cls": maps.cls[0], "loc": maps.loc[0], **stages}[source]
    assert torch.equal(seen[0][0], expected)
    assert expected.shape == (1, width, 96 // stride, 128 // stride)


def test_the_last_stage_is_the_trunk_and_an_earlier_one_is_not() -> None:
    """C5: its RPN at conv5 is what it is at `trunk`; at conv4 it sees what G-RCN's does."""
    images, found = random_images((96, 128)), {}
    for source in ("trunk", "conv5", "conv4"):
        torch.manual_seed(0)
        found[source] = build(looking_at(small("faster_rcnn_r18_c5"), source)).eval()
    state = found["trunk"].state_dict()
    found["conv5"].load_state_dict(state)
    assert found["conv4"].rpn.conv.in_channels == 256
    assert found["conv4"].separation.strides == ((16,), (16,), (16,))
    with torch.no_grad():
        one, other = (found[source](images)[0] for source in ("trunk", "conv5"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    maps = found["conv4"].separation(found["conv4"].batch(images)[0])
    assert torch.equal(found["conv4"].separation.trunk.conv5(maps.rpn[0]), maps.cls[0])


@pytest.mark.parametrize(
    "name",
    ["paper_r18", "grcn_lite0", "grcn_r18_fpn"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("faster_rcnn_r50_c4", "paper_vgg16")],
)
def test_checkpointing_changes_memory_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    images, targets = random_images((96, 128), (96, 128)), [objects(2), objects(3)]
    model = build(small(name)).double().train()
    if name == "paper_vgg16":  # whose dropout is the one thing random beside the samples
        for head in model.roi.heads.values():
            head.dropout = 0.0
    images = [image.double() for image in images]
    results = []
    for checkpoint in (False, True):
        other = deepcopy(model)
        other.checkpoint_activations(checkpoint)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = other(images, targets, seeds=[1, 2])
        weights = sum(p.nbytes for p in other.parameters())
        total(losses).backward()
        results.append((losses, dict(other.named_parameters()), other.state_dict(), sum(kept.values()) - weights))
    (losses, parameters, state, kept_bytes), (losses2, parameters2, state2, kept_bytes2) = results
    for key, loss in losses.items():
        assert torch.equal(loss, losses2[key])
    for key, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, parameters2[key].grad)
    for key, value in state.items():
        assert torch.equal(value, state2[key]), key  # batch norm has counted each batch once
    assert kept_bytes2 < kept_bytes / 2


def test_frozen_norms_add_to_the_variance_what_the_configuration_says() -> None:
    """torchvision's COCO detector was trained with nothing; its state dict does not say so."""
    backbone = make_backbone("resnet18", "frozen_bn")
    assert backbone.network is not None
    for name, value in backbone.network.named_buffers():
        if name.endswith("running_var"):
            value.fill_(1e-5)
    maps = []
    for eps in (None, 1e-5, 0.0):
        config = DetectorConfig("resnet18", norm="frozen_bn", norm_eps=eps)
        module = SeparationModule(config, backbone)
        maps.append(module.trunk.conv1(torch.ones(1, 3, 32, 32)))
    assert torch.equal(maps[0], maps[1])
    torch.testing.assert_close(maps[2], maps[0] * 2**0.5, rtol=1e-4, atol=1e-4)


# Pyramids


@pytest.mark.parametrize("neck_stride", [4, 8])
@pytest.mark.parametrize("separation", ["none", "roi", "neck", "conv4"])
def test_the_maps_of_a_pyramid(separation: Separation, neck_stride: Literal[4, 8]) -> None:
    """Their sizes, who shares them, and which the RPN sees."""
    sizes = (32.0, 64.0, 128.0, 256.0, 512.0)[-(5 if neck_stride == 4 else 4) :]
    rpn = RPNConfig(source="cls", anchor_sizes=sizes)
    fields = {"neck": "fpn", "neck_channels": 24, "neck_stride": neck_stride, "separation": separation}
    config = DetectorConfig("resnet18", norm="bn", head="fc2", rpn=rpn, **fields)
    torch.manual_seed(0)
    module = SeparationModule(config, make_backbone("resnet18", "bn")).eval()
    with torch.no_grad():
        maps = module(torch.rand(2, 3, 96, 160))
    strides = tuple(s for s in (4, 8, 16, 32) if s >= neck_stride)
    assert module.strides == ((*strides, 64), strides, strides)
    assert module.channels == (24, 24, 24)
    for own, each in zip(maps, module.strides, strict=True):
        assert [tuple(m.shape) for m in own] == [(2, 24, -(-96 // s), -(-160 // s)) for s in each]
    assert all((c is o) == (separation in ("none", "roi")) for c, o in zip(maps.cls, maps.loc, strict=True))
    assert all(seen is own for seen, own in zip(maps.rpn[:-1], maps.cls, strict=True))
    # The tasks' own parts start as copies of each other.
    for cls, loc in zip(maps.cls, maps.loc, strict=True):
        assert torch.equal(cls, loc)
    config = replace(config, rpn=replace(rpn, source="loc"))
    maps = SeparationModule(config, make_backbone("resnet18", "bn")).eval()(torch.rand(1, 3, 64, 64))
    assert all(seen is own for seen, own in zip(maps.rpn[:-1], maps.loc, strict=True))


def test_a_pyramid_needs_the_usual_strides() -> None:
    config = DetectorConfig("vgg16", norm="none", neck="fpn", head="fc2")
    with pytest.raises(ConfigError, match=r"neck 'fpn' with backbone 'vgg16': .* strides 2, 4, 8, 16; a pyramid needs"):
        SeparationModule(config, make_backbone("vgg16", "none"))

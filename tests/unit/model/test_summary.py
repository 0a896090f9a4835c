"""The summary's figures are those of the detector that runs."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grcn.config import DetectorConfig
from grcn.errors import ConfigError
from grcn.model.detector import build_detector
from grcn.model.summary import summarize
from grcn.presets import PRESETS


def small(name: str) -> DetectorConfig:
    config = PRESETS[name]
    fc = None if config.head == "vgg_fc" else 64
    norm = "none" if config.backbone == "vgg16" else "bn"
    return replace(config, norm=norm, frozen_stages=0, roi=replace(config.roi, fc_channels=fc))


@pytest.mark.parametrize(
    "name", ["faster_rcnn_r18_c4", "grcn_r18", "grcn_lite0", pytest.param("grcn_vgg16", marks=pytest.mark.slow)]
)
def test_parameters_and_multiply_adds_are_those_of_a_real_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As an export has it: the map padded, and not the kernel, whose zeros do not count.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    config = small(name)
    model = build_detector(config, 3, weights=None).eval()
    proposals: list[int] = []
    model.roi.register_forward_pre_hook(lambda _, inputs: proposals.append(inputs[1].shape[1]))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model([torch.rand(3, 90, 120)])
    summary = summarize(config, num_classes=3, size=(90, 120), proposals=proposals[0])
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert 2 * summary.macs == counter.get_total_flops()
    assert summary.strides == model.separation.strides


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_which_map_each_task_sees(name: str) -> None:
    config = PRESETS[name]
    summary = summarize(name)
    stages = {(stage.task, stage.name): stage for stage in summary.stages}
    assert stages["cls", "class scores"].channels == 21
    assert stages["loc", "box deltas"].channels == 80
    if config.neck == "none":
        assert summary.strides[1:] == ((config.cls_stride,), (config.loc_stride,))
    else:
        assert summary.strides == ((4, 8, 16, 32, 64), (4, 8, 16, 32), (4, 8, 16, 32))
    for stage in summary.stages:
        if stage.stride:
            assert stage.cells == (608 // stage.stride, 800 // stage.stride)
    if config.separation == "conv4":
        assert stages["cls", "conv5"].stride == config.cls_stride
        assert stages["loc", "conv5"].stride == config.loc_stride
        assert stages["cls", "conv5"].reads == stages["loc", "conv5"].reads == "conv4"
        head = next(stage for stage in summary.stages if stage.task == "loc" and stage.name.startswith("head"))
        assert "of loc" in head.reads
        reads = "head + global context" if config.cls_context == "global" else "head"
        assert stages["cls", "class scores"].reads == reads
        assert stages["rpn", "rpn"].reads == ("cls conv5" if config.rpn.source == "cls" else "conv4")


def test_one_convolution_by_hand() -> None:
    stage = summarize("faster_rcnn_r50_c4", size=(608, 800)).stages[0]
    assert (stage.name, stage.reads, stage.stride, stage.cells) == ("conv1", "image", 2, (304, 400))
    assert stage.parameters == 64 * 3 * 7 * 7
    assert stage.macs == 304 * 400 * 64 * 3 * 7 * 7


@pytest.mark.parametrize("separation", ["none", "roi", "conv5", "conv3"])
@pytest.mark.parametrize("context", ["none", "global", "attention"])
def test_other_separations_and_contexts_are_summed_up(separation: str, context: str) -> None:
    config = DetectorConfig("resnet18", separation=separation, cls_context=context, loc_context=context)
    summary = summarize(config, size=(64, 64))
    with torch.device("meta"):
        model = build_detector(replace(config, norm="bn"), 20, weights=None)
    assert summary.parameters == sum(p.numel() for p in model.parameters()) - _norms(model)
    assert sum("attention" in stage.name for stage in summary.stages) == (2 if context == "attention" else 0)
    assert summary.to_dict()["macs"] == sum(stage.macs for stage in summary.stages)


def _norms(model: torch.nn.Module) -> int:
    """Parameters of batch norm, which is frozen, without parameters, on pretrained weights."""
    layers = (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return sum(p.numel() for layer in layers for p in layer.parameters())


def test_impossible_detectors_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'grcn_r18'"):
        summarize("grcn_r19")

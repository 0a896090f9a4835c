"""Summarizes a detector: which map each task reads, and what each stage costs. Nothing is computed (meta device).

Multiply-adds are those of convolutions and linear layers, which are nearly all. Norm layers, activations, RoI pooling
and NMS do not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grcn.config import DetectorConfig
from grcn.model.backbones import make_backbone
from grcn.model.detector import MULTIPLE, RCNN, resolve
from grcn.model.heads import ConvFCHead, FCHead
from grcn.model.roi import Found
from grcn.presets import preset


@dataclass(frozen=True)
class StageSummary:
    """One stage of a detector.

    Args:
        task: the task that it belongs to: `both`, `cls` or `loc`, or `rpn` for the proposals.
        name: the stage, such as `conv4` or `head light_fc2`.
        reads: the name of its input.
        stride: input pixels per cell of its output (of a pyramid, the finest map); None after RoI pooling.
        channels: channels of its output.
        cells: height and width of its output; after RoI pooling, for each RoI; None for vectors.
        parameters: number of all parameters, also those of frozen stages.
        macs: multiply-adds for one image.
    """

    task: str
    name: str
    reads: str
    stride: int | None
    channels: int
    cells: tuple[int, int] | None
    parameters: int
    macs: int


@dataclass(frozen=True)
class DetectorSummary:
    """A detector for images of one size.

    Args:
        config: the detector, resolved for pretrained weights.
        num_classes: C.
        size: height and width of the image before padding; it is padded to a multiple of 32.
        proposals: RoIs per image.
        strides: strides of the maps that the RPN, classification and localization read, finest first.
        stages: from the image to the outputs: the shared stages, the RPN, then those of each task.
    """

    config: DetectorConfig
    num_classes: int
    size: tuple[int, int]
    proposals: int
    strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    stages: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        return sum(stage.parameters for stage in self.stages)

    @property
    def macs(self) -> int:
        return sum(stage.macs for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the sums, as plain values for JSON."""
        return {"parameters": self.parameters, "macs": self.macs, **asdict(self)}


def summarize(
    config: str | DetectorConfig,
    num_classes: int = 20,
    size: tuple[int, int] = (600, 800),
    proposals: int | None = None,
) -> DetectorSummary:
    """Summarizes a detector stage by stage.

    Args:
        config: the name of a preset, or a configuration.
        num_classes: C, without background.
        size: height and width of the image, in pixels.
        proposals: number of RoIs; None: as many as prediction keeps.

    Raises:
        ConfigError: on an unknown preset or an impossible configuration.
    """
    config = preset(config) if isinstance(config, str) else config
    proposals = config.rpn.post_nms_test if proposals is None else proposals
    padded = [-(-side // MULTIPLE) * MULTIPLE for side in size]
    with torch.device("meta"), torch.no_grad():
        backbone = make_backbone(config.backbone, config.norm, pretrained=True)
        config = resolve(config, backbone, pretrained=True)
        model = RCNN(config, num_classes, backbone).eval()
        # One output per call: with global context, a head runs on the RoIs, then on the whole image.
        outputs: dict[nn.Module, list[Any]] = defaultdict(list)
        for module in model.modules():
            module.register_forward_hook(lambda module, _, output: outputs[module].append(output))
        maps = model.separation(torch.empty(1, 3, *padded))
        model.rpn.predict_raw(maps.rpn)
        outputs[model.rpn] = outputs[model.rpn.conv]
        image, most = torch.empty(1, 4), config.roi.detections_per_image
        model.roi(maps, torch.empty(1, proposals, 4), image)
        nothing = torch.empty(1, most)
        model.roi.refine(maps, Found(torch.empty(1, most, 4), nothing, nothing.long(), nothing.bool()), image)
    stages = sorted(
        _stages(model, outputs, padded[0]), key=lambda stage: ("both", "rpn", "cls", "loc").index(stage.task)
    )
    return DetectorSummary(config, num_classes, size, proposals, model.separation.strides, tuple(stages))


def _stages(model: RCNN, outputs: dict[nn.Module, list[Any]], height: int) -> Iterator[StageSummary]:
    """Each stage in the order of computation, from the outputs of its modules for an image padded to `height`."""
    config = model.config

    def stage(task: str, name: str, reads: str, module: nn.Module, *, of_map: bool = False) -> StageSummary:
        shape = _finest(outputs[module][0]).shape
        return StageSummary(
            task,
            name,
            reads,
            height // shape[2] if of_map else None,
            shape[1],
            (shape[2], shape[3]) if len(shape) == 4 else None,
            sum(p.numel() for p in module.parameters()),
            sum(_macs(layer, output) for layer in module.modules() for output in outputs.get(layer, ())),
        )

    reads, ends = "image", dict[str, str]()
    for task, chain in (
        ("both", model.separation.trunk),
        ("cls", model.separation.cls_branch),
        ("loc", model.separation.loc_branch),
    ):
        reads = ends.get("both", reads)
        for name, module in chain.named_children():
            yield stage(task, name, reads, module, of_map=True)
            reads = name if task == "both" else f"{task} {name}"
        ends[task] = reads
    source = config.rpn.source
    if config.neck != "none":
        first = f"conv{6 - len(config.level_strides)}"
        for task, name, module in _neck_parts(model):
            yield stage(task, name, f"{first} to {ends[task]}", module, of_map=True)
        own = config.separation in ("neck", "conv4")
        ends = {task: f"{task} pyramid" if own else "pyramid" for task in ("cls", "loc")}
        source = "cls" if source == "cls" else "loc"
    read = source if source.startswith("conv") else ends["both" if source == "trunk" else source]
    yield stage("rpn", "rpn", read, model.rpn, of_map=True)
    yield from _roi_stages(model, ends, stage)


def _neck_parts(model: RCNN) -> list[tuple[str, str, nn.Module]]:
    """The parts of the neck: the task, the name and the module of each."""
    neck, separation = model.separation.neck, model.config.separation
    assert neck is not None
    if separation == "conv4":
        return [("cls", "fpn", neck.cls), ("loc", "fpn", neck.loc)]
    if separation == "neck":
        outputs = [(task, "fpn outputs", getattr(neck, f"{task}_blocks")) for task in ("cls", "loc")]
        return [("both", "fpn way down", neck.inner_blocks), *outputs]
    return [("both", "fpn", neck)]


def _finest(output: Any) -> Tensor:
    """The first map in the output of a module, which is a map, a pyramid, or one of these for each task."""
    return output if isinstance(output, Tensor) else _finest(output[0])


def _roi_stages(model: RCNN, ends: dict[str, str], stage: Any) -> Iterator[StageSummary]:
    """The stages after the maps; `ends` names the map of each task."""
    config, roi = model.config, model.roi

    def task_of(key: str) -> str:
        return "both" if key == "shared" else key

    for key, module in roi.reduce.items():
        if not isinstance(module, nn.Identity):
            task = "cls" if key == "shared" else key
            yield stage(task_of(key), "1x1", ends[task], module, of_map=True)
            ends[task] = "1x1" if key == "shared" else f"{key} 1x1"
    for key, module in roi.heads.items():
        size = config.roi_size
        reads = f"{size}x{size} RoIs of {ends['loc' if key == 'loc' else 'cls']}"
        yield stage(task_of(key), f"head {config.head}", reads, module)
    for key, module in roi.attention.items():
        yield stage(key, "attention context", ends[key], module)
    for key, context, name, module in (
        ("cls", config.cls_context, "class scores", roi.scores),
        ("loc", config.loc_context, "box deltas", roi.deltas),
    ):
        beside = "" if context == "none" else f" + {context} context"
        yield stage(key, name, f"head{beside}", module)


def _macs(layer: nn.Module, output: Any) -> int:
    """Multiply-adds of one layer: each number of the output is one row of the weight times the input."""
    if isinstance(layer, FCHead | ConvFCHead):  # it calls its fc6 as a function, so fc6 has no output of its own
        return len(output) * layer.fc6.weight.numel()
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return int(output.numel()) * layer.weight[0].numel()
    return 0

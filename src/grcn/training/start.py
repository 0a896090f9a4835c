"""Builds the detector that a run starts from, with the weights that its configuration names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from grcn.config import DetectorConfig, TrainConfig
from grcn.data.records import Dataset
from grcn.model.backbones import make_backbone
from grcn.model.detector import RCNN, build_detector, outline, resolve
from grcn.predict.checkpoint import LoadedDetector
from grcn.predict.locate import locate
from grcn.predict.published import load_published, read_torchvision
from grcn.predict.torch_backend import load_trained
from grcn.presets import detector_of
from grcn.training.finetune import transfer_weights
from grcn.training.progress import Say


def new_detector(config: TrainConfig, data: Dataset, say: Say) -> RCNN:
    """A detector for the classes of `data`, with the weights that `config` names.

    Raises:
        CheckpointError: if the weights cannot be loaded, or do not fit.
    """
    classes = len(data.class_names)
    if config.weights in ("imagenet", "random"):
        return build_detector(detector_of(config), classes, None if config.weights == "random" else "imagenet")
    loaded: LoadedDetector | None
    if config.weights == "coco":
        source, loaded = Path("coco"), load_published(detector_of(config))
    else:
        located = locate(config.weights)
        source = located.path
        loaded = read_torchvision(source) if located.kind == "state_dict" else load_trained(located)
        if loaded is None:  # only a backbone
            return build_detector(detector_of(config), classes, source)
    model = outline(_like(detector_of(config), loaded.model.config), classes)
    say(f"{source}: {transfer_weights(model, data.class_names, loaded)}")
    return model


def _like(config: DetectorConfig, former: DetectorConfig) -> DetectorConfig:
    """`config` with the norm and the frozen stages of the detector that it starts from."""
    if former.backbone != config.backbone:
        return resolve(config, make_backbone(config.backbone, config.norm), pretrained=False)
    frozen = former.frozen_stages if config.frozen_stages is None else config.frozen_stages
    norm = former.norm if config.norm == "auto" else config.norm
    eps = former.norm_eps if config.norm_eps is None else config.norm_eps
    return replace(config, norm=norm, norm_eps=eps, frozen_stages=frozen)

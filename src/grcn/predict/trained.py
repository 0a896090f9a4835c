"""Trained detectors by what a person calls them."""

from __future__ import annotations

from pathlib import Path

from grcn.predict.checkpoint import LoadedDetector, find_weights, load_detector
from grcn.predict.published import PUBLISHED, load_published, read_torchvision
from grcn.presets import preset

THEIRS = (".pth", ".pt")
"""How files of torchvision's detectors end; ours are safetensors."""


def load_trained(source: Path) -> LoadedDetector:
    """The detector that `source` stands for: a run folder, a weights file, or a preset that COCO's weights are for.

    Raises:
        CheckpointError: where there is none, or it cannot be read or fetched.
    """
    if str(source) in PUBLISHED and not source.exists():
        return load_published(preset(str(source)))
    path = find_weights(source)
    theirs = read_torchvision(path) if path.suffix in THEIRS else None
    return theirs or load_detector(path)

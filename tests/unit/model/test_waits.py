"""How often a forward pass waits for its device: each such operation needs the numbers before the next can be sent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from building import build, enlivened, objects, random_images, small
from grcn.export.export import TORCH
from grcn.geometry import boxes as box_ops
from grcn.geometry import nms
from grcn.geometry.nms import at_once, set_by_set
from grcn.model.detector import RCNN, _objects
from grcn.model.losses import roi_losses
from grcn.model.rpn import Objects

# Indexing by a mask is a `nonzero` inside.
WAITS = ("aten::nonzero", "aten::_local_scalar_dense", "torchvision::nms", "aten::masked_select", "aten::unique")


def waits(model: RCNN, images: int, *, training: bool) -> Counter[str]:
    torch.manual_seed(images)
    photos = random_images(*[(64 + 16 * (i % 3), 96) for i in range(images)])
    targets = [objects(i % 4) for i in range(images)]
    model.train(training)
    with torch.set_grad_enabled(training), profile(activities=[ProfilerActivity.CPU]) as profiler:
        found = model(photos, targets, seeds=range(images)) if training else model(photos)
    if not training:
        assert all(len(one["scores"]) > 2 for one in found)
    return Counter({event.key: event.count for event in profiler.key_averages() if event.key in WAITS})


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("grcn_r18", at_once), ("faster_rcnn_r18_c4", at_once), ("grcn_r18_fpn", at_once), ("grcn_r18_fpn", set_by_set)],
)
def test_waits_do_not_grow_with_the_batch(name: str, kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel that a GPU runs, on CPU tensors, and with the one where Triton is missing."""
    for place in ("rpn", "roi"):
        monkeypatch.setattr(f"grcn.model.{place}.keep_best", kernel)
    torch.manual_seed(0)
    model = enlivened(build(small(name)), random_images((96, 128), (96, 128)))
    suppressions = int(kernel is at_once)  # the profiler sees into the operator
    for images in (1, 8):
        training, prediction = (waits(model, images, training=mode) for mode in (True, False))
        assert training["torchvision::nms"] == suppressions
        assert training.total() <= 2 + suppressions, training
        # One more, with the counts of what was found, is a copy and no operation.
        assert prediction.total() == prediction["torchvision::nms"] == 2 * suppressions, prediction
    # More boxes than are compared as they are: one more in each of the two suppressions.
    monkeypatch.setattr(nms, "FEW", 0)
    assert waits(model, 8, training=True).total() <= 2 + suppressions
    assert waits(model, 8, training=False).total() == 4 * suppressions


@pytest.mark.skipif(torch.__version__ < TORCH, reason="torch 2.9 compiles what it would export")
@pytest.mark.parametrize("name", ["grcn_r18", "faster_rcnn_r18_c4", "grcn_r18_fpn"])
def test_a_training_forward_is_one_graph(name: str) -> None:
    """From the batch to the losses: nothing in it depends on what is found, so a compiler sees it whole."""
    torch.manual_seed(0)
    model = build(small(name)).train()
    batch, sizes = model.batch(random_images((64, 96), (96, 64)))
    whole, targets = box_ops.image_rois(sizes, batch), _objects([objects(3), objects(0)], batch)

    def losses(batch: Tensor, whole: Tensor, targets: Objects) -> dict[str, Tensor]:
        maps = model.separation(batch)
        proposals, own = model.rpn(maps.rpn, whole, targets)
        boxes, labels, wanted = model.roi.assign(proposals, targets)
        answers = model.roi(maps, boxes, whole)
        samples = labels.flatten(), boxes.flatten(0, 1), wanted.flatten(0, 1)
        return own | roi_losses(*answers, *samples, model.config.roi)

    found = []
    for run in (losses, torch.compile(losses, backend="eager", fullgraph=True)):
        torch.manual_seed(1)
        found.append(run(batch, whole, targets))
    for key, loss in found[0].items():
        torch.testing.assert_close(found[1][key], loss)

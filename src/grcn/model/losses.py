"""The four losses of Faster R-CNN (Girshick 2015, section 2.3; Ren et al. 2015, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from grcn.config import RoIConfig
from grcn.geometry.boxes import decode, iou, to_float32

# Where smooth L1 turns from square to line, in deltas; 1/9 as in Detectron and torchvision.
BETA = 1 / 9
# The label of a RoI that only fills a tensor.
FILLING = -1


def _over_ranks(count: Tensor) -> Tensor:
    """The mean of a count over the ranks of a distributed run; without ranks, the count itself.

    Gradients are averaged over ranks. If each rank divides its losses by this mean, the average is the gradient of one
    process with all images (DETR, Carion et al. 2020, counts boxes in this way). All ranks must call this.
    """
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count


def rpn_losses(
    logits: Tensor, deltas: Tensor, objectness: Tensor, target_deltas: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    """Losses of the sampled anchors.

    Args:
        logits: [B, K]; deltas: [B, K, 4]: predicted.
        objectness: [B, K] bool, True for anchors of an object; target_deltas: [B, K, 4], any values for other anchors.
        valid: [B, K] bool, False for padding.

    Returns:
        loss_objectness, the mean over the valid samples; loss_rpn_box_reg, the sum over positives by the same count.
    """
    logits, deltas = to_float32(logits), to_float32(deltas)
    count = _over_ranks(valid.sum()).clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(logits, objectness.to(logits.dtype), reduction="none")
    distance = F.smooth_l1_loss(deltas, target_deltas, beta=BETA, reduction="none").sum(dim=-1)
    return {
        "loss_objectness": torch.where(valid, entropy, 0.0).sum() / count,
        "loss_rpn_box_reg": torch.where(objectness, distance, 0.0).sum() / count,
    }


def roi_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, boxes: Tensor, target_deltas: Tensor, config: RoIConfig
) -> dict[str, Tensor]:
    """Losses of the sampled RoIs.

    With `class_target: iou`, the probability that classification should give an object's class is q, the IoU of the
    predicted box with the object, and 1 - q is left to the background (Zhang et al. 2021, "VarifocalNet", uses this q
    in a one-stage detector). With `box_loss: giou`, the loss of a predicted box is 1 - GIoU with the object
    (Rezatofighi et al. 2019).

    Args:
        logits: [R, 1 + C], background first; deltas: [R, C, 4]: predicted.
        labels: [R] int64, 0 for background, otherwise class id + 1, or `FILLING`.
        boxes: [R, 4], the RoIs, from which the deltas count; target_deltas: [R, 4]. For RoIs without an object, both
            may have any finite values.

    Returns:
        loss_classifier, the mean over RoIs without filling; loss_box_reg, the sum over positives by the same number.
    """
    count = _over_ranks((labels != FILLING).sum()).clamp(min=1)  # without any: zero, not NaN
    logits = to_float32(logits)
    own = to_float32(deltas[torch.arange(len(labels), device=labels.device), (labels - 1).clamp(min=0)])  # [R, 4]
    if config.class_target == "iou" or config.box_loss == "giou":
        found, objects = (decode(each, boxes, config.box_weights) for each in (own, target_deltas))
    if config.class_target == "iou":
        entropy = F.cross_entropy(logits, labels, reduction="none", ignore_index=FILLING)
        background = F.cross_entropy(logits, labels.clamp(max=0), reduction="none", ignore_index=FILLING)
        quality = iou(found.detach()[:, None], objects[:, None])[:, 0, 0]
        entropy = (quality * entropy + (1 - quality) * background).sum()
    else:
        entropy = F.cross_entropy(logits, labels, reduction="sum", ignore_index=FILLING)
    if config.box_loss == "giou":
        distance = generalized_box_iou_loss(found, objects)
    else:
        distance = F.smooth_l1_loss(own, target_deltas, beta=BETA, reduction="none").sum(dim=-1)
    return {
        "loss_classifier": entropy / count,
        "loss_box_reg": config.box_loss_weight * torch.where(labels > 0, distance, 0.0).sum() / count,
    }

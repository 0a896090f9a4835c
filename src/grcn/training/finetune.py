"""Fine-tuning: copies the weights that fit from a trained detector to a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grcn.model.detector import RCNN
from grcn.predict.checkpoint import LoadedDetector

# Where a task has a layer of its own, and where the same layer is when both tasks share it.
_SHARED = {
    "separation.cls_branch.": "separation.trunk.",
    "separation.loc_branch.": "separation.trunk.",
    "separation.neck.cls.": "separation.neck.",
    "separation.neck.loc.": "separation.neck.",
    "separation.neck.cls_blocks.": "separation.neck.layer_blocks.",
    "separation.neck.loc_blocks.": "separation.neck.layer_blocks.",
    "roi.reduce.cls.": "roi.reduce.shared.",
    "roi.reduce.loc.": "roi.reduce.shared.",
    "roi.heads.cls.": "roi.heads.shared.",
    "roi.heads.loc.": "roi.heads.shared.",
}

# The layers that have rows per class: rows before the first class, and rows of each class.
_PER_CLASS = {"roi.scores": (1, 1), "roi.deltas": (0, 4)}


@dataclass(frozen=True)
class TransferReport:
    """The result of a transfer of weights.

    Args:
        kept: names of tensors that were copied completely.
        by_class: names of tensors of which only the rows of `classes_kept` were copied.
        fresh: tensors of the new detector that no tensor fits; they keep their initial values.
        unused: tensors of the old detector that have no place in the new one.
        classes_kept, classes_new, classes_dropped: class names in both, only in the new, only in the old detector.
    """

    kept: tuple[str, ...]
    by_class: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    classes_kept: tuple[str, ...]
    classes_new: tuple[str, ...]
    classes_dropped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.kept)} tensors kept"]
        for what, names in (
            ("classes kept", self.classes_kept),
            ("new classes, untrained", self.classes_new),
            ("classes dropped", self.classes_dropped),
            ("not in the weights, as initialised", self.fresh),
            ("in the weights, without a place here", self.unused),
        ):
            if names:
                lines.append(f"{what}: {', '.join(names)}")
        return "; ".join(lines)


@torch.no_grad()
def transfer_weights(model: RCNN, class_names: Sequence[str], loaded: LoadedDetector) -> TransferReport:
    """Copies every tensor of `loaded` with a matching name and shape to `model`, in place.

    If each task of `model` has its own copy of a layer that the tasks of `loaded` share, both copies are filled from
    the shared layer (the paper's separation: copies that start from the same weights). A separated detector then finds
    the same as the C5 detector that it starts from, if it has equal strides, no context, and an RPN on the same stage.

    The last layers have rows per class. Their rows for the background and for classes with the same name are copied,
    whatever the order of the classes.

    Args:
        class_names: the class names of `model`, by class id.
    """
    old, new = loaded.model.state_dict(), model.state_dict()
    kept, by_class, fresh, used = [], [], [], set()
    for name, tensor in new.items():
        layer = name.rpartition(".")[0]
        own = name if name in old else _shared_name(name)
        source = old.get(own)
        if source is None or source.shape[1:] != tensor.shape[1:] or source.ndim != tensor.ndim:
            fresh.append(name)
        elif layer in _PER_CLASS:
            _copy_rows(tensor, source, _PER_CLASS[layer], class_names, loaded.class_names)
            by_class.append(name)
            used.add(own)
        elif source.shape == tensor.shape:
            tensor.copy_(source)
            kept.append(name)
            used.add(own)
        else:
            fresh.append(name)
    return TransferReport(
        kept=tuple(kept),
        by_class=tuple(by_class),
        fresh=tuple(fresh),
        unused=tuple(name for name in old if name not in used),
        classes_kept=tuple(name for name in class_names if name in loaded.class_names),
        classes_new=tuple(name for name in class_names if name not in loaded.class_names),
        classes_dropped=tuple(name for name in loaded.class_names if name not in class_names),
    )


def _shared_name(name: str) -> str:
    return next((name.replace(own, shared, 1) for own, shared in _SHARED.items() if name.startswith(own)), name)


def _copy_rows(
    tensor: Tensor, source: Tensor, rows: tuple[int, int], names: Sequence[str], source_names: Sequence[str]
) -> None:
    first, each = rows
    tensor[:first] = source[:first]
    for i, name in enumerate(names):
        if name in source_names:
            j = list(source_names).index(name)
            tensor[first + i * each : first + (i + 1) * each] = source[first + j * each : first + (j + 1) * each]

"""Matching by hand; the golden tests compare it with torchvision's."""

import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grcn.geometry import matching
from grcn.geometry.anchors import cell_anchors, grid_anchors
from grcn.geometry.matching import BACKGROUND, IGNORED, match

OBJECTS = torch.tensor([[[0.0, 0, 10, 10], [100, 100, 110, 110]]])
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 60], [100, 100, 120, 120], [50, 50, 60, 60]])
BOTH = torch.ones(1, 2, dtype=torch.bool)


def test_thresholds() -> None:
    found = match(OBJECTS, BOTH, BOXES, foreground=0.7, background=0.3, keep_best=False)
    assert found.tolist() == [[0, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND]]  # IoU 1, 0.5, 1/6, 1/4, 0
    exactly = match(OBJECTS, BOTH, BOXES, foreground=0.5, background=0.25, keep_best=False)
    assert exactly.tolist() == [[0, 0, BACKGROUND, IGNORED, BACKGROUND]]  # a threshold belongs to what is above it


def test_the_best_box_of_an_object_is_kept() -> None:
    found = match(OBJECTS, BOTH, BOXES, foreground=0.7, background=0.3, keep_best=True)
    assert found.tolist() == [[0, IGNORED, BACKGROUND, 1, BACKGROUND]]


def test_padding_is_no_object() -> None:
    real = torch.tensor([[False, True]])
    found = match(OBJECTS, real, BOXES, foreground=0.7, background=0.2, keep_best=True)
    assert found.tolist() == [[BACKGROUND, BACKGROUND, BACKGROUND, 1, BACKGROUND]]


def test_without_objects_or_boxes() -> None:
    nothing = match(
        torch.zeros(2, 0, 4), torch.zeros(2, 0).bool(), BOXES, foreground=0.5, background=0.5, keep_best=True
    )
    assert nothing.dtype == torch.int64
    assert (nothing == BACKGROUND).all()
    assert nothing.shape == (2, 5)
    assert match(OBJECTS, BOTH, BOXES[:0], foreground=0.5, background=0.5, keep_best=False).shape == (1, 0)


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are alive: at most, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.users: Counter[int] = Counter()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                self.users[storage._cdata] += 1
                weakref.finalize(tensor, self._release, storage._cdata)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result

    def _release(self, key: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            del self.sizes[key]


@pytest.mark.parametrize("count", [100, 1000])
def test_memory_is_bounded_whatever_the_number_of_objects(count: int) -> None:
    """Four photos of 600x1000 at stride 16 with 15 anchors a cell; whole, 1000 objects would take 574 MB a tensor."""
    boxes = grid_anchors(cell_anchors((32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)), (38, 63), 16)
    corner = torch.rand(4, count, 2, generator=torch.Generator().manual_seed(0)) * 500
    objects, real = torch.cat((corner, corner + 40), dim=-1), torch.ones(4, count, dtype=torch.bool)
    with LiveMemory() as memory:
        found = match(objects, real, boxes, foreground=0.7, background=0.3, keep_best=True)
    assert found.shape == (4, 35_910)
    assert found.max() > 0
    assert 10e6 < memory.peak < 60e6


def test_blocks_of_objects_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few places, so that overlaps tie within and across blocks."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 6, (3, 57, 2), generator=generator).float()
    sides = torch.randint(1, 5, (3, 57, 2), generator=generator)
    everything = torch.cat((corner, corner + sides), dim=-1)
    objects, boxes = everything[:, :17], everything[:, 17:]
    real = torch.rand(3, 17, generator=generator) < 0.7
    options = {"foreground": 0.7, "background": 0.3, "keep_best": True}
    whole = match(objects, real, boxes, **options)
    for objects_at_a_time in (1, 2, 5):
        monkeypatch.setattr(matching, "PAIRS", objects_at_a_time * 3 * 40)
        assert torch.equal(match(objects, real, boxes, **options), whole)

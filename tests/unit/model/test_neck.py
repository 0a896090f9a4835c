"""Which task's pyramid learns from whom; the golden tests compare a pyramid's numbers with torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grcn.config import Separation
from grcn.model.neck import FPN, Neck

INPUTS = (3, 5, 7)


def stage_maps(seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, n, 8 // 2**i, 12 // 2**i, requires_grad=True) for i, n in enumerate(INPUTS)]


def reached(neck: Neck, pyramid: list[Tensor]) -> set[str]:
    """The parts of the neck that learn from what a task reads."""
    gradients = torch.autograd.grad(
        sum(each.square().sum() for each in pyramid), list(neck.parameters()), allow_unused=True, retain_graph=True
    )
    names = [name.partition(".")[0] for name, _ in neck.named_parameters()]
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


@pytest.mark.parametrize(
    ("separation", "cls", "loc"),
    [
        ("none", {"inner_blocks", "layer_blocks"}, {"inner_blocks", "layer_blocks"}),
        ("roi", {"inner_blocks", "layer_blocks"}, {"inner_blocks", "layer_blocks"}),
        ("neck", {"inner_blocks", "cls_blocks"}, {"inner_blocks", "loc_blocks"}),
        ("conv4", {"cls"}, {"loc"}),
    ],
)
@pytest.mark.parametrize("norm", [False, True])
def test_each_task_teaches_its_own_part_and_what_is_shared(
    separation: Separation, cls: set[str], loc: set[str], norm: bool
) -> None:
    neck, maps = Neck(separation, INPUTS, 4, norm=norm), stage_maps(0)
    pyramids = neck(maps, maps)
    assert [reached(neck, each) for each in pyramids] == [cls, loc]
    assert (pyramids[0] is pyramids[1]) == (cls == loc)
    for ours, theirs in zip(*pyramids, strict=True):
        assert torch.equal(ours, theirs)  # they start equal
    assert {name.partition(".")[0] for name in neck.state_dict()} == cls | loc


def test_tasks_with_own_stages_read_their_own_maps() -> None:
    neck, maps, others = Neck("conv4", INPUTS, 4), stage_maps(1), stage_maps(2)
    cls, loc = neck(maps, others)
    for ours, theirs in zip(cls + loc, neck.cls(maps) + neck.cls(others), strict=True):
        assert torch.equal(ours, theirs)


def test_a_shared_neck_is_called_as_torchvisions() -> None:
    assert Neck("roi", INPUTS, 4).state_dict().keys() == FPN(INPUTS, 4).state_dict().keys()

"""Whole detectors against torchvision's, same weights, same photos: detections, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from grcn.model.backbones.norm import FoldedConv2d, FoldedNorm
from peers import Pair, Scale, c4_pair, c5_pair, no_resize, our_name, our_value

from .photos import CLASSES, Sample, photo

# Few proposals, since each costs a pass through conv5 in protocol C4; every sample, so that nothing is left to chance.
SCALE = Scale(classes=len(CLASSES), proposals=32, fc_channels=128, samples=10**6)


@pytest.fixture(scope="module", params=["c4", "c5"])
def pair(request: pytest.FixtureRequest, shared_data: Path) -> Pair:
    """In float64, where nothing but another computation can make a difference: a random network carries the last bit of
    a float32 to a thousandth of a pixel in a box and a hundredth of a gradient."""
    torch.manual_seed(0)
    make: Callable[[Tensor, Scale], Pair] = {"c4": c4_pair, "c5": c5_pair}[request.param]
    pair = make(photo(shared_data, 1, (100, 100, 420, 340)).image, SCALE)
    pair.ours.double()
    pair.torchvision.double()
    for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
        getattr(pair.ours, name).copy_(torch.tensor(values, dtype=torch.float64).view(3, 1, 1))
    return pair


def check_detections(pair: Pair, images: list[Tensor]) -> None:
    no_resize(pair.torchvision, images)
    with torch.no_grad():
        expected = pair.torchvision.eval()(images)
        found = pair.ours.eval()(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["scores"].unique()) >= 12
        assert theirs["scores"].max() - theirs["scores"].min() > 0.4
        assert len(theirs["labels"].unique()) == 3
        # torchvision's scores and boxes go through float32 here and there.
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-3, check_dtype=False)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-5, check_dtype=False)
        assert ours["labels"].tolist() == (theirs["labels"] - 1).tolist()


def test_detections_of_a_batch_of_mixed_sizes(pair: Pair, shared_data: Path) -> None:
    crops = ((0, (0, 0, 320, 240)), (12, (300, 50, 533, 370)))
    check_detections(pair, [photo(shared_data, n, crop).image.double() for n, crop in crops])


@pytest.mark.parametrize("pair", ["c4"], indirect=True)
def test_detections_of_a_full_photo_in_float32(pair: Pair, shared_data: Path) -> None:
    # With sums in the same order: convolutions that read channels-last, as ours do, and norm layers after them.
    pair = Pair(deepcopy(pair.ours).float(), deepcopy(pair.torchvision).float().to(memory_format=torch.channels_last))
    for module in pair.ours.modules():
        if isinstance(module, FoldedConv2d):
            module.__class__ = nn.Conv2d
        elif isinstance(module, FoldedNorm):
            module.__class__ = FrozenBatchNorm2d
    check_detections(pair, [photo(shared_data, 3).image])


def test_losses_and_gradients(pair: Pair, shared_data: Path) -> None:
    full = photo(shared_data, 5, (100, 160, 340, 360))
    empty = Sample(full.image.flip(1)[:, :50], {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()})
    samples = [full, empty]
    assert len(full.target["labels"]) >= 3
    images = [s.image.double() for s in samples]
    targets = [s.target | {"boxes": s.target["boxes"].double()} for s in samples]
    no_resize(pair.torchvision, images)
    expected = pair.torchvision.train()(images, [t | {"labels": t["labels"] + 1} for t in targets])
    losses = pair.ours.train()(images, targets)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss > 1e-4
        torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=1e-7, check_dtype=False)
    named = dict(pair.ours.named_parameters())
    ours = dict(zip(named, torch.autograd.grad(sum(losses.values()), list(named.values())), strict=True))
    keys, tensors = zip(*pair.torchvision.named_parameters(), strict=True)
    conv5 = "roi.heads.shared.conv5." if "roi.heads.shared.conv5.0.conv1.weight" in ours else "separation.trunk.conv5."
    assert len(keys) == len(named)
    for key, theirs in zip(keys, torch.autograd.grad(sum(expected.values()), tensors), strict=True):
        wanted = our_value(key, theirs)
        assert wanted.abs().max() > 0, key
        difference = (ours[our_name(key, conv5)] - wanted).norm() / wanted.norm()
        assert difference < 1e-8, (key, difference)

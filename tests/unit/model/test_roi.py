"""The RoI stage against the same thing done slowly by hand: one image, one RoI, one task at a time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from building import build, random_images, small
from grcn.config import Context, DetectorConfig, RoIConfig
from grcn.geometry import boxes as box_ops
from grcn.model.detector import RCNN
from grcn.model.heads import AverageHead, FCHead
from grcn.model.losses import FILLING
from grcn.model.roi import TASKS, Predictions, Task
from grcn.model.rpn import Objects, Proposals
from grcn.model.separation import Maps

SIZES = ((64, 96), (41, 70), (50, 33))


def by_hand(model: RCNN, maps: Maps, proposals: list[Tensor], sizes: list[tuple[int, int]]) -> Predictions:
    """What `RoIStage.forward` promises."""
    answers: dict[Task, list[Tensor]] = {"cls": [], "loc": []}
    for image, boxes in enumerate(proposals):
        height, width = sizes[image]
        for box in boxes:
            for task, layer in zip(TASKS, (model.roi.scores, model.roi.deltas), strict=True):
                vector = one_vector(model, maps, image, box, task)
                context = model.roi.contexts[task]
                if context == "global":
                    whole = torch.tensor([0.0, 0.0, width, height])
                    vector = torch.cat((vector, one_vector(model, maps, image, whole, task)))
                if context == "attention":
                    (stride,) = model.roi.strides[task]
                    cells = getattr(maps, task)[0][
                        image, :, : -(-height // stride), : -(-width // stride)
                    ]  # no padding
                    attention = model.roi.attention[task]
                    weights = attention.attention(cells[None])[0, 0].flatten().softmax(dim=0)
                    pooled = cells.flatten(1) @ weights
                    vector = torch.cat((vector, torch.relu(attention.transform(pooled))))
                answers[task].append(layer(vector))
    return Predictions(
        torch.stack(answers["cls"]), torch.stack(answers["loc"]).reshape(len(answers["loc"]), model.num_classes, 4)
    )


def one_vector(model: RCNN, maps: Maps, image: int, box: Tensor, task: Task) -> Tensor:
    separation, roi = model.config.separation, model.config.roi
    reduce = model.roi.reduce["shared" if separation in ("none", "roi") else task]
    head = model.roi.heads["shared" if separation == "none" else task]
    strides, cells = model.roi.strides[task], getattr(model.config, f"{task}_cells")
    side = float((box[2:] - box[:2]).prod().sqrt())
    level = max([i for i, stride in enumerate(strides) if side >= cells * stride], default=0)
    features = reduce(getattr(maps, task)[level][image : image + 1])
    size, scale = model.config.roi_size, 1 / strides[level]
    if roi.pooling == "pool":
        pooled = roi_pool(features, [box[None]], size, scale)
    else:
        pooled = roi_align(features, [box[None]], size, scale, roi.sampling_ratio, roi.aligned)
    vector: Tensor = head(pooled)[0]
    return vector


CONTEXTS: list[tuple[Context, Context]] = [
    ("none", "none"),
    ("global", "none"),
    ("none", "global"),
    ("global", "global"),
    ("attention", "none"),
    ("global", "attention"),
    ("attention", "attention"),
]
KINDS: dict[str, dict[str, Any]] = {
    "separate branches": {"separation": "conv4", "cls_stride": 32},
    "earlier separate branches": {"separation": "conv3", "cls_stride": 32, "loc_stride": 8, "dilation": False},
    "separate reductions": {"separation": "conv5"},
    "separate heads": {"separation": "roi"},
    "shared head": {},
    "shared fc2": {"head": "fc2"},
    "shared conv5": {"head": "conv5"},
    "separate conv5": {"head": "conv5", "separation": "roi", "cls_stride": 8, "loc_stride": 8},
    "separate averages": {"head": "avgpool", "separation": "conv4", "cls_stride": 32},
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


@pytest.mark.parametrize(("cls", "loc"), CONTEXTS)
def test_predictions_are_those_done_by_hand(kind: dict[str, Any], cls: Context, loc: Context) -> None:
    torch.manual_seed(0)
    model = build(small(DetectorConfig(backbone="resnet18", cls_context=cls, loc_context=loc, **kind))).eval()
    check(model)


@pytest.mark.parametrize(
    "roi",
    [
        RoIConfig(pooling="pool", size=3, fc_channels=8),
        RoIConfig(aligned=False, size=3, fc_channels=8),
        RoIConfig(sampling_ratio=0, size=3, fc_channels=8, reduce_channels=4),
    ],
)
def test_pooling_kinds(roi: RoIConfig) -> None:
    torch.manual_seed(0)
    check(build(small("paper_r18", roi=roi)).eval())


def test_vgg_head_with_context() -> None:
    torch.manual_seed(0)
    check(build(small("paper_vgg16")).eval())


def check(model: RCNN) -> None:
    for layer in (model.roi.scores, model.roi.deltas):
        nn.init.normal_(layer.weight, std=0.5)
    proposals = [
        torch.tensor([[0.0, 0, 96, 64], [10, 5, 40, 60], [33.3, 2.5, 70.1, 20]]),
        torch.zeros(0, 4),  # an image in which the RPN saw nothing
        torch.tensor([[3.0, 3, 30, 44], [0, 0, 33, 50]]),
    ]
    with torch.no_grad():
        batch, sizes = model.batch(random_images(*SIZES))
        maps = model.separation(batch)
        padded, valid = box_ops.pad(proposals)
        found = model.roi(maps, padded, box_ops.image_rois(sizes, batch))
        found = Predictions(*[part[valid.flatten()] for part in found])
        expected = by_hand(model, maps, proposals, sizes)
    assert found.logits.shape == (5, 4)
    assert found.deltas.shape == (5, 3, 4)
    assert found.logits.std(dim=0).min() > 1e-3  # RoIs differ
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


def test_global_context_sees_the_whole_image_and_nothing_of_the_padding() -> None:
    """Beside a larger image, an image's own context is that of its own pixels' cells."""
    torch.manual_seed(0)
    model = build(small("paper_r18")).eval()
    whole = torch.tensor([[0.0, 0, 64, 64], [0, 0, 128, 96]])
    maps = Maps(*[[torch.randn(2, 512, -(-96 // s), 128 // s)] for s in (16, 32, 16)])
    boxes = torch.tensor([[[2.0, 2, 10, 10]], [[0, 0, 0, 0]]])
    with torch.no_grad():
        before = model.roi(maps, boxes, whole).logits
        maps.cls[0][0, :, :, 3:] += 100  # padding, beyond bilinear reach of the image's edge
        assert torch.equal(model.roi(maps, boxes, whole).logits, before)
        maps.cls[0][0, :, 1, 1] += 1  # the image's far corner, which the RoI itself does not see
        assert not torch.allclose(model.roi(maps, boxes, whole).logits, before)


# Few RoIs, or no AVX-512: a matrix product; many, and AVX-512: a convolution.
@pytest.mark.parametrize(("rois", "avx512"), [(1, True), (4, True), (40, True), (40, False)])
def test_fc_head(rois: int, avx512: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grcn.model.ops.convolves_whole_rois", lambda: avx512)
    torch.manual_seed(0)
    head = FCHead(2, 3, 5, dropout=0.5)
    features = torch.randn(rois, 2, 3, 3, requires_grad=True)
    hidden = (features.flatten(1) @ head.fc6.weight.flatten(1).T + head.fc6.bias).clamp(min=0)
    expected = (hidden @ head.fc7.weight.T + head.fc7.bias).clamp(min=0)
    inputs = (features, *head.parameters())
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    precise = deepcopy(head).double()  # takes the way of a matrix product
    ways = {
        "contiguous": head.eval()(features),
        "channels-last": head(features.to(memory_format=torch.channels_last)),
        "float64": precise.eval()(features.double()).float(),
    }
    for name, found in ways.items():
        torch.testing.assert_close(found, expected)
        owned = (features, *(precise if name == "float64" else head).parameters())
        for mine, other in zip(torch.autograd.grad(found.square().sum(), owned), wanted, strict=True):
            torch.testing.assert_close(mine, other, check_dtype=False)
    with torch.no_grad():
        torch.testing.assert_close(head(features), expected)
    if rois < 4:
        return  # too few values for a share
    dropped = torch.stack([head.train()(features) for _ in range(400)])
    assert 0.4 < (dropped[:, expected > 0] == 0).float().mean() < 0.8  # half by its own dropout, more by fc6's


@pytest.mark.parametrize(("name", "dropout"), [("grcn_vgg16", 0.5), ("grcn_r18", 0.0)])
def test_dropout_is_vgg16s(name: str, dropout: float) -> None:
    with torch.device("meta"):
        model = build(small(name))
    assert {head.dropout for head in model.roi.heads.values()} == {dropout}


def test_average_head() -> None:
    features = torch.randn(4, 6, 7, 7)
    assert torch.allclose(AverageHead(6)(features), features.flatten(2).mean(dim=2))


def test_all_negative_and_all_positive_samples() -> None:
    """The share of positives is capped, and negatives fill up; objects themselves are always candidates."""
    torch.manual_seed(0)
    model = build(small("faster_rcnn_r18_c5", roi=RoIConfig(batch_per_image=8, positive_fraction=0.25, fc_channels=8)))
    box = torch.tensor([[10.0, 10, 40, 40]])
    objects = Objects(box[None], torch.ones(1, 1).bool(), torch.tensor([[2]]))
    far = torch.tensor([[50.0, 50, 60, 60]]).repeat(20, 1)
    for proposals, positive, count in ((far, 1, 8), (box.repeat(20, 1), 2, 2), (far[:3], 1, 4), (far[:0], 1, 1)):
        found = model.roi.assign(Proposals(*box_ops.pad([proposals])), objects)
        real = found.labels != FILLING
        assert real.sum() == count
        assert (found.labels == 3).sum() == positive
        assert (found.labels == 0).sum() == count - positive
        assert (found.target_deltas == 0).all()
        # Filling is the samples again, in turn: what batch norm in a head sees of an image is these alone.
        places = torch.arange(found.boxes.shape[1])
        assert torch.equal(found.boxes[0], found.boxes[0, places % count])


def test_an_images_samples_are_its_own() -> None:
    """Whatever proposals and objects the images beside it have."""
    with torch.device("meta"):
        model = build(small("faster_rcnn_r18_c5", roi=RoIConfig(batch_per_image=16, fc_channels=8)))
    torch.manual_seed(0)
    corners = torch.rand(40, 2) * 60
    proposals = torch.cat((corners, corners + 10), dim=1)
    counts = ((12, 2), (40, 0), (3, 5))  # proposals and objects of each image
    both = [(proposals[:p], proposals[:o] + 1, torch.arange(o) % 3) for p, o in counts]

    def assign(images: list[int]) -> list[list[Tensor]]:
        boxes, real = box_ops.pad([both[i][1] for i in images])
        labels = nn.utils.rnn.pad_sequence([both[i][2] for i in images], batch_first=True)
        found = model.roi.assign(
            Proposals(*box_ops.pad([both[i][0] for i in images])),
            Objects(boxes, real, labels),
            [torch.Generator().manual_seed(i) for i in images],
        )
        valid = found.labels != FILLING
        return [[part[i, valid[i]] for part in found] for i in range(len(images))]

    together = assign([0, 1, 2])
    assert [len(boxes) for boxes, *_ in together] == [14, 16, 4]  # of the last, all are positive, and a quarter may be
    for i in range(3):
        for one, other in zip(assign([i])[0], together[i], strict=True):
            assert torch.equal(one, other)


def test_detections_of_two_images_do_not_mix() -> None:
    with torch.device("meta"):
        config = small("faster_rcnn_r18_c5")
        model = build(replace(config, roi=replace(config.roi, detections_per_image=1)))
    boxes = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 20, 20], [30, 30, 60, 60]]), torch.zeros(0, 4)]
    logits = torch.tensor([[0.0, 9, 0, 0], [0, 9, 0, 0], [0, 0, 4, 0], [0, 0, 0, 8], [9, 9, 9, 9], [9, 9, 9, 9]])
    whole = torch.tensor([[0.0, 0, 64, 64], [0, 0, 50, 64], [0, 0, 64, 64]])
    found = model.roi.detect(Predictions(logits, torch.zeros(6, 3, 4)), Proposals(*box_ops.pad(boxes)), whole)
    assert found.labels.tolist() == [[0], [2], [-1]]
    assert found.valid.tolist() == [[True], [True], [False]]
    assert found.boxes.tolist() == [[[0, 0, 10, 10]], [[30, 30, 50, 60]], [[0, 0, 0, 0]]]  # cut to its own image
    assert found.scores[1].item() == pytest.approx(torch.softmax(logits[3], 0)[3].item())
    assert found.scores[2] == 0


def test_refined_boxes_are_those_of_their_own_class_done_by_hand(kind: dict[str, Any]) -> None:
    """Each box as if it had been proposed: decoded, cut to its image, once more; scores and classes stay."""
    torch.manual_seed(0)
    config = small(DetectorConfig(backbone="resnet18", loc_context="global", **kind))
    config = replace(config, roi=replace(config.roi, refine=2, score_threshold=0.0, detections_per_image=6))
    model = build(config).eval()
    nn.init.normal_(model.roi.deltas.weight, std=0.3)
    images = random_images(*SIZES[:2])
    with torch.no_grad():
        refined = model(images)
        model.roi.config = replace(config, roi=replace(config.roi, refine=0))
        plain = model(images)
        batch, sizes = model.batch(images)
        maps = model.separation(batch)
        for image, (after, before) in enumerate(zip(refined, plain, strict=True)):
            assert torch.equal(after["scores"], before["scores"])
            assert torch.equal(after["labels"], before["labels"])
            height, width = sizes[image]
            for box, label, expected in zip(before["boxes"], before["labels"], after["boxes"], strict=True):
                for _ in range(2):
                    context = one_vector(model, maps, image, torch.tensor([0.0, 0.0, width, height]), "loc")
                    vector = torch.cat((one_vector(model, maps, image, box, "loc"), context))
                    deltas = model.roi.deltas(vector).reshape(-1, 4)[label]
                    moved = box_ops.decode(deltas, box, config.roi.box_weights)
                    moved = moved.clamp(min=0).minimum(torch.tensor([width, height] * 2))
                    box = moved if (moved[2:] - moved[:2]).min() >= 1e-2 else box
                torch.testing.assert_close(expected, box, rtol=1e-4, atol=1e-3)
    assert any(not torch.equal(a["boxes"], b["boxes"]) for a, b in zip(refined, plain, strict=True))


def test_nothing_found_is_not_refined() -> None:
    config = small("paper_r18")
    model = build(replace(config, roi=replace(config.roi, refine=1, score_threshold=1.0))).eval()
    with torch.no_grad():
        assert [len(found["boxes"]) for found in model(random_images(*SIZES[:2]))] == [0, 0]

"""The spine: what goes in, what comes out, what is refused, what is frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import grcn
from building import build, enlivened, objects, random_images, small, total
from grcn.config import Context, DetectorConfig, Head, Norm, RPNConfig
from grcn.errors import ConfigError, DataError
from grcn.model.backbones import make_backbone
from grcn.model.detector import RCNN, build_detector, resolve

FAMILIES = ["faster_rcnn_r18_c4", "faster_rcnn_r18_c5", "paper_r18", "grcn_r18", "paper_vgg16"]


@pytest.fixture(scope="module")
def model() -> RCNN:
    """A small G-RCN with lively answers."""
    torch.manual_seed(0)
    model = build(small("paper_r18"))
    enlivened(model, random_images((96, 128), (96, 128)))
    return model


def detect(model: RCNN, images: list[Tensor]) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        found = model.eval()(images)
    assert isinstance(found, list)
    return found


def test_the_documented_call() -> None:
    model = grcn.build_detector("faster_rcnn_r18_c5", num_classes=20, weights=None)
    assert isinstance(model, nn.Module)
    assert model.num_classes == 20
    assert model.roi.scores.out_features == 21
    assert model.config.norm == "bn"
    assert model.config.frozen_stages == 0


def test_an_odd_size_in_training_and_detection(model: RCNN) -> None:
    torch.manual_seed(1)
    (image,) = random_images((333, 517))
    losses = model.train()([image], [objects(5, size=300)])
    total(losses).backward()
    assert total(losses).isfinite()
    maps = model.separation(model.batch([image])[0])
    assert [tuple(m.shape[2:]) for (m,) in maps] == [(22, 34), (11, 17), (22, 34)]
    (found,) = detect(model, [image])
    assert len(found["scores"]) > 5
    assert found["boxes"][:, 0::2].max() <= 517
    assert found["boxes"][:, 1::2].max() <= 333


def test_images_are_normalised_and_padded_with_zeros(model: RCNN) -> None:
    images = random_images((40, 70), (65, 20))
    batch, sizes = model.batch(images)
    assert batch.shape == (2, 3, 96, 96)
    assert sizes == [(40, 70), (65, 20)]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for padded, image, (height, width) in zip(batch, images, sizes, strict=True):
        restored = padded[:, :height, :width] * std[:, None, None] + mean[:, None, None]
        torch.testing.assert_close(restored, image)
        assert padded[:, height:].abs().max() == 0
        assert padded[:, :, width:].abs().max() == 0


def test_bytes_are_the_same_as_floats(model: RCNN) -> None:
    images = [(image * 255).to(torch.uint8) for image in random_images((64, 96), (80, 64))]
    batch, sizes = model.batch(images)
    assert torch.equal(batch, model.batch([image / 255 for image in images])[0])
    found = detect(model, images)
    expected = detect(model, [image.double() / 255 for image in images])
    assert len(sizes) == 2
    for own, other in zip(found, expected, strict=True):
        assert len(own["scores"]) > 2
        torch.testing.assert_close(own["boxes"], other["boxes"], rtol=0, atol=1e-2)


def test_inputs_are_left_as_they_were(model: RCNN) -> None:
    images, targets = random_images((64, 64), (40, 50)), [objects(2), objects(0)]
    before = [image.clone() for image in images], [{k: v.clone() for k, v in t.items()} for t in targets]
    model.train()(images, targets)
    assert all(torch.equal(a, b) for a, b in zip(images, before[0], strict=True))
    assert all(torch.equal(t[k], b[k]) for t, b in zip(targets, before[1], strict=True) for k in t)


def test_same_seed_same_losses(model: RCNN) -> None:
    images, targets = random_images((64, 96)), [objects(3)]
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(model.train()(images, targets))
    assert runs[0] == runs[1]


def test_images_without_objects_beside_images_with_objects(model: RCNN) -> None:
    losses = model.train()(random_images((64, 96), (96, 64), (64, 64)), [objects(0), objects(3), objects(0)])
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_single_proposal(name: str) -> None:
    """Nothing to classify, in training and detection: losses of zero that still reach every parameter."""
    torch.manual_seed(0)
    config = small(name)
    model = build(replace(config, rpn=replace(config.rpn, min_size=1e6)))
    losses = model.train()(random_images((64, 64), (64, 48)), [objects(0), objects(0)])
    assert losses["loss_classifier"] == losses["loss_box_reg"] == 0
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(b.isfinite().all() for b in model.buffers())
    for found in detect(model, random_images((64, 64), (64, 48))):
        assert found["boxes"].shape == (0, 4)
        assert found["scores"].shape == found["labels"].shape == (0,)
        assert found["labels"].dtype == torch.int64


@pytest.mark.parametrize("num_classes", [1, 80])
@pytest.mark.parametrize("name", FAMILIES[:3])
def test_few_and_many_classes(name: str, num_classes: int) -> None:
    torch.manual_seed(0)
    model = build(small(name, roi=replace(small(name).roi, score_threshold=1e-3)), num_classes)
    images = random_images((64, 96), (80, 64))
    enlivened(model, images)
    losses = model.train()(images, [objects(3, num_classes), objects(2, num_classes)])
    assert total(losses).isfinite()
    labels = torch.cat([found["labels"] for found in detect(model, images)])
    assert len(labels) > 5
    assert labels.min() >= 0
    assert labels.max() < num_classes
    if num_classes == 80:
        assert len(labels.unique()) > 10


def test_bf16_autocast() -> None:
    torch.manual_seed(0)
    contexts: tuple[Context, ...] = ("global", "attention")
    for context in contexts:
        model = build(small("paper_r18", cls_context=context, loc_context=context))
        images, targets = random_images((64, 96), (80, 64)), [objects(3), objects(2)]
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.train()(images, targets)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        total(losses).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = model.eval()(images)
        assert {value.dtype for one in found for value in one.values()} == {torch.float32, torch.int64}


def test_boxes_in_double_precision_are_taken() -> None:
    """As numpy makes them."""
    model = build(small("faster_rcnn_r18_c5"))
    targets = [objects(3) for _ in range(2)]
    double = [{**t, "boxes": t["boxes"].double()} for t in targets]
    images = random_images((64, 64), (64, 64))
    runs = []
    for given in (targets, double):
        torch.manual_seed(0)
        runs.append(model.train()(images, given))
    for name in runs[0]:
        assert float(runs[0][name].detach()) == pytest.approx(float(runs[1][name].detach()), abs=1e-3)


IMAGE = torch.rand(3, 40, 40)
GOOD = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([0])}


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "images: empty"),
        ([IMAGE, torch.rand(40, 40)], r"images\[1\]: shape \(40, 40\)"),
        ([torch.rand(40, 40, 3)], r"images\[0\]: shape \(40, 40, 3\), expected \[3, H, W\]"),
        ([torch.rand(3, 0, 40)], r"images\[0\]: shape \(3, 0, 40\)"),
        ([torch.zeros(3, 8, 8, dtype=torch.int64)], r"images\[0\]: torch.int64"),
        ([IMAGE.numpy()], r"images\[0\]: ndarray"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_images_that_are_refused(model: RCNN, images: list[Any], said: str, training: bool) -> None:
    with pytest.raises(DataError, match=said):
        model.train(training)(images, [GOOD] * len(images))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (None, "targets: missing"),
        ([GOOD], "targets: 1 for 2 images"),
        ([GOOD, {"boxes": GOOD["boxes"]}], r"targets\[1\]: .*'labels'"),
        ([GOOD, {**GOOD, "boxes": torch.zeros(1, 5)}], r"targets\[1\]\['boxes'\]: shape \(1, 5\)"),
        ([{**GOOD, "labels": torch.tensor([0, 1])}, GOOD], r"targets\[0\]\['labels'\]"),
        ([{**GOOD, "labels": torch.tensor([0.0])}, GOOD], r"targets\[0\]\['labels'\]: torch.float32"),
        ([GOOD, {**GOOD, "labels": torch.tensor([3])}], r"targets\[1\], object 0: .* label 3.*0\.\.2"),
        ([GOOD, {**GOOD, "labels": torch.tensor([-1])}], r"targets\[1\], object 0: .* label -1"),
        (
            [GOOD, {"boxes": torch.tensor([[0.0, 0, 9, 9], [5, 5, 5, 9]]), "labels": torch.tensor([0, 1])}],
            r"targets\[1\], object 1: box \[5.0, 5.0, 5.0, 9.0\]",
        ),
        ([{**GOOD, "boxes": torch.tensor([[0, 0, torch.nan, 9]])}, GOOD], r"targets\[0\], object 0"),
        ([{**GOOD, "boxes": torch.tensor([[0, 0, torch.inf, 9]])}, GOOD], r"targets\[0\], object 0"),
    ],
)
def test_targets_that_are_refused(model: RCNN, targets: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        model.train()([IMAGE, IMAGE], targets)


def test_detection_needs_no_targets(model: RCNN) -> None:
    images = random_images((64, 96))
    with torch.no_grad():
        with_targets = model.eval()(images, [{"boxes": "not looked at"}])
    assert torch.equal(with_targets[0]["scores"], detect(model, images)[0]["scores"])


@pytest.mark.parametrize(
    ("config", "num_classes", "weights", "said"),
    [
        ("grcn_r51", 3, None, "unknown preset 'grcn_r51'; did you mean 'grcn_r5"),
        ("grcn_r18", 0, None, "num_classes 0"),
        (DetectorConfig(frozen_stages=2), 3, None, "frozen_stages 2 with random weights"),
        (DetectorConfig(norm="frozen_bn"), 3, None, "with random weights: what is frozen would stay random"),
        (DetectorConfig(norm="group", frozen_stages=2), 3, None, "frozen_stages 2 with random weights"),
        (DetectorConfig(norm="group"), 3, "imagenet", "norm 'group' with weights 'imagenet'"),
        (DetectorConfig("resnet18", head="vgg_fc"), 3, None, "'resnet18': it has no fc6 and fc7; use head 'light_fc2'"),
        (
            DetectorConfig("resnet18", separation="conv4", cls_stride=32, loc_stride=8),
            3,
            None,
            "cls_stride 32 after a trunk of stride 8 that ends at conv4 of 'resnet18': .* at most 16",
        ),
        (
            DetectorConfig("resnet18", separation="conv4", cls_stride=8, loc_stride=32),
            3,
            None,
            "loc_stride 32 after a trunk of stride 8",
        ),
    ],
)
def test_what_cannot_be_built(config: str | DetectorConfig, num_classes: int, weights: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_detector(config, num_classes, weights)


@pytest.mark.parametrize(
    ("fields", "pretrained", "norm", "frozen"),
    [
        ({}, True, "frozen_bn", 2),
        ({}, False, "bn", 0),
        ({"backbone": "vgg16"}, True, "none", 2),
        ({"backbone": "vgg16"}, False, "bn", 0),
        ({"norm": "bn", "frozen_stages": 0}, True, "bn", 0),
        ({"norm": "group"}, False, "group", 0),
        ({"backbone": "vgg16", "norm": "none"}, False, "none", 0),
        ({"frozen_stages": 5}, True, "frozen_bn", 5),
    ],
)
def test_resolving(fields: dict[str, Any], pretrained: bool, norm: str, frozen: int) -> None:
    config = DetectorConfig(**{"backbone": "resnet18", **fields})
    with torch.device("meta"):
        backbone = make_backbone(config.backbone, config.norm, pretrained=pretrained)
    config = resolve(config, backbone, pretrained=pretrained)
    assert (config.norm, config.frozen_stages) == (norm, frozen)
    assert resolve(config, backbone, pretrained=pretrained) == config


STAGES = ["conv1", "conv2", "conv3", "conv4", "conv5"]


@pytest.mark.parametrize(
    ("backbone", "head", "norm"),
    [
        ("resnet18", "light_fc2", "bn"),
        ("resnet18", "conv5", "bn"),
        ("resnet50", "light_fc2", "frozen_bn"),
        ("timm:tf_efficientnet_lite0", "light_fc2", "frozen_bn"),
        ("vgg16", "fc2", "none"),
        ("vgg16", "fc2", "bn"),
    ],
)
@pytest.mark.parametrize("count", [0, 2, 5])
def test_frozen_stages_are_frozen_and_the_others_are_not(backbone: str, head: Head, norm: Norm, count: int) -> None:
    config = DetectorConfig(
        backbone=backbone, head=head, norm=norm, frozen_stages=count, separation="roi" if head == "conv5" else "conv4"
    )
    with torch.device("meta"):
        model = build(small(config), pretrained=True)
    frozen_parameters, trained = set(), set()
    for name, parameter in model.named_parameters():
        place = name.split(".")
        # separation.CHAIN.STAGE.., or roi.heads.KEY.conv5..; what is no stage is always trained
        stage = place[2] if place[0] == "separation" else place[3] if place[:2] == ["roi", "heads"] else ""
        (trained if parameter.requires_grad else frozen_parameters).add(stage if stage in STAGES else "other")
    assert frozen_parameters == set(STAGES[:count])
    assert trained == {*STAGES[count:], "other"}


def test_the_default_on_pretrained_weights_freezes_two_stages() -> None:
    with torch.device("meta"):
        model = build(small("grcn_r50"), pretrained=True)
    assert model.config.frozen_stages == 2
    assert model.config.norm == "frozen_bn"
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]


@pytest.mark.parametrize("switched", [False, True])
def test_batch_norm_of_frozen_stages_keeps_its_statistics(switched: bool) -> None:
    """Right after building, and after changes of mode."""
    model = build(small("paper_r18", norm="bn", frozen_stages=3), pretrained=True)
    if switched:
        model.eval().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    weights = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    total(model(random_images((64, 64), (64, 64)), [objects(3), objects(2)])).backward()
    optimizer.step()
    for name, value in model.named_buffers():
        if "running" in name:
            frozen = name.split(".")[2] in STAGES[:3]
            assert torch.equal(value, before[name]) == frozen, name
    for name, parameter in model.named_parameters():
        if name.split(".")[2] in STAGES[:3]:
            assert torch.equal(parameter, weights[name]), name
    assert not torch.equal(
        model.separation.trunk.conv4[0].conv1.weight, weights["separation.trunk.conv4.0.conv1.weight"]
    )


def test_rpn_width() -> None:
    for channels, width in ((None, 512), (64, 64)):
        with torch.device("meta"):
            model = build(DetectorConfig(backbone="resnet18", rpn=RPNConfig(channels=channels)))
        assert model.rpn.conv.out_channels == width
        assert model.rpn.conv.in_channels == 512
        assert model.rpn.objectness.out_channels == 15
        assert model.rpn.deltas.out_channels == 60


def test_a_detector_is_copied_and_moved_whole(model: RCNN, tmp_path: Path) -> None:
    """Training code deep-copies it (EMA) and casts it."""
    from copy import deepcopy

    images = random_images((64, 96))
    copied = deepcopy(model).to(torch.float64).to(torch.float32)
    assert torch.equal(detect(copied, images)[0]["scores"], detect(model, images)[0]["scores"])

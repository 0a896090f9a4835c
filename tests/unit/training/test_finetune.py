"""Fine-tuning keeps what fits, by name, and says what does not."""

from dataclasses import replace

import pytest
import torch

from grcn.model.backbones import make_backbone
from grcn.model.detector import build_detector, outline, resolve
from grcn.predict.checkpoint import LoadedDetector
from grcn.training import transfer_weights
from lively import NAMES, lively, scene, small


@pytest.fixture(scope="module")
def trained(tiny) -> LoadedDetector:
    torch.manual_seed(1)
    model = build_detector(tiny.tiny_model(), 3, None)
    for parameter in model.parameters():
        parameter.data.normal_()
    return LoadedDetector(model, ("cat", "dog", "cow"), "faster_rcnn_r18_c5", {})


def test_classes_keep_their_rows_by_name(tiny, trained):
    torch.manual_seed(2)
    model = build_detector(tiny.tiny_model(), 3, None)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = transfer_weights(model, ("cow", "horse", "cat"), trained)
    old, new = trained.model.state_dict(), model.state_dict()
    for name in new:
        if not name.startswith(("roi.scores", "roi.deltas")):
            assert torch.equal(new[name], old[name]), name
    for kind in ("weight", "bias"):
        scores, deltas = f"roi.scores.{kind}", f"roi.deltas.{kind}"
        assert torch.equal(new[scores][0], old[scores][0])  # background
        assert torch.equal(new[scores][1], old[scores][3])  # cow
        assert torch.equal(new[scores][2], fresh[scores][2])  # horse, untrained
        assert torch.equal(new[scores][3], old[scores][1])  # cat
        assert torch.equal(new[deltas][0:4], old[deltas][8:12])
        assert torch.equal(new[deltas][4:8], fresh[deltas][4:8])
        assert torch.equal(new[deltas][8:12], old[deltas][0:4])
    assert (report.classes_kept, report.classes_new, report.classes_dropped) == (("cow", "cat"), ("horse",), ("dog",))
    assert len(report.kept) == len(new) - 4
    assert not report.fresh
    assert not report.unused
    assert "new classes, untrained: horse" in str(report)
    assert "classes dropped: dog" in str(report)


def test_another_number_of_classes_fits_too(tiny, trained):
    model = build_detector(tiny.tiny_model(), 1, None)
    report = transfer_weights(model, ("dog",), trained)
    assert torch.equal(model.roi.scores.weight, trained.model.roi.scores.weight[[0, 2]])
    assert torch.equal(model.roi.deltas.bias, trained.model.roi.deltas.bias[4:8])
    assert report.classes_dropped == ("cat", "cow")


@pytest.mark.parametrize(("former_source", "source"), [("trunk", "cls"), ("conv5", "loc"), ("conv4", "conv4")])
def test_tasks_that_part_take_what_they_shared(former_source, source):
    """Separated at conv4, with equal strides and no context, the detector finds what it found before."""
    shared = small("faster_rcnn_r18_c5")
    shared = replace(shared, rpn=replace(shared.rpn, source=former_source))
    former = LoadedDetector(lively(shared), NAMES, "faster_rcnn_r18_c5", {})
    parted = build_detector(
        replace(shared, separation="conv4", rpn=replace(shared.rpn, source=source)), len(NAMES), None
    )
    report = transfer_weights(parted, NAMES, former)
    assert not report.fresh
    assert not report.unused
    picture = torch.from_numpy(scene(96, 128)).permute(2, 0, 1)
    with torch.inference_mode():
        (found,), (expected,) = parted.eval()([picture]), former.model.eval()([picture])
    assert len(expected["boxes"]) > 5
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_what_does_not_fit_is_named_and_left_as_initialised(tiny, trained):
    config = tiny.tiny_model()
    config = replace(
        config,
        separation="roi",  # heads.cls and heads.loc instead of heads.shared
        rpn=replace(config.rpn, channels=16),
        roi=replace(config.roi, fc_channels=8),
    )
    model = build_detector(config, 3, None)
    before = model.rpn.conv.weight.clone()
    report = transfer_weights(model, ("cat", "dog", "cow"), trained)
    assert torch.equal(model.rpn.conv.weight, before)
    assert {"rpn.conv.weight", "roi.heads.loc.fc6.weight", "roi.scores.weight"} <= set(report.fresh)
    assert {"rpn.conv.weight", "roi.heads.shared.fc6.weight"} <= set(report.unused)
    assert "separation.trunk.conv1.conv1.0.weight" in report.kept
    assert "rpn.conv.weight" in str(report)
    assert {*report.kept, *report.by_class, *report.fresh} == set(model.state_dict())


@pytest.mark.parametrize("separation", ["roi", "neck", "conv4"])
def test_on_a_pyramid_too_tasks_that_part_take_what_they_shared(separation):
    """With cells of their own they would read other maps; with equal ones the detector finds what it found before."""
    shared = small("faster_rcnn_r18_fpn")
    old = lively(replace(shared, roi=replace(shared.roi, unnamed_logits=2)))
    own = replace(shared, separation=separation, rpn=replace(shared.rpn, source="loc"))
    model = outline(resolve(own, make_backbone("resnet18", "bn"), pretrained=False), 3)
    report = transfer_weights(model, NAMES, LoadedDetector(old, NAMES, "faster_rcnn_r18_fpn", {}))
    assert not report.fresh
    assert not report.unused
    image = torch.from_numpy(scene(96, 128)).permute(2, 0, 1)
    with torch.no_grad():
        # What has no name was in the old one's softmax alone: so only the order, and the boxes, can be the same.
        old.roi.scores.bias[-2:] = -1e4
        expected, found = old.eval()([image])[0], model.eval()([image])[0]
    assert len(found["scores"]) > 5
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-3)

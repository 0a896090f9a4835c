"""torchvision's detectors under our names: the same numbers, whatever the file's age; what is none is refused."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from grcn import Detector, build_detector, preset
from grcn.cli.main import main
from grcn.config import InputConfig, OptimConfig, TrainConfig
from grcn.errors import CheckpointError, ConfigError
from grcn.predict import published as coco
from grcn.predict.checkpoint import load_detector
from grcn.predict.published import (
    CATEGORY_IDS,
    CLASS_NAMES,
    PUBLISHED,
    UNNAMED,
    as_detector,
    convert,
    fetch,
    is_torchvision,
)
from grcn.training import train
from lively import exports

WEIGHTS = {
    "faster_rcnn_r50_fpn": detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "faster_rcnn_r50_fpn_v2": detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
}


def test_addresses_and_classes_are_torchvisions() -> None:
    assert {preset: weights.url for preset, weights in WEIGHTS.items()} == PUBLISHED
    for weights in WEIGHTS.values():
        categories = weights.meta["categories"]
        assert len(categories) == 91
        assert [n for n, name in enumerate(categories) if name == "N/A"] == list(UNNAMED)
        assert tuple(categories[n] for n in CATEGORY_IDS) == CLASS_NAMES
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == len(CATEGORY_IDS) == 80


# torchvision's detectors


def filled(make: Callable[[], FasterRCNN]) -> FasterRCNN:
    """A detector with small numbers everywhere, made without the time that its own random numbers take."""
    with torch.device("meta"):
        model = make().eval()
    model.to_empty(device="cpu")
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(3)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
        else:
            value.uniform_(-0.2, 0.2)
    for norm in model.modules():
        if hasattr(norm, "running_var"):
            norm.running_var.uniform_(1e-5, 1e-3)  # so small that what is added to them matters
            norm.weight.data.uniform_(0.5, 1).mul_(norm.running_var.sqrt())
    return model


def frozen_v1(layers: int = 50) -> FasterRCNN:
    """As torchvision makes the one that it has weights for."""
    model = FasterRCNN(resnet_fpn_backbone(backbone_name=f"resnet{layers}", weights=None), 91)
    detection.faster_rcnn.overwrite_eps(model, 0.0)
    return model


MAKERS: dict[str, Callable[[], FasterRCNN]] = {
    "v1 frozen": frozen_v1,
    "v1": lambda: detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4),
    "v2": lambda: detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None),
}


@pytest.fixture(scope="module", params=MAKERS)
def theirs(request: pytest.FixtureRequest) -> FasterRCNN:
    torch.manual_seed(0)
    return filled(MAKERS[request.param])


def as_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that files of before 2022 have, which torchvision's detectors load too."""
    old = {"rpn.head.conv.0.0": "rpn.head.conv"} if "rpn.head.conv.1.0.weight" not in state else {}
    if "backbone.fpn.inner_blocks.0.1.weight" not in state:
        for kind in ("inner", "layer"):
            old |= {f"backbone.fpn.{kind}_blocks.{n}.0": f"backbone.fpn.{kind}_blocks.{n}" for n in range(4)}
    return {
        f"{old.get(layer, layer)}.{kind}": value
        for (layer, _, kind), value in ((name.rpartition("."), value) for name, value in state.items())
    }


@pytest.mark.parametrize("naming", [dict, as_published])
def test_both_namings_are_the_same_detector(theirs: FasterRCNN, naming: Callable[..., dict[str, Tensor]]) -> None:
    """Held to torchvision's pyramid, vectors of RoIs and answers."""
    state = naming(theirs.state_dict())
    theirs.load_state_dict(state)  # torchvision takes it as well
    assert is_torchvision(state)
    converted = convert(state, "file")
    is_v2, classes = (
        hasattr(theirs.rpn.head.conv, "1"),
        80 if theirs.roi_heads.box_predictor.cls_score.out_features == 91 else 3,
    )
    assert converted.preset == "faster_rcnn_r50_fpn" + "_v2" * is_v2
    is_frozen = "backbone.body.bn1.num_batches_tracked" not in state
    assert (converted.norm, converted.norm_eps) == (("frozen_bn", 0.0) if is_frozen else ("bn", None))
    assert converted.unnamed == (10 if classes == 80 else 0)
    assert converted.class_names == (CLASS_NAMES if classes == 80 else None)
    loaded = as_detector(converted, "file")
    assert loaded.class_names == (CLASS_NAMES if classes == 80 else ("1", "2", "3"))
    ours = loaded.model
    named = torch.tensor(CATEGORY_IDS if classes == 80 else (1, 2, 3))
    with torch.no_grad():
        expected = list(theirs.backbone(image := torch.rand(1, 3, 64, 96)).values())
        maps, logits = ours.separation(image), theirs.rpn.head(expected)[0]
        assert_same(maps.rpn, expected)
        for answer, logit in zip(ours.rpn.predict_raw(maps.rpn), logits, strict=True):
            assert_same([answer.logits], [logit.permute(0, 2, 3, 1).flatten(1)])
        rois = torch.rand(20, 256, 7, 7)
        vectors, wanted = ours.roi.heads["shared"](rois), theirs.roi_heads.box_head(rois)
        assert_same([vectors], [wanted])
        scores, deltas = theirs.roi_heads.box_predictor(wanted)
        assert_same([ours.roi.scores(vectors).softmax(1)[:, 1 : 1 + classes]], [scores.softmax(1)[:, named]])
        assert_same([ours.roi.deltas(vectors).reshape(20, -1, 4)], [deltas.reshape(20, -1, 4)[:, named]])


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        largest = theirs.abs().max().item()
        assert largest > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * largest)


def test_every_number_of_theirs_has_its_place(theirs: FasterRCNN) -> None:
    """But for the boxes of the background and of what has no name."""
    state = theirs.state_dict()
    tensors = convert(state, "file").tensors
    for (name, value), (own, found) in zip(state.items(), tensors.items(), strict=True):
        if "box_predictor" not in name:
            assert torch.equal(found.flatten(), value.flatten()), (name, own)


@pytest.mark.parametrize("layers", [18, 34, 101, 152])
def test_a_detector_on_another_resnet_is_taken_too(layers: int) -> None:
    with torch.device("meta"):
        names = frozen_v1(layers).state_dict()
    state = {name: torch.zeros(value.shape) for name, value in names.items()}
    assert as_detector(convert(state, "file"), "file").model.config.backbone == f"resnet{layers}"


def test_tensors_of_another_shape_are_refused(small_state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"^file: \d+ tensors do not fit its configuration: roi\.") as caught:
        as_detector(convert(small_state, "file"), "file")
    assert len(str(caught.value)) < 300


# What is no such file


@pytest.fixture(scope="module")
def small_state() -> dict[str, Tensor]:
    """Names and ranks of v1's file, few numbers."""
    with torch.device("meta"):
        names = frozen_v1().state_dict()
    state = {
        name: torch.ones(value.shape[:1] if value.ndim == 1 else (2,) * value.ndim) for name, value in names.items()
    }
    state["roi_heads.box_head.fc6.weight"] = torch.ones(2, 98)
    state |= {
        f"roi_heads.box_predictor.cls_score.{k}": torch.ones(*s) for k, s in (("weight", (91, 2)), ("bias", (91,)))
    }
    state |= {
        f"roi_heads.box_predictor.bbox_pred.{k}": torch.ones(*s) for k, s in (("weight", (364, 2)), ("bias", (364,)))
    }
    return state


SCORES, DELTAS = "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rpn.head.cls_logits.weight": None}, "Faster R-CNN .* lacks rpn.head.cls_logits.weight"),
        ({"roi_heads.mask_head.mask_fcn1.weight": torch.ones(1)}, "'roi_heads.mask_head.* is not in"),
        ({"two\nlines": torch.ones(1)}, r"'two\\nlines' is not in"),
        ({"backbone.body.layer1." + "9" * 5000 + ".w": torch.ones(1)}, "is not in"),
        ({"backbone.body.layer5.0.conv1.weight": torch.ones(1)}, "is not in"),
        ({SCORES: torch.ones(91)}, r"scores of shape \(91,\)"),
        ({SCORES: torch.tensor(1.0)}, r"scores of shape \(\)"),
        ({SCORES: torch.ones(1, 2)}, r"scores of shape \(1, 2\); needs a row of the background, and more"),
        ({DELTAS: torch.ones(363, 2)}, r"bbox_pred.weight\' of shape \(363, 2\), with 91 logits"),
        ({SCORES.replace("weight", "bias"): torch.ones(5)}, r"cls_score.bias\' of shape \(5,\), with 91 logits"),
        ({"roi_heads.box_head.fc6.weight": torch.ones(2, 90)}, r"fc6.weight\' of shape \(2, 90\)"),
        ({"roi_heads.box_head.fc6.weight": torch.ones(2)}, r"fc6.weight\' of shape \(2,\)"),
        ({"backbone.body.conv1.weight": torch.eye(3).to_sparse()}, "conv1.weight' is not a plain tensor"),
        ({"backbone.body.conv1.weight": torch.ones(1, device="meta")}, "conv1.weight' is not a plain tensor"),
    ],
)
def test_what_is_no_such_detector_is_refused_in_one_line(
    small_state: dict[str, Tensor], change: dict[str, Any], said: str
) -> None:
    state = {name: value for name, value in (small_state | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=rf"^file\.pth: .*{said}") as caught:
        convert(state, "file.pth")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_no_detector_of_torchvisions(small_state: dict[str, Tensor]) -> None:
    assert is_torchvision(small_state)
    assert not is_torchvision({"backbone.body.conv1.weight": torch.ones(1)})
    assert not is_torchvision(convert(small_state, "file").tensors)


# Published


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Tests are silent."""


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Tensor]], str]]:
    """Publishes v1's weights at an address of this machine that ends with their hash; torch's cache is fresh."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()

    def put(state: dict[str, Tensor]) -> str:
        torch.save(state, folder / "w.pth")
        digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
        name = (folder / "w.pth").rename(folder / f"fasterrcnn-{digest[:8]}.pth").name
        monkeypatch.setitem(PUBLISHED, "faster_rcnn_r50_fpn", f"http://127.0.0.1:{http.server_port}/{name}")
        return str(folder / name)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield put
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("naming", [dict, as_published])
def test_published_weights_are_fetched_and_checked(
    publish: Callable[[dict[str, Tensor]], str],
    small_state: dict[str, Tensor],
    naming: Callable[..., dict[str, Tensor]],
) -> None:
    state = naming(small_state)
    file = Path(publish(state))
    found = fetch("faster_rcnn_r50_fpn")
    assert (found.preset, found.norm, found.norm_eps) == ("faster_rcnn_r50_fpn", "frozen_bn", 0.0)
    assert torch.equal(found.tensors["separation.neck.inner_blocks.0.0.weight"], torch.ones(2, 2, 2, 2))
    assert found.tensors["rpn.conv.weight"].shape == (2, 2, 2, 2)
    file.unlink()
    assert fetch("faster_rcnn_r50_fpn").tensors.keys() == found.tensors.keys()  # from the cache


def test_published_weights_that_are_not_what_they_should_be_are_refused(
    publish: Callable[[dict[str, Tensor]], str], small_state: dict[str, Tensor]
) -> None:
    file = Path(publish(small_state))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"invalid hash.*download it elsewhere"):
        fetch("faster_rcnn_r50_fpn")
    publish({"backbone.body.conv1.weight": torch.ones(1)})
    address = re.escape(PUBLISHED["faster_rcnn_r50_fpn"])
    with pytest.raises(CheckpointError, match=f"^{address}: not torchvision's Faster R-CNN with a pyramid: lacks"):
        fetch("faster_rcnn_r50_fpn")
    with pytest.raises(
        ConfigError, match=r"'coco' with preset 'grcn_r18': there are some only for faster_rcnn_r50_fpn and .*_v2"
    ):
        fetch("grcn_r18")


# In use


@pytest.fixture(scope="module")
def frozen() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return filled(frozen_v1).state_dict()


def test_a_preset_finds_cocos_classes_at_once(
    publish: Callable[[dict[str, Tensor]], str], frozen: dict[str, Tensor], tmp_path: Path, capsys: Any
) -> None:
    publish(as_published(frozen))
    detector = Detector.load("faster_rcnn_r50_fpn")
    assert detector.class_names == CLASS_NAMES
    assert detector.config.roi.unnamed_logits == 10
    PIL.Image.new("RGB", (64, 48), "teal").save(tmp_path / "one.png")
    assert main(["predict", "faster_rcnn_r50_fpn", str(tmp_path / "one.png"), "--out", str(tmp_path / "found")]) == 0
    assert "in 1 image" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"'faster_rcnn_r18_fpn' is untrained .* published for faster_rcnn_r50_fpn"):
        Detector.load("faster_rcnn_r18_fpn")


@exports
def test_a_preset_is_exported(
    publish: Callable[[dict[str, Tensor]], str], frozen: dict[str, Tensor], tmp_path: Path
) -> None:
    publish(as_published(frozen))
    assert main(["export", "faster_rcnn_r50_fpn", "--format", "torch", "--out", str(tmp_path / "coco.pt2")]) == 0
    assert (tmp_path / "coco.pt2").stat().st_size > 1e8


def test_a_file_of_torchvisions_is_a_detector(frozen: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "theirs.pth"
    torch.save(frozen, file)
    detector = Detector.load(file)
    assert (detector.class_names, detector.source) == (CLASS_NAMES, file)
    names = tuple(f"thing {n}" for n in range(80))
    assert Detector.load(file, class_names=names).class_names == names
    with pytest.raises(ConfigError, match="2 class names for a model of 80 classes"):
        Detector.load(file, class_names=("a", "b"))


@pytest.mark.parametrize("weights", ["coco", "file"])
def test_a_separated_detector_trains_on_from_it(
    weights: str,
    publish: Callable[[dict[str, Tensor]], str],
    frozen: dict[str, Tensor],
    beach: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    """Rows go by name: a kite is COCO's, a buoy is new."""
    file = publish(frozen)
    data = Path(shutil.copytree(beach, tmp_path / "data"))
    for xml in (data / "Annotations").glob("*.xml"):
        xml.write_text(xml.read_text().replace("kayak", "kite"))
    model = replace(preset("grcn_r50_fpn"), input=InputConfig(64, 96))
    config = TrainConfig(
        str(data),
        preset="grcn_r50_fpn",
        out=str(tmp_path / "run"),
        weights="coco" if weights == "coco" else file,
        iterations=1,
        batch_size=1,
        workers=0,
        val_split="none",
        optim=OptimConfig(lr=1e-30),
        model=model,
    )
    train(config)
    said = capsys.readouterr().out
    assert "classes kept: kite; new classes, untrained: buoy" in said
    loaded = load_detector(tmp_path / "run/last.safetensors")
    assert (loaded.model.config.norm, loaded.model.config.norm_eps) == ("frozen_bn", 0.0)
    assert loaded.model.config.roi.unnamed_logits == 0
    own, theirs = loaded.model.state_dict(), convert(frozen, "file").tensors
    kite = CLASS_NAMES.index("kite")
    first = loaded.class_names.index("kite")
    assert torch.equal(own["roi.scores.weight"][1 + first], theirs["roi.scores.weight"][1 + kite])
    for task in ("cls", "loc"):
        assert torch.equal(own[f"roi.heads.{task}.fc6.weight"], theirs["roi.heads.shared.fc6.weight"])


def test_weights_of_coco_are_for_their_networks_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"'coco' with backbone 'resnet18', neck 'fpn' and head 'fc2': there are some only for"
    ):
        coco.load_published(preset("grcn_r18_fpn"))
    with pytest.raises(ConfigError, match="'coco' are those of a whole detector"):
        build_detector("grcn_r18_fpn", 2, "coco")

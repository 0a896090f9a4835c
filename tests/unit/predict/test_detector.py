"""Detector: the same answer for every kind of picture, boxes in the picture's pixels, the model left as it was."""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import grcn.export.export
import grcn.predict.locate
from grcn import Detections, Detector
from grcn.cli.main import main
from grcn.config import DetectorConfig, InputConfig, RoIConfig, RPNConfig, ScoreChoice
from grcn.errors import CheckpointError, ConfigError, ImageError
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import add_to_header, load_detector, save_detector
from grcn.thresholds import KEY, Thresholds, calibrate, scaled

NAMES = ("cat", "dog", "eel")
SMALL = DetectorConfig(
    backbone="resnet18",
    separation="conv4",
    input=InputConfig(64, 96),
    rpn=RPNConfig(anchor_sizes=(16.0, 32.0), post_nms_test=20, channels=16),
    roi=RoIConfig(fc_channels=16, reduce_channels=8, score_threshold=0.0),
)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(build_detector(SMALL, len(NAMES), weights=None), NAMES, "grcn_r18")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def assert_same(a: Detections, b: Detections) -> None:
    assert a.names == b.names
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_every_kind_of_picture_gives_the_same_detections(
    detector: Detector, picture: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    tensor = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    expected = detector.predict(picture)
    assert len(expected) > 5
    kinds = [file, str(file), Image.fromarray(picture), tensor, tensor / 255, (tensor / 255).requires_grad_()]
    for found in [detector.predict(kind) for kind in kinds] + detector.predict(kinds):
        assert_same(found, expected)


def test_views_and_read_only_arrays_are_pictures(detector: Detector, picture: np.ndarray) -> None:
    flipped = picture[:, ::-1]
    frozen = picture.copy()
    frozen.flags.writeable = False
    assert_same(detector.predict(flipped), detector.predict(flipped.copy()))
    assert_same(detector.predict(frozen), detector.predict(picture))


def test_files_are_decoded_upright(detector: Detector, picture: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    file = tmp_path / "turned.png"
    Image.fromarray(np.rot90(picture).copy()).save(file, exif=exif)
    assert_same(detector.predict(file), detector.predict(picture))


class Stub(nn.Module):
    """A model that finds one box in each image, given as fractions of the image it sees."""

    def __init__(self, fractions: tuple[float, float, float, float], size: InputConfig) -> None:
        super().__init__()
        self.config, self.num_classes, self.fractions = replace(SMALL, input=size), len(NAMES), fractions
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: list[Tensor], *, score: float | None) -> list[dict[str, Tensor]]:
        self.seen += [tuple(image.shape) for image in images]
        return [
            {
                "boxes": torch.tensor([self.fractions]) * torch.tensor([image.shape[2], image.shape[1]] * 2),
                "scores": torch.tensor([0.5]),
                "labels": torch.tensor([1]),
            }
            for image in images
        ]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(32, 300), st.integers(0, 300))
def test_boxes_return_exactly_to_source_pixels(height: int, width: int, short: int, more: int) -> None:
    model = Stub((0.0, 0.0, 1.0, 1.0), InputConfig(short, short + more))
    found = Detector(model, NAMES).predict(np.zeros((height, width, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes, [[0, 0, width, height]], rtol=1e-6)
    assert found.boxes[0, 2] <= width
    assert found.boxes[0, 3] <= height
    assert found.names == ["dog"]
    _, h, w = model.seen[0]
    assert min(h, w) <= short
    assert max(h, w) <= short + more


def test_boxes_are_clipped_to_the_picture() -> None:
    model = Stub((-0.5, 0.25, 1.5, 1.01), InputConfig(64, 64))
    found = Detector(model, NAMES).predict(np.zeros((40, 20, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes, [[0, 10, 20, 40]])


def test_lists_of_mixed_sizes_keep_their_order_in_any_batch(detector: Detector) -> None:
    rng = np.random.default_rng(1)
    wide, tall = (rng.integers(0, 256, size, dtype=np.uint8) for size in ((48, 80, 3), (90, 50, 3)))
    alone = [detector.predict(picture) for picture in (wide, tall, wide)]
    for batch_size in (1, 2, 8):
        found = detector.predict([wide, tall, wide], batch_size=batch_size)
        assert len(found) == 3
        assert (found[1].boxes[:, 3] > 60).any()  # only the tall picture has such pixels
        assert all((found[i].boxes[:, 3] <= 48).all() for i in (0, 2))
        if batch_size == 1:  # larger batches pad pictures of other sizes, which moves scores a little
            for one, other in zip(found, alone, strict=True):
                assert_same(one, other)
    assert detector.predict([]) == []
    assert isinstance(detector.predict((wide,)), list)


def test_score_leaves_out_what_is_less_sure(detector: Detector, picture: np.ndarray) -> None:
    everything = detector.predict(picture)
    middle = float(np.median(everything.scores))
    assert_same(detector.predict(picture, score=middle), everything.above(middle))
    assert len(detector.predict(picture, score=1.1)) == 0


def chosen(found: Detections, temperature: float = 2.0) -> Thresholds:
    """Thresholds that leave out some of each class; of the last none is said, and none is precise enough."""
    half, more = ([float(np.quantile(found.scores[found.class_ids == c], q)) for c in (0, 1)] for q in (0.5, 0.7))
    overall = float(np.quantile(found.scores, 0.9))
    return Thresholds(NAMES, (*half, None), (*more, None), overall, 0.9, temperature, 0.5, "zoo", "val")


def test_scores_of_each_class(detector: Detector, picture: np.ndarray) -> None:
    everything = detector.predict(picture)
    thresholds = chosen(everything)
    other = Detector(detector.network, NAMES, thresholds=thresholds)
    for choice in get_args(ScoreChoice):
        found = other.predict(picture, score=choice)
        assert_same(found, everything.above(thresholds.of(choice)))
        assert 0 < len(found) < len(everything)
        assert_same(dict(other.stream([picture.tobytes()], score=choice, read=lambda _: picture)).popitem()[1], found)
    assert "eel" not in other.predict(picture, score="precise").names
    assert_same(other.predict(picture), everything)
    with pytest.raises(ConfigError, match=r"score 'bset': use a number from 0 to 1, or one of best, precise"):
        other.predict(picture, score="bset")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"^the detector: no thresholds or temperature in its header; choose them"):
        detector.predict(picture, score="best")
    with pytest.raises(ConfigError, match="no thresholds"):
        Detector(detector.network, NAMES, calibrated=True)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_calibrated_scores(detector: Detector, picture: np.ndarray, temperature: float) -> None:
    """The same boxes in the same order; a number is a calibrated score, and thresholds mean the same detections."""
    every = detector.predict(picture)
    own = float(np.median(every.scores))
    model = deepcopy(detector.model)
    model.config = model.roi.config = replace(SMALL, roi=replace(SMALL.roi, score_threshold=own))
    thresholds = chosen(every, temperature)
    calibrated = Detector(model, NAMES, thresholds=thresholds, calibrated=True)
    all_of_it = calibrated.predict(picture, score=0.0)
    expected = calibrate(every, temperature)
    assert_same(all_of_it, expected)
    np.testing.assert_array_equal(all_of_it.boxes, every.boxes)
    for score in np.quantile(expected.scores, [0.1, 0.4, 0.8]).tolist():
        assert_same(calibrated.predict(picture, score=score), expected.above(score))
    found = calibrated.predict(picture, score="best")
    np.testing.assert_array_equal(found.boxes, every.above(thresholds.of("best")).boxes)
    assert calibrated.thresholds is not None
    assert calibrated.thresholds.best[0] == pytest.approx(float(scaled(thresholds.best[0], temperature)))


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_found(picture: np.ndarray, training: bool) -> None:
    model = build_detector(SMALL, len(NAMES), weights=None)
    model.train(training)
    model.rpn.train(not training)  # a mode of its own within the model
    model.rpn.conv.weight.requires_grad_(False)
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.grad = torch.ones_like(parameter)
    before = (
        modes(model),
        [p.requires_grad for p in model.parameters()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    detector = Detector(model, NAMES)

    detector.predict(picture)
    with pytest.raises(ImageError):
        detector.predict([picture, "no such file.png"])
    model.roi.forward, forward = lambda *_: 1 / 0, model.roi.forward
    with pytest.raises(ZeroDivisionError):
        detector.predict(picture)
    model.roi.forward = forward

    assert (modes(model), [p.requires_grad for p in model.parameters()]) == before[:2]
    assert all(torch.equal(v, before[2][k]) for k, v in model.state_dict().items())
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert torch.is_grad_enabled()


def test_training_goes_on_after_a_prediction(picture: np.ndarray) -> None:
    """What prediction leaves in the model, such as cached tensors, must not break a later backward pass."""
    model = build_detector(SMALL, len(NAMES), weights=None).train()
    Detector(model, NAMES).predict(picture)
    image = torch.rand(3, 64, 96)
    target = {"boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    sum(model([image], [target]).values()).backward()
    assert model.rpn.conv.weight.grad is not None


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"image: array uint8 \[4, 4\]"),
        (np.zeros((3, 4, 5), np.uint8), r"needs uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.float32), "array float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), "array uint8"),
        (np.zeros((0, 4, 3), np.uint8), "array uint8"),
        (torch.zeros(4, 4), "tensor"),
        (torch.zeros(2, 3, 4, 4), "several images: a list"),
        (torch.zeros(4, 4, 3), r"tensor \[4, 4, 3\]; needs \[3, H, W\]"),
        (torch.zeros(3, 0, 4), "tensor"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64"),
        (torch.full((3, 4, 4), 255.0), r"values 255\.\.255; needs 0\.\.1"),
        (torch.full((3, 4, 4), -0.1), r"needs 0\.\.1"),
        (torch.full((3, 4, 4), float("nan")), "values nan"),
        (None, "NoneType is not a picture"),
        (b"bytes", "image: damaged, or not an image"),
        (3, "int is not a picture"),
        ([np.zeros((4, 4, 3), np.uint8)], "list is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(detector: Detector, picture: object, message: str) -> None:
    good = np.zeros((8, 8, 3), np.uint8)
    if not isinstance(picture, list):
        with pytest.raises(ImageError, match=message):
            detector.predict(picture)
    with pytest.raises(ImageError, match=r"images\[1\]: .*" + message.removeprefix("image: ")) as error:
        detector.predict([good, picture])
    assert "\n" not in str(error.value)


def test_broken_files_are_named(detector: Detector, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        detector.predict(broken)


def test_wrong_arguments_are_refused(detector: Detector, picture: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="batch_size 0"):
        detector.predict([picture], batch_size=0)
    with pytest.raises(ConfigError, match="2 class names for a model of 3"):
        Detector(detector.model, ["a", "b"])
    with pytest.raises(ConfigError, match="class 'cat' is named twice"):
        Detector(detector.model, ["cat", "dog", "cat"])


def test_a_detector_whose_classes_share_a_name_is_refused(detector: Detector, tmp_path: Path) -> None:
    save_detector(tmp_path / "d.safetensors", detector.model, class_names=("a", "b", "a"), preset="", extra={})
    with pytest.raises(CheckpointError, match=r"d\.safetensors: class 'a' is named twice"):
        Detector.load(tmp_path / "d.safetensors")


@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_of_the_hub_is_one_also_as_a_path(
    kind: type, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(repo_id: str, revision: str | None = None) -> Path:
        asked.append((repo_id, revision))
        return run / "last.safetensors"

    monkeypatch.setattr(grcn.predict.locate, "download_weights", fetch)
    monkeypatch.setattr(grcn.export.export, "export", lambda loaded, out, *_, **__: out.write_text("a graph"))
    assert Detector.load(kind("hf://someone/cells@v2")).class_names == NAMES
    assert main(["export", "hf://someone/cells", "--format", "torch", "--out", str(tmp_path / "cells.pt2")]) == 0
    assert asked == [("someone/cells", "v2"), ("someone/cells", None)]
    assert (tmp_path / "cells.pt2").is_file()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:" / "someone").mkdir(parents=True)
    shutil.copytree(run, tmp_path / "hf:" / "someone" / "own")
    assert Detector.load(Path("hf:/someone/own")).class_names == NAMES, "a folder that is really there"


def test_a_score_below_the_models_own_threshold_finds_more(detector: Detector, picture: np.ndarray) -> None:
    every = detector.predict(picture)  # its threshold is 0
    low, own = (float(value) for value in np.quantile(every.scores, [0.25, 0.75]))
    model = deepcopy(detector.model)
    model.config = model.roi.config = replace(SMALL, roi=replace(SMALL.roi, score_threshold=own))
    strict = Detector(model, NAMES)
    assert_same(strict.predict(picture), every.above(np.nextafter(np.float32(own), np.float32(1))))
    assert_same(strict.predict(picture, score=low), every.above(low))
    assert_same(strict.predict([picture], score=0.0)[0], every)


@pytest.fixture
def run(detector: Detector, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    save_detector(folder / "last.safetensors", detector.model, class_names=NAMES, preset="grcn_r18", extra={})
    return folder


def test_thresholds_come_with_the_file(detector: Detector, run: Path, picture: np.ndarray) -> None:
    file = run / "last.safetensors"
    with pytest.raises(ConfigError, match=rf"^{file}: no thresholds .* `grcn evaluate {file} --data DIR --split val"):
        Detector.load(run).predict(picture, score="best")
    with pytest.raises(ConfigError, match=rf"^{run}: no thresholds .* `grcn evaluate {run} --data DIR --split val"):
        Detector.load(run, calibrated=True)
    thresholds = chosen(detector.predict(picture))
    before = load_detector(file)
    add_to_header(file, {KEY: thresholds.to_json(), "AP": 0.5})
    after = load_detector(file)
    assert after.extra == {KEY: thresholds.to_json(), "AP": 0.5}
    assert (after.class_names, after.preset, after.model.config) == (NAMES, "grcn_r18", before.model.config)
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name]), name
    loaded = Detector.load(run, optimize="none")
    assert loaded.thresholds == thresholds
    assert_same(loaded.predict(picture, score="best"), detector.predict(picture).above(thresholds.of("best")))
    assert_same(
        Detector.load(run, optimize="none", calibrated=True).predict(picture), calibrate(loaded.predict(picture), 2.0)
    )
    add_to_header(file, {KEY: {"best": 3}})
    with pytest.raises(CheckpointError, match="thresholds in its header are damaged"):
        Detector.load(run)
    file.write_bytes(b"no detector")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        add_to_header(file, {})
    assert file.read_bytes() == b"no detector"


def test_load_takes_a_run_folder_or_a_file(detector: Detector, run: Path, picture: np.ndarray) -> None:
    from_last = Detector.load(run, optimize="none")
    assert (from_last.class_names, from_last.preset, from_last.config) == (NAMES, "grcn_r18", detector.config)
    assert not from_last.model.training
    assert_same(from_last.predict(picture), detector.predict(picture))
    assert_same(
        Detector.load(str(run / "last.safetensors"), optimize="none").predict(picture), detector.predict(picture)
    )
    folded, expected = Detector.load(run).predict(picture), detector.predict(picture)
    np.testing.assert_allclose(folded.boxes, expected.boxes, atol=1e-2)
    np.testing.assert_allclose(folded.scores, expected.scores, atol=1e-4)

    save_detector(run / "best.safetensors", detector.model, class_names=("x", "y", "z"), preset="p", extra={})
    assert Detector.load(run, device="cpu").class_names == ("x", "y", "z")
    with pytest.raises(ConfigError, match="has its own class names"):
        Detector.load(run, class_names=["x", "y", "z"])


def test_load_says_what_is_missing(tmp_path: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no best\.safetensors or last\.safetensors"):
        Detector.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such run folder, weights file or preset"):
        Detector.load(tmp_path / "absent")
    with pytest.raises(ConfigError, match="preset 'grcn_r18' is untrained and has no classes yet"):
        Detector.load("grcn_r18")
    for device in ("nonsense", "cuda:99", "meta:x"):
        with pytest.raises(ConfigError, match=f"device '{device}'") as error:
            Detector.load(run, device=device)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="optimize 'fast': use one of none, fold, bf16"):
        Detector.load(run, optimize="fast")


def test_load_of_a_preset_starts_from_imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the weights in torch's cache, as after a download."""
    import torchvision

    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    torch.save(network.state_dict(), cache / url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    detector = Detector.load("grcn_r18", class_names=NAMES, optimize="none")
    assert (detector.class_names, detector.preset) == (NAMES, "grcn_r18")
    weights = dict(detector.model.named_parameters())["separation.trunk.conv5.0.conv1.weight"]
    torch.testing.assert_close(weights, network.layer4[0].conv1.weight)

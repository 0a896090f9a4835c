"""What the page gets of a photo, and of what is none: without gradio or a browser."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from building import NAMED
from grcn import Detector
from grcn.cli.main import main
from grcn.config import InputConfig
from grcn.errors import ConfigError, ImageError
from grcn.model.detector import build_detector
from grcn.model.separation import Maps
from grcn.page import app as page
from grcn.page.app import energy, look, predict_with_maps, respond
from grcn.thresholds import Thresholds
from lively import small

NAMES = ("cat", "dog")


def detector(name: str) -> Detector:
    torch.manual_seed(0)
    config = NAMED[name]
    config = replace(
        config,
        input=InputConfig(64, 96),
        rpn=replace(config.rpn, channels=16, anchor_sizes=(16.0, 32.0), post_nms_test=20),
        roi=replace(config.roi, size=4, reduce_channels=8, fc_channels=16, score_threshold=0.0),
    )
    return Detector(build_detector(config, len(NAMES), weights=None), NAMES, name)


@pytest.fixture(scope="module")
def grcn() -> Detector:
    return detector("paper_r18")


@pytest.fixture(scope="module")
def c4() -> Detector:
    return detector("faster_rcnn_r18_c4")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 110, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as worker:
        yield worker


def picture(url: str) -> np.ndarray:
    head, data = url.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_look(grcn: Detector, c4: Detector, photo: Path) -> None:
    seen = look(photo, "holiday.png", {"ours": grcn, "other": c4})
    assert (seen["name"], seen["width"], seen["height"]) == ("holiday.png", 110, 50)
    assert np.abs(picture(seen["photo"]).mean() - np.asarray(Image.open(photo)).mean()) < 2
    for part, own, tasks in zip(seen["detectors"], (grcn, c4), ([["cls"], ["loc"]], [["cls", "loc"]]), strict=True):
        found = own.predict(photo)
        assert len(found) > 0
        assert part["detections"] == found.to_coco("holiday")
        assert [name for name, _ in part["classes"]] == list(NAMES)
        assert [map_["tasks"] for map_ in part["maps"]] == tasks
        assert part["best"] is None
        assert all(picture(map_["energy"]).shape == (50, 110, 3) for map_ in part["maps"])
    assert [map_["stride"] for map_ in seen["detectors"][0]["maps"]] == ["32", "16"]


def test_best_scores_of_a_file_are_shown(grcn: Detector, photo: Path) -> None:
    thresholds = Thresholds(NAMES, (0.25, None), (None, None), 0.5, 0.9, 1.0, 0.5, "zoo", "val")
    (part,) = look(photo, "a.png", {"ours": Detector(grcn.network, NAMES, thresholds=thresholds)})["detectors"]
    assert part["best"] == [0.25, 0.5]


def test_a_pyramid_is_shown_as_one_picture(photo: Path) -> None:
    config = small("grcn_r18_fpn")
    pyramid = Detector(build_detector(config, len(NAMES), weights=None), NAMES, "grcn_r18_fpn")
    (part,) = look(photo, "holiday.png", {"ours": pyramid})["detectors"]
    assert [(map_["tasks"], map_["stride"]) for map_ in part["maps"]] == [(["cls", "loc"], "4 to 32")]
    assert picture(part["maps"][0]["energy"]).shape == (50, 110, 3)


def test_the_maps_are_those_of_the_prediction(grcn: Detector) -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)  # the input's own size
    found, maps = predict_with_maps(grcn, image)
    np.testing.assert_array_equal(found.boxes, grcn.predict(image).boxes)
    with torch.no_grad():
        batch, _ = grcn.model.batch([torch.from_numpy(image).permute(2, 0, 1)])
        expected = grcn.model.eval().separation(batch)
    assert maps is not None
    for ours, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, wanted)
    assert not grcn.model.separation._forward_hooks


def test_large_photos_are_shown_smaller(grcn: Detector, tmp_path: Path) -> None:
    Image.new("RGB", (2600, 1300)).save(tmp_path / "large.png")
    seen = look(tmp_path / "large.png", "large.png", {"ours": grcn})
    assert (seen["width"], seen["height"]) == (2600, 1300)
    assert picture(seen["photo"]).shape == (640, 1280, 3)
    assert picture(seen["detectors"][0]["maps"][0]["energy"]).shape == (640, 1280, 3)


def test_energy() -> None:
    map_ = np.zeros((2, 2, 3), np.float32)
    map_[:, 0, 1] = -4, 2  # mean of 4 and 2
    map_[:, 1, 2] = 1, 2
    np.testing.assert_allclose(energy(map_), [[0, 3, 0], [0, 0, 1.5]])


def test_energy_lies_over_what_the_cells_saw(grcn: Detector) -> None:
    # A photo of 192 x 100 becomes 96 x 50, padded to 96 x 64: 6 x 4 cells of stride 16, of which 6 x 3.125 are photo.
    hot = torch.zeros(1, 8, 4, 6)
    hot[0, :, 2, 4] = 1  # its centre is at x = 72, y = 40 of the input: at 144, 80 of the photo
    hot[0, :, 3, 0] = 5  # padding and two rows of the photo's pixels
    maps = Maps([hot], [torch.ones(1, 8, 2, 3)], [hot])
    flat, loc = page._energies(grcn, maps, (100, 192), (192, 100))
    assert picture(flat["energy"]).max() < 8, "no contrast is no energy"
    bright = picture(loc["energy"]).astype(float).sum(axis=2)
    warm = bright[:, 96:]
    y, x = np.unravel_index(warm.argmax(), warm.shape)
    assert abs(x + 96 - 144) <= 6
    assert abs(y - 80) <= 6


def test_what_cannot_be_decoded(grcn: Detector, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"^mine\.jpg: damaged"):
        look(tmp_path / "notes.jpg", "mine.jpg", {"ours": grcn})


def test_answers(grcn: Detector, photo: Path, worker: ThreadPoolExecutor) -> None:
    (photo.parent / "notes.jpg").write_text("no picture")

    def ask(upload: dict[str, Any]) -> dict[str, Any]:
        return respond(upload, photo.parent, {"ours": grcn}, worker)

    assert ask({"path": str(photo), "orig_name": "mine.png"})["name"] == "mine.png"
    assert ask({"path": str(photo)})["name"] == "one.png"
    bad = ask({"path": str(photo.parent / "notes.jpg"), "orig_name": "mine.jpg"})
    assert list(bad) == ["error"]
    assert bad["error"].startswith("mine.jpg: damaged")


def test_only_uploads_are_opened(grcn: Detector, photo: Path, worker: ThreadPoolExecutor) -> None:
    uploads = photo.parent / "uploads"
    uploads.mkdir()
    (uploads / "link.png").symlink_to(photo)
    for path in (photo, uploads / ".." / "one.png", uploads / "link.png", "/etc/hostname"):
        assert respond({"path": str(path)}, uploads, {"ours": grcn}, worker) == {
            "error": f"{Path(path).resolve().name}: is not an upload of this page"
        }


def test_time_is_limited(
    grcn: Detector, photo: Path, worker: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_SECONDS", 0.0)
    late = respond({"path": str(photo)}, photo.parent, {"ours": grcn}, worker)
    assert late == {"error": "one.png: took more than 0 seconds; try again, or a smaller photo"}
    monkeypatch.setattr(page, "MAX_SECONDS", 60.0)
    assert respond({"path": str(photo)}, photo.parent, {"ours": grcn}, worker)["name"] == "one.png"


def test_without_gradio(grcn: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # open_page sets it
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'grcn\[demo\]'"):
        page.open_page({"ours": grcn})


def test_heading_escapes_names(grcn: Detector) -> None:
    many = Detector(build_detector(grcn.config, 14, weights=None), [f"<i>{n}</i>" for n in range(14)])
    text = page._heading({"<script>": many})
    assert "<script>" not in text
    assert "<i>" not in text
    assert "and 2 more" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("demo nowhere", 6, "nowhere: no such run folder, weights file or preset"),
        ("demo . --port 70000", 2, "port 70000: needs 1 to 65535"),
        ("demo . . .", 2, "unexpected argument '.'"),
    ],
)
def test_wrong_words(
    words: str, code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == code
    assert message in capsys.readouterr().err

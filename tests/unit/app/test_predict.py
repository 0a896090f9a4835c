"""`predict` writes what it says, where it says, for images, videos and standard input."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from grcn.app.predict import Summary, predict
from grcn.app.sources import find_sources
from grcn.data.dataset import open_dataset
from grcn.data.image import read_image
from grcn.errors import ConfigError, ImageError
from grcn.types import Detections

NAMES = ("light", "dark")


class Finder:
    """Finds the bounding boxes of white (light) and of black (dark) pixels on grey; what is asked of a Detector."""

    class_names = NAMES
    preset = "finder"

    def predict(self, image: np.ndarray, *, score: float) -> Detections:
        boxes, scores, ids = [], [], []
        for class_id, mask in enumerate(((image > 220).all(axis=2), (image < 30).all(axis=2))):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if len(rows):
                boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                scores.append(0.9 - 0.4 * class_id)
                ids.append(class_id)
        return Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(ids), NAMES).above(score)


def picture(light: tuple[int, int, int, int], dark: tuple[int, int, int, int] | None = None) -> np.ndarray:
    image = np.full((60, 100, 3), 128, dtype=np.uint8)
    for value, box in ((255, light), (0, dark)):
        if box:
            image[box[1] : box[3], box[0] : box[2]] = value
    return image


LIGHT, DARK = (10, 20, 40, 50), (60, 5, 90, 30)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, image in (
        ("a/x.png", picture(LIGHT, DARK)),
        ("b/x.png", picture(LIGHT)),
        ("b/none.bmp", picture((0, 0, 0, 0))),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, out: str = "out", **options: Any) -> Summary:
    sources, _ = find_sources(arguments, Path(out))
    return predict(Finder(), sources, Path(out), **options)


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_images_give_pictures_results_and_their_key(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    summary = run("a", "b")
    assert (summary.images, summary.frames, dict(summary.found), summary.broken) == (3, 0, {"light": 2, "dark": 1}, [])
    results = read("out/results.json")
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in results] == [
        (1, 1, [10, 20, 30, 30]),
        (1, 2, [60, 5, 30, 25]),
        (3, 1, [10, 20, 30, 30]),
    ]
    assert results[0]["score"] == pytest.approx(0.9)
    key = read("out/images.json")
    assert key["categories"] == [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}]
    assert key["images"][0] == {
        "id": 1,
        "file_name": "x.png",
        "path": str(folder / "a" / "x.png"),
        "width": 100,
        "height": 60,
    }
    assert [image["file_name"] for image in key["images"]] == ["x.png", "none.bmp", "x.png"]

    written = {"drawn/x.jpg", "drawn/x-2.jpg", "drawn/none.jpg", "results.json", "images.json"}
    assert files(folder / "out") == written
    assert {name: (folder / name).read_bytes() for name in files(folder) if not name.startswith("out/")} == before
    with_both, with_light = (read_image(f"out/drawn/{name}.jpg").astype(int) for name in ("x", "x-2"))
    difference = np.abs(with_both - with_light).max(axis=2)
    assert difference[:, 300:].max() > 100, "what one folder's x shows does not stand in the other's"
    assert difference[:, :250].max() < 60


def test_the_score_decides_what_is_kept(folder: Path) -> None:
    assert dict(run("a", score=0.6).found) == {"light": 1}
    assert dict(run("a", score=0.95).found) == {}
    assert read("out/results.json") == []


def test_broken_images_are_told_and_the_rest_is_done(folder: Path) -> None:
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8 not a jpeg")
    (folder / "b" / "empty.png").write_bytes(b"")
    told: list[ImageError] = []
    steps: list[tuple[int, int]] = []
    summary = run("b", on_broken=told.append, progress=lambda *step: steps.append(step), save=["voc"])
    assert [str(error).split(":")[0] for error in told] == ["b/broken.jpg", "b/empty.png"]
    assert summary.broken == told
    assert summary.images == 2
    assert steps == [(i, 4) for i in range(5)]
    assert [image["id"] for image in read("out/images.json")["images"]] == [1, 2]
    assert len(open_dataset("out/voc")) == 2


def test_a_file_that_vanishes_is_a_broken_source(folder: Path) -> None:
    sources, _ = find_sources(["a", "b"], Path("out"))
    (folder / "a" / "x.png").unlink()
    summary = predict(Finder(), sources, Path("out"))
    assert [str(error) for error in summary.broken] == ["a/x.png: cannot be read: No such file or directory"]
    assert summary.images == 2


def test_standard_input_is_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO((folder / "a" / "x.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Standard)
    run("-", save=["yolo"])
    assert read("out/images.json")["images"] == [{"id": 1, "file_name": "-", "width": 100, "height": 60}]
    assert len(read("out/results.json")) == 2
    assert files(folder / "out") >= {"drawn/stdin.jpg", "yolo/images/train/stdin.png", "yolo/labels/train/stdin.txt"}


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_saved_labels_can_be_trained_on(folder: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(picture(LIGHT, DARK)).copy())
    turned.save(folder / "b" / "turned photo.png", exif=exif)
    Image.fromarray(picture(LIGHT)).save(folder / "b" / "odd.weird", format="png")
    run("a", "b", "b/odd.weird", save=[kind])

    dataset = open_dataset(f"out/{kind}")
    assert dataset.format == kind
    assert dataset.class_names == NAMES
    assert dataset.defects == ()
    found = {record.path.stem: record for record in dataset}
    assert set(found) == {"x", "x-2", "none", "odd", "turned_photo"}
    assert len(found["none"].target) == 0
    for name in ("x", "turned_photo"):
        record = found[name]
        assert (record.height, record.width) == (60, 100)
        np.testing.assert_allclose(record.target.boxes, [LIGHT, DARK], atol=1e-3)
        assert record.target.labels.tolist() == [0, 1]
        np.testing.assert_array_equal(read_image(record.path), picture(LIGHT, DARK))
    np.testing.assert_array_equal(read_image(found["odd"].path), picture(LIGHT))


def test_label_studio_gets_tasks_and_gives_a_data_set(folder: Path) -> None:
    run("a", "b", save=["labelstudio"])
    root = folder / "out" / "labelstudio"
    assert files(root) == {
        "tasks.json",
        "interface.txt",
        "classes.txt",
        "images/x.png",
        "images/x-2.png",
        "images/none.bmp",
    }
    tasks = read("out/labelstudio/tasks.json")
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=labelstudio/images/{name}" for name in ("x.png", "none.bmp", "x-2.png")
    ]
    assert tasks[0]["predictions"][0]["model_version"] == "finder"
    assert tasks[0]["predictions"][0]["result"][1]["score"] == pytest.approx(0.5)
    for task in tasks:  # accepted as it is
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    (root / "corrected.json").write_text(json.dumps(tasks))
    data = open_dataset("out/labelstudio")
    assert (data.format, data.class_names, data.defects) == ("labelstudio", NAMES, ())
    assert [(record.image_id, len(record.target)) for record in data] == [("x", 2), ("none", 0), ("x-2", 1)]
    np.testing.assert_allclose(data[0].target.boxes, [LIGHT, DARK], atol=1e-4)


def test_fiftyone_gets_samples(folder: Path) -> None:
    run("a", "b", save=["fiftyone"])
    assert files(folder / "out" / "fiftyone") == {"samples.json", "data/x.png", "data/x-2.png", "data/none.bmp"}
    samples = read("out/fiftyone/samples.json")["samples"]
    assert [sample["filepath"] for sample in samples] == ["data/x.png", "data/none.bmp", "data/x-2.png"]
    first, second = samples[0]["predictions"]["detections"]
    assert (first["label"], first["confidence"]) == ("light", pytest.approx(0.9))
    np.testing.assert_allclose(second["bounding_box"], [0.6, 5 / 60, 0.3, 25 / 60])
    assert samples[1]["predictions"] == {"_cls": "Detections", "detections": []}


def test_corrected_labels_are_never_overwritten(folder: Path) -> None:
    run("a", save=["voc"])
    label = folder / "out" / "voc" / "Annotations" / "x.xml"
    label.write_text("corrected")
    with pytest.raises(ConfigError, match=r"out/voc: exists, perhaps with corrected labels"):
        run("b", save=["yolo", "voc"])
    assert label.read_text() == "corrected"
    assert not (folder / "out" / "yolo").exists()
    run("b")  # without labels an earlier run's results are replaced
    assert len(read("out/images.json")["images"]) == 2


def write_video(path: Path, frames: list[np.ndarray], fps: float = 12.5) -> None:
    codec = {".mp4": "mp4v", ".avi": "MJPG"}[path.suffix]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()


def read_video(path: str) -> list[np.ndarray]:
    video = cv2.VideoCapture(path)
    frames = []
    while (frame := video.read()[1]) is not None:
        frames.append(frame[:, :, ::-1])
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_videos_are_drawn_and_listed_frame_by_frame(folder: Path, suffix: str) -> None:
    frames = [picture((x, 20, x + 30, 50)) for x in (0, 20, 40, 60)]
    write_video(folder / f"clip{suffix}", frames)
    summary = run(f"clip{suffix}", "a", save=["voc"])
    assert (summary.images, summary.frames, summary.found["light"]) == (1, 4, 5)
    listed = read("out/frames/clip.json")
    assert {key: listed[key] for key in ("video", "width", "height", "fps")} == {
        "video": f"clip{suffix}",
        "width": 100,
        "height": 60,
        "fps": 12.5,
    }
    assert len(listed["frames"]) == 4
    for number, (frame, x) in enumerate(zip(listed["frames"], (0, 20, 40, 60), strict=True)):
        assert [result["image_id"] for result in frame] == [number]
        np.testing.assert_allclose(frame[0]["bbox"], [x, 20, 30, 30], atol=3)  # the codec blurs edges
    assert [result["image_id"] for result in read("out/results.json")] == [1, 1]
    drawn = read_video("out/drawn/clip.mp4")
    assert len(drawn) == 4
    scale = 512 / 100
    red = [
        frame[int(51 * scale / 1.02), int((x + 15) * scale)].astype(int)
        for frame, x in zip(drawn, (0, 20, 40, 60), strict=True)
    ]
    assert all(r - max(g, b) > 40 for r, g, b in red), "the lower edge of each box, in the first class's red"


def test_broken_videos_are_broken_sources(folder: Path) -> None:
    (folder / "broken.mp4").write_bytes(b"\0" * 1000)
    write_video(folder / "good.mp4", [picture(LIGHT)] * 2)
    data = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    summary = run("broken.mp4", "cut.mp4", "good.mp4")
    assert [str(error).split(":")[0] for error in summary.broken] == ["broken.mp4", "cut.mp4"]
    assert summary.frames == 2


@pytest.fixture(autouse=True)
def nothing_else_is_written(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], None]:
    """No test leaves anything in the working directory but the folder of results and its own inputs."""
    yield
    inputs = {"a", "b", "out", "clip.mp4", "clip.avi", "broken.mp4", "good.mp4", "cut.mp4"}
    assert {path.name for path in tmp_path.iterdir()} <= inputs

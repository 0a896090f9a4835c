"""`predict` writes what it says, where it says, for images, videos and standard input."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import networks
from grcn import Detector
from grcn.data.dataset import open_dataset
from grcn.data.image import read_image
from grcn.errors import ConfigError, ImageError
from grcn.predict.job import Summary, predict_sources
from grcn.predict.results import read_key
from grcn.predict.sources import find_sources
from networks import looking
from videos import decode, encode

NAMES = ("light", "dark")


def look(image: np.ndarray) -> tuple[Any, Any, Any]:
    """The bounding boxes of white (light) and of black (dark) pixels on grey."""
    boxes, scores, ids = [], [], []
    for class_id, mask in enumerate(((image > 220).all(axis=2), (image < 30).all(axis=2))):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            scores.append(0.9 - 0.4 * class_id)
            ids.append(class_id)
    return boxes, scores, ids


def finder(look: Callable[[np.ndarray], tuple[Any, Any, Any]] = look) -> Detector:
    return looking(look, NAMES, "finder")


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
    return predict_sources(finder(), sources, Path(out), **options)


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

    assert [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()] == results
    assert key["complete"] is True

    written = {"drawn/x.jpg", "drawn/x-2.jpg", "drawn/none.jpg", "results.json", "results.jsonl", "images.json"}
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
    summary = predict_sources(finder(), sources, Path("out"))
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


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_videos_are_drawn_and_listed_frame_by_frame(folder: Path, suffix: str) -> None:
    frames = [picture((x, 20, x + 30, 50)) for x in (0, 20, 40, 60)]
    encode(folder / f"clip{suffix}", frames)
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
    drawn = decode(Path("out/drawn/clip.mp4"))
    assert len(drawn) == 4
    scale = 512 / 100
    blue = [
        frame[int(51 * scale / 1.02), int((x + 15) * scale)].astype(int)
        for frame, x in zip(drawn, (0, 20, 40, 60), strict=True)
    ]
    assert all(b - r > 40 for r, _, b in blue), "the lower edge of each box, in the first class's blue"


def test_broken_videos_are_broken_sources(folder: Path) -> None:
    (folder / "broken.mp4").write_bytes(b"\0" * 1000)
    encode(folder / "good.mp4", [picture(LIGHT)] * 2)
    data = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    summary = run("broken.mp4", "cut.mp4", "good.mp4")
    assert [str(error).split(":")[0] for error in summary.broken] == ["broken.mp4", "cut.mp4"]
    assert summary.frames == 2


# What was found is kept, and what fails costs itself alone.


def stopped(end: int, seen: Callable[[], None] = lambda: None) -> Detector:
    """Is interrupted, as by Ctrl-C, at its picture number `end`, from 1; before that it tells `seen` of each."""
    calls = iter(range(1, 1_000_000))

    def look_until(image: np.ndarray) -> tuple[Any, Any, Any]:
        if next(calls) == end:
            raise KeyboardInterrupt
        seen()
        return look(image)

    return finder(look_until)


def test_results_grow_image_by_image(folder: Path) -> None:
    run("a", "b")  # an earlier run, whose results go
    seen: list[tuple[bool, int]] = []

    def look() -> None:
        lines = Path("out/results.jsonl").read_text().splitlines()
        seen.append((Path("out/results.json").exists(), len(lines)))
        assert read("out/images.json")["complete"] is False

    sources, _ = find_sources(["a", "b"], Path("out"))
    predict_sources(stopped(-1, look), sources, Path("out"), workers=0)
    assert seen == [(False, 0), (False, 2), (False, 2)], "the second image shows nothing"
    assert len(read("out/results.json")) == 3


def test_what_was_found_before_a_stop_is_kept(folder: Path) -> None:
    run("b")
    sources, _ = find_sources(["a", "b"], Path("out"))
    with pytest.raises(KeyboardInterrupt):
        predict_sources(stopped(3), sources, Path("out"), save=["voc", "yolo", "labelstudio", "fiftyone"])
    assert not Path("out/results.json").exists()
    assert len(Path("out/results.jsonl").read_text().splitlines()) == 2
    listed = read("out/images.json")
    assert (listed["complete"], [image["file_name"] for image in listed["images"]]) == (False, ["x.png", "none.bmp"])
    for kind in ("voc", "yolo"):
        data = open_dataset(f"out/{kind}")
        assert (sorted(len(record.target) for record in data), data.defects) == ([0, 2], ())
    assert len(read("out/labelstudio/tasks.json")) == len(read("out/fiftyone/samples.json")["samples"]) == 2


@contextmanager
def full_beyond(size: int) -> Iterator[None]:
    """As on a disk that has room for small files alone: none grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(height: int = 300, width: int = 400) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["full", "wide", "in the way"])
def test_a_picture_that_cannot_be_written_costs_itself_alone(folder: Path, kind: str) -> None:
    if kind == "full":
        Image.fromarray(noise()).save(folder / "b" / "bad.jpg", quality=95)
    else:
        Image.new("RGB", (66_000 if kind == "wide" else 100, 2)).save(folder / "b" / "bad.png")
    if kind == "in the way":
        (folder / "out" / "drawn" / "bad.jpg" / "below").mkdir(parents=True)
    said = {
        "full": r"^b/bad\.jpg: out/voc/JPEGImages/bad\.jpg: cannot be written: File too large$",
        "wide": r"^b/bad\.png: the drawn picture has 66000 x 2 pixels; a JPEG has at most 65500 per side$",
        "in the way": r"^b/bad\.png: out/drawn/bad\.jpg: cannot be written: Is a directory$",
    }
    with full_beyond(60_000):
        summary = run("a", "b", save=["voc", "yolo"])
    assert summary.images == 3
    with pytest.raises(ImageError, match=said[kind]):
        raise summary.broken[0]
    assert len(read("out/results.json")) == 3
    assert [image["id"] for image in read("out/images.json")["images"]] == [1, 2, 3]
    assert not [name for name in files(folder / "out") if "bad" in name]
    for format in ("voc", "yolo"):
        data = open_dataset(f"out/{format}")
        assert (len(data), data.defects) == (3, ())


def test_results_that_have_no_room_leave_whole_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def much(image: np.ndarray) -> tuple[Any, Any, Any]:
        """Finds much more in the photo of two colours than the disk can take."""
        seen = look(image)
        return seen if len(seen[0]) < 2 else (np.tile([0, 0, 5, 5], (1000, 1)), np.full(1000, 0.5), [0] * 1000)

    monkeypatch.setattr("grcn.predict.job.draw_detections", lambda image, found: image)
    sources, _ = find_sources(["b", "a"], Path("out"))
    with full_beyond(60_000):
        summary = predict_sources(finder(much), sources, Path("out"))
    assert [str(error) for error in summary.broken] == ["a/x.png: out/results.jsonl: cannot be written: File too large"]
    assert len(read("out/results.json")) == len(Path("out/results.jsonl").read_text().splitlines()) == 1
    assert {path.name for path in Path("out/drawn").iterdir()} == {"none.jpg", "x.jpg"}


def test_names_that_are_not_text_are_written_and_read_back(folder: Path) -> None:
    odd = [os.fsdecode(name) for name in (b"caf\xe9.png", b"a\nb\x01.png")]
    for name in odd:
        Image.fromarray(picture(LIGHT)).save(folder / "b" / name, format="png")
    run("b", save=["voc", "yolo", "labelstudio", "fiftyone"])
    images = read("out/images.json")["images"]
    assert {image["file_name"] for image in images} == {"x.png", "none.bmp", *odd}
    assert all(Path(image["path"]).is_file() for image in images)
    assert {path.name for path in Path("out/drawn").iterdir()} == {"x.jpg", "none.jpg", "caf_.jpg", "a_b_.jpg"}
    for kind in ("voc", "yolo"):
        data = open_dataset(f"out/{kind}")
        assert (sum(len(record.target) for record in data), data.defects) == (3, ())
    # A data set's own names, too, as `grcn evaluate --predictions` meets them.
    key = read_key(Path("out/images.json"))
    assert {name for name, _ in key.images.values()} == {"x.png", "none.bmp", *odd}


@pytest.mark.parametrize("kind", ["full", "in the way"])
def test_a_video_that_cannot_be_written_is_named_and_leaves_no_half(folder: Path, kind: str) -> None:
    encode(folder / "clip.avi", [noise() for _ in range(5)])
    if kind == "in the way":
        (folder / "out" / "drawn" / "clip.mp4" / "below").mkdir(parents=True)
    with full_beyond(60_000):
        summary = run("clip.avi", "a")
    with pytest.raises(ImageError, match=r"^clip\.avi: out/drawn/clip\.mp4: cannot be written: "):
        raise summary.broken[0]
    assert (summary.images, summary.frames) == (1, 0)
    written = {"drawn/x.jpg", "results.json", "results.jsonl", "images.json", "frames/clip.jsonl"}
    assert files(folder / "out") == written


@pytest.mark.parametrize("where", ["nowhere", "clip.avi"])
def test_each_source_names_what_it_cannot_write_where_no_folder_can_be_made(folder: Path, where: str) -> None:
    """`drawn` is a link that leads nowhere, or a file."""
    encode(folder / "clip.avi", [noise() for _ in range(2)])
    (folder / "out").mkdir()
    (folder / "out" / "drawn").symlink_to(folder / where)
    said = [str(error) for error in run("clip.avi", "a").broken]
    assert said[0].startswith("clip.avi: out/drawn/clip.mp4: cannot be written: ")
    assert said[1].startswith("a/x.png: out/drawn")
    assert len(said) == 2


def test_the_frames_before_a_stop_are_kept(folder: Path) -> None:
    encode(folder / "clip.avi", [picture((x, 20, x + 30, 50)) for x in (0, 20, 40, 60)])
    sources, _ = find_sources(["clip.avi"], Path("out"))
    with pytest.raises(KeyboardInterrupt):
        predict_sources(stopped(4), sources, Path("out"))
    frames = [json.loads(line) for line in Path("out/frames/clip.jsonl").read_text().splitlines()]
    assert [[result["image_id"] for result in frame] for frame in frames] == [[0], [1], [2]]
    assert files(folder / "out") == {"frames/clip.jsonl", "results.jsonl", "images.json"}


PLACES = [str(Path(networks.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(PLACES)}
SLOW = """
import signal, sys, time
from grcn.cli.main import main
from grcn.predict.detector import Detector
from networks import looking

def look(image):
    time.sleep(0.1)
    return [[0, 0, 5, 5]], [0.5], [0]

Detector.load = lambda *a, **k: looking(look, ("light",), "slow")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.exit(main(["predict", "run", "many", "--out", "out"]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_process_that_is_stopped_has_kept_what_it_found(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "a" / "many").mkdir(parents=True)
    for i in range(200):
        Image.fromarray(picture(LIGHT)).save(tmp_path / "a" / "many" / f"{i:03}.png")
    lines = tmp_path / "a" / "out" / "results.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        cwd=tmp_path / "a",
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (lines.exists() and lines.read_text().count("\n") >= 3):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    listed = json.loads(lines.with_name("images.json").read_text())
    assert listed["complete"] is False
    assert 3 <= len(found) < 200
    if code > 0:
        assert [image["id"] for image in listed["images"]] == [result["image_id"] for result in found]
        assert f"{number.name}: stopped; what was found is in out/results.jsonl" in err
    assert not lines.with_name("results.json").exists()


WAITING = """
import sys
from grcn import locks
from grcn.cli.main import main
from grcn.predict.detector import Detector
from networks import looking

locks.MOMENT = 0.1
Detector.load = lambda *a, **k: looking(lambda image: ([[0, 0, 5, 5]], [0.5], [0]), ("light",), "quick")
sys.exit(main(["predict", "run", sys.argv[1], "--out", "out"]))
"""


def test_of_two_processes_with_one_folder_the_second_is_refused(folder: Path) -> None:
    def start(source: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", WAITING, source]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, **pipes)

    first = start("-")  # waits for its picture
    try:
        while not Path("out/results.jsonl").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        second = start("a/x.png")
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (2, b"")
        assert f"out: process {first.pid} on ".encode() in err
        assert err.endswith(b" is using it; wait until it ends, or choose another folder (--out)\n")
        _, err = first.communicate(Path("a/x.png").read_bytes(), timeout=60)
        assert first.returncode == 0, err
    finally:
        first.kill()
    assert read("out/images.json")["complete"] is True
    assert [image["file_name"] for image in read("out/images.json")["images"]] == ["-"]
    assert files(folder / "out") == {"results.jsonl", "results.json", "images.json", "drawn/stdin.jpg"}


@pytest.fixture(autouse=True)
def nothing_else_is_written(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], None]:
    """No test leaves anything in the working directory but the folder of results and its own inputs."""
    yield
    inputs = {"a", "b", "out", "clip.mp4", "clip.avi", "broken.mp4", "good.mp4", "cut.mp4"}
    assert {path.name for path in tmp_path.iterdir()} <= inputs

"""`grcn demo RUN [OTHER]` in a real browser: a started process, Chromium, photos dropped on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calibrate import enliven
from grcn import Detections, Detector
from grcn.config import InputConfig
from grcn.model.detector import build_detector
from grcn.page import app as page
from grcn.predict.checkpoint import save_detector
from grcn.presets import preset
from grcn.thresholds import KEY, Thresholds

httpx = pytest.importorskip("httpx")
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt install chromium)")

NAMES = ("cat", "dog", "<b>eel</b>")
RUNS = ("grcn_r18", "faster_rcnn_r18_c4")
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
THRESHOLDS = Thresholds(NAMES, (0.3, 0.7, None), (None, None, None), 0.5, 0.9, 1.0, 0.5, "zoo", "val")
SECONDS = 60_000  # in ms, that the browser waits for anything


MAPS: dict[str, Any] = {"separation": "conv4", "cls_stride": 32}
"""So that each task has a map of its own, and the two differ before any training."""


def save_small_detector(path: Path, name: str, *, thresholds: bool = True) -> None:
    """Random weights that find something, in little time."""
    torch.manual_seed(0)
    config = preset(name)
    config = replace(
        config,
        **(MAPS if config.separation != "none" else {}),
        input=InputConfig(96, 128),
        rpn=replace(config.rpn, channels=16, anchor_sizes=(16.0, 32.0, 64.0), pre_nms_test=100, post_nms_test=20),
        roi=replace(config.roi, size=4, reduce_channels=16, fc_channels=32, batch_per_image=12),
    )
    model = build_detector(config, len(NAMES), weights=None)
    images = [torch.nn.functional.interpolate(torch.rand(1, 3, 13, 17), (96, 128), mode="bicubic")[0].clamp(0, 1)] * 2
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40], [20, 30, 60, 80]]), "labels": torch.tensor([0, 1])}
    enliven(model, images, [target, target])
    save_detector(path, model, class_names=NAMES, preset=name, extra={KEY: THRESHOLDS.to_json()} if thresholds else {})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two detectors, photos and what is none."""
    folder = tmp_path_factory.mktemp("page")
    for name in RUNS:
        save_small_detector(folder / f"{name}.safetensors", name)
    save_small_detector(folder / "plain.safetensors", "grcn_r18", thresholds=False)
    rng = np.random.default_rng(0)
    for name, (width, height) in {"wide": (320, 240), "tall": (150, 220)}.items():
        noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        noise.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    (folder / "notes.jpg").write_text("no picture at all")
    Image.new("1", (9000, 9000)).save(folder / "bomb.png")
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(page.MAX_BYTES + 1)
    (folder / "tmp").mkdir()
    return folder


@dataclass
class Server:
    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rstrip("/").rsplit(":", 1)[1])


@contextmanager
def serving(work: Path, *words: str) -> Iterator[Server]:
    """`grcn demo WORDS`, started in `work`, its output in log.txt; ended by SIGTERM where it has not ended before."""
    log = work / "log.txt"
    environment = {**os.environ, "TMPDIR": str(work / "tmp"), "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "grcn", "demo", *words],
            cwd=work,
            env=environment,
            stdout=file,
            stderr=file,
            text=True,
            # A shell's background job, which the tests may be, ignores it, and so would this one.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"^open (\S+) in a browser", log.read_text(), re.MULTILINE)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Server(process, found[1])
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[Server]:
    with serving(work, *(f"{name}.safetensors" for name in RUNS)) as server:
        yield server
    assert server.process.returncode == 143
    assert "Traceback" not in (work / "log.txt").read_text()
    assert not list((work / "tmp").iterdir()), "no photo stays behind"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = running.chromium.launch(executable_path=CHROMIUM, args=flags + camera)
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Any, address: str, **device: Any) -> Iterator[Any]:
    """The open page. Whatever it asks for beyond that server, and errors of its scripts, fail the test."""
    context = browser.new_context(accept_downloads=True, **device)
    context.set_default_timeout(SECONDS)
    tab = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#photo input[type=file]", state="attached")
    yield tab
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    context.close()


def drop(tab: Any, photo: Path) -> None:
    tab.set_input_files("#photo input[type=file]", photo)


def wait_for(tab: Any, photo: Path) -> None:
    """Until what was found in `photo` is there, and is no longer under gradio's veil."""
    with Image.open(photo) as image:
        tab.wait_for_selector(f'#view figure svg[viewBox="0 0 {image.width} {image.height}"]')


def shown(figure: Any) -> list[tuple[str, list[float]]]:
    """Label and box of each detection that can be seen."""
    read = "r => [r.getAttribute('aria-label'), ['x', 'y', 'width', 'height'].map(key => +r.getAttribute(key))]"
    return [(label, box) for label, box in figure.locator("rect:visible").evaluate_all(f"all => all.map({read})")]


def assert_shows(figure: Any, found: Detections) -> None:
    labels = [f"{name} {score:.2f}" for name, score in zip(found.names, found.scores, strict=True)]
    seen = shown(figure)
    assert sorted(label for label, _ in seen) == sorted(labels)
    boxes = sorted(result["bbox"] for result in found.to_coco(0))
    np.testing.assert_allclose(sorted(box for _, box in seen), boxes, atol=0.05)


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_two_detectors_side_by_side(work: Path, server: Server, browser: Any, device: dict[str, Any]) -> None:
    detectors = [Detector.load(work / f"{name}.safetensors") for name in RUNS]
    found = [detector.predict(work / "wide.png") for detector in detectors]
    with visiting(browser, server.address, **device) as tab:
        drop(tab, work / "wide.png")
        wait_for(tab, work / "wide.png")
        figures = tab.locator("#view figure").all()
        for name, figure in zip(RUNS, figures, strict=True):
            assert name in figure.locator("figcaption").inner_text()

        # At first each class from its best score. The score slider: at once, and without asking the server.
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        for figure, detections in zip(figures, found, strict=True):
            best = detections.above(THRESHOLDS.of("best"))
            assert 0 < len(best) < len(detections)
            assert_shows(figure, best)
        assert tab.locator(".score output").inner_text() == "that of each class"
        counts = set()
        for score in (0.5, 0.05, 0.7, 0.95):  # 0.05: the detectors' own, and the least there is
            tab.fill(".score input", str(score))
            for figure, detections in zip(figures, found, strict=True):
                assert_shows(figure, detections.above(score))
            counts.add(len(shown(figures[0])))
            assert tab.locator(".score output").inner_text() == f"{score:.2f}"
            assert not tab.is_checked(".best input")
        assert len(counts) > 2, "the scores spread"
        tab.check(".best input")
        assert_shows(figures[0], found[0].above(THRESHOLDS.of("best")))
        assert asked == []

        # Hovering, or a tap, tells class and score, whatever the name holds.
        tab.fill(".score input", "0.05")
        last = figures[1].locator("rect:visible").last  # the smallest: nothing lies over it
        last.tap() if device is PHONE else last.hover()
        assert tab.locator(".tip").inner_text() == last.get_attribute("aria-label")
        tip, box = tab.locator(".tip").bounding_box(), last.bounding_box()
        assert tip["y"] + tip["height"] <= box["y"], "nothing of what it names is hidden"
        figures[0].locator("rect:visible").last.focus()  # or the keyboard
        assert tab.locator(".tip").inner_text() == figures[0].locator("rect:visible").last.get_attribute("aria-label")
        assert any("<b>eel</b>" in label for figure in figures for label, _ in shown(figure))
        assert tab.locator("#view figure b").count() == 0

        # Side by side, or one below the other where there is no room, and never wider than the screen.
        first, second = (figure.bounding_box() for figure in figures)
        width = device["viewport"]["width"]
        assert (second["y"] == first["y"] and second["x"] >= first["x"] + first["width"]) == (width == 1280)
        assert (second["x"] == first["x"] and second["y"] >= first["y"] + first["height"]) == (width == 360)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert first["width"] > 0.85 * min(width, 640)


def test_what_each_task_looks_at(work: Path, server: Server, browser: Any) -> None:
    with visiting(browser, server.address, **DESKTOP) as tab:
        drop(tab, work / "tall.png")
        wait_for(tab, work / "tall.png")
        notes = tab.locator(".note")
        assert tab.locator(".energy:visible").count() == 0
        pictures = {}
        for layer in ("cls", "loc"):
            tab.check(f"input[value={layer}]")
            assert tab.locator(".energy:visible").count() == 2
            pictures[layer] = [image.get_attribute("href") for image in tab.locator(".energy:visible").all()]
            assert "the one map of both tasks, stride 16" in notes.nth(1).inner_text()
        assert "the map of localization, stride 16" in notes.nth(0).inner_text()
        assert pictures["cls"][0] != pictures["loc"][0]
        assert pictures["cls"][1] == pictures["loc"][1]
        tab.check("input[value=photo]")
        assert tab.locator(".energy:visible").count() == 0


def test_the_json(work: Path, server: Server, browser: Any) -> None:
    found = Detector.load(work / "grcn_r18.safetensors").predict(work / "tall.png", score=0.6)
    with visiting(browser, server.address, **DESKTOP) as tab:
        drop(tab, work / "tall.png")
        wait_for(tab, work / "tall.png")
        tab.fill(".score input", "0.6")
        with tab.expect_download() as download:
            tab.click("#view .json >> nth=0")
        assert download.value.suggested_filename == "tall.png.grcn_r18.json"
        results = json.loads(Path(download.value.path()).read_text())
    expected = found.to_coco("tall")
    assert len(results) == len(expected) > 0
    for result, wanted in zip(results, expected, strict=True):
        assert (result["image_id"], result["category_id"]) == ("tall", wanted["category_id"])
        assert result["category_name"] == NAMES[wanted["category_id"] - 1]
        np.testing.assert_allclose([*result["bbox"], result["score"]], [*wanted["bbox"], wanted["score"]], atol=0.05)


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_is_no_photo_gets_a_plain_message(
    work: Path, server: Server, browser: Any, device: dict[str, Any]
) -> None:
    with visiting(browser, server.address, **device) as tab:
        problem = tab.locator("#view .problem")
        drop(tab, work / "wide.png")
        wait_for(tab, work / "wide.png")
        drop(tab, work / "notes.jpg")
        problem.wait_for()
        assert problem.inner_text().startswith("notes.jpg: damaged, or not an image of a known kind")
        assert tab.locator("#view figure").count() == 0, "an earlier photo's boxes are gone"
        tab.wait_for_selector("#photo img", state="hidden")  # no broken picture
        assert tab.evaluate("document.documentElement.scrollWidth") == device["viewport"]["width"]
        drop(tab, work / "bomb.png")
        problem.get_by_text("bomb.png").wait_for()
        assert "9000 x 9000 is more than" in problem.inner_text()
        drop(tab, work / "large.jpg")
        toast = tab.locator(".toast-body")
        toast.wait_for()
        assert "exceed the maximum allowed size of 32" in toast.inner_text()
        drop(tab, work / "wide.png")
        wait_for(tab, work / "wide.png")
        assert problem.is_hidden()


def test_two_users_at_once(work: Path, server: Server, browser: Any) -> None:
    photos = {"wide": work / "wide.png", "tall": work / "tall.png"}
    detector = Detector.load(work / "grcn_r18.safetensors")
    with visiting(browser, server.address) as one, visiting(browser, server.address) as two:
        for _ in range(2):
            drop(one, photos["wide"])
            drop(two, photos["tall"])
            for tab, photo in ((one, photos["wide"]), (two, photos["tall"])):
                wait_for(tab, photo)
                assert_shows(tab.locator("#view figure").first, detector.predict(photo, score="best"))
            photos = {"wide": photos["tall"], "tall": photos["wide"]}


def test_the_webcam(server: Server, browser: Any) -> None:
    with visiting(browser, server.address, **PHONE) as tab:
        tab.click('#photo button[aria-label="Capture from camera"]')
        tab.get_by_title("grant webcam access").click()
        tab.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
        tab.click('#photo button[aria-label="capture photo"]')
        tab.wait_for_selector("#view figure svg")
        assert tab.locator("#view figure").count() == 2


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    table = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    listening = {row[1] for row in table if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == server.port}
    assert {address.rsplit(":", 1)[0] for address in listening} == {"0100007F"}  # 127.0.0.1, little-endian


@pytest.mark.slow  # told only once torch and gradio are there
def test_a_port_in_use_is_a_line(work: Path, server: Server) -> None:
    words = ["grcn_r18.safetensors", "--port", str(server.port)]
    done = subprocess.run([sys.executable, "-m", "grcn", "demo", *words], cwd=work, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"grcn: error: port {server.port}: in use")


def assert_refuses_when_full(server: Server, photo: Path) -> None:
    """Leaves photos in the queue."""
    Image.new("RGB", (6000, 6000)).save(photo, compress_level=1)
    api = f"{server.address}gradio_api"
    with open(photo, "rb") as file:
        (path,) = httpx.post(f"{api}/upload", files={"files": file}, timeout=60).json()
    upload = {"path": path, "orig_name": "slow.png", "meta": {"_type": "gradio.FileData"}}
    codes = []
    for number in range(page.MAX_WAITING + 8):
        event = {"data": [upload], "fn_index": 0, "session_hash": f"user{number}"}
        codes.append(httpx.post(f"{api}/queue/join", json=event, timeout=60).status_code)
    assert set(codes) == {200, 503}
    assert codes.count(200) >= page.MAX_WAITING


def test_one_detector_until_ctrl_c(work: Path, browser: Any) -> None:
    """Its file has no thresholds, so the page shows what the slider says from the start."""
    with serving(work, "plain.safetensors") as server:
        with visiting(browser, server.address, **PHONE) as tab:
            drop(tab, work / "wide.png")
            wait_for(tab, work / "wide.png")
            assert tab.locator("#view figure").count() == 1
            assert tab.is_hidden(".best")
            found = Detector.load(work / "plain.safetensors").predict(work / "wide.png", score=0.5)
            assert_shows(tab.locator("#view figure"), found)
            assert list((work / "tmp").rglob("wide.png"))
            assert_refuses_when_full(server, work / "slow.png")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
    assert (work / "log.txt").read_text().splitlines()[-1] == "grcn: interrupted"

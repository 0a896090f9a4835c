"""The pictures of docs/demo.md: `grcn demo RUN OTHER` in a headless Chromium, with one photo:
`python docs/screenshots.py runs/bccd-grcn runs/bccd-c5 datasets/bccd/JPEGImages/BloodImage_00058.jpg`
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
DESKTOP, PHONE = {"width": 1280, "height": 760}, {"width": 360, "height": 740}


@contextmanager
def serving(*runs: str) -> Iterator[str]:
    """The page of these detectors; its address."""
    process = subprocess.Popen([sys.executable, "-um", "grcn", "demo", *runs], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"open (\S+) in a browser", line):
                yield found[1]
                return
        raise SystemExit("grcn demo ended before its page was open")
    finally:
        process.terminate()
        process.wait()


def save(tab: Any, name: str, width: int) -> None:
    """The whole page as a JPEG so many pixels wide."""
    picture = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
    picture.resize((width, round(picture.height * width / picture.width))).save(
        IMAGES / f"demo-{name}.jpg", quality=82, progressive=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("other")
    parser.add_argument("photo", type=Path)
    options = parser.parse_args()
    with sync_playwright() as running, tempfile.TemporaryDirectory() as folder:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def visit(address: str, photo: Path, waits_for: str, size: dict[str, int], scale: float = 1) -> Any:
            tab = browser.new_context(viewport=size, device_scale_factor=scale).new_page()
            tab.goto(address)
            tab.wait_for_selector("#photo input[type=file]", state="attached")
            tab.set_input_files("#photo input[type=file]", photo)
            tab.wait_for_selector(waits_for)
            tab.wait_for_timeout(1000)  # gradio's veil lifts slowly
            return tab

        with serving(options.run) as address:
            tab = visit(address, options.photo, "#view figure svg", DESKTOP)
            tab.locator("#view rect:visible").last.hover()
            save(tab, "desktop", 1000)
        with serving(options.run, options.other) as address:
            tab = visit(address, options.photo, "#view figure svg", DESKTOP)
            save(tab, "two", 1000)
            tab.check("input[value=cls]")
            save(tab, "maps", 1000)
            save(visit(address, options.photo, "#view figure svg", PHONE, scale=4 / 3), "phone", 480)
            notes = Path(folder, "notes.jpg")
            notes.write_text("no picture at all")
            save(visit(address, notes, "#view .problem", DESKTOP), "error", 1000)
        browser.close()


if __name__ == "__main__":
    main()

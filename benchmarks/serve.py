"""A load on `grcn serve`: many requests of concurrent clients, one in ten of them bad; errors, latency, memory.

    python benchmarks/serve.py [--requests 10000] [--clients 16] [--out FILE.json]

The detector is a grcn_r18 with random weights at 64x48 pixels, so that the service, not the network, is what is tried.
Photos are of many sizes, modes and formats, and each answer is compared with that of `Detector.predict`. Memory is what
the service's process holds (VmRSS) after 500 requests and at the end. Exit code 1 where an answer is not as expected,
or memory grew by more than a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import io
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import torch

import record
from calibrate import enliven
from grcn import Detections, Detector
from grcn.config import InputConfig, RoIConfig, RPNConfig
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import save_detector
from grcn.presets import preset
from grcn.scenes.render import render_scene

FIRST = 500
"""Requests after which memory is first looked at: by then every kind of photo has been seen."""
BAD_SHARE = 0.1
MAX_BYTES, MAX_PIXELS = 4_000_000, 2_000_000
FORMATS = (
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("JPEG", "CMYK"),
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
    ("PNG", "1"),
    ("PNG", "P"),
    ("PNG", "LA"),
    ("TIFF", "F"),
    ("WEBP", "RGB"),
    ("GIF", "P"),
    ("BMP", "RGB"),
)


@dataclass(frozen=True)
class Case:
    """A request, and what must come of it."""

    name: str
    code: int
    request: dict[str, Any]
    found: Detections | None = None


@dataclass
class Tally:
    """What came of the requests."""

    seconds: list[float] = field(default_factory=list)  # of good ones
    codes: Counter[int] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    memory: dict[int, float] = field(default_factory=dict)  # MB by number of requests answered
    answered: int = 0


def save_random_detector(folder: Path) -> None:
    config = replace(
        preset("grcn_r18"),
        input=InputConfig(48, 64),
        rpn=RPNConfig(anchor_sizes=(8.0, 16.0, 32.0), post_nms_test=30, channels=64),
        roi=RoIConfig(fc_channels=32, reduce_channels=16, detections_per_image=20),
    )
    torch.manual_seed(0)
    image = torch.from_numpy(scene(64, 48).transpose(2, 0, 1).copy()) / 255
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    model = enliven(build_detector(config, 3, weights=None), [image, image.flip(2)], [nothing] * 2)
    save_detector(folder / "last.safetensors", model, class_names=("a", "b", "c"), preset="grcn_r18", extra={})


def scene(width: int, height: int, seed: int = 0) -> np.ndarray:
    side = float(min(width, height))
    return render_scene(np.random.default_rng(seed), (width, height), (side / 8, side / 2), (2, 5))[0]


def good_cases(detector: Detector, count: int = 72) -> list[Case]:
    """Photos of 40 to 1000 pixels a side, a third of them of one size, as from one camera."""
    rng = random.Random(0)
    cases = []
    for i in range(count):
        width, height = (640, 480) if i % 3 == 0 else (round(40 * 25 ** rng.random()) for _ in range(2))
        kind, mode = FORMATS[i % len(FORMATS)]
        file = io.BytesIO()
        PIL.Image.fromarray(scene(width, height, i)).convert(mode).save(file, kind)
        found = detector.predict(PIL.Image.open(io.BytesIO(file.getvalue())))
        body = {"content": file.getvalue(), "headers": {"Content-Type": f"image/{kind.lower()}"}}
        cases.append(Case(f"{kind} {mode} {width}x{height}", 200, body if i % 2 else form(file.getvalue()), found))
    return cases


def form(content: bytes, **fields: str) -> dict[str, Any]:
    return {"files": {"image": content}, "data": fields}


def bad_cases(photo: bytes) -> list[Case]:
    file = io.BytesIO()
    PIL.Image.new("1", (3000, 3000)).save(file, "PNG")
    return [
        Case("text", 422, form(b"no photo")),
        Case("empty", 422, form(b"")),
        Case("truncated", 422, form(photo[: len(photo) // 2])),
        Case("too many pixels", 422, form(file.getvalue())),
        Case("wrong field", 422, {"files": {"photo": photo}}),
        Case("no file", 422, {"files": {"score": (None, "0.5")}}),
        Case("score", 422, form(photo, score="nan")),
        Case("json", 415, {"json": {"image": 1}}),
        Case("no form", 400, {"content": b"abc", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}),
        Case("too long", 413, form(bytes(MAX_BYTES))),
        Case("path", 404, {"content": photo}),
    ]


def is_expected(case: Case, answer: httpx.Response) -> bool:
    if answer.status_code != case.code:
        return False
    content = answer.json()
    if case.found is None:
        return isinstance(content["detail"], str)
    same = content["names"] == case.found.names
    return same and np.allclose(content["boxes"], case.found.boxes, atol=0.05) if len(case.found) else same


async def ask_all(cases: Iterator[Case], clients: int, url: str, pid: int) -> Tally:
    """Sends `cases`, each client one after another."""
    tally = Tally()

    async def ask(client: httpx.AsyncClient) -> None:
        for case in cases:
            began = time.perf_counter()
            try:
                answer = await client.post("/nothing" if case.code == 404 else "/predict", **case.request)
            except httpx.HTTPError as error:
                tally.unexpected[f"{case.name}: {type(error).__name__}"] += 1
            else:
                tally.codes[answer.status_code] += 1
                if case.found is not None:
                    tally.seconds.append(time.perf_counter() - began)
                if not is_expected(case, answer):
                    tally.unexpected[f"{case.name}: {answer.status_code} {answer.text[:200]}"] += 1
            tally.answered += 1
            if tally.answered % FIRST == 0:
                tally.memory[tally.answered] = memory(pid)
                print(f"{tally.answered} requests, {tally.memory[tally.answered]} MB", file=sys.stderr, flush=True)

    async with httpx.AsyncClient(base_url=url, timeout=120, verify=False) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return tally


def memory(pid: int) -> float:
    """MB that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


def draw(good: list[Case], bad: list[Case], count: int) -> Iterator[Case]:
    rng = random.Random(1)
    for _ in range(count):
        yield rng.choice(bad if rng.random() < BAD_SHARE else good)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="at least 1000")
    parser.add_argument("--clients", type=int, default=16, help="requests at a time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_random_detector(Path(folder))
        good = good_cases(Detector.load(folder))
        bad = bad_cases(good[0].request["files"]["image"])
        command = [sys.executable, "-m", "grcn", "serve", folder, "--port", "0"]
        command += ["--max_bytes", str(MAX_BYTES), "--max_pixels", str(MAX_PIXELS), "--timeout", "120"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
            try:
                url = [service.stderr.readline() for _ in range(2)][1].split()[1].removesuffix(":")
                at_start = memory(service.pid)
                began = time.perf_counter()
                tally = asyncio.run(ask_all(draw(good, bad, options.requests), options.clients, url, service.pid))
                seconds = time.perf_counter() - began
                service.send_signal(signal.SIGTERM)
                log = service.communicate(timeout=60)[1]
            finally:
                service.kill()
    p50, p95, p99 = (round(1000 * float(value), 1) for value in np.percentile(tally.seconds, (50, 95, 99)))
    first, last = tally.memory[FIRST], list(tally.memory.values())[-1]
    row = {
        "requests": tally.answered,
        "clients": options.clients,
        "unexpected": sum(tally.unexpected.values()),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "per_s": round(tally.answered / seconds, 1),
        "start_mb": at_start,
        "first_mb": first,
        "last_mb": last,
        "growth": round(last / first - 1, 4),
        "exit_code": service.returncode,
    }
    met = not tally.unexpected and row["growth"] <= 0.1 and service.returncode == 0
    print(record.table([row], tuple(row)))
    print(log, end="", file=sys.stderr)
    for what, count in tally.unexpected.items():
        print(f"unexpected, {count} times: {what}")
    if options.out:
        versions = {name: importlib.metadata.version(name) for name in ("fastapi", "uvicorn", "pydantic", "pillow")}
        codes = {str(code): count for code, count in sorted(tally.codes.items())}
        record.write(options.out, [row], met=met, codes=codes, memory_mb=tally.memory, service_versions=versions)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""What gpu.py measures on a device, a part at a time, each with a record of its own.

    python benchmarks/gpu_parts.py PART ... --device cuda --until SECONDS --out FOLDER

gpu.py starts this with the names of parts, in their order, and the time (of time.time) at which to be done. A record is
there from the start of its part, with an error that the part's end replaces; so what a crash ended is known. After an
error other than a full memory the process ends with status 3, since a device that failed once may fail ever after.

On the CPU everything is as small as it gets: that is for trying.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

import record
from calibrate import enliven, tame
from grcn import preset
from grcn.config import OptimConfig, RPNConfig
from grcn.model.detector import RCNN, build_detector
from grcn.model.heads import FCHead
from grcn.predict.optimize import optimized
from grcn.runtime import tune_cpu
from grcn.scenes.render import render_scene
from grcn.training.optimizer import clip_gradients, make_optimizer
from grcn.training.step import HALF
from peers import Scale, c4_pair, c5_pair, fpn, fpn_pair, no_resize
from training import frozen

Images = list[Tensor]
Targets = list[dict[str, Tensor]]
Runs = dict[str, Callable[[], Any]]

CLASSES = 20
FAMILIES = (
    "faster_rcnn_r18_c4",
    "faster_rcnn_r18_c5",
    "grcn_r18",
    "grcn_r18_fpn",
    "faster_rcnn_vgg16",
    "grcn_vgg16",
)
SPEED = ("bf16", "fp32")
"""Precisions that are timed, that of training first."""
SCALES = {"fp16": 2.0**10}
"""What losses are multiplied by, without which small gradients vanish."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ from float32 on the CPU.

    losses: each, over the sum of all; gradient: the distance of the whole one, relative; pixels and score: of a
    detection and its equal; unmatched: the share of detections without one.
    """

    losses: float
    gradient: float
    pixels: float
    score: float
    unmatched: float


FLOAT32 = Tolerance(1e-4, 0.04, 0.05, 1e-3, 0.0)
"""The CPU's own float32 is up to 0.013 from float64 in the gradient, and 1.5e-6 in the losses: many random layers."""
LOW = Tolerance(0.05, 0.5, 4.0, 0.1, 0.4)
"""Of all below float32. The CPU's own bf16 is up to 0.4 from its float32 in the gradient, and a quarter of VGG16's
detections are others."""


@dataclass(frozen=True)
class Size:
    """How large the work is.

    correct: precisions that are held to the CPU's float32; cases: pairs of detectors (`pair`); width, height: of the
    images; predicted, trained: images at a time; proposals: for prediction and training; fc_channels: of two linear
    layers; samples: RoIs and anchors of an image in the losses; rounds: at least and at most; rounds_s: seconds that
    they may take; part_s: that a part takes at most, about.
    """

    correct: tuple[str, ...]
    cases: tuple[str, ...]
    width: int
    height: int
    predicted: tuple[int, ...]
    trained: int
    proposals: tuple[int, int]
    fc_channels: int
    samples: int
    rounds: tuple[int, int]
    rounds_s: float
    part_s: float


# A CPU would take minutes for float16.
TRIED = Size(("fp32", "bf16"), ("grcn", "c4"), 96, 64, (1, 2), 2, (8, 8), 16, 16, (1, 3), 0.5, 8)
WHOLE = Size(
    ("fp32", "bf16", "fp16"),
    ("fpn", "grcn", "c5", "c4"),
    width=800,
    height=600,
    predicted=(1, 8, 32),
    trained=16,
    proposals=(300, 2000),
    fc_channels=1024,
    samples=512,
    rounds=(3, 30),
    rounds_s=3,
    part_s=20,
)
SIZES = {"cuda": WHOLE, "cpu": TRIED}

TERAFLOPS = {
    "H100 80GB HBM3": {"bf16": 989.5, "tf32": 494.7, "fp32": 66.9},
    "H100 PCIe": {"bf16": 756.0, "tf32": 378.0, "fp32": 51.0},
    "H200": {"bf16": 989.5, "tf32": 494.7, "fp32": 66.9},
    "A100": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5},
    "L40S": {"bf16": 362.0, "tf32": 183.0, "fp32": 91.6},
    "L4": {"bf16": 121.0, "tf32": 60.0, "fp32": 30.3},
    "T4": {"fp32": 8.1},
}
"""The makers' peaks by a word or more of a card's name, dense, the first that fits."""


@dataclass(frozen=True)
class Part:
    """One measurement: the seconds that it takes at most, about, and what makes its record."""

    seconds: float
    run: Callable[[torch.device, float], dict[str, Any]]


def parts(device: str) -> dict[str, dict[str, Part]]:
    """The parts by name, by section, the most worth first."""
    size = SIZES[device]
    jobs = (("predict", size.predicted), ("train", (size.trained,)))
    correct = {
        f"correct-{name}-{precision}": Part(size.part_s, partial(correctness, name, precision))
        for precision in size.correct
        for name in FAMILIES
    }
    speed = {
        f"speed-{case}-{job}{batch}-{precision}": Part(size.part_s, partial(throughput, case, job, batch, precision))
        for case in size.cases
        for job, batches in jobs
        for precision in SPEED
        for batch in batches
    }
    profiles = {
        f"profile-{job}": Part(size.part_s, partial(profile, job, batches[0])) for job, batches in reversed(jobs)
    }
    return {"correct": correct, "speed": speed, "profile": profiles}


# Correctness


def correctness(name: str, precision: str, device: torch.device, until: float) -> dict[str, Any]:
    """A step's losses and gradients, and detections, beside the CPU's in float32."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"
    images, targets = batch(2, 128, 96)
    model = lively(name, images)
    losses, gradient = step(model, images, targets, "fp32")
    wanted = predict(model, images, "fp32")
    model.zero_grad()
    moved = deepcopy(model).to(device)
    found_losses, found_gradient = step(moved, images, targets, precision)
    found = predict(moved, images, precision)
    tolerance = FLOAT32 if precision == "fp32" else LOW
    result = {
        "losses": {key: abs(found_losses[key] - losses[key]) / sum(losses.values()) for key in losses},
        **differing_gradients(found_gradient, gradient),
        **differing_detections(found, wanted, tolerance),
        "tolerance": vars(tolerance),
    }
    result["equal"] = (
        max(result["losses"].values()) <= tolerance.losses
        and result["gradient"] <= tolerance.gradient
        and result["unmatched"] <= tolerance.unmatched * result["detections"]
    )
    return result


def lively(name: str, images: Images) -> RCNN:
    """The preset with a small head, random weights whose answers spread, and nothing left to chance in a step: every
    anchor and proposal enters the losses (devices have random numbers of their own), without dropout."""
    config = preset(name)
    sizes = (12.0, 24.0, 48.0)
    if config.neck != "none":  # one size a map, and cells so few that small objects read them all
        sizes = (12.0, 18.0, 24.0, 36.0, 48.0)
        config = replace(config, neck_channels=32, cls_cells=3.0, loc_cells=3.0, rpn=RPNConfig(anchor_sizes=sizes))
    every = 10**6
    numbers = {"pre_nms_train": 200, "pre_nms_test": 200, "post_nms_train": 40, "post_nms_test": 40}
    config = replace(
        config,
        rpn=replace(config.rpn, anchor_sizes=sizes, channels=32, batch_per_image=every, **numbers),
        roi=replace(config.roi, fc_channels=32, reduce_channels=16, batch_per_image=every),
    )
    torch.manual_seed(0)
    model = build_detector(config, 3, weights=None)
    tame(model)
    for head in model.roi.heads.values():
        if isinstance(head, FCHead):
            head.dropout = 0.0
    return enliven(model, images, nothing(len(images)))


def step(model: RCNN, images: Images, targets: Targets, precision: str) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of one training step, on the CPU."""
    device = next(model.parameters()).device
    model.train()
    with autocast(device, precision):
        losses = model(*to(device, images, targets), seeds=range(len(images)))
    scale = SCALES.get(precision, 1.0)
    (scale * sum(losses.values())).backward()
    gradient = {name: p.grad.float().cpu() / scale for name, p in model.named_parameters() if p.grad is not None}
    return {key: loss.item() for key, loss in losses.items()}, gradient


@torch.no_grad()
def predict(model: RCNN, images: Images, precision: str) -> Targets:
    """Detections of each image, on the CPU, of the detector as it is loaded for prediction."""
    device = next(model.parameters()).device
    found = optimized(model.eval(), how(precision))([image.to(device) for image in images])
    return [{key: value.float().cpu() for key, value in one.items()} for one in found]


def differing_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Any]:
    """The whole gradient's distance over its size, and that of the parameter where it is largest."""
    if found.keys() != wanted.keys():
        return {"gradient": float("inf"), "worst": sorted(found.keys() ^ wanted.keys())[:5]}
    apart = {key: (found[key] - wanted[key]).norm().item() for key in wanted}
    size = {key: wanted[key].norm().item() for key in wanted}
    whole = sum(s**2 for s in size.values()) ** 0.5
    worst = max(
        apart, key=lambda key: apart[key] / max(size[key], 1e-3 * whole)
    )  # next to nothing is not compared with
    return {
        "gradient": sum(a**2 for a in apart.values()) ** 0.5 / whole,
        "worst": {worst: apart[worst] / max(size[worst], 1e-3 * whole)},
    }


def differing_detections(found: Targets, wanted: Targets, tolerance: Tolerance) -> dict[str, Any]:
    """How many detections there are, how many on either side have no equal on the other, and how far equals are apart
    at most."""
    free, total, pixels, score = 0, 0, 0.0, 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        total += len(theirs["scores"])
        left = torch.ones(len(mine["scores"]), dtype=torch.bool)
        for box, value, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"], strict=True):
            boxes, scores = (mine["boxes"] - box).abs().amax(dim=1), (mine["scores"] - value).abs()
            fit = left & (mine["labels"] == label) & (boxes <= tolerance.pixels) & (scores <= tolerance.score)
            if not fit.any():
                free += 1
                continue
            at = int(boxes.where(fit, boxes.new_tensor(torch.inf)).argmin())
            left[at] = False
            pixels, score = max(pixels, boxes[at].item()), max(score, scores[at].item())
        free += int(left.sum())
    return {"detections": total, "unmatched": free, "box_px": pixels, "score": score}


# Throughput


def throughput(case: str, job: str, count: int, precision: str, device: torch.device, until: float) -> dict[str, Any]:
    """Ours and torchvision's in turn: medians, their ratio, and the memory that each takes beside what is kept."""
    size = SIZES[device.type]
    images, targets = batch(count, size.width, size.height)
    models = pair(case, job, size)
    if job == "train":
        runs = {name: trainer(model.to(device).train(), images, targets, precision) for name, model in models.items()}
    else:
        runs = {name: predictor(model, device, images, precision) for name, model in models.items()}
    seconds, memory = interleaved(runs, device, size, until)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    ours, theirs = (middle.get(name) for name in models)
    return {
        "batch": count,
        "image": [size.width, size.height],
        "ms": {name: 1000 * value for name, value in middle.items()},
        "images_per_second": {name: count / value for name, value in middle.items()},
        "ratio": ours / theirs if ours and theirs else None,
        "memory_mb": memory,
        "rounds_ms": {name: [round(1000 * value, 3) for value in values] for name, values in seconds.items()},
    }


@lru_cache(maxsize=1)
def pair(case: str, job: str, size: Size) -> dict[str, nn.Module]:
    """Ours, then torchvision's, on the CPU: c5, c4 and fpn with the same weights, grcn beside the last."""
    (image, _), _ = batch(2, size.width, size.height)
    proposals = size.proposals[job == "train"]
    scale = Scale(CLASSES, proposals, size.fc_channels, size.samples)
    torch.manual_seed(0)
    if case == "grcn":
        theirs: Any = fpn(image, CLASSES)
        body = theirs.backbone.body
        first = [body["conv1"], body["layer1"]]
        config = preset("grcn_r50")
        rpn = replace(config.rpn, post_nms_train=proposals, post_nms_test=proposals, batch_per_image=size.samples)
        roi = replace(config.roi, fc_channels=size.fc_channels, batch_per_image=size.samples)
        ours = build_detector(replace(config, rpn=rpn, roi=roi), CLASSES, weights=None)
        ours = enliven(ours, [image, image.flip(2)], nothing(2))
        names = ("grcn_r50", "torchvision fpn")
    elif case == "fpn":
        ours, theirs = fpn_pair(image, CLASSES)
        first = [theirs.backbone.body["conv1"], theirs.backbone.body["layer1"]]
        names = ("faster_rcnn_r50_fpn", "torchvision fpn")
    else:
        ours, theirs = (c5_pair if case == "c5" else c4_pair)(image, scale)
        first = [theirs.backbone.layers[:5]]
        names = (f"faster_rcnn_r50_{case}", f"torchvision {case}")
    no_resize(theirs, [image])
    if job == "train":
        ours = frozen(ours)
        for layer in first:
            layer.requires_grad_(False)
    return dict(zip(names, (ours, theirs), strict=True))


def predictor(model: nn.Module, device: torch.device, images: Images, precision: str) -> Callable[[], Any]:
    """Prediction from images on the device to detections on it: ours as it is loaded, torchvision's under autocast."""
    placed = [image.to(device) for image in images]
    ours = isinstance(model, RCNN)
    ready = (optimized(model, how(precision)) if isinstance(model, RCNN) else deepcopy(model)).eval().to(device)

    def run() -> Any:
        with torch.inference_mode(), autocast(device, "fp32" if ours else precision):
            return ready(placed)

    return run


def trainer(model: nn.Module, images: Images, targets: Targets, precision: str) -> Callable[[], Any]:
    """A step as training makes it: forward, backward, clipping, update, and one wait for what is logged."""
    device = next(model.parameters()).device
    placed, wanted = to(device, images, targets)
    if not isinstance(model, RCNN):  # torchvision's classes begin at 1
        wanted = [one | {"labels": one["labels"] + 1} for one in wanted]
    optimizer = make_optimizer(model, OptimConfig(), lr=1e-6)

    def run() -> Any:
        with autocast(device, precision):
            losses = torch.stack(list(model(placed, wanted).values()))
        losses.sum().backward()
        norm = clip_gradients(model, 10.0)
        seen = torch.cat((losses.detach().float(), norm[None])).tolist()
        optimizer.step()
        optimizer.zero_grad()
        return seen

    return run


def interleaved(
    runs: Runs, device: torch.device, size: Size, until: float
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each run, in turn, after two that do not count; and the memory each takes beside what is there, in MB,
    or "out of memory": that one is left out.

    Raises:
        TimeoutError: where `until` comes before the least number of rounds.
    """
    memory: dict[str, Any] = {}
    for name, run in list(runs.items()):
        try:
            run()
            before = allocated(device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            run()
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            memory[name] = round((peak - before) / 1e6) if device.type == "cuda" else None
            continue
        except torch.OutOfMemoryError:
            memory[name] = "out of memory"
            del runs[name], run
        free(device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    began = time.time()
    least, most = size.rounds
    for done in range(most):
        if time.time() > until and done < least:
            raise TimeoutError(f"{done} rounds before the deadline")
        if done >= least and time.time() - began > size.rounds_s:
            break
        for name, run in runs.items():
            seconds[name].append(timed(run, device))
    return {name: values for name, values in seconds.items() if values}, memory


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run, the device being done before and after."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


# Profile


def profile(job: str, count: int, device: torch.device, until: float) -> dict[str, Any]:
    """One run of `grcn_r50` in bfloat16: launches, waits, the device's busy share, FLOP/s and the peak."""
    precision = SPEED[0]
    size = SIZES[device.type]
    images, targets = batch(count, size.width, size.height)
    model = next(iter(pair("grcn", job, size).values()))
    if job == "train":
        run = trainer(model.to(device).train(), images, targets, precision)
    else:
        run = predictor(model, device, images, precision)
    for _ in range(3):
        run()
    seconds = statistics.median(timed(run, device) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        run()
    flop = counter.get_total_flops()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch.profiler.profile(activities=activities, acc_events=True) as traced:
        timed(run, device)
    events = [event for event in traced.events() if not event.is_user_annotation]
    peak = peaks(device).get(precision)
    return {
        "precision": precision,
        "batch": count,
        "ms": 1000 * seconds,
        **counts([event.name for event in events if event.device_type == DeviceType.CPU]),
        **busy([(e.name, e.time_range.start, e.time_range.end) for e in events if e.device_type != DeviceType.CPU]),
        "teraflop": flop / 1e12,
        "teraflops": flop / seconds / 1e12,
        "peak_teraflops": peak,
        "share_of_peak": flop / seconds / 1e12 / peak if peak else None,
    }


def counts(names: list[str]) -> dict[str, Any]:
    """What the host did, by the names of its events: operators, launches, and what makes it wait for the device."""
    seen = Counter(names)
    waits = ("Synchronize", "aten::item", "aten::_local_scalar_dense", "aten::nonzero")
    return {
        "operators": sum(n for name, n in seen.items() if name.startswith(("aten::", "torchvision::"))),
        "launches": sum(n for name, n in seen.items() if "LaunchKernel" in name),
        "waits": {name: n for name, n in sorted(seen.items()) if any(word in name for word in waits)},
        "most_called": dict(seen.most_common(15)),
    }


def busy(spans: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Of the device's events (name, start and end in microseconds): kernels, copies to the host, and the share of the
    time from the first to the last in which there was one; the names that took longest, in ms."""
    if not spans:
        return {"kernels": None, "copies_to_host": None, "busy": None}
    covered, reached = 0.0, float("-inf")
    took: Counter[str] = Counter()
    for name, start, end in sorted(spans, key=lambda span: span[1]):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
        took[name[:100]] += (end - start) / 1000
    return {
        "kernels": sum(not name.startswith(("Memcpy", "Memset")) for name, _, _ in spans),
        "copies_to_host": sum("DtoH" in name for name, _, _ in spans),
        "busy": covered / (reached - min(start for _, start, _ in spans)),
        "longest_ms": {name: round(ms, 3) for name, ms in took.most_common(15)},
    }


def peaks(device: torch.device) -> dict[str, float]:
    """TFLOP/s by precision that the card's maker gives; empty for an unknown card."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rates for words, rates in TERAFLOPS.items() if f" {words} " in f" {name.replace('-', ' ')} "), {})


# What all have in common


def batch(count: int, width: int, height: int) -> tuple[Images, Targets]:
    """Scenes, two of them and then these shifted, and eight boxes at random."""
    images: Images = []
    smallest, largest = height / 10, height / 2
    for i in range(count):
        if i < 2:
            pixels, _ = render_scene(np.random.default_rng(i), (width, height), (smallest, largest), (6, 9))
            image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous() / 255
        else:
            image = images[i % 2].roll((17 * i % height, 29 * i % width), dims=(1, 2))
        images.append(image)
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(count):
        sides = smallest + torch.rand(8, 2, generator=generator) * (largest - smallest)
        corner = torch.rand(8, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        labels = torch.randint(0, 3, (8,), generator=generator)
        targets.append({"boxes": torch.cat((corner, corner + sides), dim=1), "labels": labels})
    return images, targets


def nothing(count: int) -> Targets:
    return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * count


def to(device: torch.device, images: Images, targets: Targets) -> tuple[Images, Targets]:
    placed = [{key: value.to(device) for key, value in target.items()} for target in targets]
    return [image.to(device) for image in images], placed


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)


def how(precision: str) -> Any:
    """`optimized`'s word for a precision; what was trained in float16 predicts in float32."""
    return "bf16" if precision == "bf16" else "fold"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def free(device: torch.device) -> None:
    """Gives back what nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def describe(device: torch.device) -> dict[str, Any]:
    """The device and how it computes."""
    if device.type != "cuda":
        return {"device": device.type}
    card = torch.cuda.get_device_properties(device)
    return {
        "device": card.name,
        "memory_gb": round(card.total_memory / 1e9, 1),
        "multiprocessors": card.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32": {
            "convolutions": torch.backends.cudnn.conv.fp32_precision,
            "products": torch.backends.cuda.matmul.fp32_precision,
        },
    }


@contextmanager
def recorded(path: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """A part's record: what is put into it is written at the end, an error in its place where one is raised."""
    content: dict[str, Any] = {"error": "did not come to its end"}
    write(path, content)
    began = time.time()
    content = {}
    try:
        yield content
    except Exception as error:
        content["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        content["traceback"] = traceback.format_exc().splitlines()[-12:]
        raise
    finally:
        write(path, {**content, "seconds": round(time.time() - began, 1), **describe(device), **record.header()})


def write(path: Path, content: dict[str, Any]) -> None:
    """JSON that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", metavar="PART")
    parser.add_argument("--device", choices=SIZES, default="cuda")
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    known = {name: part for section in parts(options.device).values() for name, part in section.items()}
    tune_cpu()
    for name in options.parts:
        if time.time() + known[name].seconds > options.until:
            print(f"{name}: no time left for it", flush=True)
            continue
        try:
            with recorded(options.out / f"{name}.json", device) as content:
                content |= known[name].run(device, options.until)
        except torch.OutOfMemoryError:
            pass
        except Exception:
            traceback.print_exc()
            sys.exit(3)
        finally:
            free(device)
        print(f"{name}: {summary(content)}", flush=True)


def summary(content: dict[str, Any]) -> str:
    """A part's record in a few words."""
    shown = {
        key: content[key]
        for key in ("error", "equal", "gradient", "unmatched", "ms", "ratio", "busy")
        if key in content
    }
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


if __name__ == "__main__":
    main()

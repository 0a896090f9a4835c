"""Ten optimizer steps of each detector on real photos, and prediction: seconds and peak memory.

    python benchmarks/steps.py DATA [--presets NAME ...] [--batch 2] [--out FILE.json]

From random weights, at the photos' own size. Training has the loader, the losses and the optimizer of `grcn train`,
in float32; then three steps with `checkpoint_activations`; then prediction, one photo at a time. Each is measured in a
process of its own, whose resident memory is the peak, torch's own included (some 0.5 GB). With --presets, the rows of
the others that FILE holds stay.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grcn.data.dataset import Dataset
    from grcn.model.detector import RCNN

SIZES = ("r18", "r34", "r50", "r101")
PRESETS = [name for s in SIZES for name in (f"faster_rcnn_{s}_c4", f"faster_rcnn_{s}_c5", f"grcn_{s}")]
PRESETS += ["faster_rcnn_vgg16", "grcn_vgg16"]
STEPS = 10


def train(data: str, preset_name: str, batch_size: int, steps: int, checkpoint: bool) -> dict[str, Any]:
    """The figures of some training steps, in this process."""
    import torch

    from grcn.config import AugmentConfig, OptimConfig
    from grcn.data.loader import Stream, TrainingSet, training_loader
    from grcn.training.optimizer import clip_gradients, make_optimizer

    model, dataset = build(data, preset_name)
    model.train().checkpoint_activations(checkpoint)
    optimizer = make_optimizer(model, OptimConfig(), lr=0.001)
    samples = TrainingSet(dataset, model.config.input, AugmentConfig(), seed=0)
    loader = training_loader(samples, Stream(len(dataset), batch_size, steps, 0), workers=0)
    seconds, losses = [], []
    began = time.perf_counter()
    for k, batch in enumerate(loader):
        torch.manual_seed(k)
        loss = sum(model(batch.images, batch.targets).values())
        loss.backward()
        clip_gradients(model, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return {
        "seconds": round(statistics.median(seconds[1:]), 2),
        "peak_GB": peak(),
        "first_loss": round(losses[0], 3),
        "last_loss": round(losses[-1], 3),
        "parameters_M": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
    }


def predict(data: str, preset_name: str) -> dict[str, Any]:
    """The figures of prediction, in this process."""
    import torch

    from grcn.predict.detector import Detector
    from grcn.predict.optimize import optimized

    model, dataset = build(data, preset_name)
    detector = Detector(optimized(model, "fold"), dataset.class_names)
    seconds = []
    with torch.inference_mode():
        for k in range(5):
            picture = dataset[k].pixels()
            began = time.perf_counter()
            detector.predict(picture)
            seconds.append(time.perf_counter() - began)
    return {"seconds": round(statistics.median(seconds[1:]), 3), "peak_GB": peak()}


def build(data: str, preset_name: str) -> tuple[RCNN, Dataset]:
    """A detector with random weights for the photos' own size, and the photos of the training split."""
    import torch

    from grcn.config import InputConfig
    from grcn.data.dataset import open_dataset, resolve_split
    from grcn.model.detector import build_detector
    from grcn.presets import preset
    from grcn.runtime import tune_cpu

    tune_cpu()
    dataset = open_dataset(data, split=resolve_split(data, "auto", "train"))
    config = replace(preset(preset_name), input=InputConfig(*sorted((dataset[0].height, dataset[0].width))))
    torch.manual_seed(0)
    return build_detector(config, len(dataset.class_names), weights=None), dataset


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, what = options.one
        jobs = {
            "train": lambda: train(options.data, name, options.batch, STEPS, checkpoint=False),
            "checkpointed": lambda: train(options.data, name, options.batch, 3, checkpoint=True),
            "predict": lambda: predict(options.data, name),
        }
        print(json.dumps(jobs[what]()))
        return
    rows = []
    if options.out and options.out.exists():
        rows = [row for row in json.loads(options.out.read_text())["rows"] if row["preset"] not in options.presets]
    for name in options.presets:
        row: dict[str, Any] = {"preset": name}
        for what in ("train", "checkpointed", "predict"):
            command = [sys.executable, __file__, options.data, "--batch", str(options.batch), "--one", name, what]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode:
                sys.exit(f"{name}: exit code {answer.returncode}\n{answer.stderr}")
            row[what] = json.loads(answer.stdout.splitlines()[-1])
        rows = sorted([*rows, row], key=lambda row: PRESETS.index(row["preset"]))
        print(json.dumps(row), flush=True)
        if options.out:  # after each, since all of them take long
            import record

            record.write(options.out, rows, batch=options.batch)
    print("| preset | parameters, M | step, s | peak, GB | checkpointed: s | GB | prediction: s | GB | loss |")
    print("|" + "---|" * 9)
    for row in rows:
        step, less, found = row["train"], row["checkpointed"], row["predict"]
        cells = [row["preset"], step["parameters_M"], step["seconds"], step["peak_GB"], less["seconds"]]
        cells += [less["peak_GB"], found["seconds"], found["peak_GB"], f"{step['first_loss']} to {step['last_loss']}"]
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()

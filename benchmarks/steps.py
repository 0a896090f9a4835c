"""Ten optimizer steps of each detector on real photos: seconds per step and peak memory.

    python benchmarks/steps.py DATA [--presets NAME ...] [--batch 2] [--out FILE.json]

Each detector runs in a process of its own, from random weights, at the photos' own size, with the loader, the losses
and the optimizer of training; the peak is that process's resident memory, torch's own included.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SIZES = ("r18", "r34", "r50", "r101")
PRESETS = [name for s in SIZES for name in (f"faster_rcnn_{s}_c4", f"faster_rcnn_{s}_c5", f"grcn_{s}")]
PRESETS += ["faster_rcnn_vgg16", "grcn_vgg16"]
STEPS = 10


def measure(data: str, preset_name: str, batch_size: int) -> dict[str, Any]:
    """The figures of one detector, in this process."""
    import torch

    from grcn.config import AugmentConfig, InputConfig, OptimConfig
    from grcn.data.dataset import open_dataset, resolve_split
    from grcn.data.loader import Stream, TrainingSet, training_loader
    from grcn.model.detector import build_detector
    from grcn.presets import preset
    from grcn.runtime import tune_cpu
    from grcn.training.module import clip_gradients, make_optimizer

    tune_cpu()
    dataset = open_dataset(data, split=resolve_split(data, "auto", "train"))
    sides = sorted((dataset[0].height, dataset[0].width))
    config = replace(preset(preset_name), input=InputConfig(*sides))
    torch.manual_seed(0)
    model = build_detector(config, len(dataset.class_names), weights=None).train()
    optimizer = make_optimizer(model, OptimConfig(), lr=0.001)
    samples = TrainingSet(dataset, config.input, AugmentConfig(), seed=0)
    loader = training_loader(samples, Stream(len(dataset), batch_size, STEPS, 0), workers=0)
    seconds, losses = [], []
    began = time.perf_counter()
    for k, batch in enumerate(loader):
        torch.manual_seed(k)
        loss = sum(model(batch.images, batch.targets).values())
        loss.backward()
        clip_gradients(model, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return {
        "preset": preset_name,
        "batch": batch_size,
        "input": f"{sides[1]}x{sides[0]}",
        "parameters_M": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "seconds_per_step": round(statistics.median(seconds[2:]), 2),
        "peak_GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
        "first_loss": round(losses[0], 3),
        "last_loss": round(losses[-1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.data, options.one, options.batch)))
        return
    rows = []
    print("| preset | parameters, M | s / step | peak, GB | loss, first to tenth |\n|---|---|---|---|---|")
    for name in options.presets:
        command = [sys.executable, __file__, options.data, "--batch", str(options.batch), "--one", name]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            sys.exit(f"{name}: exit code {answer.returncode}\n{answer.stderr}")
        row = json.loads(answer.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"| {name} | {row['parameters_M']} | {row['seconds_per_step']} | {row['peak_GB']} | "
            f"{row['first_loss']} to {row['last_loss']} |",
            flush=True,
        )
    if options.out:
        import torch
        import torchvision

        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        machine = {"processor": processor(), "threads": torch.get_num_threads(), "system": platform.platform()}
        options.out.write_text(json.dumps({"versions": versions, "machine": machine, "rows": rows}, indent=2) + "\n")


def processor() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()

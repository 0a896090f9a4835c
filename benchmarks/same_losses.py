"""Thirty steps of one detector of each family: whether a change to the code leaves training as it was, bit for bit.

    python benchmarks/same_losses.py DATA --out before.json
    python benchmarks/same_losses.py DATA --out after.json --against before.json

DATA is a small data set, such as `grcn data generate DATA --images 30 --size 160 120`. Every run is `grcn train` in
a process of its own, on a CPU with one thread: losses, gradients' norms and APs as the run's metrics.csv has them, and
a hash of the weights that it ends with. Two records can only be equal where machine and versions are the same.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

COMMON = (
    "--weights random --iterations 30 --batch_size 2 --workers 1 --val_every 15 --accelerator cpu "
    "--model.input.short_side 128 --model.input.long_side 192 --model.roi.fc_channels 64 "
    "--precision fp32 --optim.name sgd --optim.weight_decay 0.0001 --optim.ema 0 --schedule.kind step "
    "--augment.scale_jitter [0.8,1.2] --augment.crop 0.5 --augment.color 0.5"
)
FAMILIES = {
    "faster_rcnn_r18_c4": "",
    "faster_rcnn_r18_c5": "--optim.accumulate 2 --optim.ema 0.9",
    "grcn_r18": "--optim.name adamw --schedule.kind cosine",
    "grcn_vgg16": "",
    "grcn_lite0": "",
    "faster_rcnn_r18_fpn": "--checkpoint_activations true",
    "grcn_r18_fpn": "",
}
TIMES = ("images_per_second", "waiting")


def thirty_steps(preset: str, options: str, data: Path, out: Path) -> dict[str, Any]:
    """Trains, and returns the rows of metrics.csv and the hash of the weights."""
    command = [sys.executable, "-m", "grcn", "train", "--data", str(data), "--preset", preset, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *COMMON.split(), *options.split()], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{preset}: exit {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    with open(out / "metrics.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(out / "last.safetensors").items()):
        digest.update(name.encode() + tensor.tobytes())
    return {"rows": rows, "weights": digest.hexdigest()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="an earlier one, to compare with")
    options = parser.parse_args()
    found = {}
    for preset, own in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[preset] = thirty_steps(preset, own, options.data, Path(folder) / "run")
        print(f"{preset}: {len(found[preset]['rows'])} rows, weights {found[preset]['weights'][:12]}", flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.against is None:
        return 0
    former = json.loads(options.against.read_text())
    unlike = [preset for preset in FAMILIES if former.get(preset) != found[preset]]
    print(f"unlike {options.against}: {', '.join(unlike)}" if unlike else f"equal to {options.against}, bit for bit")
    return 1 if unlike else 0


if __name__ == "__main__":
    raise SystemExit(main())

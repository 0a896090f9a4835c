"""Where prediction's time goes in each preset, beside the machine's limits: batch 1, 800x600, 300 proposals.

    python benchmarks/presets.py [--presets NAME ...] [--rounds 7] [--optimize fold] [--out FILE.json]
    python benchmarks/presets.py --show FILE.json      the table of a record, a line for each preset

Of each part: multiply-adds and bytes of its convolutions and linear layers (what goes in, the weights, what comes out,
each once), the milliseconds that they took (medians), and the milliseconds that the machine's limits leave: the
longer of multiply-adds at its best convolution and bytes at its best copy. `rest` is what is no such layer: RoI
pooling, NMS, sorting, decoding, activations and sums between convolutions, max pooling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import record
from calibrate import enliven
from grcn.model.detector import RCNN, build_detector
from grcn.model.heads import FCHead
from grcn.predict.optimize import optimized
from grcn.presets import PRESETS
from grcn.runtime import tune_cpu
from inference import CLASSES, scene
from limits import limits

PARTS = {
    "separation.trunk": "trunk",
    "separation.cls_branch": "cls branch",
    "separation.loc_branch": "loc branch",
    "rpn": "RPN",
    "roi": "RoI heads",
}


def measure(model: RCNN, image: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Of each part, and of `rest` and `all`: GMAC, GB and ms."""
    heads = [head for head in model.roi.heads.values() if isinstance(head, FCHead)]  # compute fc6 as they see fit
    layers = {
        layer: next(part for prefix, part in PARTS.items() if name.startswith(prefix))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and not any(layer in (head.fc6, head.fc7) for head in heads)
    } | dict.fromkeys(heads, PARTS["roi"])
    macs, moved, spent = defaultdict(float), defaultdict(float), defaultdict(float)
    began = {}

    def before(layer: nn.Module, _: Any) -> None:
        began[layer] = time.perf_counter()

    def after(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        spent[layers[layer]] += time.perf_counter() - began[layer]
        weights = [layer.fc6.weight, layer.fc7.weight] if isinstance(layer, FCHead) else [layer.weight]
        macs[layers[layer]] += sum(output.numel() * weight[0].numel() for weight in weights) / 1e9
        moved[layers[layer]] += sum(t.numel() * t.element_size() for t in (inputs[0], *weights, output)) / 1e9

    for layer in layers:
        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
    times = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for figures in (macs, moved, spent):
                figures.clear()
            start = time.perf_counter()
            model([image])
            times.append({"all": time.perf_counter() - start, **spent})
    median = {part: 1000 * statistics.median(t.get(part, 0.0) for t in times[1:]) for part in times[-1]}
    parts = {
        part: {"GMAC": macs[part], "GB": moved[part], "ms": median[part]} for part in PARTS.values() if part in macs
    }
    parts["rest"] = {"GMAC": 0.0, "GB": 0.0, "ms": median["all"] - sum(row["ms"] for row in parts.values())}
    parts["all"] = {key: sum(row[key] for row in parts.values()) for key in ("GMAC", "GB", "ms")}
    return parts


def overview(rows: list[dict[str, Any]]) -> str:
    """A line for each preset: the sums, then `ms / least_ms` of each part."""
    presets: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        presets[row["preset"]][row["part"]] = row
    lines = []
    for name, parts in presets.items():
        whole = parts["all"]
        least = sum(row["least_ms"] for part, row in parts.items() if part != "all")
        line = {"preset": f"`{name}`", "GMAC": whole["GMAC"], "GB": whole["GB"]}
        line["ms / limit"] = f"{whole['ms']:.0f} / {least:.0f}"
        for part in (*PARTS.values(), "rest"):
            line[part] = f"{parts[part]['ms']:.0f} / {parts[part]['least_ms']:.0f}" if part in parts else ""
        line["rest"] = f"{parts['rest']['ms']:.0f}"
        lines.append(line)
    return record.table(lines, tuple(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--optimize", choices=("fold", "bf16", "none"), default="fold")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    if options.show:
        print(overview(json.loads(options.show.read_text())["rows"]))
        return
    tune_cpu()
    image, machine = scene(), limits()
    print(machine)
    flops = machine["convolution_bf16" if options.optimize == "bf16" else "convolution_fp32"]
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    rows = []
    for name in options.presets:
        torch.manual_seed(0)
        model = build_detector(name, CLASSES, weights=None)
        model = enliven(model, [image, image.flip(2)], [nothing] * 2)
        for part, figures in measure(optimized(model, options.optimize).eval(), image, options.rounds).items():
            least = max(2 * figures["GMAC"] / flops, figures["GB"] / machine["memory"]) * 1000
            rows.append({"preset": name, "part": part, **figures, "least_ms": least})
            rows[-1] = {k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}
        print(record.table(rows[-1:], tuple(rows[-1])).splitlines()[-1], flush=True)
    print(overview(rows))
    if options.out:
        record.write(options.out, rows, limits=machine, optimize=options.optimize)


if __name__ == "__main__":
    main()

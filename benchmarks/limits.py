"""What this machine can do at most: GFLOP/s of matrix products and convolutions, GB/s of memory.

    python benchmarks/limits.py

The best of several runs of one large case each: 2048^3 for products; 256 channels and 3x3 on 100x75 cells,
channels-last, for convolutions; 256 MB copied for memory (read and written bytes both count).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from grcn.runtime import tune_cpu


def limits() -> dict[str, float]:
    """GFLOP/s of `product_fp32`, `product_bf16`, `convolution_fp32`, `convolution_bf16`; GB/s of `memory`."""
    measured = {}
    with torch.inference_mode():
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            a = torch.randn(2048, 2048, dtype=kind)
            measured[f"product_{name}"] = 2 * 2048**3 / best(a.matmul, a) / 1e9
            layer = nn.Conv2d(256, 256, 3, padding=1).to(kind, memory_format=torch.channels_last)
            maps = torch.randn(1, 256, 100, 75, dtype=kind).contiguous(memory_format=torch.channels_last)
            measured[f"convolution_{name}"] = 2 * 256 * 256 * 9 * 7500 / best(layer, maps) / 1e9
        source, target = torch.rand(1 << 26), torch.rand(1 << 26)
        measured["memory"] = 2 * source.numel() * 4 / best(target.copy_, source) / 1e9
    return {name: round(value, 1) for name, value in measured.items()}


def best(work: Callable[..., Any], *arguments: Any, times: int = 15) -> float:
    """Seconds of the fastest of `times` runs."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work(*arguments)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    tune_cpu()
    for name, value in limits().items():
        print(f"{name:18}{value:8.1f} {'GB/s' if name == 'memory' else 'GFLOP/s'}")

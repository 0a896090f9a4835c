"""Settings of the process that training and prediction on the CPU want; set by entry points, never on import."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # malloc.h


def tune_cpu() -> bool:
    """Lets glibc's malloc keep and reuse large blocks.

    By default it maps each block above 32 MB, such as an activation, afresh from the kernel, and gives it back when it
    is freed; so every pass through a network touches new pages, and each is a page fault. Kept, they are faulted in
    once. The price is memory that stays with the process.

    Returns:
        whether it was done: not with another C library, nor where MALLOC_... or GLIBC_TUNABLES in the environment say
        what the user wants.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)


def peak_memory(process: int | str = "self") -> float:
    """The most memory in MB that a process has held up to now: 0 for another one that has ended, or where the system
    does not tell of it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return _own_peak() if process == "self" else 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _own_peak() -> float:
    """As `getrusage` tells, where Linux does not: it counts a process's parent, too."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


def processor() -> str:
    """The processor's name, family and model as Linux gives them, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    if "model name" not in first:
        return platform.processor()
    return f"{first['model name']}, family {first.get('cpu family')}, model {first.get('model')}"


def multiplies_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; one that has to emulate it is faster in float32."""
    return any(_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


@functools.cache
def convolves_whole_rois() -> bool:
    """Whether a convolution over whole RoIs is quicker than the matrix product that it equals, in float32 on this CPU.

    oneDNN has quick ones for AVX-512; without, they take several times as long as the product (docs/performance.md).
    """
    return bool(_capabilities().get("avx512_f", False))


def _capabilities() -> Mapping[str, Any]:
    """What this processor can do, by torch; an older one tells of x86 alone, by functions of its own."""
    from torch import cpu

    if hasattr(cpu, "get_capabilities"):
        return cpu.get_capabilities()
    return {
        "avx512_f": cpu._is_avx512_supported(),
        "avx512_bf16": cpu._is_avx512_bf16_supported(),
        "amx_bf16": cpu._is_amx_tile_supported(),
    }

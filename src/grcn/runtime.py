"""Settings of the process that make training and prediction on a CPU faster. Entry points set them; imports do not."""

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

    By default, malloc gets each block above 32 MB, such as an activation, from the kernel, and returns it when it is
    freed. So every pass through a network touches new pages, and each causes a page fault. If the blocks are kept, this
    happens only once. The price is that the process keeps the memory.

    Returns:
        Whether it was done. It is not done with another C library, nor if MALLOC_... or GLIBC_TUNABLES is set in the
        environment.
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
    """The most memory in MB that a process has used so far.

    0 if another process has ended, or if the system does not tell.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return _own_peak() if process == "self" else 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _own_peak() -> float:
    """The same from `getrusage`, for systems without /proc. On Linux, it would include the parent process."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS gives bytes


def processor() -> str:
    """The processor's name, family and model on Linux; what Python knows on other systems."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    if "model name" not in first:
        return platform.processor()
    return f"{first['model name']}, family {first.get('cpu family')}, model {first.get('model')}"


def multiplies_bf16() -> bool:
    """Whether this processor can compute in bfloat16. A processor that emulates it is faster in float32."""
    return any(_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


@functools.cache
def convolves_whole_rois() -> bool:
    """Whether a convolution over whole RoIs is faster than the equivalent matrix product, in float32 on this CPU.

    oneDNN has fast convolutions for AVX-512. Without AVX-512, they take several times as long as the product
    (docs/performance.md).
    """
    return bool(_capabilities().get("avx512_f", False))


def _capabilities() -> Mapping[str, Any]:
    """What this processor can do, according to torch. Older releases of torch only have functions for x86."""
    from torch import cpu

    if hasattr(cpu, "get_capabilities"):
        return cpu.get_capabilities()
    return {
        "avx512_f": cpu._is_avx512_supported(),
        "avx512_bf16": cpu._is_avx512_bf16_supported(),
        "amx_bf16": cpu._is_amx_tile_supported(),
    }

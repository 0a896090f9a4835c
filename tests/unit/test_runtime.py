"""Process settings, each in a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from grcn.runtime import convolves_whole_rois, multiplies_bf16

# Takes and frees 64 MB ten times, after a first time, and prints how many pages that faulted in.
SCRIPT = """
import resource, numpy
from grcn.runtime import tune_cpu
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(8 << 20)
before = faults()
for _ in range(10):
    numpy.ones(8 << 20)
print(faults() - before)
"""


def run(call: str, **environment: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    words = [sys.executable, "-c", SCRIPT.format(call=call)]
    return subprocess.run(words, env=clean | environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_blocks_are_reused_once_tuned():
    done, tuned = run("print(tune_cpu())")
    (untuned,) = run("")
    assert done == "True"
    # Pages of 4 KB: 160,000 without; with larger pages, fewer, but never none.
    assert int(tuned) < 0.1 * int(untuned)


def test_the_users_own_malloc_settings_are_left_alone():
    assert run("print(tune_cpu())", MALLOC_ARENA_MAX="2")[0] == "False"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor can do")
def test_bf16_is_native_or_not() -> None:
    assert multiplies_bf16() is any(f in Path("/proc/cpuinfo").read_text() for f in ("avx512_bf16", "amx_bf16", "bf16"))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor can do")
def test_whole_rois_are_convolved_where_there_is_avx512() -> None:
    assert convolves_whole_rois() is ("avx512f" in Path("/proc/cpuinfo").read_text())

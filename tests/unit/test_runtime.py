"""Process settings, each in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

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

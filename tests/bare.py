"""`grcn` in a process in which importing any extra's module fails."""

import subprocess
import sys

from grcn.errors import EXTRAS

BARE = f"""
import sys
for module in {sorted(module for modules in EXTRAS.values() for module in modules)!r}:
    if module not in sys.argv[1].split(","):
        sys.modules[module] = None  # importing it raises ModuleNotFoundError
from grcn import Detections
from grcn.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def bare(*words: object, but: str = "") -> subprocess.CompletedProcess[str]:
    """`grcn` with these words, without any extra but the modules named."""
    return subprocess.run(
        [sys.executable, "-c", BARE, but, *map(str, words)], capture_output=True, text=True, timeout=120
    )

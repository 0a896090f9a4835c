"""`python -m grcn`, the same as `grcn`."""

import sys

from grcn.app.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m grcn`, the same as `grcn`."""

import sys

from grcn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

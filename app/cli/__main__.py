"""python -m limner.app.cli: the command `limner`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())

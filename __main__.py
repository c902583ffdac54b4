"""``python -m limner``: the command ``limner``."""

import sys

from limner.app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

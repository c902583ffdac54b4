"""Screenshots of the page for the documents, from a server that runs: `python tests/clients/screenshots.py http://127.0.0.1:8000`.

Writes docs/images/page-*.png in few colours, which keeps them small. Needs what `make test-clients` installs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent.parent / "docs" / "images"
COLOURS = 160


def main(url: str) -> None:
    with TemporaryDirectory() as folder:
        environment = os.environ | {"LIMNER_URL": url.rstrip("/"), "LIMNER_SHOTS": folder}
        subprocess.run(["node", "screenshots.mjs"], cwd=HERE, env=environment, check=True)
        for path in sorted(Path(folder).glob("page-*.png")):
            few = Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            few.save(IMAGES / path.name, optimize=True)
            print(f"{path.name}: {(IMAGES / path.name).stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1])

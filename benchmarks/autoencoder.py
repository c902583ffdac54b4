"""What a model's autoencoder keeps of the drawn world: PSNR in dB by style and for signs, and a sheet to look at.

python benchmarks/autoencoder.py SHEET.png [--model nano]
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import limner
from limner.evaluation.sheet import save_sheet
from limner.evaluation.tasks import psnr, reconstruct
from limner.world import sampling, signs
from limner.world.pen import STYLES
from limner.world.scene import Scene, render


def scene(rng: random.Random, kind: str) -> Scene:
    made = signs.sign_scene(rng) if kind == "signs" else replace(sampling.any_scene(rng), style=kind)
    return replace(made, height=128, width=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    model = limner.load(options.model)
    shots = []
    for kind in (*STYLES, "signs"):
        rng = random.Random(kind)
        true = [np.asarray(render(scene(rng, kind))) for _ in range(options.count)]
        back = [reconstruct(model, pixels) for pixels in true]
        everywhere = np.ones((128, 128, 1), bool)
        print(f"{kind:8} {np.mean([psnr(b, t, everywhere) for b, t in zip(back, true, strict=True)]):.2f} dB")
        shots += [Image.fromarray(x) for pair in list(zip(true, back, strict=True))[:6] for x in pair]
    save_sheet(shots, 12, options.sheet)


if __name__ == "__main__":
    main()

"""``limner convert``."""

from pathlib import Path
from typing import Literal

from .options import Out


def convert(what: Literal["seed-x"], source: Path, /, *, out: Out, which: str = "seed_x_i") -> None:
    """Make a model folder of weights released elsewhere.

    Args:
        what: whose weights
        source: SEED-X's `pretrained` folder
        out: folder of the model
        which: seed_x, seed_x_i or seed_x_edit
    """
    from ...inference.convert import convert_seed_x

    print(convert_seed_x(source, out, which))

"""A folder of transformers to the family that it is of."""

from __future__ import annotations

from pathlib import Path

from ...detokenizer.files import read_part_config, resolve_source
from .chameleon import Chameleon
from .emu3 import Emu3
from .janus import Janus
from .model import ImageTokenModel

FAMILIES: dict[str, type[ImageTokenModel]] = {"emu3": Emu3, "janus": Janus, "chameleon": Chameleon}
"""By the ``model_type`` of their ``config.json``"""


def load(source: str | Path, revision: str | None = None, variant: str | None = None) -> ImageTokenModel:
    """A folder or a hub id of Emu3, Janus or Chameleon, as transformers saves them. Raises ValueError for another one, and for
    files that cannot be read or do not fit."""
    folder = resolve_source(source, revision, variant)
    kind = read_part_config(folder).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"{folder} is of the type {kind!r}; there are {', '.join(FAMILIES)}, as transformers saves them"
        )
    return FAMILIES[kind].from_pretrained(folder, variant)

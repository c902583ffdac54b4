"""``limner convert seed-x``: SEED-X's released files to a model folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..integrations.seed_x import conversion
from ..integrations.seed_x.conversion import DETOKENIZERS, Sizes
from .generation_config import GenerationConfig
from .output import atomic_folder, check_folder


def convert_seed_x(source: str | Path, output: str | Path, model: str = "seed_x_i", sizes: Sizes | None = None) -> Path:
    """``source`` is the ``pretrained`` folder of SEED-X's README; docs/checkpoints.md lists its files. Returns ``output``.

    Raises ValueError for an unknown model, files that are missing or cannot be read, and weights that are missing, unknown or
    of another shape; then nothing is left at ``output``.
    """
    source, output, sizes = Path(source), Path(output), sizes or Sizes()
    if model not in DETOKENIZERS:
        raise ValueError(f"no SEED-X model {model!r}; there are {', '.join(DETOKENIZERS)}")
    check_folder(output)
    with atomic_folder(output) as parts:
        tower = conversion.write_vision(source, parts, sizes)
        config = conversion.write_stream(source, parts, model, tower, sizes)
        defaults = GenerationConfig(
            max_new_tokens=512, num_inference_steps=50, guidance_scale=7.5, image_guidance_scale=1.5
        )
        (parts / "generation_config.json").write_text(json.dumps(asdict(defaults), indent=1) + "\n", encoding="utf-8")
        conversion.write_detokenizer(source, parts, model, config, sizes)
    return output

"""How the parts of a Limner model are wired: the model folder's ``config.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class LimnerConfig:
    num_queries: int = 64
    """Learned queries (N) that a drawing runs."""
    image_tokens: int = 64
    """Tokens (M) that one view of a seen picture takes in the stream."""
    local_image_tokens: bool = False
    """Whether each of them begins by looking at its own place of the picture (see `Resampler`)."""
    feature_tokens: int = 64
    """Image features (K) that the output resampler gives, and that the vision tower's features are pooled to."""
    feature_pool: str = "grid"
    """How the vision tower's features are pooled to that: over the "grid" of patches, or over the "sequence" (SEED-X)."""
    resampler_heads: int = 32
    """Heads of the input and output resamplers."""
    resampler_qk_norm: bool = False
    """Whether their queries and keys are normalised: for those trained here (see `CrossAttention`), not for SEED-X's."""
    image_size: int = 448
    """Side in pixels of one (square) view as the vision tower sees it."""
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tile_grids: tuple[tuple[int, int], ...] = ()
    """Rows and columns of the grids that a user's picture may be cut into; empty: one view, the whole picture."""
    drawn_images: str = "seen"
    """"seen": a drawn picture is in the context as vision features; "queries": as its queries until the reply ends."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Heights and widths in pixels that the model picks from by a shape token; empty: no shape token before BOI."""
    default_size: tuple[int, int] = (1024, 1024)
    """Height and width in pixels of a drawing that nothing else decides."""
    max_references: int = 1
    """Earlier pictures that a drawing sees as clean latents, newest first."""
    prompt_tokens: int = 0
    """The backbone's last hidden states before BOI that join the drawing's condition; 0 for none."""

    def __post_init__(self) -> None:
        # JSON and YAML know lists only
        for name in ("image_mean", "image_std", "default_size"):
            setattr(self, name, tuple(getattr(self, name)))
        for name in ("tile_grids", "shapes"):
            setattr(self, name, tuple(tuple(pair) for pair in getattr(self, name)))
        if self.drawn_images not in ("seen", "queries"):
            raise ValueError(f"drawn_images is {self.drawn_images!r}; it can be seen or queries")
        if self.feature_pool not in ("grid", "sequence"):
            raise ValueError(f"feature_pool is {self.feature_pool!r}; it can be grid or sequence")
        for name in ("num_queries", "image_tokens", "feature_tokens", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LimnerConfig:
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown config keys {', '.join(sorted(unknown))}")
        return cls(**values)

    def save(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"model_type": "limner", **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> LimnerConfig:
        try:
            values = json.loads((folder / "config.json").read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{folder / 'config.json'} is not JSON: {error}") from error
        if not isinstance(values, dict) or values.pop("model_type", None) != "limner":
            raise ValueError(f"{folder / 'config.json'} is not a Limner model's")
        return cls.from_dict(values)

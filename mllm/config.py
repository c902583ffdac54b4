"""The configuration of a Limner model, ``config.json`` of its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 2
"""Of ``config.json``. Without a number it is 1, which said nothing of ``plan_share`` and ``replay``."""
FEATURE_POOLS = ("grid", "sequence")
"""How vision features are pooled to image features: over the grid of patches, or in their order (SEED-X)."""
NANO = {"num_queries": 16, "prompt_tokens": 24, "shapes": ((128, 128), (96, 160), (160, 96))}
"""What tells the nanos of format 1: they plan what they draw and learned the drawn world."""


@dataclass
class LimnerConfig:
    """Sizes of the stream and how its parts are connected. Raises ValueError for values that make no sense."""

    num_queries: int = 64
    """Learned queries (N) of a drawing."""
    image_tokens: int = 64
    """Tokens (M) of one view of an input image in the stream."""
    local_image_tokens: bool = False
    """Whether each of them attends to its own place of the image at the start of training (see `Resampler`)."""
    feature_tokens: int = 64
    """Image features (K) that the output resampler gives and that vision features are pooled to."""
    feature_pool: str = "grid"
    """How vision features are pooled to that: over the "grid" of patches, or over the "sequence" (SEED-X)."""
    resampler_heads: int = 32
    """Heads of the input and output resamplers."""
    resampler_qk_norm: bool = False
    """Whether the resamplers normalise queries and keys: so where they are trained here (see `CrossAttention`), not in SEED-X."""
    image_size: int = 448
    """Side in pixels of one (square) view."""
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tile_grids: tuple[tuple[int, int], ...] = ()
    """Rows and columns of the tile grids for users' images; empty: one view, the whole image."""
    drawn_images: str = "seen"
    """"seen": a drawn picture is in the context as vision features; "queries": as its queries until the reply ends."""
    seen_images: str = "features"
    """"features": an image in the context is its vision features; "tokens": the visual tokenizer's codes (SEED-LLaMA)."""
    visual_codes: int = 0
    """Codes of the visual tokenizer, in which a picture can be drawn token by token; 0: there is none."""
    visual_lengths: tuple[int, ...] = ()
    """Numbers of tokens that such a picture may have, ascending; the last is all that the visual tokenizer gives."""
    draft_by_queries: bool = False
    """Whether a picture of visual tokens begins with all queries, whose image features are a draft of its codes (`CodeDraft`)."""
    query_lengths: tuple[int, ...] = ()
    """Numbers of queries that a drawing may have, ascending to `num_queries`; empty: always all of them."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Heights and widths in pixels that shape tokens stand for; empty: no shape token before BOI."""
    default_size: tuple[int, int] = (1024, 1024)
    """Height and width in pixels of a drawing where neither the request nor a shape token gives them."""
    max_references: int = 1
    """At most this many earlier images are references of a drawing, as clean latents, newest first."""
    mask_color: tuple[int, int, int] = (128, 128, 128)
    """Red, green and blue, 0 to 255, of the parts of a picture that it learned to fill; masks are shown to it in this colour."""
    prompt_tokens: int = 0
    """This many last hidden states up to BOI are part of the drawing's condition; 0 for none."""
    plan_share: float = 0.0
    """Share of the model's drawings that follow a plan in words; fine-tuning keeps to it."""
    replay: str = "none"
    """What the model learned that can be replayed, so that fine-tuning does not forget it: "world" (`limner.world`) or "none"."""

    def __post_init__(self) -> None:
        # JSON and YAML know lists only
        for name in ("image_mean", "image_std", "default_size", "mask_color", "visual_lengths", "query_lengths"):
            setattr(self, name, tuple(getattr(self, name)))
        for name in ("tile_grids", "shapes"):
            setattr(self, name, tuple(tuple(pair) for pair in getattr(self, name)))
        choices = {
            "drawn_images": ("seen", "queries"),
            "feature_pool": FEATURE_POOLS,
            "replay": ("none", "world"),
            "seen_images": ("features", "tokens"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {' or '.join(known)}")
        if len(self.mask_color) != 3 or not all(0 <= value <= 255 for value in self.mask_color):
            raise ValueError(f"mask_color is {self.mask_color}; it must be red, green and blue from 0 to 255")
        if not 0 <= self.plan_share <= 1:
            raise ValueError(f"plan_share is {self.plan_share}; it must lie between 0 and 1")
        sizes = ("num_queries", "image_tokens", "feature_tokens", "image_size", "resampler_heads")
        for least, names in ((1, sizes), (0, ("max_references", "prompt_tokens", "visual_codes"))):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        self._check_lengths()

    def _check_lengths(self) -> None:
        """Raises ValueError for numbers of tokens or queries that make no sense, and for ways to draw that exclude each other."""
        for name in ("visual_lengths", "query_lengths"):
            lengths = getattr(self, name)
            if list(lengths) != sorted(set(lengths)) or (lengths and lengths[0] < 1):
                raise ValueError(f"{name} are {lengths}; they must rise, from at least 1")
        if self.query_lengths and self.query_lengths[-1] != self.num_queries:
            raise ValueError(
                f"query_lengths are {self.query_lengths}; the last must be num_queries, {self.num_queries}"
            )
        if bool(self.visual_codes) != bool(self.visual_lengths):
            raise ValueError(
                f"visual_codes is {self.visual_codes} and visual_lengths are {self.visual_lengths}: give both, or neither"
            )
        if self.draft_by_queries and not (self.visual_codes and self.has_branches):
            raise ValueError(
                "draft_by_queries is for models that draw by visual tokens and see pictures as features: give visual_codes, or "
                "leave it out"
            )
        if self.drawn_images == "queries" and self.lengths:
            raise ValueError("with drawn_images 'queries' every picture has all queries: leave the lengths out")
        if self.seen_images == "tokens":
            if not self.visual_codes:
                raise ValueError(
                    "seen_images is 'tokens', and visual_codes is 0: give the visual tokenizer's number of codes"
                )
            if self.query_lengths or self.tile_grids:
                raise ValueError(
                    "with seen_images 'tokens' there are neither queries nor tiles: leave query_lengths and tile_grids out"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """All numbers for which there is a length token, ascending."""
        return tuple(sorted({*self.visual_lengths, *self.query_lengths}))

    @property
    def image_modes(self) -> tuple[str, ...]:
        """The ways in which the model draws: by "queries", by "tokens", or by both."""
        if self.seen_images == "tokens":
            return ("tokens",)
        return ("queries", "tokens") if self.visual_codes else ("queries",)

    def lengths_of(self, mode: str) -> tuple[int, ...]:
        """The numbers of queries or tokens that a picture of this mode may announce; none where it always has all queries."""
        return self.visual_lengths if mode == "tokens" else self.query_lengths

    @property
    def has_branches(self) -> bool:
        """Whether what draws a picture is on a branch that nothing later attends to."""
        return self.drawn_images == "seen" and self.seen_images == "features"

    @property
    def view_tokens(self) -> int:
        """Tokens of a whole view of an image in the context."""
        return self.visual_lengths[-1] if self.seen_images == "tokens" else self.image_tokens

    @property
    def draft_queries(self) -> int:
        """Queries with which a picture of visual tokens begins."""
        return self.num_queries if self.draft_by_queries else 0

    @property
    def max_drawing(self) -> int:
        """The most positions that the queries and visual tokens of a drawing take."""
        return max(self.num_queries, self.draft_queries + max(self.visual_lengths, default=0))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LimnerConfig:
        """Raises ValueError for unknown keys."""
        if unknown := sorted(set(values) - set(cls.__dataclass_fields__)):
            raise ValueError(f"unknown config keys {', '.join(unknown)}")
        return cls(**values)

    def save(self, folder: Path) -> None:
        """Writes ``config.json`` into ``folder``."""
        values = {"model_type": "limner", "format": FORMAT, **asdict(self)}
        (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LimnerConfig:
        """Reads ``config.json``. Raises ValueError for one that is not a Limner model's, and for unknown keys."""
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{folder / 'config.json'} is not JSON: {error}") from error
        if not isinstance(values, dict) or values.pop("model_type", None) != "limner":
            raise ValueError(f"{folder / 'config.json'} is not a Limner model's")
        number = values.pop("format", 1)
        if number not in (1, FORMAT):
            raise ValueError(f"{folder / 'config.json'} is of format {number}; this Limner reads 1 and {FORMAT}")
        config = cls.from_dict(values)
        if number == 1 and all(getattr(config, name) == value for name, value in NANO.items()):
            config.plan_share, config.replay = 0.85, "world"
        return config

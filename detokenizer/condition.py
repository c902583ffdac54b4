"""The condition of a drawing, and the adapter that computes it from the stream's features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..resamplers import Resampler
from .glyph_images import GlyphLayout


@dataclass(frozen=True)
class Condition:
    """What conditions a batch of drawings. The size is not part of it: that is an argument of `Detokenizer.draw`."""

    context: Tensor
    """(batch, tokens, context_width)"""
    context_mask: Tensor
    """(batch, tokens), True where a token counts"""
    pooled: Tensor
    """(batch, pooled_width)"""
    references: list[list[Tensor]] = field(default_factory=list)
    """For each row its reference latents (channels, height, width), newest first; empty for a batch without any."""
    negative: tuple[Tensor, Tensor] | None = None
    """The negative condition of guidance for all rows: context (tokens, context_width) and pooled (pooled_width).
    None: an empty context and a zero vector."""
    glyphs: GlyphLayout | None = None
    """The words of each picture in plain type and where they stand, where a model has `GlyphImages`"""
    image_bias: Tensor | None = None
    """(batch, image tokens, width): of `glyphs` in pictures of one size, added to the image tokens"""

    @property
    def batch(self) -> int:
        return self.context.shape[0]

    def rows(self, indices: list[int]) -> Condition:
        """The condition of these rows."""
        index = torch.tensor(indices, dtype=torch.long).to(self.context.device, non_blocking=True)
        return replace(
            self,
            context=self.context[index],
            context_mask=self.context_mask[index],
            pooled=self.pooled[index],
            references=[self.references[i] for i in indices] if self.references else [],
            glyphs=None if self.glyphs is None else self.glyphs.rows(indices),
            image_bias=None if self.image_bias is None else self.image_bias[index],
        )

    def without_context(self, rows: Tensor | None = None) -> Condition:
        """With the negative condition in place of context and pooled, and no words, in all rows or those where ``rows`` (batch,)
        is True."""
        rows = torch.ones_like(self.context_mask[:, 0]) if rows is None else rows
        keep = ~rows[:, None]
        wordless = replace(
            self,
            glyphs=None if self.glyphs is None else self.glyphs.without_words(rows),
            image_bias=None if self.image_bias is None else self.image_bias * keep[..., None],
        )
        if self.negative is not None:
            context, pooled = self.negative
            return replace(
                wordless,
                context=torch.where(keep[..., None], self.context, context),
                context_mask=torch.where(keep, self.context_mask, True),
                pooled=torch.where(keep, self.pooled, pooled),
            )
        return replace(wordless, context_mask=self.context_mask & keep, pooled=self.pooled * keep)

    def without_references(self, rows: list[int] | None = None) -> Condition:
        """Without references in all rows or those of these indices."""
        dropped = set(range(self.batch) if rows is None else rows)
        return replace(self, references=[[] if i in dropped else r for i, r in enumerate(self.references)])


@dataclass
class AdapterConfig:
    """Sizes of a `ConditioningAdapter`. Raises ValueError for values that make no sense."""

    feature_width: int = 4096
    """Width of the image features that the stream's output resampler gives."""
    num_tokens: int = 64
    """Context tokens computed from them."""
    width: int = 1024
    depth: int = 4
    heads: int = 16
    qk_norm: bool = False
    context_width: int = 4096
    pooled_width: int = 2048
    prompt_width: int = 0
    """Width of the backbone's hidden states of the prompt, a second context source; 0 for none."""
    glyph_width: int = 0
    """Width of the glyph encoder's features, a third context source; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("feature_width", "num_tokens", "width", "depth", "heads", "context_width", "pooled_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if min(self.prompt_width, self.glyph_width) < 0:
            raise ValueError(
                f"prompt_width {self.prompt_width} and glyph_width {self.glyph_width} must not be negative"
            )
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")


class ConditioningAdapter(nn.Module):
    """Image features (and, where configured, the prompt's hidden states and glyph features) to a `Condition`.

    Each context source has its own projection and type embedding; all are concatenated.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.resampler = Resampler(
            config.feature_width,
            config.context_width,
            config.num_tokens,
            heads=config.heads,
            width=config.width,
            depth=config.depth,
            pooled_width=config.pooled_width,
            qk_norm=config.qk_norm,
        )
        sources = 1 + bool(config.prompt_width) + bool(config.glyph_width)
        self.source_embed = nn.Parameter(torch.zeros(sources, config.context_width))
        if config.prompt_width:
            self.prompt_norm = nn.RMSNorm(config.prompt_width, eps=1e-6)
            self.prompt_proj = nn.Linear(config.prompt_width, config.context_width)
        if config.glyph_width:
            self.glyph_norm = nn.RMSNorm(config.glyph_width, eps=1e-6)
            self.glyph_proj = nn.Linear(config.glyph_width, config.context_width)

    def forward(
        self,
        features: Tensor,
        prompt: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        glyphs: Tensor | None = None,
        glyph_mask: Tensor | None = None,
    ) -> Condition:
        """``features`` (batch, tokens, feature_width), ``prompt`` (batch, tokens, prompt_width) and ``glyphs`` (batch, tokens,
        glyph_width); masks (batch, tokens) are True where a token counts.

        Raises ValueError when the prompt's states or the glyphs are missing or unexpected.
        """
        for name, what, states in (
            ("glyph_width", "the glyphs' features", glyphs),
            ("prompt_width", "the prompt's hidden states", prompt),
        ):
            if bool(width := getattr(self.config, name)) != (states is not None):
                raise ValueError(f"{name} is {width}, so {what} {'are needed' if width else 'have no place'}")
        context, pooled = self.resampler(features)
        contexts = [context + self.source_embed[0]]
        masks = [torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)]
        if prompt is not None:
            assert prompt_mask is not None
            contexts.append(self.prompt_proj(self.prompt_norm(prompt)) + self.source_embed[1])
            masks.append(prompt_mask)
        if glyphs is not None:
            assert glyph_mask is not None
            contexts.append(self.glyph_proj(self.glyph_norm(glyphs)) + self.source_embed[-1])
            masks.append(glyph_mask)
        return Condition(torch.cat(contexts, dim=1), torch.cat(masks, dim=1), pooled)

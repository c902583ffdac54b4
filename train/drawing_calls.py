"""How a batch's drawings are put into calls of the MM-DiT, and the pictures of a batch as rows of one table.

A call has samples whose pictures are padded to one length, and as many references and context tokens for each. On a CPU samples
that need as much share a call, so that little is computed for nothing. On a GPU calls have few fixed shapes (`CallShapes.rows`):
each is compiled once, and never again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detokenizer.mmdit import MMDiT
from .data import JointBatch
from .random_choices import Sample

LENGTH_MULTIPLE = 16
"""Pictures' tokens are padded to a multiple of it, so that those of about one size share a call."""
FIXED_LENGTH_MULTIPLE = 64
"""Lengths of pictures and conversations are padded to a multiple of it in calls of fixed shapes."""
FIXED_GLYPH_MULTIPLE = 16
"""As many glyph tokens, or a multiple, are there in calls of fixed shapes."""


@dataclass(frozen=True)
class CallShapes:
    """What the stream's rows and the MM-DiT's calls are padded to."""

    rows: int = 0
    """Rows of every call; 0 for as many as there are samples of a kind"""
    pictures: tuple[int, ...] = ()
    """Tokens of the pictures that there may be"""

    @property
    def fixed(self) -> bool:
        """Whether calls have few shapes."""
        return self.rows > 0

    def picture_length(self, tokens: int) -> int:
        """The tokens that a picture is padded to."""
        if not self.fixed:
            return round_up(tokens, LENGTH_MULTIPLE)
        longer = [n for n in self.pictures if n >= tokens]
        return round_up(min(longer, default=tokens), FIXED_LENGTH_MULTIPLE)

    def context_length(self, tokens: int, without_glyphs: int) -> int:
        """The tokens that a context is padded to, of which ``without_glyphs`` are no glyphs'."""
        if not self.fixed or tokens == without_glyphs:
            return tokens
        return without_glyphs + round_up(tokens - without_glyphs, FIXED_GLYPH_MULTIPLE)

    def stream_length(self, columns: int) -> int:
        """The columns that the stream's rows are padded to."""
        return round_up(columns, FIXED_LENGTH_MULTIPLE) if self.fixed else columns


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass
class DrawingCall:
    """The samples of one call, and what it is padded to."""

    samples: list[Sample]
    rows: int
    own: int
    """Tokens of the picture that is drawn"""
    references: int
    """Pictures beside it, of ``reference_length`` tokens each"""
    reference_length: int
    context: int
    """Context tokens: the first ones"""

    @property
    def drawings(self) -> list[int]:
        return [drawing for drawing, _ in self.samples]


def plan_calls(
    batch: JointBatch,
    samples: Sequence[Sample],
    counts: Sequence[int],
    context: Sequence[int],
    dropped: set[int],
    shapes: CallShapes,
    max_references: int,
) -> list[DrawingCall]:
    """The calls for ``samples`` of the batch's drawings.

    ``counts`` are the tokens of a picture of each of the batch's shapes, ``context`` the context tokens that each drawing needs;
    the drawings in ``dropped`` lose their references.
    """
    kinds: dict[tuple[int, int, int, int], list[Sample]] = {}
    for sample in samples:
        drawing = sample[0]
        shown = [] if drawing in dropped else [counts[s] for s, _ in batch.references[drawing]]
        own = shapes.picture_length(counts[batch.target[drawing][0]])
        longest = shapes.picture_length(max(shown)) if shown else 0
        count = max_references if shown and shapes.fixed else len(shown)
        kind = (own, count, longest, context[drawing])
        kinds.setdefault(kind, []).append(sample)
    calls = []
    for kind, members in kinds.items():
        rows = shapes.rows or len(members)
        calls += [DrawingCall(members[k : k + rows], rows, *kind) for k in range(0, len(members), rows)]
    return calls


@dataclass
class PictureTable:
    """The pictures of a batch, as padded rows of latent tokens."""

    tokens: Tensor
    """(pictures, length, channels · patch²)"""
    counts: list[int]
    """Tokens of a picture of each shape"""
    first: list[int]
    """The row of each shape's first picture"""
    added: Tensor
    """(1 + max_references, shapes, length, width): what `MMDiT.picture_positions` adds"""
    angles: Tensor | None
    mask: Tensor
    """(shapes + 1, length): True where a token of such a picture is; nowhere in the last, that of no picture"""


def picture_table(mmdit: MMDiT, latents: Sequence[Tensor], shapes: CallShapes) -> PictureTable:
    """The table of ``latents`` (pictures, channels, h, w), one tensor for each of the batch's shapes."""
    patch = mmdit.config.patch_size
    grids = [(part.shape[-2] // patch, part.shape[-1] // patch) for part in latents]
    counts = [h * w for h, w in grids]
    length = shapes.picture_length(max(counts))
    padded = [F.pad(mmdit.patchify(part), (0, 0, 0, length - n)) for part, n in zip(latents, counts, strict=True)]
    first = [sum(len(part) for part in latents[:k]) for k in range(len(latents))]
    added, angles = mmdit.picture_positions(grids, length)
    ends = torch.tensor([*counts, 0]).to(added.device, non_blocking=True)
    mask = torch.arange(length, device=added.device) < ends[:, None]
    return PictureTable(torch.cat(padded), counts, first, added, angles, mask)


@dataclass
class CallInputs:
    """Inputs of the MM-DiT in a call. Rows after the samples repeat the last one."""

    latents: Tensor
    """(rows, own, channels · patch²): the clean picture that is to be drawn"""
    references: Tensor
    """(rows, reference tokens, channels · patch²)"""
    added: Tensor
    """(rows, image tokens, width)"""
    rotary: Tensor | None
    """(rows, 1, image tokens, head_width / 2)"""
    image_mask: Tensor
    """(rows, image tokens)"""
    is_whole: bool
    """Whether no image token is padding"""


def call_inputs(table: PictureTable, batch: JointBatch, call: DrawingCall) -> CallInputs:
    """The pictures of a call out of the table."""
    rows, shape_index, whole = [], [], True
    for drawing, _ in call.samples:
        shown = [batch.target[drawing], *batch.references[drawing][: call.references]]
        missing = 1 + call.references - len(shown)
        rows.append([table.first[s] + i for s, i in shown] + [0] * missing)
        shape_index.append([s for s, _ in shown] + [-1] * missing)
        lengths = [table.counts[s] for s, _ in shown]
        whole &= not missing and lengths[0] == call.own and all(n == call.reference_length for n in lengths[1:])
    padding = call.rows - len(call.samples)
    indices = torch.tensor([rows + rows[-1:] * padding, shape_index + shape_index[-1:] * padding])
    picture, shape = indices.to(table.tokens.device, non_blocking=True)  # (rows, 1 + references) each

    def gather(parts: Tensor, index: Tensor) -> list[Tensor]:
        return [parts[index[:, 0], : call.own]] + [
            parts[index[:, k], : call.reference_length] for k in range(1, 1 + call.references)
        ]

    def place(parts: Tensor) -> Tensor:
        own = parts[0][shape[:, 0], : call.own]
        shown = [parts[k][shape[:, k], : call.reference_length] for k in range(1, 1 + call.references)]
        return torch.cat([own, *shown], dim=1)

    latents, *references = gather(table.tokens, picture)
    return CallInputs(
        latents,
        torch.cat(references, dim=1) if references else latents[:, :0],
        place(table.added),
        None if table.angles is None else place(table.angles)[:, None],
        torch.cat(gather(table.mask, shape), dim=1),
        whole,
    )

"""Words in plain type, laid out in a picture's own grid and added to its image tokens.

The glyph encoder's bytes (`glyphs.py`) say what is to be written, but not which strokes belong to which patch, and that is hard
to learn. AnyText (arXiv:2311.03054) and GlyphControl (arXiv:2305.18259) give the network that paints a picture of the words in
plain type at their place. So does this part: a small head says from the stream's image features where the words stand, the words
are set in that box, and each patch of it is embedded and added to the image token of the same patch. No tokens come in addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from .files import load_module, save_module

CELL = 32
"""Width and height in pixels of a letter's cell in plain type"""
LINE_HEIGHT = 0.81
"""Height of a capital in cells: a single line needs no more of its box"""
SUPERSAMPLE = 2
MAX_COLUMNS = 32
"""Letters of a line; what is beyond is cut off"""
MAX_LINES = 8
INITIAL_BOX = (0.5, 0.5, 0.8, 0.4)
"""Centre (x, y), width and height where a new head has words stand"""


FONT_FILE = "font.ttf"
"""File of the font in the part's folder, where it is not Pillow's own"""
FONT_SIZE = round(1.2 * CELL)


@lru_cache(maxsize=8)
def load_font(file: bytes) -> ImageFont.FreeTypeFont:
    """The font of a file's bytes, TrueType or OpenType; without any Pillow's own. Raises ValueError for what is no font."""
    try:
        font = ImageFont.truetype(BytesIO(file), FONT_SIZE) if file else ImageFont.load_default(FONT_SIZE)
    except OSError as error:
        raise ValueError(f"no font that can be read: {error}") from error
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return font


def read_font(path: Path) -> bytes:
    """A font's file for `load_font`. Raises ValueError, naming it, for one that is missing or no font."""
    try:
        file = path.read_bytes()
        load_font(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return file


@lru_cache(maxsize=8192)
def is_in_font(letter: str, file: bytes = b"") -> bool:
    """Whether the font has this character; for one that it has not it draws a box."""
    font = load_font(file)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\ue000"))


@lru_cache(maxsize=4096)
def plain_type(lines: tuple[str, ...], file: bytes = b"") -> Tensor:
    """The ink (rows, columns), in [0, 1], of lines in plain type, each letter in the middle of a cell, each line in the middle,
    with half a cell around. A character that the font (`load_font`) has not leaves its cell empty."""
    longest = max(map(len, lines), default=0)
    image = Image.new("L", ((longest + 1) * CELL, (len(lines) + 1) * CELL))
    canvas, font = ImageDraw.Draw(image), load_font(file)
    for row, line in enumerate(lines):
        for column, letter in enumerate(line):
            x = (column + (longest - len(line)) / 2 + 1) * CELL
            if is_in_font(letter, file):
                place = (x, (row + 1) * CELL)
                canvas.text(place, letter, 255, font, anchor="mm", stroke_width=FONT_SIZE / 28)
    return torch.from_numpy(np.array(image)).float() / 255


@dataclass(frozen=True)
class GlyphLayout:
    """Words of a batch of pictures in plain type, and where they stand."""

    ink: Tensor
    """(batch, rows, columns) as `plain_type` gives it, padded to the right and below"""
    cells: Tensor
    """(batch, 2): how many letters the longest line has, and how many lines there are"""
    boxes: Tensor
    """(batch, 4): left, top, right and bottom as fractions of the picture"""
    worded: tuple[int, ...]
    """The pictures that have words, of which alone something is drawn"""

    def rows(self, indices: list[int]) -> GlyphLayout:
        """Of these pictures."""
        worded = tuple(new for new, old in enumerate(indices) if old in self.worded)
        index = torch.tensor(indices, dtype=torch.long).to(self.ink.device, non_blocking=True)
        return GlyphLayout(self.ink[index], self.cells[index], self.boxes[index], worded)

    def without_words(self, rows: Tensor) -> GlyphLayout:
        """Without words where ``rows`` (batch,) is True."""
        return replace(self, ink=self.ink * ~rows[:, None, None])

    def draw(self, height: int, width: int) -> Tensor:
        """Ink (batch, height, width) on pictures of this size, in pixels: as large as the box holds it, in the middle of it.

        It has a gradient with respect to the boxes."""
        columns, lines = self.cells.unbind(1)
        left, top, right, bottom = self.boxes.float().unbind(1)
        left, right, top, bottom = left * width, right * width, top * height, bottom * height
        cell = torch.minimum((right - left) / columns.clamp(min=1), (bottom - top) / (lines - 1 + LINE_HEIGHT))
        cell = cell.clamp(min=0.5)
        places = []
        for middle, count, length, whole in (
            ((left + right) / 2, columns, width, self.ink.shape[2]),
            ((top + bottom) / 2, lines, height, self.ink.shape[1]),
        ):
            pixels = (torch.arange(length * SUPERSAMPLE, device=cell.device) + 0.5) / SUPERSAMPLE
            in_cells = (pixels - middle[:, None]) / cell[:, None] + (count[:, None] + 1) / 2
            places.append(in_cells * CELL * 2 / whole - 1)
        across, down = places
        grid = torch.stack(
            [
                across[:, None, :].expand(-1, down.shape[1], -1),
                down[:, :, None].expand(-1, -1, across.shape[1]),
            ],
            dim=-1,
        )
        ink = F.grid_sample(self.ink[:, None], grid, align_corners=False)
        return F.avg_pool2d(ink, SUPERSAMPLE)[:, 0]


@dataclass
class GlyphImageConfig:
    """Sizes of `GlyphImages`. Raises ValueError for values that make no sense."""

    feature_width: int = 4096
    feature_tokens: int = 64
    """Image features of the stream, which say where words stand, and their number"""
    layout_width: int = 128
    """Of the head that reads this from them"""
    patch: int = 16
    """Side in pixels of what one image token stands for"""
    image_width: int = 1536
    """Of the MM-DiT's image tokens"""
    capitals: bool = False
    """Whether words are set in capitals, however they are asked for: for a model whose pictures have no small letters"""

    def __post_init__(self) -> None:
        for name in ("feature_width", "feature_tokens", "layout_width", "patch", "image_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class GlyphImages(nn.Module):
    """Says where the words of a picture stand (`layout`), and embeds them in plain type there (`forward`)."""

    def __init__(self, config: GlyphImageConfig, font: bytes = b"") -> None:
        """``font`` is `load_font`'s."""
        super().__init__()
        self.config, self.font = config, font
        load_font(font)
        width = config.layout_width
        self.norm = nn.RMSNorm(config.feature_width, eps=1e-6)
        self.token_proj = nn.Linear(config.feature_width, width)
        self.token_positions = nn.Parameter(torch.zeros(config.feature_tokens, width))
        nn.init.normal_(self.token_positions, std=0.5)
        last = nn.Linear(width, 4)
        self.box = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)
        self.embed = nn.Linear(config.patch**2, config.image_width, bias=False)
        with torch.no_grad():  # a new part changes no picture, and words stand in the middle
            self.embed.weight.zero_()
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor(INITIAL_BOX).logit())

    def save_pretrained(self, folder: Path) -> None:
        """With the font, where it is not Pillow's own."""
        save_module(self, folder)
        if self.font:
            (folder / FONT_FILE).write_bytes(self.font)

    @classmethod
    def from_pretrained(cls, folder: Path, variant: str | None = None) -> GlyphImages:
        """Raises ValueError for weights that do not fit and for a font that cannot be read."""
        made = load_module(cls, GlyphImageConfig, folder, variant)
        if (folder / FONT_FILE).exists():
            made.font = read_font(folder / FONT_FILE)
        return made

    def predict_boxes(self, features: Tensor) -> Tensor:
        """Where words stand in the pictures that features (batch, feature_tokens, feature_width) are of: (batch, 4) left, top,
        right and bottom as fractions, in fp32."""
        tokens = F.silu(self.token_proj(self.norm(features)) + self.token_positions)
        x, y, width, height = self.box(tokens.mean(1)).float().sigmoid().unbind(1)
        return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)

    def layout(
        self, glyph_text: Sequence[Sequence[str]], features: Tensor, known_boxes: Tensor | None = None
    ) -> GlyphLayout:
        """The words of each picture, a string a line, in the box that its features say or, where it is known, in that of
        ``known_boxes`` (batch, 4), which holds NaN elsewhere."""
        lines = [tuple(line[:MAX_COLUMNS] for line in text[:MAX_LINES]) for text in glyph_text]
        if self.config.capitals:
            lines = [tuple(line.upper() for line in own) for own in lines]
        pictures = [plain_type(own, self.font) for own in lines]
        rows, columns = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
        ink = torch.stack([F.pad(p, (0, columns - p.shape[1], 0, rows - p.shape[0])) for p in pictures])
        cells = torch.tensor([(max(map(len, own), default=0), max(1, len(own))) for own in lines], dtype=torch.float32)
        boxes = self.predict_boxes(features)
        if known_boxes is not None:
            boxes = torch.where(known_boxes.isnan(), boxes, known_boxes.to(boxes))
        worded = tuple(row for row, own in enumerate(lines) if any(own))
        ink, cells = (part.to(boxes.device, non_blocking=True) for part in (ink, cells))
        return GlyphLayout(ink, cells, boxes, worded)

    def forward(self, layout: GlyphLayout, height: int, width: int) -> Tensor:
        """What is added to the image tokens (batch, tokens, image_width) of pictures of this size, in pixels."""
        weight, patch = self.embed.weight, self.config.patch
        bias = weight.new_zeros(len(layout.ink), height // patch * (width // patch), self.config.image_width)
        if not layout.worded:
            return bias
        worded = list(layout.worded)
        patches = F.pixel_unshuffle(layout.rows(worded).draw(height, width)[:, None], patch)
        embedded = self.embed(patches.flatten(2).transpose(1, 2).to(weight.dtype))
        return bias.index_copy(0, torch.tensor(worded).to(bias.device, non_blocking=True), embedded)

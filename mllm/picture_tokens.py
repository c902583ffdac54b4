"""What a drawn picture is in the stream: so many queries, or the codes that were sampled. It stays with the picture, in
``image.info`` and so in a PNG file: tokenizing the picture again gives other codes.

Pillow hands ``info`` on to whatever is made of a picture. A digest of the pixels tells whether it is still the same one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .config import LimnerConfig

logger = logging.getLogger(__name__)

KEY = "limner_tokens"
"""In ``image.info``, and of the text in a PNG file"""
FORMAT = 1
MAX_CHARACTERS = 1 << 20
"""A longer text is not read"""


@dataclass(frozen=True)
class PictureTokens:
    """How a picture is drawn in the stream."""

    mode: str
    """"queries" or "tokens" """
    length: int
    """How many of them it has"""
    codes: tuple[int, ...] = ()
    """In the "tokens" mode, where they are known"""

    def check(self, config: LimnerConfig) -> None:
        """Raises ValueError for what a model of ``config`` does not draw."""
        check_mode(config, self.mode)
        check_length(config, self.mode, self.length)
        if self.codes:
            check_codes(config, self.codes)
            if len(self.codes) != self.length or self.mode != "tokens":
                raise ValueError(
                    f"{len(self.codes)} codes for a picture of {self.length} {self.mode}: give as many codes as tokens"
                )

    def attach(self, image: Image.Image, visual_codes: int) -> None:
        """Lets the picture say it; ``visual_codes`` is the size of the codebook."""
        said = {"format": FORMAT, "mode": self.mode, "length": self.length, "codes": list(self.codes)}
        image.info[KEY] = json.dumps({**said, "visual_codes": visual_codes, "pixels": pixel_digest(image)})


def check_mode(config: LimnerConfig, mode: str) -> None:
    """Raises ValueError for a mode in which a model of ``config`` does not draw."""
    if mode not in config.image_modes:
        raise ValueError(f"this model draws by {' or '.join(config.image_modes)}, not by {mode}")


def check_length(config: LimnerConfig, mode: str, length: int) -> None:
    """Raises ValueError for a number of tokens or queries that a picture of this mode cannot have."""
    allowed = config.lengths_of(mode) or (config.num_queries,)
    if length not in allowed:
        raise ValueError(f"a picture of {length} {mode}: this model draws by {', '.join(map(str, allowed))} of them")


def check_codes(config: LimnerConfig, codes: Sequence[int]) -> None:
    """Raises ValueError for codes that are not in the codebook."""
    if wrong := [code for code in codes if not 0 <= code < config.visual_codes]:
        raise ValueError(f"code {wrong[0]} is not in the codebook: its codes are 0 to {config.visual_codes - 1}")


def pixel_digest(image: Image.Image) -> str:
    """Of a picture's size and pixels."""
    return hashlib.blake2b(f"{image.mode}{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()


def tokens_text(image: Image.Image) -> str | None:
    """What a picture says of its tokens, where that is of its pixels; None where it says nothing, or nothing that is JSON."""
    text = image.info.get(KEY)
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return str(text) if isinstance(said, dict) and said.get("pixels") == pixel_digest(image) else None


def keep_tokens(source: Image.Image, made: Image.Image) -> None:
    """Lets a picture that was read from another one go on saying what it says of its tokens, where that is of its pixels."""
    if KEY in source.info:
        made.info[KEY] = source.info[KEY]
        if tokens_text(made) is None:
            del made.info[KEY]


def tokens_of(image: Image.Image, config: LimnerConfig) -> PictureTokens | None:
    """What a picture says of itself, as far as it is true of its pixels and makes sense for a model of ``config``; else None."""
    if (text := tokens_text(image)) is None:
        return None
    try:
        said = json.loads(text)
        mode, length, codes = said["mode"], said["length"], said["codes"]
        if said["format"] != FORMAT:
            raise ValueError(f"format {said['format']!r} is not {FORMAT}")
        if type(length) is not int or not all(type(code) is int for code in codes):
            raise ValueError("length and codes must be whole numbers")
        if codes and said["visual_codes"] != config.visual_codes:
            raise ValueError(f"its codes are of {said['visual_codes']}, the model's of {config.visual_codes}")
        tokens = PictureTokens(mode, length, tuple(codes))
        tokens.check(config)
    except (ValueError, KeyError, TypeError) as error:
        logger.info("what a picture says of its tokens is not used: %s", str(error)[:200])
        return None
    return tokens

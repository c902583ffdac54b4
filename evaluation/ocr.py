"""What an OCR that nobody here trained reads on a picture: RapidOCR's models (PP-OCR, Apache-2.0), which are in its wheel."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

SCALE = 3
"""By which pictures are enlarged: the detector looks for larger letters than those of a sign of 128 pixels"""


def load_ocr() -> Any:
    """Raises ValueError where RapidOCR is not installed."""
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise ValueError("an OCR is needed: pip install 'limner[ocr]'") from None
    ocr = RapidOCR()
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)  # it warns of every picture without letters
    return ocr


def read_letters(ocr: Any, images: Sequence[Image.Image]) -> list[str]:
    """The letters and digits in each picture, as capitals, in the order in which they were found."""
    found = []
    for image in images:
        large = image.convert("RGB").resize((SCALE * image.width, SCALE * image.height), Image.Resampling.LANCZOS)
        texts = ocr(np.asarray(large)[..., ::-1]).txts or ()  # it takes OpenCV's order of colours
        found.append(re.sub("[^A-Z0-9]", "", "".join(texts).upper()))
    return found

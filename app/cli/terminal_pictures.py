"""Pictures as a terminal is sent them: by kitty's, iTerm2's or the sixel protocol, or as 24-bit half blocks.

textual-image has no iTerm2 protocol, and asks the terminal twice while it is imported.
"""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image


def show(image: Image.Image, way: str, columns: int = 48) -> str:
    """The escape sequence (or text) that shows a picture."""
    if way == "kitty":
        return kitty(image)
    if way == "iterm2":
        data = png(image)
        return f"\x1b]1337;File=inline=1;size={len(data)}:{base64.b64encode(data).decode()}\x07\n"
    if way == "sixel":
        return sixel(image)
    return half_blocks(image, columns) if way == "blocks" else ""


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def kitty(image: Image.Image) -> str:
    """Kitty's graphics protocol: base64 in chunks of 4096 characters, of which all but the last say that more follow."""
    data = base64.b64encode(png(image)).decode()
    chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    heads = ["a=T,f=100,m=1", *["m=1"] * (len(chunks) - 2), "m=0"] if len(chunks) > 1 else ["a=T,f=100,m=0"]
    return "".join(f"\x1b_G{head};{chunk}\x1b\\" for head, chunk in zip(heads, chunks, strict=True)) + "\n"


def half_blocks(image: Image.Image, columns: int) -> str:
    """Two pixels a character: the upper half block in the upper pixel's colour on the lower's."""
    columns = min(columns, image.width)
    rows = max(2, round(image.height * columns / image.width) // 2 * 2)
    pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BOX))
    cell = "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀"
    lines = (
        "".join(cell.format(*a, *b) for a, b in zip(*pair, strict=True)) for pair in pixels.reshape(-1, 2, columns, 3)
    )
    return "".join(f"{line}\x1b[0m\n" for line in lines)


def sixel(image: Image.Image, colors: int = 64) -> str:
    """DEC sixel with a palette: bands of six rows, a line a colour and band, repeated characters as ``!COUNT CHARACTER``."""
    paletted = image.quantize(colors)
    palette = np.rint(np.reshape(paletted.getpalette() or (), (-1, 3)) / 2.55).astype(int)
    pixels = np.pad(np.asarray(paletted, np.int16), ((0, -image.height % 6), (0, 0)), constant_values=-1)
    out = [f'\x1bPq"1;1;{image.width};{image.height}']
    out += [f"#{c};2;{r};{g};{b}" for c, (r, g, b) in enumerate(palette)]
    for band in pixels.reshape(-1, 6, image.width):
        for c in np.unique(band[band >= 0]):
            bits = 63 + ((band == c) * (1 << np.arange(6))[:, None]).sum(0)
            line = re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", bits.astype(np.uint8).tobytes().decode())
            out.append(f"#{c}{line}$")
        out.append("-")
    return "".join(out) + "\x1b\\\n"

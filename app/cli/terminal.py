"""Pictures in a terminal: kitty, iTerm2 or sixel where the terminal says it can, else 24-bit half blocks."""

from __future__ import annotations

import base64
import io
import os
import select
import sys
from collections.abc import Mapping

from PIL import Image


def graphics(environment: Mapping[str, str], is_terminal: bool) -> str:
    """ "kitty", "iterm2", "sixel", "blocks", or "none" where nobody would see it."""
    if not is_terminal or environment.get("TERM") == "dumb":
        return "none"
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return "iterm2"
    return "sixel" if answers_sixel() else "blocks"


def answers_sixel(timeout: float = 0.2) -> bool:
    """Ask the terminal for its attributes (DA1): 4 among them means sixel."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    answer = b""
    try:
        tty.setcbreak(handle)
        sys.stdout.write("\x1b[c")
        sys.stdout.flush()
        while select.select([handle], [], [], timeout)[0]:
            answer += os.read(handle, 64)
            if answer.endswith(b"c"):
                break
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
    return b"4" in answer.removeprefix(b"\x1b[?").removesuffix(b"c").split(b";")


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
    """Kitty's graphics protocol: base64 in chunks of 4096."""
    data = base64.b64encode(png(image)).decode()
    chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    out = []
    for index, chunk in enumerate(chunks):
        more = int(index < len(chunks) - 1)
        head = f"a=T,f=100,m={more}" if index == 0 else f"m={more}"
        out.append(f"\x1b_G{head};{chunk}\x1b\\")
    return "".join(out) + "\n"


def half_blocks(image: Image.Image, columns: int) -> str:
    """Two pixels a character: the upper half block in the upper pixel's colour on the lower's."""
    columns = min(columns, image.width)
    rows = max(2, round(image.height * columns / image.width) // 2 * 2)
    pixels = image.resize((columns, rows), Image.Resampling.BOX).load()
    lines = []
    for y in range(0, rows, 2):
        cells = (
            "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*pixels[x, y], *pixels[x, y + 1]) for x in range(columns)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines) + "\n"


def sixel(image: Image.Image, colors: int = 64) -> str:
    """DEC sixel with a palette."""
    paletted = image.quantize(colors)
    palette = paletted.getpalette()
    width, height = paletted.size
    pixels = paletted.load()
    used = sorted({pixels[x, y] for x in range(width) for y in range(height)})
    out = [f'\x1bPq"1;1;{width};{height}']
    for c in used:
        r, g, b = (round(palette[3 * c + k] * 100 / 255) for k in range(3))
        out.append(f"#{c};2;{r};{g};{b}")
    for top in range(0, height, 6):
        band = range(top, min(top + 6, height))
        for c in used:
            bits = [sum(1 << (y - top) for y in band if pixels[x, y] == c) for x in range(width)]
            if any(bits):
                out.append(f"#{c}" + "".join(chr(63 + b) for b in bits) + "$")
        out.append("-")
    return "".join(out) + "\x1b\\\n"

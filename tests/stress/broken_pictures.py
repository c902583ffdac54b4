"""Bytes of pictures that are cut, changed, lie about themselves or are none, made from a `Random`."""

from __future__ import annotations

import io
import re
import struct
import zlib
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageCms

EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
SIDES = (0, 1, -1, 8001, 16384, 20000, 30000, 65535, 100000, 2**31 - 1, 2**31, 2**32 - 1)


@cache
def sound() -> dict[str, bytes]:
    """Small pictures by format, mode and the number of the option they were written with."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    names = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "LA", "I", "F", "LAB")
    modes = {name: rgba.convert("RGB").convert(name) for name in names}
    modes |= {"RGBA": rgba, "I;16": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "a cat", {0x9286: b"ASCII\0\0\0hello"}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    marked = [{"exif": exif}, {"icc_profile": profile}]
    frames = {"save_all": True, "append_images": [rgba.convert("RGB"), rgba.convert("L")], "duration": 40}
    options: dict[str, list[dict]] = {
        "PNG": [*marked, frames, {"transparency": 3}, {"bits": 2}],
        "JPEG": [*marked, {"progressive": True}],
        "GIF": [frames, {"transparency": 3}],
        "WEBP": [*marked, frames, {"lossless": True}],
        "TIFF": [*marked, frames, *({"compression": f"tiff_{c}"} for c in ("lzw", "deflate", "jpeg", "ccitt"))],
        "TGA": [{"rle": True}],
        "AVIF": [{"speed": 10}],
        "MPO": [frames],
    }
    plain = (
        "BMP",
        "DIB",
        "PPM",
        "ICO",
        "JPEG2000",
        "PCX",
        "SGI",
        "DDS",
        "QOI",
        "EPS",
        "IM",
        "MSP",
        "XBM",
        "SPIDER",
        "PDF",
    )
    found = {}
    for kind in (*options, *plain):
        for mode, image in modes.items():
            for number, option in enumerate(
                [{}, *options.get(kind, [])][: 1 if kind in ("PDF", "IM", "SPIDER") else None]
            ):
                # elsewhere libtiff says that it cannot, and that of Pillow 12 then breaks the memory of who asked
                only = {"tiff_ccitt": ("1",), "tiff_jpeg": ("L", "RGB", "CMYK")}
                if image.mode not in only.get(option.get("compression", ""), (image.mode,)):
                    continue
                stream = io.BytesIO()
                try:
                    image.save(stream, kind, **({"speed": 10} if kind == "AVIF" else {}), **option)
                except Exception:  # noqa: BLE001 - the format does not have this
                    continue
                found[f"{kind} {mode} {number}"] = stream.getvalue()
    return found


def some(rng: Random) -> bytes:
    """A sound picture, each format as often as another."""
    kind = rng.choice(sorted({name.split()[0] for name in sound()}))
    return sound()[rng.choice([name for name in sound() if name.startswith(f"{kind} ")])]


def cut_short(rng: Random) -> bytes:
    data = some(rng)
    return data[: rng.choice((rng.randrange(len(data)), rng.randrange(min(64, len(data))), len(data) - 1))]


def bits_turned(rng: Random) -> bytes:
    data = bytearray(some(rng))
    span = rng.choice((16, 64, 256, len(data)))
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(min(span, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


def numbers_replaced(rng: Random) -> bytes:
    data = bytearray(some(rng))
    for _ in range(rng.choice((1, 1, 2, 4))):
        width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
        place = rng.randrange(min(rng.choice((40, 200, len(data))), len(data)))
        data[place : place + width] = (rng.choice(EXTREMES) % (1 << 8 * width)).to_bytes(width, order)
    return bytes(data)


def rearranged(rng: Random) -> bytes:
    data, other = some(rng), some(rng)
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    made = (
        data[:a] + data[b:],
        data[:b] + data[a:],
        data[:a] + other,
        data[:a] + other[rng.randrange(len(other)) :],
        data[:a] + rng.randbytes(b - a) + data[b:],
        data[:a] + data[a:b] * rng.randrange(50) + data[b:],
        data + other,
        other[:8] + data,
    )
    return rng.choice(made)


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG, with a sound checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    *chunks: tuple[bytes, bytes],
    width: int = 4,
    height: int = 4,
    depth: int = 8,
    color: int = 2,
    rows: bytes = bytes(52),
) -> bytes:
    """A PNG of these chunks; ``rows`` are its filtered rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, color, 0, 0, 0))
    body = b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


@cache
def zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 1)


CHUNKS = (
    *(
        b"PLTE",
        b"tRNS",
        b"iCCP",
        b"zTXt",
        b"iTXt",
        b"tEXt",
        b"eXIf",
        b"acTL",
        b"fcTL",
        b"fdAT",
        b"gAMA",
        b"cHRM",
        b"sRGB",
    ),
    *(b"pHYs", b"IHDR", b"IEND", b"CgBI", b"cICP"),
)


def png_with_odd_chunks(rng: Random) -> bytes:
    """Sound checksums around chunks that lie: palettes of odd lengths, compressed text and profiles that are bombs."""
    noise, packed = rng.randbytes(rng.choice((0, 1, 5, 767, 768, 3000, 10**5))), zeros(rng.choice((10, 10**6, 10**8)))
    bodies = (
        *(noise, noise[:3], struct.pack(">II", rng.choice(EXTREMES), rng.choice(EXTREMES)), b"Exif\0\0" + noise),
        *(b"x\0\0" + packed, b"x\0" + packed, b"x\0\1\0\0\0" + packed, b"x\0\1\0a\0b\0" + packed),
        *(b"MM\0*\0\0\0\x08" + noise, b"II*\0\x08\0\0\0" + b"\xff" * 200),
    )
    name = rng.choice(CHUNKS)
    chunks = [(name, rng.choice(bodies)) for _ in range(rng.choice((1, 1, 2, 200)))]
    return png(*chunks, color=rng.choice((0, 2, 3, 4, 6, 7)), depth=rng.choice((1, 2, 4, 8, 16, 0, 255)))


def png_bomb(rng: Random, width: int, height: int) -> bytes:
    """A huge declared size, or the largest that is read with all of its rows, or many frames."""
    frames = ((b"fcTL", struct.pack(">IIIIIHHBB", n, 4, 4, 0, 0, 1, 1, 0, 0)) for n in range(3000))
    made = (
        lambda: png(width=width, height=height, color=rng.choice((0, 2, 3, 6)), depth=rng.choice((1, 8, 16))),
        lambda: png(width=7990, height=7990, color=6, rows=bytes(7990 * 60)),
        lambda: png(width=60000, height=1060, color=0, depth=1, rows=bytes(7501 * 1060)),
        lambda: png((b"acTL", struct.pack(">II", 10**6, 0)), *frames),
    )
    return rng.choice(made)()


def gif_bomb(rng: Random, width: int, height: int) -> bytes:
    size = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    frame = b",\0\0\0\0\x04\0\x04\0\0\x02\x03\x84\x10\x05\0"
    made = (
        b"GIF89a" + size + b"\xf7\0\0" + bytes(768) + b",\0\0\0\0" + size + b"\0\x08\x02\0\x01\0;",
        b"GIF89a\x04\0\x04\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 10**5 + b";",
    )
    return rng.choice(made)


def bmp_bomb(rng: Random, width: int, height: int) -> bytes:
    bits, packing, colors = rng.choice((0, 1, 4, 8, 24, 32, 64)), rng.choice((0, 1, 2, 3)), rng.choice((0, 2**31))
    size = struct.pack("<II", width % 2**32, height % 2**32)
    head = struct.pack("<I", 40) + size + struct.pack("<HHIIiiII", 1, bits, packing, 0, 0, 0, colors, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + head


def ppm_bomb(rng: Random, width: int, height: int) -> bytes:
    made = (
        f"P{rng.choice('123456yf')}\n{width} {height}\n{rng.choice((1, 0, 255, 65535, 70000, 10**30))}\n".encode(),
        b"P6\n" + b"#" * 10**6 + b"\n4 4\n255\n",
        f"P6 {'9' * rng.choice((10, 5000))} 4 255\n".encode(),
    )
    return rng.choice(made) + bytes(100)


def webp_bomb(rng: Random, width: int, height: int) -> bytes:
    size = (width % 2**24).to_bytes(3, "little") + (height % 2**24).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + bytes((rng.choice((0, 2, 16, 18)), 0, 0, 0)) + size
    body += b"ANIM" + struct.pack("<I", 6) + bytes(60)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff_bomb(rng: Random, width: int, height: int) -> bytes:
    rows = rng.choice((1, height % 2**32))
    sizes = {
        256: width % 2**32,
        257: height % 2**32,
        258: 8,
        259: rng.choice((1, 5, 8)),
        262: 1,
        273: 8,
        277: 1,
        278: rows,
    }
    return tiff([(tag, 4, 1, value) for tag, value in sizes.items()])


def small_bomb(rng: Random, width: int, height: int) -> bytes:
    """Headers of the formats that have little more than one."""
    wide, high = width % 2**32, height % 2**32
    shorts = struct.pack("<HH", wide & 0xFFFF, high & 0xFFFF)
    made = (
        b"\0\0\1\0\1\0\0\0\0\0\0\0 \0" + struct.pack("<II", rng.choice(EXTREMES), 22) + png(width=width, height=height),
        b"qoif" + struct.pack(">IIBB", wide, high, 4, 0) + bytes(40),
        bytes((0, 0, rng.choice((2, 3, 10)), *bytes(9))) + shorts + bytes((24, 32)) + bytes(40),
        struct.pack(">HBBH", 474, rng.choice((0, 1)), 1, 3) + shorts[1::-1] + shorts[:1:-1] + bytes(600),
        b"DDS "
        + struct.pack("<IIIIIII", 124, 0x1007, high, wide, 0, 0, 0)
        + bytes(44)
        + b" \0\0\0\4\0\0\0DXT1"
        + bytes(40),
        b"\x0a\x05\x01\x08\0\0\0\0" + shorts + bytes(200),
        b"\xff\xd8\xff\xc0\0\x11\x08" + shorts + b"\x03\x01\x22\0\x02\x11\x01\x03\x11\x01" + bytes(40),
    )
    return rng.choice(made)


BOMBS = (png_bomb, gif_bomb, bmp_bomb, ppm_bomb, webp_bomb, tiff_bomb, small_bomb)


def bomb(rng: Random) -> bytes:
    """A few bytes that declare a huge, empty or negative picture."""
    return rng.choice(BOMBS)(rng, rng.choice(SIDES), rng.choice(SIDES))


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, order: str = "<") -> bytes:
    """One directory of (tag, type, count, value)."""
    rows = b"".join(struct.pack(f"{order}HHII", tag, kind, count, value) for tag, kind, count, value in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + rows + struct.pack(f"{order}I", following) + bytes(64)


TAGS = (
    *(
        254,
        256,
        257,
        258,
        259,
        262,
        270,
        273,
        277,
        278,
        279,
        282,
        284,
        317,
        320,
        322,
        323,
        324,
        330,
        338,
        339,
        347,
        530,
        700,
    ),
    *(33723, 34377, 34665, 34675, 34853),
)


def odd_tiff(rng: Random) -> bytes:
    """Directories that point at themselves, tags of impossible types and counts."""
    sizes = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = [(tag, 4, 1, value) for tag, value in sizes.items() if rng.random() < 0.95]
    for _ in range(rng.choice((1, 3, 40))):
        kind, count, value = (
            rng.choice((*range(17), 99)),
            rng.choice((*EXTREMES, 1, 1, 4)),
            rng.choice((*EXTREMES, 8, 8, 20)),
        )
        entries.append((rng.choice(TAGS), kind, count, value))
    if rng.random() < 0.5:
        entries.sort()
    return tiff(entries, rng.choice((0, 8, 8, 20, 2**31, 2**32 - 1)), rng.choice("<>"))


def odd_jpeg(rng: Random) -> bytes:
    """Segments whose lengths lie, odd colour marks, scans without end, huge EXIF data and profiles."""
    data = sound()[rng.choice([name for name in sound() if name.startswith("JPEG ")])]
    place = rng.choice([found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", data)])
    segment = b"\xff" + bytes((rng.randrange(0xC0, 0xFF),)) + struct.pack(">H", rng.choice((0, 1, 2, 14, 65535)))
    bodies = (
        b"Adobe\0d\0\0\0\0" + bytes((rng.randrange(4),)),
        b"Exif\0\0II*\0\x08\0\0\0" + rng.randbytes(60),
        b"MPF\0II*\0\x08\0\0\0" + b"\xff" * 50,
        rng.randbytes(9),
        b"ICC_PROFILE\0\0\0",
    )
    scans = data[data.rfind(b"\xff\xda") : -2] * rng.choice((0, 0, 1, 200))
    profile = (b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes((n, 255)) + rng.randbytes(65519) for n in range(1, 40))
    made = (
        data[:place] + segment + rng.choice(bodies) + data[place:-2] + scans + data[-2:],
        data[:2] + b"\xff\xe1\xff\xffExif\0\0" + rng.randbytes(65527) + data[2:],
        data[:2] + b"".join(profile) + data[2:],
    )
    return rng.choice((made[0], made[0], *made))


OTHER_THINGS = (
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>1</script></svg>',
    b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(/tmp/ran) (w) file closefile showpage\n%%EOF\n",
    b"\xc5\xd0\xd3\xc6"
    + struct.pack("<II", 32, 60)
    + bytes(18)
    + b"\xff\xff%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n",
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n%%EOF",
    b"<!doctype html><html><script>alert(1)</script>",
    b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
    b"#!/bin/sh\ntouch /tmp/ran\n",
    b"push graphic-context\nimage over 0,0 0,0 'url(https://127.0.0.1/x)'\n",
    *(b"PK\x03\x04" + bytes(60), b"\x7fELF\x02\x01\x01" + bytes(80), b"\xd7\xcd\xc6\x9a" + bytes(80)),
    *(b"\0\0\0\x18ftypheic" + bytes(200), b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf\0\0\xff\xffmeta" + bytes(80)),
    b"#define a_width 99999\n#define a_height 99999\nstatic char a[] = {\n",
    b'/* XPM */\nstatic char *a[] = {\n"99999 99999 2 1",\n',
    *(
        b"8BPS\0\1" + bytes(40),
        b"gimp xcf file\0" + bytes(40),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(40),
        b"\xff\x0a" + bytes(50),
    ),
    *(bytes(5000), b"\n", b"P", b"BM", b"GIF89a"),
)


def other_things(rng: Random) -> bytes:
    """Not pictures at all, or two things at once."""
    data = rng.choice(OTHER_THINGS)
    return rng.choice(
        (data, data + some(rng), some(rng) + data, data * 50, rng.randbytes(rng.choice((1, 4, 100, 5000))))
    )


MAKERS = {
    make.__name__: make
    for make in (
        cut_short,
        bits_turned,
        numbers_replaced,
        rearranged,
        png_with_odd_chunks,
        bomb,
        odd_tiff,
        odd_jpeg,
        other_things,
    )
}

"""Files that people take for pictures, told by their first bytes: what they are, and what to do with them."""

from __future__ import annotations

import re

HEIC = "HEIC, the format of a phone: pip install 'limner[heic]', or save it as JPEG"
RAW = "a camera's raw file: develop it to PNG or JPEG first"
VIDEO = "a video: save one of its frames"
VECTOR = "a drawing of lines, not of pixels: render it to PNG first"
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), HEIC),
    **dict.fromkeys((b"avif", b"avis"), "a broken AVIF, or of a kind that is not read"),
    b"crx ": RAW,
}
"""By the brand of a file of boxes (ISO 14496-12), which all begin alike; the others are videos"""
BEGINNINGS = {
    b"%PDF": "a PDF: render one of its pages to PNG first",
    b"%!PS": f"PostScript (EPS), {VECTOR}",
    b"\xc5\xd0\xd3\xc6": f"PostScript (EPS), {VECTOR}",
    b"\xd7\xcd\xc6\x9a": f"WMF, {VECTOR}",
    b"8BPS": "a Photoshop file (PSD): export it as PNG",
    b"\xff\x0a": "JPEG XL, which is not read: save it as PNG or JPEG",
    b"\0\0\0\x0cJXL ": "JPEG XL, which is not read: save it as PNG or JPEG",
    **dict.fromkeys((b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"), RAW),
    **dict.fromkeys((b"\x1aE\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"FLV\x01", b"OggS"), VIDEO),
    b"SIMPLE  =": "FITS, which is not read: scale its values and save it as PNG",
    b"\x89HDF": "HDF5, which is not read: load the array and give that",
    b"\x93NUMPY": "a numpy array: give numpy.load of it",
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "packed by gzip: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: git lfs pull",
}
BROKEN = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"PF"), "PPM"),
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"DDS ": "DDS",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"qoif": "QOI",
}
"""Formats that are read, where a file of theirs was not recognised all the same"""
MARKUP = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<[?!][^>]*>\s*)*<(svg|html|head|body)", re.IGNORECASE)


def foreign_format(head: bytes, heic_is_read: bool = False) -> str | None:
    """What a file that begins with ``head`` is, in words that follow "it is"; None for what is not known."""
    if head[4:8] == b"ftyp":
        said = BRANDS.get(head[8:12], VIDEO)
        return "a broken HEIC, or of a kind that is not read" if said == HEIC and heic_is_read else said
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return VIDEO
    if head[8:10] == b"CR" and head[:4] == b"II*\0":
        return RAW
    if found := MARKUP.match(head):
        return f"SVG, {VECTOR}" if found[1].lower() == b"svg" else "a web page (HTML), not a picture"
    broken = {beginning: f"a broken {name}, or of a kind that is not read" for beginning, name in BROKEN.items()}
    return next((said for beginning, said in (BEGINNINGS | broken).items() if head.startswith(beginning)), None)

"""Whatever is a picture becomes the same RGB image, or is refused by a ValueError that names it."""

import base64
import io
import logging
import struct
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from limner.inference import images
from limner.inference.images import load_image

RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))
GREY = np.rint(RAMP * 255)
DEEP = np.rint(RAMP * 65535).astype(np.uint16)
COLORS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(data: bytes, **tags: int) -> bytes:
    """A grey little-endian TIFF of 64 x 64, of which Pillow writes no such kind."""
    numbers = {"bits": 258, "photometric": 262, "sample_format": 339, "subfile": 254, "dng": 50706, "sub_ifds": 330}
    fields = {256: 64, 257: 64, 259: 1, 273: 8, 277: 1, 278: 64, 279: len(data)}
    fields |= {numbers[name]: value for name, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(fields)) + entries + bytes(4)


def pixels(source) -> np.ndarray:
    image = load_image(source)
    assert image.mode == "RGB" and not image.info
    return np.asarray(image).astype(int)


twelve = np.rint(RAMP * 4095).astype(int).reshape(-1, 2)
PACKED = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], 1)


@pytest.mark.parametrize(
    "source",
    [
        encoded(Image.fromarray(DEEP), "PNG"),
        encoded(Image.fromarray(DEEP), "PNG", transparency=300),
        encoded(Image.fromarray(DEEP), "TIFF"),
        b"P5 64 64 65535\n" + DEEP.astype(">u2").tobytes(),
        b"P5 64 64 1000\n" + np.rint(RAMP * 1000).astype(">u2").tobytes(),
        b"P2 64 64 65535\n" + " ".join(map(str, DEEP.flat)).encode(),
        encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        tiff(PACKED.astype(np.uint8).tobytes(), bits=12, photometric=1),
        tiff((65535 - DEEP).tobytes(), bits=16, photometric=0),
        tiff((DEEP // 2).astype("<i2").tobytes(), bits=16, photometric=1, sample_format=2),
        Image.fromarray(DEEP.astype(np.int32)),
        Image.fromarray(DEEP.astype(">u2")),
        Image.fromarray(RAMP.astype(np.float32)),
        DEEP,
        RAMP,
        RAMP.astype(np.float16),
        torch.from_numpy(RAMP)[None].bfloat16(),
        GREY.astype(np.int64),
    ],
)
def test_greys_of_any_depth_are_the_same_grey(source):
    assert abs(pixels(source) - GREY[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Image.fromarray((RAMP * 255).astype(np.float32)), "from 0 to 255: scale them to 0 … 1"),
        (np.full((4, 4), np.nan), "from nan to nan"),
        (RAMP * 2 - 1, "from -1 to 1"),
        (Image.fromarray(DEEP.astype(np.int32) * 2), "from 0 to 131070: scale them to 0 … 65535"),
        (Image.fromarray((RAMP * 127).astype(np.uint16)), "from 0 to 127 of 0 … 65535, which are one colour in 8 bits"),
        (np.full((4, 4), 300), "int64 from 300 to 300"),
        (np.zeros((4, 4), complex), "an array of complex128"),
        (np.zeros((2, 4, 4, 3)), "give the pictures one by one"),
        (np.zeros((9, 9, 5)), "neither 1, 3 nor 4 channels"),
        (np.zeros((0, 4, 3)), "is no picture"),
        (Image.new("RGB", (0, 4)), "has no pixels"),
        (3, "not 3 \\(int\\)"),
        (None, "not None"),
        ([Image.new("RGB", (4, 4))], "\\(list\\)"),
        ("", "is empty"),
        (io.StringIO("x"), "gives text, not bytes"),
    ],
)
def test_what_has_no_scale_or_is_no_picture_is_refused(source, said):
    with pytest.raises(ValueError, match=said):
        load_image(source)


def test_arrays_and_tensors_of_colours():
    """The last axis of an array and the first of a tensor are the channels, where both may be."""
    for source in (COLORS, COLORS.transpose(2, 0, 1), COLORS / 255, torch.from_numpy(COLORS).permute(2, 0, 1) / 255):
        assert (pixels(source) == COLORS).all()
    assert (pixels(COLORS[:3]) == COLORS[:3]).all()
    assert (pixels(torch.from_numpy(COLORS[:3])) == COLORS[:3].transpose(1, 2, 0)).all()
    opaque = np.dstack([COLORS, np.full((24, 32), 255, np.uint8)])
    assert (pixels(opaque) == COLORS).all() and (pixels(opaque * [1, 1, 1, 0]) == 255).all()
    tensor = (torch.from_numpy(COLORS).permute(2, 0, 1) / 255).requires_grad_()
    assert (pixels(tensor) == COLORS).all() and tensor.requires_grad


def test_bytes_and_open_files(tmp_path):
    data = encoded(Image.fromarray(COLORS), "PNG")
    (tmp_path / "a b#.png").write_bytes(data)
    stream = io.BytesIO(data)
    stream.seek(7)
    for source in (data, bytearray(data), memoryview(data), stream, tmp_path / "a b#.png", str(tmp_path / "a b#.png")):
        assert (pixels(source) == COLORS).all()
    assert stream.tell() == 7
    with (tmp_path / "a b#.png").open("rb") as file:
        assert (pixels(file) == COLORS).all()


def test_modes_of_pillow():
    flat = Image.fromarray(COLORS)
    assert (pixels(flat.convert("HSV")) == np.asarray(flat.convert("HSV").convert("RGB"))).all()
    assert (pixels(flat.convert("YCbCr")) == np.asarray(flat.convert("YCbCr").convert("RGB"))).all()
    assert (pixels(Image.fromarray(COLORS[..., 0] > 127)) == (COLORS[..., :1] > 127) * 255).all()
    assert (pixels(flat.quantize(64)) == np.asarray(flat.quantize(64).convert("RGB"))).all()
    lab = ImageCms.profileToProfile(
        flat, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert abs(pixels(lab) - COLORS).mean() < 2


def test_ink_of_a_jpeg():
    """CMYK, which Adobe and so everybody stores inverted in JPEG."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for source in (red, encoded(red, "JPEG"), encoded(red, "TIFF")):
        assert abs(pixels(source) - [255, 0, 0]).max() <= 3


def test_transparency_is_white():
    clear = np.dstack([COLORS, np.full((24, 32), 128, np.uint8)])
    expected = np.rint(COLORS * (128 / 255) + 255 * (127 / 255))
    assert abs(pixels(Image.fromarray(clear)) - expected).max() <= 1
    grey = Image.fromarray(np.dstack([COLORS[..., 0], np.zeros((24, 32), np.uint8)]))
    assert grey.mode == "LA" and (pixels(grey) == 255).all() and (pixels(grey.convert("La")) == 255).all()
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 99, 199])
    assert (pixels(palette) == [9, 99, 199]).all()
    assert (pixels(encoded(palette, "PNG", transparency=b"\xff\0")) == 255).all()
    assert (pixels(encoded(palette, "GIF", transparency=1)) == 255).all()
    deep = DEEP.copy()
    deep[:, :8] = 20_000
    seen = pixels(encoded(Image.fromarray(deep), "PNG", transparency=20_000))
    assert (seen[:, :8] == 255).all() and abs(seen[:, 8:] - GREY[:, 8:, None]).max() <= 1


def with_exif(data: bytes, *tags: tuple[int, int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_pictures_stand_upright(caplog):
    corner = np.zeros((32, 64, 3), np.uint8)
    corner[:16, :16] = 255
    shown = {1: corner, 2: corner[:, ::-1], 3: corner[::-1, ::-1], 4: corner[::-1], 5: corner.transpose(1, 0, 2)}
    shown |= {6: np.rot90(corner, -1), 7: np.rot90(corner, 2).transpose(1, 0, 2), 8: np.rot90(corner)}
    data = encoded(Image.fromarray(corner), "JPEG", quality=100)
    for orientation, expected in shown.items():
        tag = (0x112, 3, struct.pack("<HH", orientation, 0))
        # a resolution unit out of its range: the EXIF data cannot be written anew, but read
        for more in ((), ((0x128, 4, struct.pack("<I", 70000)),)):
            seen = pixels(with_exif(data, tag, *more))
            assert seen.shape == expected.shape and abs(seen - expected).max() < 9
    notes = PngInfo()
    notes.add_text("Raw profile type exif", "\nexif\n 8\nno hexadecimal numbers")
    with caplog.at_level(logging.INFO):
        assert (pixels(encoded(Image.fromarray(corner), "PNG", pnginfo=notes)) == corner).all()
    assert "EXIF data are broken" in caplog.text


def swapped_profile() -> bytes:
    """sRGB with red and blue in each other's place."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    return profile.replace(b"rXYZ", b"....", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"....", b"bXYZ", 1)


def test_colour_profiles(caplog):
    flat, profile = Image.fromarray(COLORS), swapped_profile()
    assert abs(pixels(encoded(flat, "PNG", icc_profile=profile)) - COLORS[..., ::-1]).max() <= 2
    clear = Image.fromarray(np.dstack([COLORS, np.full((24, 32), 255, np.uint8)]))
    assert abs(pixels(encoded(clear, "PNG", icc_profile=profile)) - COLORS[..., ::-1]).max() <= 2
    darker = profile.replace(b"\0\2\x66\x66", b"\0\3\0\0")  # a gamma of 3 in place of 2.4
    grey = Image.fromarray(COLORS[..., 0])
    seen = pixels(encoded(grey, "PNG", icc_profile=darker))
    assert (seen == pixels(encoded(grey.convert("RGB"), "PNG", icc_profile=darker))).all()
    assert (seen.mean() + 5 < COLORS[..., 0].mean()) and (seen[..., :1] == seen).all()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (pixels(encoded(flat, "PNG", icc_profile=srgb)) == COLORS).all()
    with caplog.at_level(logging.INFO):
        for unfit in (b"nonsense", profile[:200]):
            assert (pixels(encoded(flat, "PNG", icc_profile=unfit)) == COLORS).all()
        assert (
            abs(
                pixels(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", icc_profile=profile)) - [255, 0, 0]
            ).max()
            <= 3
        )
    assert caplog.text.count("colour profile is not used") == 3


def test_of_several_frames_the_first_is_taken_and_this_is_said(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "FORMATS_SAID", set())
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        path = tmp_path / f"moving.{kind.lower()}"
        frames[0].save(path, kind, save_all=True, append_images=frames[1:])
        for _ in range(2):
            assert abs(pixels(path) - [255, 0, 0]).max() < 9
        assert caplog.text.count(f"{path} has several frames: the first one is taken") == 1
    with Image.open(tmp_path / "moving.gif") as shown:
        shown.seek(1)
        assert (pixels(shown) == [0, 255, 0]).all(), "a picture that is open shows the frame it stands at"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "TGA", "QOI", "AVIF", "JPEG2000"])
def test_formats_are_read_whole_or_refused_by_name(kind, tmp_path):
    """All but DDS, of which Pillow before 12 takes what is missing for black."""
    data = encoded(Image.fromarray(COLORS).resize((200, 200)), kind)
    assert load_image(data).size == (200, 200)
    for share in (0.02, 0.3, 0.9):
        path = tmp_path / f"cut-{share}"
        path.write_bytes(data[: max(4, int(len(data) * share))])
        with pytest.raises(ValueError, match=str(path)):
            load_image(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"%PDF-1.7\n", "a PDF: render one of its pages"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="x"></svg>', "SVG"),
        (b"<!DOCTYPE html>\n<html><body>404", "a web page"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\x1aE\xdf\xa3", "a video"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw file"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"PF\n4 4\n-1.0\n" + bytes(192), "a broken PPM, or of a kind that is not read"),
        (b"II*\0\x08\0\0\0\0\0", "a broken TIFF, or of a kind that is not read"),
        (b"hello", "not a picture of a format that is read"),
        (tiff(bytes(4096), bits=8, photometric=1, subfile=1, sub_ifds=8), "a camera's raw file"),
        (tiff(bytes(4096), bits=8, photometric=1, dng=1), "a camera's raw file"),
        (b"DDS " + struct.pack("<7I", 124, 0x1007, 8, 8, 0, 0, 0) + bytes(44) + struct.pack("<2I4s", 32, 4, b"ABCD") + bytes(64),
         "Unimplemented pixel format"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_called_what_it_is(data, said, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("another program was asked"))
    (tmp_path / "photo.png").write_bytes(data)
    with pytest.raises(ValueError, match=rf"photo\.png .*{said}"):
        load_image(tmp_path / "photo.png")


def test_larger_pictures_are_refused_before_their_pixels_are_read(monkeypatch):
    huge = encoded(Image.new("1", (9000, 9000)), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: pytest.fail("decoded"))
    head = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(huge), 22)
    for data in (huge, head + huge):  # in an icon, which says that it is 16 x 16
        with pytest.raises(ValueError, match="9000 x 9000 pixels, more than the limit of 64,000,000"):
            load_image(data)


def test_phones_pictures(monkeypatch):
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 32), "red")).save(stream)
    images.formats.cache_clear()
    assert abs(pixels(stream) - [255, 0, 0]).max() <= 3
    with pytest.raises(ValueError, match=r"a broken HEIC|broken or cut short"):
        load_image(stream.getvalue()[:100])
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    images.formats.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"is HEIC.*pip install 'limner\[heic\]'"):
            load_image(stream)
    finally:
        images.formats.cache_clear()


def test_the_source_is_not_changed():
    image = Image.fromarray(np.dstack([COLORS, COLORS[..., 0]]))
    image.info |= {"icc_profile": swapped_profile(), "dpi": (72, 72)}
    array, before = COLORS.copy(), (image.tobytes(), dict(image.info))
    plain = Image.fromarray(COLORS)
    load_image(image), load_image(array)
    load_image(plain).paste((0, 0, 0), (0, 0, 9, 9))
    assert (image.tobytes(), image.info) == before and image.mode == "RGBA"
    assert (array == COLORS).all() and (np.asarray(plain) == COLORS).all()


def test_paths_that_are_none(tmp_path, monkeypatch):
    import os

    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(COLORS).save(tmp_path / "home.png")
    assert (pixels("~/home.png") == COLORS).all()
    for path, said in {
        tmp_path / "none.png": "no such file: .*none.png",
        tmp_path: "is a folder",
        tmp_path / "home.png" / "x": "no such file",
        tmp_path / "pipe": "is no regular file",
        "x" * 5000: "cannot read xxx",
        "a\0b": "no such file",
        Path("https://example.com/a.png"): "a URL is given as a string",
    }.items():
        with pytest.raises(ValueError, match=said):
            load_image(path)


def test_pictures_in_addresses(tmp_path):
    data = encoded(Image.fromarray(COLORS), "PNG")
    (tmp_path / "a b.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    for source in (
        f"data:image/png;base64,{text}",
        f"DATA:;base64,{text[:100]}\n{text[100:].rstrip('=')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(data).decode()}",
        "data:," + "".join(f"%{byte:02x}" for byte in data),
        (tmp_path / "a b.png").as_uri(),
        f"file://localhost{tmp_path}/a%20b.png",
    ):
        assert (pixels(source) == COLORS).all()
    for source, said in {
        "data:image/png": "is no data URI",
        "data:image/png;base64,@@": "is broken",
        "data:,": "is empty",
        "file://other/a.png": "another machine",
        "ftp://example.com/a.png": "only http and https",
        "s3://bucket/a.png": "only http and https",
        "http://[::1/a.png": "is no URL",
        "https://example.com/a.png": r"URL .* is not fetched: allow its host by limner.load\(…, allow_urls=\('example.com',\)\)",
    }.items():
        with pytest.raises(ValueError, match=said):
            load_image(source)

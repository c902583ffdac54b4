"""Hostile and broken pictures: each is read, or refused in a line that names the file.

Four fifths are made from sound pictures by hypothesis' numbers: cut, with bits turned, with sizes replaced, with chunks that
lie, or written as bombs and loops (`broken_pictures`). The others are what atheris makes of small ones, in a process of its own.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from broken_pictures import MAKERS, sound
from hypothesis import strategies as st
from PIL import Image
from watched import memory_cap, nothing_happens, standard_error, watch

from cases import Outcome, try_cases
from limner.inference.images import MAX_PIXELS
from limner.inference.inputs import load_message_images

TITLE = "hostile or broken pictures (truncations, bombs, wrong magic, palettes, huge EXIF): a line each, memory capped"
CASES = 2000
MEMORY = 1_500_000_000
"""Bytes of address space above the start that reading a picture may take"""
SECONDS = 15
"""Of processor time that a picture may take on a slow core"""
LIBTIFF = re.compile(rb"[\w.]+: ")
SUFFIXES = (
    "png",
    "jpg",
    "gif",
    "webp",
    "tiff",
    "bmp",
    "ppm",
    "ico",
    "tga",
    "avif",
    "eps",
    "svg",
    "pdf",
    "html",
    "",
    "PNG ",
    "heic",
)


def read(path: Path) -> None:
    """Through the door that every command uses. AssertionError unless it is a picture or a line that names the file."""
    begun = time.process_time()
    try:
        (message,) = load_message_images([{"role": "user", "content": [{"type": "image", "image": str(path)}]}])
        image = message["content"][0]["image"]
        assert image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS, f"{image!r}"
    except ValueError as error:
        said = str(error)
        assert str(path) in said, f"the file is not named: {said:.300}"
        assert "\n" not in said and len(said) < 800, f"not one line: {said:.300}"
    took = time.process_time() - begun
    assert took < SECONDS, f"{took:.1f} s"


def run(cases: int, seed: int) -> Outcome:
    for name in ("limner", "PIL"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    Image.init()  # or the first case would seem to load the plugins
    watch()
    sound()
    with TemporaryDirectory() as folder, standard_error() as printed, memory_cap(MEMORY):

        def check(case: tuple[str, str, int]) -> None:
            kind, suffix, number = case
            path = Path(folder) / f"picture.{suffix}"
            path.write_bytes(MAKERS[kind](Random(number)))
            before = printed.stat().st_size
            faulthandler.dump_traceback_later(20 * SECONDS, exit=True)  # a loop without end ends the row
            try:
                with nothing_happens():
                    read(path)
            finally:
                faulthandler.cancel_dump_traceback_later()
            sys.stderr.flush()
            said = printed.read_bytes()[before:]
            # libtiff has lines of its own for broken data, which Pillow cannot switch off
            assert all(LIBTIFF.match(line) for line in said.splitlines()), f"printed: {said[:300]!r}"

        made = st.tuples(st.sampled_from(sorted(MAKERS)), st.sampled_from(SUFFIXES), st.integers(0, 2**32 - 1))
        outcome = try_cases(made, check, cases - cases // 5, seed)
    return fuzz(outcome, cases // 5, seed)


def fuzz(outcome: Outcome, cases: int, seed: int) -> Outcome:
    """Adds ``cases`` of atheris', in a process of their own: what it finds ends that process."""
    if cases:
        command = [
            sys.executable,
            __file__,
            f"-runs={cases + len(smallest()) + 1}",
            f"-seed={seed + 1}",
            "-max_len=4096",
            "-verbosity=0",
            "-timeout=60",
        ]
        where = os.pathsep.join(path for path in sys.path if path)
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ, "PYTHONPATH": where}
        )
        outcome.tried += cases
        if ran.returncode:
            outcome.failures.append(f"atheris ended with status {ran.returncode}: {ran.stderr[-1500:]}")
    return outcome


def smallest() -> dict[str, bytes]:
    """A picture of each format, which atheris tries first."""
    return {name.split()[0]: data for name, data in sorted(sound().items(), key=lambda item: -len(item[1]))}


def main() -> None:
    """atheris' own loop, with small pictures to begin from."""
    import atheris

    with atheris.instrument_imports(include=["PIL"], enable_loader_override=False):
        Image.init()
    watch()
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for kind, data in smallest().items():
            (corpus / kind).write_bytes(data)
        path = Path(folder) / "picture.png"

        def attempt(data: bytes) -> None:
            path.write_bytes(data)
            with nothing_happens():
                read(path)

        atheris.Setup([*sys.argv, f"-artifact_prefix={folder}/", str(corpus)], attempt)
        with memory_cap(MEMORY + 10**9):
            atheris.Fuzz()


if __name__ == "__main__":
    main()

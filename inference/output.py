"""Writing of results: files and folders are replaced atomically, and existing ones are not lost."""

from __future__ import annotations

import io
import itertools
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image

from .picture_metadata import png_texts

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""Suffixes of image files that are written: plain raster formats that hold any RGB image."""


def check_folder(folder: str | Path, own: str | None = None) -> Path:
    """Checks before long work that a folder for results can be written. Apart from hidden files it must be empty or hold the
    file ``own`` (such as "run/settings.json"), which marks earlier results of the same command.

    Raises ValueError for a folder with other contents, OSError for one that cannot be written.
    """
    folder = Path(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file; choose a new folder")
    if folder.is_dir() and not (own and (folder / own).exists()):
        held = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if held:
            more = f" and {len(held) - 3} more" if len(held) > 3 else ""
            raise ValueError(f"{folder} is not empty: it holds {', '.join(held[:3])}{more}; choose a new folder")
    with tempfile.TemporaryFile(dir=there):
        return folder


def check_space(folder: Path, needed: float, what: str) -> None:
    """Raises OSError, before long work, where the disk of ``folder`` has fewer than ``needed`` bytes free for ``what``."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise OSError(f"{folder}: {what} take {needed / 2**20:,.1f} MiB more; {free / 2**20:,.1f} MiB are free there")


def check_picture_path(path: Path, source: Path | None = None) -> None:
    """Raises ValueError for a path that no image can be written to, and for that of the picture ``source``, which would be lost;
    to be called before long work."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"cannot write {path}: {path.suffix or 'no ending'} is no picture format that is written; "
            f"there are {', '.join(IMAGE_SUFFIXES)}"
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"cannot write {path}: no folder {path.absolute().parent}")
    try:
        if path.is_dir():
            raise ValueError(f"cannot write {path}: it is a folder")
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f"{path} is the picture that is read; write to another file")
        with atomic_file(path, replace=False) as fresh:
            fresh.touch()
    except OSError as error:  # no rights, a name that is too long, a full disk
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def free_path(pattern: str) -> Path:
    """The first of ``pattern.format(1)``, ``pattern.format(2)``, … that is free; a link that leads nowhere is not."""
    return next(path for n in itertools.count(1) if not os.path.lexists(path := Path(pattern.format(n))))


def save_image(image: Image.Image, path: str | Path, metadata: bool = True) -> None:
    """Writes a picture; a PNG says how it was drawn, as far as that is known (`picture_metadata`), unless ``metadata`` is False.

    Raises OSError when it cannot be written; an existing file then stays.
    """
    with atomic_file(path) as fresh:
        texts = png_texts(image) if metadata and fresh.suffix.lower() == ".png" else None
        image.save(fresh, pnginfo=texts)


def png_bytes(image: Image.Image, metadata: bool = True) -> bytes:
    """A picture's PNG file, which says how it was drawn as one of `save_image` does."""
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=png_texts(image) if metadata else None)
    return out.getvalue()


def save_new_image(image: Image.Image, pattern: str, metadata: bool = True) -> Path:
    """Saves under the first name of `free_path`, as `save_image` does, and returns it. Another process may draw at the same time:
    neither replaces the other's picture. Raises OSError when it cannot be written."""
    while True:
        path = free_path(pattern)
        try:
            path.touch(exist_ok=False)  # the name is taken
        except FileExistsError:
            continue
        try:
            save_image(image, path, metadata)
        except BaseException:  # Ctrl-C too
            path.unlink()
            raise
        return path


@contextmanager
def atomic_file(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """A temporary file that replaces ``path`` when the body has written it; an existing file stays when the body fails, or always
    where not ``replace``."""
    path = Path(path)
    # as short as the name may be long, and another one in every thread
    fresh = path.with_name(f".{secrets.token_hex(4)}.new{path.suffix}")
    try:
        yield fresh
        if replace:
            os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def move_if_there(source: Path, target: Path) -> None:
    """Renames a file or folder where there is one."""
    if source.exists():
        os.rename(source, target)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 atomically. A lone surrogate, which UTF-8 cannot express, is written as in JSON: ``\\ud83d``."""
    with atomic_file(path) as fresh:
        fresh.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextmanager
def os_errors(path: Path, advice: str = "") -> Iterator[None]:
    """What the system refuses is an OSError, of libraries written in Rust, too: of a full disk safetensors raises an error of its
    own, tokenizers a plain Exception."""
    try:
        yield
    except Exception as error:
        if not re.search(r"\(os error \d+\)", str(error)):
            raise
        raise OSError(f"{path} cannot be written: {error}{advice}") from error


@contextmanager
def atomic_folder(
    folder: str | Path, stale: Sequence[str] = (), owned: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A temporary folder, whose entries replace those of ``folder`` when the body has written all of them.

    Other entries of ``folder`` stay, except those named in ``stale``, which are removed. Raises ValueError for a folder that is
    not ``owned`` (not of the kind that is saved) and has entries of these names, OSError where it cannot be written.
    """
    if not str(folder):
        raise ValueError("the folder's name is empty")
    folder = Path(folder).resolve()  # so that the temporary name is right for "." and for links too
    fresh, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    fresh.mkdir(parents=True)
    try:
        with os_errors(folder):
            yield fresh
        if not folder.exists():
            os.rename(fresh, folder)
            return
        names = sorted({path.name for path in fresh.iterdir()} | set(stale))
        taken = [name for name in names if (folder / name).exists()]
        if taken and not owned(folder):
            raise ValueError(f"{folder} holds {taken[0]}, which is not of what is saved; choose a new folder")
        old.mkdir()
        with ExitStack() as undo:  # at an error, Ctrl-C too, everything that was there is restored
            for name in names:
                for source, target in ((folder / name, old / name), (fresh / name, folder / name)):
                    undo.callback(move_if_there, target, source)  # before the move: Ctrl-C may come between
                    move_if_there(source, target)
            undo.pop_all()
    finally:
        for path in (fresh, old):
            shutil.rmtree(path, ignore_errors=True)

"""What a folder holds: tables, tars, InstructPix2Pix's folders, what `datasets` saved, and pictures with captions beside them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from . import tables
from .example import CaptionedPicture, Conversation, Example, Problem, chat_message, text
from .layouts import layout_of
from .layouts.captions import check_captions
from .layouts.record import Record
from .notes import Notes
from .pictures import SUFFIXES, PictureFolders
from .tars import decode_text, is_clutter

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TABLES = {
    ".jsonl": tables.json_lines,
    ".ndjson": tables.json_lines,
    ".json": tables.json_file,
    ".csv": tables.csv_rows,
    ".tsv": tables.csv_rows,
    ".parquet": tables.parquet_rows,
}
CAPTIONS = (".txt", ".caption", ".json")
"""Endings of the files beside a picture that hold its captions, the one that counts first"""
SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(-\d+-of-\d+)?")
PROSE = re.compile(r"(readme|license|licence|notice|requirements|changelog)\b", re.I)
"""Text files that caption nothing."""


def files_of(folder: Path) -> list[Path]:
    """The folder's files and those of the folders in it, links followed, in the order of their names."""
    found, seen = [], set()
    for here, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        below[:] = [] if real in seen else [n for n in below if not is_clutter(Path(n))]
        if real not in seen:
            found += [
                Path(here) / n for n in names if not is_clutter(Path(n)) and os.path.isfile(os.path.join(here, n))
            ]
        seen.add(real)
    return sorted(found)


def snapshot(folder: Path) -> Path:
    """The files of a repository in the hub's cache (``datasets--owner--name``), of the revision that its "main" is.

    Any other folder is itself. Raises ValueError where there are several revisions and no main one.
    """
    revisions = sorted((folder / "snapshots").iterdir()) if (folder / "blobs").is_dir() else []
    main = folder / "refs" / "main"
    if main.is_file():
        revisions = [r for r in revisions if r.name == main.read_text(encoding="utf-8").strip()] or revisions
    if len(revisions) > 1:
        raise ValueError(f"{folder} holds {len(revisions)} revisions; name one, such as {revisions[0]}")
    return revisions[0] if revisions else folder


def without_held_out(root: Path, files: list[Path], notes: Notes) -> list[Path]:
    """The files without those of a test or validation split where a training split stands beside it: folders or tables that
    are called ``train`` and ``test``, or ``train-00000-of-00002.parquet``."""
    below = [file.relative_to(root) for file in files]
    # a table is told by its name up to the first dot, as a folder of that name would be
    named = [f.parent / f.name.partition(".")[0] if tables.suffix(f) in TABLES else f.parent for f in below]
    splits: dict[Path, str] = {}
    for path in {part for table in set(named) for part in (table, *table.parents)}:
        if found := SPLIT.fullmatch(path.name):
            splits[path] = found[1]
    training = {path.parent for path, name in splits.items() if name == "train"}
    held_out = {path for path, name in splits.items() if name != "train" and path.parent in training}
    left = {file for file, path in zip(files, named, strict=True) if held_out and held_out & {path, *path.parents}}
    notes.leave_files(sorted(left), "a split that is not for training")
    return [file for file in files if file not in left]


def governed(table: Path, metadata: set[Path]) -> bool:
    """Whether a folder's metadata speaks for a table that lies with it or below it."""
    return table.name not in METADATA and any(parent in metadata for parent in table.parents)


def is_saved(files: list[Path]) -> bool:
    """Whether `datasets`' ``save_to_disk`` wrote a folder's files."""
    return {"state.json", "dataset_info.json"} <= {f.name for f in files}


def is_pix2pix(files: list[Path]) -> bool:
    """Whether a folder is one of InstructPix2Pix's: ``prompt.json`` and pairs ``SEED_0.jpg``, ``SEED_1.jpg``."""
    return any(f.name == "prompt.json" for f in files) and any(f.stem.endswith("_0") for f in files)


def pix2pix(files: list[Path], notes: Notes) -> Iterator[Example | Problem]:
    """An edit for each pair, by the instruction in ``prompt.json``."""
    prompt = next(f for f in files if f.name == "prompt.json")
    pictures = {f.stem: f for f in files if f.suffix.lower() in SUFFIXES}
    notes.leave_files(f for f in files if f != prompt and f not in pictures.values())
    try:
        row = tables.load_json(prompt)
        words = row.get("edit") if isinstance(row, dict) else None
    except ValueError as error:
        words, why = None, str(error)
    else:
        why = f"{prompt} has no text called edit"
    for stem, before in pictures.items():
        after = pictures.get(stem.removesuffix("_0") + "_1")
        if stem.endswith("_1") and stem.removesuffix("_1") + "_0" in pictures:
            continue
        if not isinstance(words, str) or not words.strip():
            yield Problem(str(before), why, 1)
        elif not stem.endswith("_0") or after is None:
            yield Problem(str(before), "no pair NUMBER_0 and NUMBER_1 of before and after", 1)
        else:
            notes.layouts["edits (InstructPix2Pix)"] += 1
            shown, made = ({"type": "image", "image": path} for path in (before, after))
            yield Conversation([chat_message("user", shown, text(words)), chat_message("assistant", made)], str(before))


def is_caption(path: Path, stems: set[str]) -> bool:
    """Whether a file is one of captions: a text, or a JSON file with the name of a picture (``stems``)."""
    kind = path.suffix.lower()
    return kind in CAPTIONS and (kind != ".json" or stem_of(path) in stems)


def captions_beside(pictures: list[Path], texts: list[Path], alone: bool, notes: Notes) -> Iterator[Example | Problem]:
    """``name.txt`` or ``name.caption`` beside ``name.png`` (or ``name.png.txt``), every line of it one caption, or ``name.json``
    with a record's fields.

    Where there is none, kohya's folder ``10_cat`` says "cat". In a folder that holds nothing else (``alone``) a picture
    without a caption or a caption without a picture is a `Problem`, else it is noted as not used.
    """
    by_stem: dict[str, list[Path]] = {}
    for picture in pictures:
        by_stem.setdefault(stem_of(picture), []).append(picture)
    captions: dict[str, list[Path]] = {}
    for words in texts:
        captions.setdefault(stem_of(words), []).append(words)
    for stem, named in sorted(by_stem.items()):
        if len(named) > 1 and not all(composed(p) in captions for p in named):
            short = Path(stem).name
            yield Problem(str(named[0]), f"the same name as {named[1].name}: which one does {short}.txt caption?", 1)
            notes.pictures += named[1:]
            captions.pop(stem, None)
            continue
        for picture in named:
            own = captions.pop(composed(picture), None) or captions.pop(stem, None)
            concept = re.fullmatch(r"(\d+)_(.+)", picture.parent.name)
            if own:
                own.sort(key=lambda words: CAPTIONS.index(words.suffix.lower()))
                notes.leave_files(own[1:], "a second caption")
                yield captioned_by(own[0], picture, notes)
            elif concept:
                notes.layouts["pictures with the folder's name (kohya)"] += 1
                yield CaptionedPicture(picture, (concept[2].replace("_", " "),), str(picture))
            elif alone:
                yield Problem(str(picture), f"no caption: write it to {Path(stem).name}.txt beside it", 1)
            else:
                notes.pictures.append(picture)
            if concept:
                notes.remarks[
                    f"{concept[1]} repeats of {concept[0]} are not used: each picture comes once an epoch"
                ] = None
    left = [words for named in captions.values() for words in named]
    notes.leave_files(words for words in left if PROSE.match(words.name) or not alone)
    if alone:
        yield from (Problem(str(p), "a caption without a picture") for p in sorted(left) if not PROSE.match(p.name))


def composed(path: Path) -> str:
    """A path with its accents composed: macOS stores names with accents apart, and programs write them either way."""
    return unicodedata.normalize("NFC", str(path))


def stem_of(path: Path) -> str:
    return composed(path.with_suffix(""))


def captioned_by(words: Path, picture: Path, notes: Notes) -> Example | Problem:
    """A picture by the file of its captions, or what is wrong with that."""
    where, kind = str(words), f"pictures with {words.suffix.lower()}"
    try:
        if words.suffix.lower() == ".json":
            fields = tables.load_json(words)
            if not isinstance(fields, dict):
                raise ValueError(f"expected an object with the picture's fields, not {fields!r:.60}")
            record = Record({"file_name": picture.name} | fields, PictureFolders(picture.parent), where)
            made = layout_of(record).read(record)
            notes.fields.update(record.unused)
        else:
            lines = decode_text(words.read_bytes()).splitlines()
            captions = [line.strip() for line in lines if line.strip()]
            if not captions:
                return Problem(where, "an empty caption", 1)
            check_captions(captions)
            kind += ", each line a caption" * (len(captions) > 1)
            made = CaptionedPicture(picture, tuple(captions), str(picture))
    except ValueError as error:
        return Problem(where, str(error), 1)
    notes.layouts[kind] += 1
    return made

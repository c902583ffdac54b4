"""Folders, files, archives and hub ids to examples. What cannot be used becomes a `Problem`, never silence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import folders, tables, tars
from .example import Example, Problem
from .folders import TABLES
from .layouts import layout_of, lost_pictures
from .layouts.record import Record
from .notes import Notes
from .pictures import SUFFIXES, Find, PictureFolders

KINDS = (
    "a folder of pictures with captions (name.txt beside name.png, metadata.jsonl or metadata.csv), a folder or file "
    f"of {', '.join(TABLES)} rows (or .gz of them), .tar shards, a folder of datasets' save_to_disk, or a hub data set id "
    "(owner/name)"
)
Found = Iterator[Example | Problem]


def read(data: str | Path, notes: Notes | None = None) -> Found:
    """Everything in ``data``; ``notes`` takes what was not used. Raises ValueError for what is no data set at all."""
    path, notes = Path(data), Notes() if notes is None else notes
    if path.is_dir():
        return folder(path, notes)
    if path.is_file():
        return file(path, notes)
    if isinstance(data, str) and data.count("/") == 1 and not data.startswith((".", "/", "~")):
        return rows(tables.hub_rows(data), PictureFolders(Path()), notes)
    raise ValueError(f"no such data set: {data}; it can be {KINDS}")


def folder(path: Path, notes: Notes) -> Found:
    """A folder in the layouts that it holds: tables and shards first, then pictures with captions that no table named."""
    path = folders.snapshot(path)
    files = folders.without_held_out(path, folders.files_of(path), notes)
    if not files:
        raise ValueError(f"{path} is empty; a data set is {KINDS}")
    by_folder: dict[Path, list[Path]] = {}
    for found in files:
        by_folder.setdefault(found.parent, []).append(found)
    saved = [here for here, held in by_folder.items() if folders.is_saved(held)]
    pairs = [here for here, held in by_folder.items() if folders.is_pix2pix(held)]
    units = {*saved, *pairs}
    files = [found for found in files if found.parent not in units]

    pictures = {os.path.normpath(p): p for p in files if p.suffix.lower() in SUFFIXES}
    stems = set(map(folders.stem_of, pictures.values()))
    texts = [p for p in files if folders.is_caption(p, stems)]
    described = [p for p in files if p.name in folders.METADATA]
    told = {*described, *texts}
    others = [p for p in files if tables.suffix(p) in TABLES and p not in told]
    speaking = {p.parent for p in described}
    read_tables = described + [p for p in others if not folders.governed(p, speaking)]
    shards = [p for p in files if p.suffix.lower() == ".tar"]
    notes.leave_files(set(files) - {*pictures.values(), *texts, *read_tables, *shards})

    count, refused = 0, ""
    for found in (*read_tables, *shards):
        try:
            for example in file(found, notes, path):
                count += 1
                if not isinstance(example, Problem):
                    for source in example.pictures():
                        if isinstance(source, Path):
                            pictures.pop(os.path.normpath(source), None)
                yield example
        except tables.NoTable as error:
            refused = refused or str(error)
            notes.leave_files([found])
    for here in saved:
        yield from rows(tables.saved_rows(here), PictureFolders(here, path), notes)
    for here in pairs:
        yield from folders.pix2pix(by_folder[here], notes)
    alone = not (count or saved or pairs)
    if alone and not pictures:
        raise ValueError(refused or f"{path} holds no pictures; a data set is {KINDS}")
    yield from folders.captions_beside(list(pictures.values()), texts, alone, notes)


def file(path: Path, notes: Notes | None = None, root: Path | None = None) -> Found:
    """A table's or a tar's examples; names of pictures are looked up beside it, then in the folders above it up to ``root``.

    Raises ValueError for any other file.
    """
    notes, kind = Notes() if notes is None else notes, tables.suffix(path)
    if path.suffix.lower() == ".tar":
        return shard(path, notes)
    if kind not in TABLES:
        raise ValueError(f"{path} is no data set: {path.suffix.lower() or 'no ending'}; it can be {KINDS}")
    return rows(TABLES[kind](path), PictureFolders(path.parent, root), notes)


def rows(found: tables.Rows, find: Find, notes: Notes) -> Found:
    for where, row in found:
        yield row if isinstance(row, Problem) else example(row, find, where, notes)


def example(row: Any, find: Find, where: str, notes: Notes) -> Example | Problem:
    """A row as an example, or what is wrong with it."""
    row = {"messages": row} if tables.is_talk(row) else row
    if not isinstance(row, dict):
        return Problem(where, f"expected an object with named fields, not {row!r:.60}")
    return example_of(Record(row, find, where), notes)


def example_of(record: Record, notes: Notes) -> Example | Problem:
    try:
        layout = layout_of(record)
        made = layout.read(record)
    except ValueError as error:
        return Problem(record.where, str(error), lost_pictures(record))
    notes.layouts[layout.name] += 1
    notes.fields.update(record.unused)
    return made


def shard(path: Path, notes: Notes) -> Found:
    for found in tars.samples(path):
        if isinstance(found, Problem):
            yield found
            continue
        where = f"{path}:{found[0]}"
        try:
            record = tars.sample_record(path, found[1], where)
        except ValueError as error:
            yield Problem(where, str(error))
        else:
            yield example_of(record, notes)

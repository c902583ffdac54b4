"""Folders, files, archives and hub ids to examples. What cannot be used becomes a `Problem`, never silence.

The readers of `datasets` want one schema for all rows of a file, stop at the first broken one and name no lines.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .example import CaptionedPicture, EmbeddedPicture, Example, Problem
from .records import CAPTION, example, first_field, with_captions

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
METADATA = ("metadata.jsonl", "metadata.csv")
TABLES = (".jsonl", ".json", ".parquet", ".csv")
KINDS = (
    "a folder of pictures with captions (name.txt beside name.png, metadata.jsonl or metadata.csv), a folder or file "
    "of .jsonl, .json, .csv or .parquet rows, .tar shards, or a hub data set id (owner/name)"
)
Found = Iterator[Example | Problem]


def read(data: str | Path) -> Found:
    """Everything in ``data``. Raises ValueError for what is no data set at all."""
    path = Path(data)
    if path.is_dir():
        return folder(path)
    if path.is_file():
        return file(path)
    if isinstance(data, str) and data.count("/") == 1 and not data.startswith((".", "/", "~")):
        return hub(data)
    raise ValueError(f"no such data set: {data}; it can be {KINDS}")


def folder(path: Path) -> Found:
    """A folder in one of the layouts: metadata beside pictures, tables, tar shards, or captions beside pictures."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise ValueError(f"{path} is empty; a data set is {KINDS}")
    tables = [p for p in files if p.name in METADATA] or [p for p in files if p.suffix.lower() in TABLES]
    shards = [p for p in files if p.suffix.lower() == ".tar"]
    if tables or shards:
        for found in (*tables, *shards):
            yield from file(found)
    else:
        yield from captions_beside(path, files)


def file(path: Path) -> Found:
    kind = path.suffix.lower()
    if kind == ".tar":
        return shard(path)
    tables = {".jsonl": json_lines, ".json": json_list, ".csv": csv_rows, ".parquet": parquet_rows}
    if kind not in tables:
        raise ValueError(f"{path} is no data set: {kind or 'no ending'}; it can be {KINDS}")
    return rows(tables[kind](path), path.parent)


def rows(found: Iterable[tuple[str, Any]], base: Path) -> Found:
    for where, row in found:
        yield row if isinstance(row, Problem) else example_or_problem(where, example, row, base)


def example_or_problem(where: str, read: Callable[..., Example], *given: Any) -> Example | Problem:
    """``read(*given, where)``, or what is wrong there."""
    try:
        return read(*given, where)
    except ValueError as error:
        return Problem(where, str(error))


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    yield where, json.loads(line)
                except ValueError as error:  # wrong JSON or wrong UTF-8
                    yield where, Problem(where, f"not JSON: {error}")


def json_list(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, list):
        raise ValueError(f"{path}: expected a list of examples, not {type(found).__name__}")
    yield from ((f"{path}[{index}]", row) for index, row in enumerate(found))


def csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            yield f"{path}:{reader.line_num}", {key: value for key, value in row.items() if value}


def parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: install limner[train]") from None
    try:
        table = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None
    found = (row for batch in table.iter_batches(256) for row in batch.to_pylist())
    yield from ((f"{path} row {number}", row) for number, row in enumerate(found))


def captions_beside(path: Path, files: list[Path]) -> Found:
    """``name.txt`` beside ``name.png``; every line of it is one caption."""
    pictures: dict[Path, list[Path]] = {}
    for found in files:
        if found.suffix.lower() in PICTURES:
            pictures.setdefault(found.with_suffix(""), []).append(found)
    texts = {p.with_suffix(""): p for p in files if p.suffix.lower() == ".txt"}
    if not pictures:
        raise ValueError(f"{path} holds no pictures; a data set is {KINDS}")
    for stem, named in sorted(pictures.items()):
        if len(named) > 1:
            yield Problem(str(named[0]), f"the same name as {named[1].name}: which one does {stem.name}.txt caption?")
        elif stem not in texts:
            yield Problem(str(named[0]), f"no caption: write it to {stem.name}.txt beside it")
        else:
            yield captioned_by(texts[stem], named[0])
    yield from (
        Problem(str(p), "a caption without a picture") for stem, p in sorted(texts.items()) if stem not in pictures
    )


def captioned_by(text: Path, picture: Path) -> Example | Problem:
    try:
        lines = text.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return Problem(str(text), "not UTF-8 text")
    captions = tuple(line.strip() for line in lines if line.strip())
    return CaptionedPicture(picture, captions, str(picture)) if captions else Problem(str(text), "an empty caption")


def shard(path: Path) -> Found:
    """A web-dataset tar: members of one name make one example; pictures are read from the tar when needed."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    name = Path(member.name)
                    stem, _, ending = name.name.partition(".")
                    groups.setdefault(str(name.parent / stem), {})[ending.lower()] = member
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Problem(str(path), f"the archive is broken after {len(groups)} examples: {error}")
    for key, members in groups.items():
        yield example_or_problem(f"{path}:{key}", shard_example, path, members)


def shard_example(path: Path, members: dict[str, tarfile.TarInfo], where: str) -> Example:
    def stored(member: tarfile.TarInfo) -> EmbeddedPicture:
        return EmbeddedPicture(f"{path}:{member.name}", archive=path, offset=member.offset_data, size=member.size)

    row: dict[str, Any] = json.loads(stored(members["json"]).read()) if "json" in members else {}
    picture = next((stored(m) for ending, m in members.items() if f".{ending}" in PICTURES), None)
    if picture is None:
        raise ValueError(f"no picture among {', '.join(members)}")
    if "txt" in members:
        row["text"] = [line for line in stored(members["txt"]).read().decode("utf-8").splitlines() if line.strip()]
    caption = first_field(row, CAPTION)
    if caption is None:
        raise ValueError("no caption: expected a .txt member, or text, caption or prompt in the .json member")
    return with_captions(picture, row[caption], row.get("probabilities"), where)


def hub(name: str) -> Found:
    """The training split of a data set on the hub (or in its cache)."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError(f"{name!r}: reading from the hub needs datasets: install limner[train]") from None
    try:
        table = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub client raises a dozen unrelated types: network, name, rights
        raise ValueError(f"{name!r} is neither a folder, a file nor a data set the hub gave: {error}") from error
    for key, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(key, datasets.Image(decode=False))
    return rows(((f"{name} row {i}", row) for i, row in enumerate(table)), Path())

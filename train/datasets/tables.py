"""Tables row by row: JSON lines, JSON, CSV, TSV, Parquet, and what `datasets` saves. Each gives (where, row).

A row that cannot be read is a `Problem`.

The readers of `datasets` want one schema for all rows of a file, stop at the first broken one and name no lines.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .example import Problem
from .layouts import has_layout

Rows = Iterator[tuple[str, Any]]
COMPRESSED: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CUT_SHORT = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a compressed file raises that is broken or cut short."""
MAX_CELL = 2**27
"""Bytes of a cell of CSV: a picture as base64 fits."""


def suffix(path: Path) -> str:
    """What kind of file it is, whether it is compressed or not: ".jsonl" of ``a.jsonl.gz``."""
    ending = path.suffix.lower()
    return Path(path.stem).suffix.lower() if ending in (*COMPRESSED, ".zst") else ending


class NoTable(ValueError):
    """A file that is no table of records, although its ending says so: settings, an index."""


def open_table(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed. Raises ValueError for UTF-16, and for zstd where that cannot be read."""
    opener: Callable[..., IO[Any]] = COMPRESSED.get(path.suffix.lower(), open)
    if path.suffix.lower() == ".zst":
        try:
            import zstandard
        except ModuleNotFoundError:
            raise ValueError(f"{path}: reading .zst needs zstandard: pip install zstandard, or unpack it") from None
        opener = zstandard.open
    file = opener(path, "rb")
    with opener(path, "rb") as start:
        if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            file.close()
            raise ValueError(f"{path} is UTF-16 text; save it as UTF-8")
    return file


def json_lines(path: Path) -> Rows:
    """One object a line."""
    number = 0
    try:
        with open_table(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}:{number}"
                    try:
                        yield where, json.loads(line)
                    except (ValueError, RecursionError) as error:  # wrong JSON or wrong UTF-8
                        yield where, Problem(where, f"not JSON: {error}")
    except CUT_SHORT as error:
        yield str(path), Problem(str(path), f"broken or cut short after line {number}: {error}")


def load_json(path: Path) -> Any:
    """Raises ValueError for what is no JSON."""
    try:
        with open_table(path) as file:
            return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    except CUT_SHORT as error:
        raise ValueError(f"{path} is broken or cut short: {error}") from None


def json_file(path: Path) -> Rows:
    """A list of objects, an object that holds such a list, one object alone, objects keyed by their pictures' names (kohya's
    ``meta_cap.json``), COCO's captions. Objects on lines of their own are read as such, as `datasets` does.

    Raises NoTable for anything else, ValueError for what is no JSON.
    """
    try:
        found = load_json(path)
    except ValueError as error:
        if "Extra data" not in str(error):
            raise
        yield from json_lines(path)
        return
    if isinstance(found, dict) and (joined := coco_captions(found)):
        found = joined
    for key in ("data", "train", "annotations", "examples"):
        if (
            isinstance(found, dict)
            and isinstance(found.get(key), list)
            and all(isinstance(r, dict) for r in found[key])
        ):
            found = found[key]
    if isinstance(found, dict) and (keyed := keyed_by_picture(found)):
        yield from ((f"{path}[{json.dumps(name)}]", row) for name, row in keyed.items())
    elif is_talk(found):
        yield str(path), found
    elif isinstance(found, list) and any(isinstance(row, dict) or is_talk(row) for row in found):
        yield from ((f"{path}[{index}]", row) for index, row in enumerate(found))
    elif isinstance(found, dict) and has_layout(found):
        yield str(path), found
    else:
        raise NoTable(f"{path}: expected a list of examples, not {found!r:.60}")


def is_talk(found: Any) -> bool:
    """Whether a list is one of messages, without anything beside them."""
    return isinstance(found, list) and bool(found) and all(isinstance(m, dict) and "role" in m for m in found)


def coco_captions(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of COCO's ``images`` and ``annotations``, each picture with all of its captions; none of any other object."""
    images, annotations = found.get("images"), found.get("annotations")
    if not (isinstance(images, list) and isinstance(annotations, list)):
        return []
    captions: dict[Any, list[Any]] = {}
    for annotation in annotations:
        if isinstance(annotation, dict) and "caption" in annotation:
            captions.setdefault(annotation.get("image_id"), []).append(annotation["caption"])
    shown = images if captions else []
    return [image | {"captions": captions.get(image.get("id"))} for image in shown if isinstance(image, dict)]


def keyed_by_picture(found: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Records of an object whose keys are pictures' names and whose values are captions, or objects that hold ``caption`` and
    ``tags``; None for any other object. kohya's scripts put the tags behind the caption."""
    rows = {}
    for name, value in found.items():
        fields = {"caption": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or not ("caption" in fields or "tags" in fields) or len(Path(name).name) < 1:
            return None
        if isinstance(value, str) and not Path(name).suffix:
            return None
        words = [fields[key] for key in ("caption", "tags") if isinstance(fields.get(key), str) and fields[key]]
        rows[name] = {**fields, "file_name": name} | ({"caption": ", ".join(words), "tags": None} if words else {})
    return rows or None


def csv_rows(path: Path) -> Rows:
    """Cells by the first line's names; of comma, tab and semicolon it is parted by the one that stands there.

    A row with more cells than names, or a quote that is never closed, is a `Problem` for each of its lines: the rest of a
    caption would be lost, or the lines behind it.
    """
    csv.field_size_limit(MAX_CELL)
    try:
        with open_table(path) as file:
            lines = codecs.getreader("utf-8-sig")(file)
            heading = next(iter(lines), "")
            delimiter = max(",\t;", key=heading.count)
            names = next(csv.reader([heading], delimiter=delimiter), [])
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            while True:
                before = reader.line_num
                try:
                    cells = next(reader, None)
                    why = f"{len(cells)} cells for {len(names)} columns: put quotes around a text" if cells else ""
                except csv.Error as error:
                    cells, why = [], f"not CSV: {error}"
                if cells is None:
                    return
                if why and len(cells) != len(names):
                    for number in range(before + 2, reader.line_num + 2):
                        yield f"{path}:{number}", Problem(f"{path}:{number}", why)
                elif cells:
                    yield f"{path}:{reader.line_num + 1}", dict(zip(names, cells, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    except CUT_SHORT as error:
        yield str(path), Problem(str(path), f"broken or cut short: {error}")


def parquet_rows(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: install limner[train]") from None
    try:
        table = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None
    number = 0
    try:
        for batch in table.iter_batches(256):
            for row in batch.to_pylist():
                yield f"{path} row {number}", row
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        for lost in range(number, table.metadata.num_rows):
            yield f"{path} row {lost}", Problem(f"{path} row {lost}", f"broken: {error}")


def saved_rows(folder: Path) -> Rows:
    """What `datasets`' ``save_to_disk`` wrote, pictures undecoded. Raises ValueError for a folder that it does not load."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError(f"{folder}: reading what datasets saved needs datasets: install limner[train]") from None
    try:
        table = datasets.load_from_disk(str(folder))
    except Exception as error:  # arrow's and the library's own types
        raise ValueError(f"{folder} is no data set that datasets loads: {error}") from error
    yield from dataset_rows(table, str(folder))


def hub_rows(name: str) -> Rows:
    """The training split of a data set on the hub (or in its cache)."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError(f"{name!r}: reading from the hub needs datasets: install limner[train]") from None
    try:
        table = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub client raises a dozen unrelated types: network, name, rights
        raise ValueError(f"{name!r} is neither a folder, a file nor a data set the hub gave: {error}") from error
    yield from dataset_rows(table, name)


def dataset_rows(table: Any, name: str) -> Rows:
    """Rows of a `datasets.Dataset` as Arrow holds them: pictures are bytes and paths, in lists and objects, too."""
    number = 0
    for batch in table.with_format("arrow").iter(256):
        for row in batch.to_pylist():
            yield f"{name} row {number}", row
            number += 1

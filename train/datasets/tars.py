"""Web-dataset tars: members of one name make one example; pictures are read from the tar when needed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .example import EmbeddedPicture, Problem
from .layouts.record import Record
from .pictures import SUFFIXES

TEXTS = ("txt", "caption", "text")
Members = dict[str, tarfile.TarInfo]
"""Members of a sample by their endings"""


def samples(path: Path) -> Iterator[tuple[str, Members] | Problem]:
    """The samples' names and members, in the order in which they begin; a `Problem` for what is broken or told twice."""
    groups: dict[str, Members] = {}
    try:
        with tarfile.open(path, "r:") as archive:  # uncompressed alone: pictures are read from their places in the file
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isdir() or is_clutter(name):
                    continue
                stem, _, ending = name.name.partition(".")
                group = groups.setdefault(str(name.parent / stem), {})
                if not member.isreg() or member.issparse():
                    yield Problem(
                        f"{path}:{name}",
                        "a link or a file with holes in an archive; pack it whole (tar --hard-dereference -h, without -S)",
                    )
                elif ending.lower() in group:
                    yield Problem(f"{path}:{name}", "a second member of this name: a picture or text would be lost")
                else:
                    group[ending.lower()] = member
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Problem(str(path), f"the archive is broken after {len(groups)} examples: {error}")
    for key, members in groups.items():
        if members:
            yield from split_sample(key, members)


def is_clutter(name: PurePosixPath | Path) -> bool:
    """Whether a file is no part of a data set: hidden, macOS's ``._name`` and ``__MACOSX``, Windows' thumbnails."""
    return any(
        (part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.parts
    ) or name.name.lower() in ("thumbs.db", "desktop.ini")


def split_sample(key: str, members: Members) -> Iterator[tuple[str, Members]]:
    """Members whose names are equal up to the first dot, which is web-dataset's rule, as the samples that they are.

    ``v1.0.png, v1.0.txt, v1.1.png, v1.1.txt`` are two, each with a picture and its words; ``a.jpg, a.txt, a.seg.png`` is one.
    """
    inner: dict[str, Members] = {}
    for ending, member in members.items():
        name, _, last = ending.rpartition(".")
        inner.setdefault(name, {})[last] = member
    own = {
        name: found for name, found in inner.items() if name and has_picture(found) and {*TEXTS, "json"} & set(found)
    }
    if own and "" not in inner:  # nothing that the others could belong to
        own = inner
    rest = {ending: member for ending, member in members.items() if ending.rpartition(".")[0] not in own}
    if rest:
        yield key, rest
    yield from ((f"{key}.{name}", found) for name, found in own.items())


def has_picture(members: Members) -> bool:
    return any(f".{ending.rpartition('.')[2]}" in SUFFIXES for ending in members)


def sample_record(path: Path, members: Members, where: str) -> Record:
    """A sample's fields: those of its ``.json``, the captions of its ``.txt``, its picture as ``image``, several ones as
    ``images`` and by their own names (``source.png``).

    Raises ValueError for one without a picture or without words.
    """

    def stored(member: tarfile.TarInfo) -> EmbeddedPicture:
        return EmbeddedPicture(f"{path}:{member.name}", archive=path, offset=member.offset_data, size=member.size)

    fields = json.loads(stored(members["json"]).read()) if "json" in members else {}
    if not isinstance(fields, dict):
        raise ValueError(f"the .json member must hold an object, not {fields!r:.60}")
    pictures = {ending: stored(m) for ending, m in members.items() if f".{ending.rpartition('.')[2]}" in SUFFIXES}
    if not pictures and not ({"messages", "conversations"} & set(fields)):
        raise ValueError(f"no picture among {', '.join(members)}")
    read = {"json", *pictures}
    for ending in members:
        if ending.rpartition(".")[2] in TEXTS:
            lines = decode_text(stored(members[ending]).read()).splitlines()
            captions = [line for line in lines if line.strip()]
            fields |= {"text": captions} if ending in TEXTS else {ending.rpartition(".")[0]: " ".join(captions)}
            read.add(ending)
    if not [value for name, value in fields.items() if isinstance(value, (str, list)) and value]:
        raise ValueError("no caption: expected a .txt member, or text, caption or prompt in the .json member")
    names = {Path(members[ending].name).name: picture for ending, picture in pictures.items()} | pictures
    plain = [picture for ending, picture in pictures.items() if "." not in ending]

    def find(name: str) -> EmbeddedPicture:
        found = names.get(name) or names.get(Path(name.replace("\\", "/")).name)
        if found is None and len(pictures) != 1:
            raise ValueError(f"no such picture in the sample: {name:.200}; there are {', '.join(pictures)}")
        return found or next(iter(pictures.values()))

    record = Record(fields, find, where)
    record.add_pictures({e.rpartition(".")[0]: p for e, p in pictures.items() if "." in e}, plain)
    record.leave(f"members: .{ending}" for ending in members if ending not in read)
    return record


def decode_text(data: bytes) -> str:
    """A text file's words, without a byte-order mark. Raises ValueError for what is not UTF-8."""
    try:
        words = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {data[error.start]:#x} at {error.start}): save it as UTF-8") from None
    if "\0" in words:
        raise ValueError("not UTF-8 text but UTF-16, or no text at all: save it as UTF-8")
    return words

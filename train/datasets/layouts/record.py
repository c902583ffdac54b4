"""One record of a table: its fields, which of them were used, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..example import Source
from ..pictures import Find, picture

IMAGE = (
    "file_name",
    "image",
    "jpg",
    "png",
    "webp",
    "jpeg",
    "img",
    "image_path",
    "img_path",
    "picture",
    "filename",
    "path",
)
"""Names of a record's one picture; "jpg" and the like are columns of web-dataset tars."""
SIDE_IMAGES = ("images", *IMAGE)
"""Names of the pictures beside a conversation."""
NO_PICTURE = ("none", "null", "nan")
"""What stands in place of a picture's name in records without one."""


def has_value(value: Any) -> bool:
    return value is not None and not (isinstance(value, (str, bytes, list, tuple, dict)) and not value)


class Record:
    """Fields by name. One that is null, "" or empty has no value, as `datasets` writes it where another row has one.

    ``image_file_name`` and ``images_file_names`` of an image folder's metadata are the columns ``image`` and ``images``.
    """

    def __init__(self, fields: Mapping[str, Any], find: Find, where: str) -> None:
        self.columns = [str(name) for name in fields]
        self.fields = {str(name): value for name, value in fields.items() if has_value(value)}
        for name in list(self.fields):
            column = name.removesuffix("s").removesuffix("_file_name")
            if name.endswith(("_file_name", "_file_names")) and column not in self.fields:
                self.fields[column] = self.fields.pop(name)
        self.find, self.where = find, where
        self.used: set[str] = set()
        self.left: set[str] = set()
        """Names of what was not used within the fields"""

    def add_pictures(self, named: Mapping[str, Source], plain: Sequence[Source]) -> None:
        """Pictures that lie beside the record: some are fields by their own names, the others are what it shows if it names
        none itself."""
        self.fields |= {name: source for name, source in named.items() if not name.isdigit()}
        shown = list(plain) or [source for name, source in named.items() if name.isdigit()]
        if shown and self.first(SIDE_IMAGES) is None:
            self.fields["images" if len(shown) > 1 else "image"] = shown if len(shown) > 1 else shown[0]

    @property
    def unused(self) -> list[str]:
        """Names of the fields with a value that nothing was made of."""
        return [*(name for name in self.fields if name not in self.used), *sorted(self.left)]

    def leave(self, names: Iterable[str]) -> None:
        """Notes names of what is not used within a field."""
        self.left.update(names)

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of ``names`` that has a value."""
        return next((name for name in names if name in self.fields), None)

    def value(self, *names: str) -> Any:
        """The value of the first of ``names`` that has one, or None; the field counts as used."""
        name = self.first(names)
        if name is None:
            return None
        self.used.add(name)
        return self.fields[name]

    def text(self, *names: str) -> str | None:
        """As `value`. Raises ValueError for what is no text."""
        found = self.value(*names)
        if found is not None and not isinstance(found, str):
            raise ValueError(f"{self.first(names)} must be text, not {found!r:.60}")
        return found

    def list(self, *names: str) -> list[Any]:
        """As `value`, a list, which may be written as JSON. Raises ValueError for anything else."""
        return check_list(self.value(*names), self.first(names) or names[0])

    def picture(self, *names: str) -> Source:
        """The one picture. Raises ValueError where there is none, or several."""
        given = self.value(*names)
        if isinstance(given, (list, tuple)):
            if len(given) != 1:
                raise ValueError(f"{self.first(names)} holds {len(given)} pictures in place of one")
            given = given[0]
        return self.open(given)

    def pictures(self, *names: str) -> dict[str, Source]:
        """The pictures by the marks that name them (MiniCPM-V's ``<image_00>``), or by their places: "0", "1", …"""
        given = self.value(*names)
        if isinstance(given, str) and given.startswith("["):
            given = check_list(given, names[0])
        if given is None or (isinstance(given, str) and given.strip().lower() in NO_PICTURE):
            return {}
        if isinstance(given, dict) and all(str(key).startswith("<") for key in given):
            return {str(mark): self.open(value) for mark, value in given.items()}
        several = given if isinstance(given, (list, tuple)) else [given]
        return {str(place): self.open(value) for place, value in enumerate(several)}

    def open(self, value: Any) -> Source:
        return picture(value, self.find, self.where)


def check_list(value: Any, name: str) -> list[Any]:
    """A list as it is, or written as JSON. Raises ValueError for anything else and for an empty one."""
    found = value
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(found, (list, tuple)) or not found:
        raise ValueError(f"{name} must be a list with something in it, not {value!r:.60}")
    return list(found)

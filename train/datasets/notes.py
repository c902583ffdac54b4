"""What a reader saw beside examples and problems, so that nothing is passed over without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Notes:
    """Counts by name: of the layouts of the examples, and of what was not used."""

    layouts: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    """Fields of records that nothing was made of, and the number of records"""
    files: Counter[str] = field(default_factory=Counter)
    """Files that were not read: small sets by their names, larger ones by their endings"""
    pictures: list[Path] = field(default_factory=list)
    """Pictures of a folder that no example shows"""
    remarks: dict[str, None] = field(default_factory=dict)
    """Other sentences, each once, in the order in which they came up"""

    def leave_files(self, paths: Iterable[Path], why: str = "") -> None:
        """Counts files that are not read."""
        paths = list(paths)
        names = Counter(p.name if len(paths) <= 3 else f"*{p.suffix.lower()}" for p in paths)
        self.files.update({f"{name}{why and f' ({why})'}": n for name, n in names.items()})

    def lines(self) -> list[str]:
        """The counts as lines for a report."""

        def told(counts: Counter[str], most: int = 12) -> str:
            rest = f" and {len(counts) - most} more" if len(counts) > most else ""
            return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.most_common(most)) + rest

        found = []
        if self.layouts:
            found.append(f"layouts   {', '.join(f'{n} {name}' for name, n in self.layouts.most_common())}")
        if self.fields:
            found.append(f"not used  fields {told(self.fields)}")
        if self.files:
            found.append(f"not used  files {told(self.files)}")
        if self.pictures:
            found.append(f"not used  {len(self.pictures)} pictures that no example shows, such as {self.pictures[0]}")
        return found + [f"note      {remark}" for remark in self.remarks]

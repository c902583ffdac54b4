"""The blocks of the README and of docs/, and what is done with each: `python tests/document_blocks.py` counts them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = ("bash", "python", "js")
"""What a reader can run; blocks of other languages (text, json, yaml) show something"""
NOT_RUN = {
    "download": "download something",
    "gpu": "need a GPU",
    "minutes": "take minutes, more than these tests have",
    "hours": "take hours",
    "clients": "need a server: `make test-clients` runs them",
    "yours": "are about files that the reader has",
}
"""The word behind a block's language, and why such blocks are not run"""
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block that a reader can run."""

    page: Path
    line: int
    language: str
    word: str
    """ "" for one that is run as it stands, "server" for one that runs until it is stopped, or a key of `NOT_RUN`"""
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that a reader can run, in order."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        language, _, word = fence[1].partition(" ")
        if language in LANGUAGES:
            yield Block(page, text.count("\n", 0, fence.start()) + 1, language, word, fence[2])


def counts(page: Path) -> Counter[str]:
    """How many blocks of a page are run, and how many are not, by the reason."""
    return Counter(NOT_RUN.get(block.word, "are run") for block in blocks(page))


def main() -> None:
    total: Counter[str] = Counter()
    for page in PAGES:
        if found := counts(page):
            total += found
            told = ", ".join(f"{count} {what}" for what, count in found.most_common())
            print(f"{page.relative_to(ROOT)}: of {found.total()} blocks {told}")
    print(f"of all {total.total()} blocks {', '.join(f'{count} {what}' for what, count in total.most_common())}")


if __name__ == "__main__":
    main()

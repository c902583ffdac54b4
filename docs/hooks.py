"""What MkDocs does to the pages beside its own work: the word behind a block's language becomes its title."""

from __future__ import annotations

import re
from typing import Any

TITLES = {
    "download": "needs a download",
    "gpu": "needs a GPU",
    "minutes": "takes minutes",
    "hours": "takes hours",
    "server": "runs until it is stopped",
    "clients": "needs the server",
    "yours": "with files of your own",
}
"""The words are those of tests/document_blocks.py, which says what each means for the tests."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Blocks like ```bash download, which Python-Markdown does not know, with a title in place of the word."""
    return re.sub(
        r"^(```\w+) (\w+)$", lambda fence: f'{fence[1]} title="{TITLES[fence[2]]}"', markdown, flags=re.MULTILINE
    )

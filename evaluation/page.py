"""What an evaluation writes: figures, a table, a sheet, and an HTML page of every prompt with its reply."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..inference.output import write_text
from .sheet import save_sheet

STYLE = """body{font-family:sans-serif;margin:2em}h2{margin:1.5em 0 .3em}nav a{margin-right:1em}
section{display:flex;flex-wrap:wrap;gap:.6em}article{width:150px;font-size:.8em;border-left:4px solid;padding-left:.4em}
.right{border-color:#2a2}.wrong{border-color:#d33}p{margin:.2em 0}img{max-width:64px}.told img{max-width:128px}.told{color:#555}
body:has(#wrong:checked) .right{display:none}"""


SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Section:
    """One task: its line of the table, the folder of its pictures, its questions and answers, and which are right."""

    row: dict[str, Any]
    folder: str
    lines: Sequence[dict[str, Any]]
    correct: Sequence[bool]


def write_results(output: Path, results: dict[str, Any], table: str, shots: Sequence[Image.Image], page: str) -> None:
    """Writes ``results.json``, ``table.txt``, ``index.html`` and, of pictures if there are any, ``sheet.png``; prints the
    table."""
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    write_text(output / "table.txt", table)
    write_text(output / "index.html", page)
    if shots:
        save_sheet(shots, SHEET_COLUMNS, output / "sheet.png")
    print(table, end="")


def page_html(title: str, chapters: Sequence[Section]) -> str:
    title = html.escape(title)
    links = "".join(f'<a href="#{c.folder}">{html.escape(c.row["name"])}</a>' for c in chapters)
    return (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>'
        f'<p><label><input type="checkbox" id="wrong"> only what is wrong</label></p><nav>{links}</nav>'
        f"{''.join(map(section_html, chapters))}\n"
    )


def section_html(chapter: Section) -> str:
    row = chapter.row
    articles = "".join(
        f'<article class="{"right" if good else "wrong"}"><p>{parts_html(line["asked"], chapter.folder)}</p>'
        f'<p class="told">{parts_html(line["parts"], chapter.folder)}</p></article>'
        for line, good in zip(chapter.lines, chapter.correct, strict=True)
    )
    head = f"{html.escape(row['name'])}: {row['rate']:.3f} of {row['n']}"
    return f'<h2 id="{chapter.folder}">{head}</h2><section>{articles}</section>'


def parts_html(given: Sequence[Any], folder: str) -> str:
    return " ".join(
        html.escape(part) if isinstance(part, str) else f'<img src="{folder}/{part["image"]}" loading="lazy">'
        for part in given
    )

"""The documents: short where they should be, every link and path leads somewhere, every block says whether it is run."""

import json
import re
from pathlib import Path

import pytest

from document_blocks import NOT_RUN, PAGES, blocks, counts

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for top in ROOT.iterdir()
    if top.name not in {".git", "build", "runs"} and not top.name.startswith(".venv")  # thousands of files
    for path in (top, *(top.rglob("*") if top.is_dir() else ()))
    if "node_modules" not in path.parts
]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "weights").rglob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`([\w./*-]+(?:/|\.(?:py|toml|yaml|json|jsonl|md|txt|ipynb)))`")
MADE = {"README.md", "config.json", "recipe.json", "results.json", "source.json", "training.json", "table.txt"}
MADE |= {"metadata.jsonl", "generation_config.json", "preprocessor_config.json", "cat.txt", "name.txt", "cat.json"}
"""Files that commands write or read elsewhere, whatever folder they are in"""


def relative(path):
    return str(path.relative_to(ROOT))


def anchors(document: Path) -> set[str]:
    """What GitHub makes of a document's headings: lower case, without punctuation, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document):
    for link in LINK.findall(document.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (document.parent / path) if path else document
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("name", ["README.zh.md", "README.ko.md"])
def test_the_first_screen_is_there_in_other_languages(name):
    """With the commands, the picture and the Python of the English one."""
    english, other = (ROOT / "README.md").read_text(), (ROOT / name).read_text()
    begun = english.partition("The same from a shell")[0]
    lines = re.findall(r"^(?:make|import|model|reply|chat)\b.*|\(docs/images.*", begun, re.MULTILINE)
    assert len(lines) == 12
    for line in lines:
        assert re.split(r" +# ", line)[0] in other, line


def test_the_readmes_figures_are_those_of_the_figures():
    section = (ROOT / "README.md").read_text().partition("## Figures\n")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ")[1] for row in section.splitlines() if row.startswith("| ")][1:]
    figures = (ROOT / "docs" / "evaluation.md").read_text()
    assert len(rows) == 5
    for measured in rows:
        for figure in re.findall(r"\d[\d.]*(?:e-\d)?(?: s| GB|x| min \d+ s)?", measured):
            assert figure in figures, f"{figure} of {measured!r} is not in docs/evaluation.md"


@pytest.mark.parametrize("page", [ROOT / "docs" / "architecture.md", ROOT / "docs" / "extend.md"], ids=relative)
def test_files_that_are_named_are_there(page):
    everywhere = {path.name for path in FILES}
    for name in set(FILE.findall(page.read_text())) - MADE:
        if name.rstrip("/").count("/") or name.endswith("/"):
            inside = [name, f"app/server/{name}"]  # its folders are told apart in one row
            assert any(any(ROOT.glob(path)) for path in inside), f"{name}: no such file"
        else:
            assert name in everywhere, f"{name}: no file is called so"


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())["cells"]
    assert cells and not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_every_block_is_run_or_says_why_not():
    """Commands stand in fenced blocks, whose word beside the language is one that the tests know."""
    for page in PAGES:
        for block in blocks(page):
            assert block.word in {"", "server", *NOT_RUN}, f"{block.name}: {block.word!r}"
        outside = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        hidden = re.findall(r"^(?:    |\t)(?:limner|python|pip|make|curl) .*", outside, re.MULTILINE)
        assert not hidden, f"{page.name}: no test sees {hidden[0]!r}"


def test_most_guides_have_blocks_that_are_run():
    guides = "chat python serving page finetune from-nothing checkpoints evaluate extend data".split()
    for guide in guides:
        assert counts(ROOT / "docs" / f"{guide}.md")["are run"], guide


def test_messages_under_troubleshooting_are_those_of_the_code():
    code = "".join(
        path.read_text() for path in FILES if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts
    )
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\*\*`([^`]+)`\*\*$", page, re.MULTILINE)
    assert len(messages) > 20
    for message in messages:
        for part in message.split("…"):
            if len(part.strip()) > 3 and message != "command not found: limner":
                assert part.strip() in code, f"{message!r}: no message says {part.strip()!r}"

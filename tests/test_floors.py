"""Every folder stands above what it imports, and no files import each other in a circle.

Imports inside functions, under TYPE_CHECKING and through importlib count.
"""

import ast
import re
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "resamplers": set(),
    "mllm": {"resamplers"},
    "detokenizer": {"resamplers"},
    "integrations": {"resamplers", "mllm", "detokenizer"},
    "inference": {"resamplers", "mllm", "detokenizer", "integrations"},
    "world": set(),
    "evaluation": {"resamplers", "mllm", "detokenizer", "integrations", "inference", "world"},
    "train": {"resamplers", "mllm", "detokenizer", "integrations", "inference", "world", "evaluation"},
    "app": {"resamplers", "mllm", "detokenizer", "integrations", "inference", "world", "evaluation", "train"},
    "configs": set(),
    "weights": set(),
}
"""What each folder may import. The package's own `__init__`, which names what users import, stands above all of them."""
PATHS = {"limner": ROOT / "__init__.py"} | {
    ".".join(("limner", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for folder in BELOW
    for path in (ROOT / folder).rglob("*.py")
}
NAME = re.compile(r"(limner|\.+\w+)(\.\w+)*")
"""Of a module, as importlib is given it"""


def imported(source: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (whole if (whole := f"{base}.{a.name}") in PATHS else base for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.Constant) and "import_module" in source and NAME.fullmatch(str(node.value)):
            yield resolve_name(node.value, package)


IMPORTS = {
    name: {
        m
        for m in imported(path.read_text(), name if path.stem == "__init__" else name.rpartition(".")[0])
        if m in PATHS
    }
    for name, path in PATHS.items()
}


def test_every_folder_of_the_package_has_its_floor():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_nothing_imports_upwards(room):
    allowed = BELOW[room] | {room}
    inside = {name: names for name, names in IMPORTS.items() if name.split(".")[1:2] == [room]}
    upwards = [(a, b) for a, names in inside.items() for b in names if b == "limner" or b.split(".")[1] not in allowed]
    assert inside and not upwards


def test_no_files_import_each_other_in_a_circle():
    circles = set()
    for name in PATHS:
        reached, waiting = set(), [name]
        while waiting:
            new = IMPORTS[waiting.pop()] - reached
            reached |= new
            waiting += new
        if name in reached:
            circles.add(name)
    assert not circles, sorted(circles)

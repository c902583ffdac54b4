"""What a folder of the package takes from another one has a docstring."""

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATHS = {
    ".".join(("limner", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for folder in sorted(p.parent for p in ROOT.glob("*/__init__.py"))
    for path in folder.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def taken(name: str) -> Iterator[tuple[str, str]]:
    """(module, function or class) that the module called ``name`` imports or reads from modules of the package."""
    package = name if PATHS[name].stem == "__init__" else name.rpartition(".")[0]
    modules: dict[str, str] = {}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for imported in node.names:
                if f"{base}.{imported.name}" in TREES:
                    modules[imported.asname or imported.name] = f"{base}.{imported.name}"
                elif base in TREES:
                    yield base, imported.name
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def test_what_other_folders_use_has_a_docstring():
    folder = {name: name.split(".")[1] for name in TREES}
    used = {(base, what) for name in TREES for base, what in taken(name) if folder[base] != folder[name]}
    found = [
        (f"{base}.{what}", ast.get_docstring(node))
        for base, what in sorted(used)
        for node in TREES[base].body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == what
    ]
    missing = [name for name, docstring in found if not docstring]
    assert len(found) > 100
    assert not missing, "\n".join(["no docstring, and used from another folder:", *missing])

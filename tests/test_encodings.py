"""Text files are read and written as UTF-8, whatever the locale says."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = [top for top in ROOT.iterdir() if top.is_dir() and not top.name.startswith(".")]
FILES = [*ROOT.glob("*.py"), *(p for top in FOLDERS if top.name not in ("tests", "build") for p in top.rglob("*.py"))]


def opens_text_by_locale(call: ast.Call) -> bool:
    """`open`, `Path.open`, `read_text` and `write_text` without an encoding. `Image.open` and the like take no mode."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)
    if name != "open" or (isinstance(call.func, ast.Name) and len(call.args) < 2):
        return name == "open" and isinstance(call.func, ast.Name)
    modes = [own.value for own in call.args if isinstance(own, ast.Constant) and isinstance(own.value, str)]
    return any(set(mode) <= set("rwaxt+") for mode in modes)


def test_every_text_file_is_utf_8():
    assert len(FILES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text_by_locale(node)
    ]
    assert not found

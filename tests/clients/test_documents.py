"""The clients in docs/serving.md: each block is run as it stands there, with this server's address, and draws what it has to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pictures import URL, same

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "serving.md"
BLOCK = re.compile(r"^```(bash|js|python) clients\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "bash": ["bash", "-euo", "pipefail", "block.sh"],
    "js": ["node", "block.mjs"],
    "python": [sys.executable, "block.py"],
}


def blocks():
    """The language and the text of every block under "Clients", with its heading and number as its name."""
    clients = re.search(
        r"^## Clients\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )[1]
    for heading, *rest in (section.split("\n", 1) for section in clients.split("\n### ")[1:]):
        for number, (language, text) in enumerate(BLOCK.findall(rest[0])):
            yield pytest.param(language, text, id=f"{heading}-{number}")


@pytest.mark.parametrize(("language", "text"), list(blocks()))
def test_a_block_draws_an_apple_and_makes_it_green(language, text, tmp_path):
    assert "http://127.0.0.1:8000" in text
    command = PROGRAMS[language]
    (tmp_path / command[-1]).write_text(text.replace("http://127.0.0.1:8000", URL), encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "LLM_USER_PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    saved = [tmp_path / "apple.png", tmp_path / "green.png"]
    first, second = saved if saved[0].exists() else re.findall(r"!\[picture\]\(([^)]+)\)", ran.stdout)
    assert same(first, "first")
    assert same(second, "second") or same(second, "edited")

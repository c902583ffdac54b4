"""Every block of the README and of docs/ that can be run here is run as it is printed, page by page: `make test-docs`.

A page begins in a copy of the checkout, as after a fresh clone. Its blocks run in order and share files, those in Python also
their names, in one interpreter of the page's own. A block marked `server` is started and left running until the page ends; its
port is replaced by a free one, which is all that is changed. Blocks marked with another word are not run;
`python tests/document_blocks.py` counts them.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from document_blocks import NOT_RUN, PAGES, ROOT, blocks

pytestmark = pytest.mark.documents
SECONDS = 240
"""Longer than any block takes on a slow machine"""
ADDRESS = "127.0.0.1:8000"
INTERPRETER = """
import sys, traceback
scope = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(open(line.strip()).read(), line.strip(), "exec"), scope)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    print("done", file=sys.stderr, flush=True)
"""


def runnable(page):
    return [block for block in blocks(page) if block.word not in NOT_RUN]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of what git has of the checkout, with changes that are not committed."""
    folder = tmp_path_factory.mktemp("checkout") / "limner"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture
def workplace(checkout, tmp_path, monkeypatch):
    """A folder of a page's own in which the checkout's files lie, and the environment of its commands."""
    for entry in checkout.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(checkout.parent))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LIMNER_API_KEY", raising=False)
    return tmp_path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(text, name):
    """A shell block; its output is shown where it fails."""
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{text}\n{done.stdout[-4000:]}"


class Python:
    """An interpreter that runs one block after the other."""

    def __init__(self, folder):
        self.folder, self.said = folder, (folder / "python.log").open("w+")
        command = [sys.executable, "-c", INTERPRETER]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self.said, stderr=subprocess.PIPE, text=True
        )

    def run(self, text, name):
        """Raises AssertionError, with the traceback, for a block that fails."""
        block = self.folder / f"block-{name.rpartition(':')[2]}.py"
        block.write_text(text, encoding="utf-8")
        self.process.stdin.write(f"{block}\n")
        self.process.stdin.flush()
        told = []
        for line in self.process.stderr:
            if line == "done\n":
                return
            told.append(line)
        raise AssertionError(f"{name} failed:\n{text}\n{''.join(told)}")

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.said.close()


@contextlib.contextmanager
def served(text, port, name):
    """A block that starts a server, until it is ready and then until the page ends."""
    text = text.replace("limner serve", f"limner serve --port {port}").replace("limner ui", f"limner ui --port {port}")
    with open("server.log", "w") as log:
        command = ["bash", "-c", f"exec {text.strip()}"]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until = time.monotonic() + SECONDS
            while not is_ready(port):
                said = Path("server.log").read_text()
                assert server.poll() is None and time.monotonic() < until, f"{name}: {said}"
                time.sleep(0.2)
            yield
        finally:
            server.terminate()
            server.wait(60)


def is_ready(port):
    with contextlib.suppress(URLError, ConnectionError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).status == 200
    return False


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_as_printed(page, workplace):
    port = free_port()
    with contextlib.ExitStack() as kept:
        python = None
        for block in runnable(page):
            began = time.monotonic()
            text = block.text.replace(ADDRESS, f"127.0.0.1:{port}")
            if block.word == "server":
                kept.enter_context(served(text, port, block.name))
            elif block.language == "bash":
                run(text, block.name)
            else:
                python = python or kept.enter_context(contextlib.closing(Python(workplace)))
                python.run(text, block.name)
            print(f"{block.name}: {time.monotonic() - began:.1f} s")

"""The chat as a person meets it: in a (pseudo-)terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest


def own_terminal() -> None:
    """In the child: Ctrl-C is a signal, and counts even where the tests run in the background of a shell."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """`limner` with its standard streams on a pseudo-terminal."""

    def __init__(self, *arguments, cwd):
        self.master, slave = pty.openpty()
        environment = os.environ | {
            "TERM": "xterm-256color",
            "TERM_PROGRAM": "",
            "COLUMNS": "80",
            "COLORTERM": "truecolor",
        }
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "limner.app.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment,
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(slave)
        self.text = ""

    def until(self, words: str, seconds: float = 60) -> str:
        """What is shown until ``words`` (a pattern) come; it is then forgotten."""
        end = time.monotonic() + seconds
        while not re.search(words, self.text):
            assert time.monotonic() < end, f"{words!r} did not come: {self.text[-800:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:  # the other side is closed
                    break
        found = re.search(words, self.text)
        assert found, f"{words!r} did not come: {self.text[-800:]!r}"
        shown, self.text = self.text[: found.end()], self.text[found.end() :]
        return shown

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def close(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            os.close(self.master)


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def open_(*arguments):
        opened.append(Terminal(*arguments, cwd=tmp_path))
        return opened[-1]

    yield open_
    for one in opened:
        one.process.kill()


def test_one_can_type_at_once_and_edit_the_line_and_see_the_picture(terminal, tmp_path):
    chat = terminal("chat", "--device", "cpu")
    chat.until("> ")
    assert time.monotonic() - chat.begun < 3  # the model loads while one types; alone on the machine it is 0.2 s
    chat.type("hellx\x7fo\n")
    chat.until(r"Hello! Tell me what to draw")
    chat.until("> ")
    chat.type("draw a red apple\n")
    shown = chat.until(r"limner-001\.png")
    assert shown.count("▀") > 500 and "\x1b[38;2;" in shown
    assert (tmp_path / "limner-001.png").exists()
    chat.until("> ")
    time.sleep(1)  # a Ctrl-C between the prompt's appearing and input()'s listening would be kept for the next key
    chat.type("\x03")  # Ctrl-C at the prompt: a new line
    chat.until("> ")
    chat.type("\x04")
    assert chat.close() == 0


def test_leaving_while_it_loads(terminal):
    chat = terminal("chat")
    chat.until("> ")
    chat.type("\x04")
    assert chat.close() == 0


def test_a_mistyped_model_is_said_before_one_types(terminal):
    chat = terminal("chat", "--model", "nanoo")
    chat.until("limner: unknown model 'nanoo'")
    assert chat.close() == 2

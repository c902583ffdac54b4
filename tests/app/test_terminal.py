"""The chat as a person meets it: in a (pseudo-)terminal."""

import fcntl
import json
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
    """`limner`, or another ``program`` of Python, with its standard streams on a pseudo-terminal."""

    def __init__(self, *arguments, cwd, program=("-m", "limner.app.cli"), **environment):
        self.master, slave = pty.openpty()
        environment = os.environ | {
            "TERM": "xterm-256color",
            "TERM_PROGRAM": "",
            "COLUMNS": "80",
            "COLORTERM": "truecolor",
            **environment,
        }
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
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

    def until(self, words: str, seconds: float = 20) -> str:
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

    def type(self, keys: str | bytes) -> None:
        os.write(self.master, keys if isinstance(keys, bytes) else keys.encode())

    def leave(self) -> None:
        self.until("> ")
        time.sleep(0.3)  # until input() listens: before, a Ctrl-D is the end of a line
        self.type("\x04")

    def close(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            os.close(self.master)


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def open_(*arguments, **options):
        opened.append(Terminal(*arguments, cwd=tmp_path, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.process.kill()


@pytest.mark.slow
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
    chat.leave()
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


QUESTION = r"\x1b\[c"  # DA1
LINES = """
import os, sys
from limner.app.cli import line_input, terminal
with terminal.printable_streams():
    shown = terminal.graphics(os.environ, True)
    line_input.greet("nano")
    while (line := line_input.read()) is not None:
        print(ascii(line), shown)
"""
"""The chat's lines without a model"""


def test_the_answer_to_a_question_is_not_read_as_typed(terminal):
    """Answered while somebody types: before it, around it, and long after."""
    lines = terminal(program=("-c", LINES))
    lines.until(QUESTION)
    lines.type("hex\x7fl\x1b[?62;22clo\n\nbl")
    lines.until(r"> hello\r\n'hello' blocks\r\n> \r\n'' blocks\r\n")
    lines.until("> bl")
    lines.type("ue\n")
    lines.until("'blue' blocks")
    lines.until("> ")
    time.sleep(0.2)
    lines.type("thanks\x1b[?62;4;22c a lot\n")
    lines.until("'thanks a lot' blocks")
    lines.type("caf\xff\n".encode("latin-1"))  # no UTF-8; readline keeps the byte, or passes over it
    lines.until("'caf")
    lines.type("잔디\n")
    lines.until(r"\\uc794\\ub514'")
    lines.leave()
    assert lines.close() == 0


def test_a_terminal_that_has_sixel_says_so_and_ctrl_d_meanwhile_is_the_end(terminal):
    lines = terminal(program=("-c", LINES))
    lines.type("earl")  # before there is anyone to read it
    lines.until(QUESTION)
    lines.type("\x1b[?62;4;22cy\n")
    lines.until("'early' sixel")
    lines.leave()
    assert lines.close() == 0
    lines = terminal(program=("-c", LINES))
    lines.until(QUESTION)
    lines.type("\x04")
    assert lines.close() == 0


@pytest.mark.slow
def test_a_terminal_of_few_means(terminal, tmp_path):
    """No half blocks, no characters but ASCII; what is typed is read as UTF-8 all the same. Ctrl-Z, and on in the foreground."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    chat = terminal("chat", "--device", "cpu", "--steps", "1", "--size", "64x64", **plain)
    chat.until("> ")
    time.sleep(1)
    chat.process.send_signal(signal.SIGTSTP)
    time.sleep(0.3)
    chat.process.send_signal(signal.SIGCONT)
    chat.type("빨간 자동차 그려 줘\n")
    shown = chat.until(r"limner-001\.png")
    assert "▀" not in shown and "\x1b[38" not in shown
    chat.until("> ")
    chat.type("/save talk.jsonl\n")
    chat.until(r"\ntalk\.jsonl\r\n")
    saved = json.loads((tmp_path / "talk.jsonl").read_text(encoding="utf-8"))
    assert saved["messages"][0]["content"][0]["text"] == "빨간 자동차 그려 줘"
    chat.leave()
    assert chat.close() == 0


def test_the_tab_key_completes_commands_and_paths(terminal, tmp_path):
    (tmp_path / "my photo.png").touch()
    program = LINES.replace('greet("nano")', 'greet("nano", completion.completions)').replace(
        "import line_input", "import completion, line_input"
    )
    lines = terminal(program=("-c", program))
    lines.until(QUESTION)
    lines.type("\x1b[?62;22c")
    lines.until("> ")
    time.sleep(0.3)
    lines.type("/im\tmy\t\n")
    lines.until(r"'/image my photo\.png' blocks")
    lines.until("> ")
    time.sleep(0.2)
    lines.type("/set tem\t1\n")
    lines.until(r"'/set temperature 1' blocks")
    lines.leave()
    assert lines.close() == 0

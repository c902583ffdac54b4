"""Paths as they are typed, and as terminals write what is dragged into them."""

import shlex
from pathlib import Path

import pytest

from limner.app.cli import paths
from limner.app.cli.paths import expanded, quoted, typed_path


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("a.png", "a.png"),
        ("a.png", "  a.png  "),
        ("a b.png", "a b.png"),  # typed as it is
        ("a b.png", r"a\ b.png "),  # macOS, iTerm2, Ghostty
        ("a b.png", "'a b.png' "),  # GNOME, Konsole
        ("a b.png", '"a b.png"'),  # Windows Terminal
        ("it's.png", r"'it'\''s.png'"),
        ("it's.png", r"it\'s.png"),
        ("it's.png", "it's.png"),
        ("a(1) [b] & c.png", r"a\(1\)\ \[b\]\ \&\ c.png"),
        (r"a\b.png", r"a\\b.png"),
        (r"a\b.png", r"a\b.png"),
        ("'a'", "'a'"),
        ("잔디.png", "'잔디.png'"),
        ("잔 디.png", r"잔\ 디.png"),
    ],
)
def test_a_path_that_is_dragged_in(name, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"")
    assert typed_path(typed) == Path(name)


def test_the_home_folder_and_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a b%.png"
    file.write_bytes(b"")
    for typed in (
        "~/a b%.png",
        r"~/a\ b%.png",
        "'~/a b%.png'",
        file.as_uri(),
        file.as_uri() + " ",
        f"'{file.as_uri()}'",
    ):
        assert typed_path(typed) == file
    assert typed_path("file://localhost" + file.as_uri().removeprefix("file://")) == file
    assert typed_path("~/new.jsonl") == expanded("~/new.jsonl") == tmp_path / "new.jsonl"
    assert typed_path("'~/new one.jsonl'") == tmp_path / "new one.jsonl"
    assert typed_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_what_is_not_there_is_named_as_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed_path(r"C:\Users\me\a.png") == Path(r"C:\Users\me\a.png")
    assert typed_path("'open.png") == Path("'open.png") and typed_path("'a' 'b'") == Path("'a' 'b'")
    assert typed_path("a\0b") == Path("a\0b") and typed_path("x" * 5000) == Path("x" * 5000)


def test_on_windows_a_backslash_parts_folders(monkeypatch):
    monkeypatch.setattr(paths.os, "name", "nt")
    assert paths.unquoted(r"C:\new (1)\a.png") == r"C:\new (1)\a.png"
    assert paths.unquoted('"C:\\new one\\a.png"') == r"C:\new one\a.png"


@pytest.mark.parametrize("name", ["cat", "my cat #1", "a'b", "-x"])
def test_a_command_that_is_shown_can_be_typed(name):
    (word,) = shlex.split(quoted(Path(name)))
    assert Path(word) == Path(name) and not word.startswith("-")

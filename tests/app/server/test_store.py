"""What a server keeps goes after a while, and nothing else does."""

import os
import time

import pytest

from limner.app.server import store as module
from limner.app.server.store import Store


def test_files_expire_and_the_oldest_go_where_there_is_too_much(tmp_path, monkeypatch):
    store = Store(100, tmp_path / "kept")
    first, second = store.put(b"a" * 10, ".png"), store.put(b"b" * 10, ".png")
    assert first != second and store.get(first) == b"a" * 10 and store.get("../secret.png") is None
    old = time.time() - 101
    os.utime(tmp_path / "kept" / first, (old, old))
    assert store.get(first) is None and (tmp_path / "kept" / first).exists()
    store.sweep()
    assert not (tmp_path / "kept" / first).exists() and store.get(second) is not None

    monkeypatch.setattr(module, "MAX_BYTES", 25)
    monkeypatch.setattr(module, "SWEEP_BYTES", 25)
    for age, name in enumerate("cd"):
        put = store.put(b"x" * 10, ".png", name)
        os.utime(tmp_path / "kept" / put, (time.time() + age + 1,) * 2)
    store.put(b"x" * 10, ".png", "e")
    assert {path.name for path in (tmp_path / "kept").glob("*.png")} == {"c.png", "d.png"}


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match="is not empty: it holds holiday"):
        Store(1, tmp_path)
    Store(1, tmp_path / "new").put(b"a", ".png")
    assert Store(1, tmp_path / "new").folder == tmp_path / "new"  # another server's store is one
    assert (tmp_path / "holiday.png").exists()


def test_a_folder_of_its_own_goes_with_the_server():
    store = Store(1)
    store.put(b"a", ".png")
    store.close()
    assert not store.folder.exists()

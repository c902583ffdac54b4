"""A tiny model on the disk."""

import pytest

from helpers import make_limner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_limner(shapes=((32, 32), (16, 32))).save_pretrained(path)
    return str(path)

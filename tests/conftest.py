import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for `import helpers` under importlib mode
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

collect_ignore = ["clients"]  # they run in an environment of their own: `make test-clients`


@pytest.fixture
def data(tmp_path):
    """Three pictures with captions."""
    from helpers import picture

    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(3):
        picture(index).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a zorp number {index}")
    return folder


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)

"""What a model's folder says of it, and what older folders mean."""

import json
import shutil
from pathlib import Path

import pytest

import limner
from limner.mllm.config import FORMAT, LimnerConfig

NANO = Path(limner.__file__).parent / "weights/nano/config.json"


def test_what_a_model_does_hangs_on_its_folders_content(tmp_path):
    """Not on its name: a nano of the first format plans and replays whatever it is called, another model does not."""
    values = json.loads(NANO.read_text())
    assert values["format"] == FORMAT
    older = {k: v for k, v in values.items() if k not in ("format", "plan_share", "replay")} | {"prompt_tokens": 24}
    other = older | {"num_queries": 64}
    for name, content, expected in (
        ("nano", other, (0.0, "none")),
        ("anything", older, (0.85, "world")),
        ("mine", values | {"plan_share": 0.3, "replay": "none"}, (0.3, "none")),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        config = LimnerConfig.load(tmp_path / name)
        assert (config.plan_share, config.replay) == expected
        config.save(tmp_path / name)
        assert LimnerConfig.load(tmp_path / name) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": FORMAT + 1}, "is of format 3; this Limner reads 1 and 2"),
        ({"replay": "books"}, "replay is 'books'; it can be none or world"),
        ({"plan_share": 2}, "plan_share is 2"),
        ({"colour": 1}, "unknown config keys colour"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, said, tmp_path):
    shutil.copy(NANO, tmp_path / "config.json")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=said):
        LimnerConfig.load(tmp_path)

"""An OCR of others beside the reader."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from limner.app.cli import main as cli
from limner.evaluation import ocr, tasks
from limner.evaluation.ocr import read_letters
from limner.world.scene import Scene, Thing, render


def test_letters_are_read_from_a_larger_picture_in_opencv_s_colours():
    picture, seen = render(Scene((Thing("sign", "red", "large", 0.5, 0.5, "OPEN"),))), []

    def engine(pixels):
        seen.append(pixels)
        return SimpleNamespace(txts=("[op", "e n!")) if len(seen) == 1 else SimpleNamespace(txts=None)

    assert read_letters(engine, [picture, picture]) == ["OPEN", ""]
    assert seen[0].shape == (384, 384, 3)
    middle = np.asarray(picture)[64, 20].astype(int)
    assert abs(seen[0][192, 61].astype(int) - middle[::-1]).max() < 30


@pytest.mark.slow
def test_signs_are_read_by_it_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    options = ["eval", "world", "--limit", "4", "--steps", "1", "--only", "sign/1-5", "--out", str(tmp_path)]
    assert cli.main(options) == 0
    assert "ocr" not in json.loads((tmp_path / "results.json").read_text())["scores"][0]
    words = [prompt.split('"')[1] for prompt in tasks.sign_task((1, 2, 3, 4, 5), 1).prompts]
    monkeypatch.setitem(
        sys.modules, "rapidocr", SimpleNamespace(RapidOCR=lambda: lambda _: SimpleNamespace(txts=words))
    )
    assert cli.main([*options, "--ocr"]) == 0, "what was drawn is graded again"
    row = json.loads((tmp_path / "results.json").read_text())["scores"][0]
    assert row["ocr"] == row["ocr_accuracy"] == 1 and row["letters"] < 1
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    assert cli.main([*options, "--ocr"]) == 2
    assert "pip install 'limner[ocr]'" in capsys.readouterr().err
    assert cli.main(["eval", "ladder", "--ocr"]) == 2
    assert "--ocr is for world" in capsys.readouterr().err


def test_the_real_one_reads_signs_as_they_are_rendered():
    pytest.importorskip("rapidocr")
    words = ("OPEN", "TAXI", "BAKERY", "100")
    scenes = [Scene((Thing("banner", "white", "large", 0.5, 0.5, word),)) for word in words]
    assert read_letters(ocr.load_ocr(), [render(scene) for scene in scenes]) == list(words)

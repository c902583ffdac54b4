"""The ladder: prompts of so many atoms, each looked for by itself."""

import json
import random
from dataclasses import replace

import pytest

from limner.app.cli import main as cli
from limner.evaluation import ladder
from limner.evaluation.judge import Detection, Verdict
from limner.world.language import groups
from limner.world.scenes import atoms


def verdict(scene):
    found = [Detection(t.name, t.color, t.x, t.y, 1.0) for t in scene.things]
    return Verdict(tuple(found), scene.background)


@pytest.mark.parametrize("count", ladder.ATOM_COUNTS)
def test_a_true_picture_has_all_atoms_and_every_mistake_costs_its_own(count):
    rng = random.Random(count)
    for _ in range(20):
        scene = ladder.ladder_scene(rng, count)
        true = verdict(scene)
        assert ladder.found_atoms(scene, true) == [True] * count == [True] * atoms(scene)
        assert ladder.is_wholly_right(scene, true)
        first = groups(scene)[0]
        other = next(c for c in ("red", "blue", "green") if c != first[0].color)
        wrong = [replace(d, color=other) if d.name == first[0].name else d for d in true.detections]
        found = ladder.found_atoms(scene, Verdict(tuple(wrong), true.background))
        assert found.count(False) == 1 and found[1] is False, "the colour alone"
        gone = tuple(d for d in true.detections if d.name != first[0].name)
        found = ladder.found_atoms(scene, Verdict(gone, true.background))
        neighbours = min(1, len(groups(scene)) - 1)
        assert found.count(False) == 2 + (len(first) > 1) + neighbours, "the thing, its colour, number and place"
        more = (*true.detections, replace(true.detections[0], name="toilet" if first[0].name != "toilet" else "tv"))
        assert not ladder.is_wholly_right(scene, Verdict(more, true.background)), "what nobody asked for"
        turned = tuple(replace(d, x=1 - d.x, y=1 - d.y) for d in true.detections)
        found = ladder.found_atoms(scene, Verdict(turned, true.background))
        assert found.count(False) == len(groups(scene)) - 1, "all places"
        if scene.background != "plain":
            assert ladder.found_atoms(scene, Verdict(true.detections, "plain")).count(False) == 1


def test_prompts_stay_the_same_and_say_all_atoms():
    first, again = (ladder.ladder_task(8, 5) for _ in range(2))
    assert list(first.prompts) == list(again.prompts) and len(set(first.prompts)) == 5
    assert all(
        prompt.startswith("draw a row of") or " below " in prompt or "," in prompt or " and " in prompt
        for prompt in first.prompts
    )


@pytest.mark.slow
def test_the_command_measures_the_rungs_asked_for(tmp_path, capsys):
    options = ["--limit", "2", "--steps", "1", "--out", str(tmp_path), "--only", "ladder/3", "--only", "ladder/10"]
    assert cli.main(["eval", "ladder", *options]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["name"] for row in results["scores"]] == ["ladder/3", "ladder/10"]
    assert all(row["n"] == 2 and 0 <= row["atoms"] <= 1 for row in results["scores"])
    assert "examples: 2" in (tmp_path / "table.txt").read_text() and (tmp_path / "sheet.png").exists()
    assert cli.main(["eval", "ladder", "--only", "ladder/2", "--out", str(tmp_path)]) == 2
    assert "there are ladder/3, ladder/4" in capsys.readouterr().err
    assert cli.main(["eval", "ladder", "--seeds", "2", "--out", str(tmp_path)]) == 2
    assert "the ladder takes one picture" in capsys.readouterr().err

"""GenEval's prompts, rules and folders."""

import json

import pytest
from PIL import Image

import limner
from limner.app.cli import main as cli
from limner.evaluation import geneval, geneval_prompts
from limner.evaluation.compare import compare
from limner.evaluation.judge import Detection, Verdict
from limner.world import held_out
from limner.world.scene import Scene


def verdict(*things):
    return Verdict(tuple(Detection(name, color, x, y, 1.0) for name, color, x, y in things), "plain")


def by_tag(tag, **wanted):
    return next(
        p
        for p in geneval_prompts.load_prompts()
        if p.metadata["tag"] == tag
        and p.in_world
        and all(any(thing.get(k) == v for thing in p.metadata["include"]) for k, v in wanted.items())
    )


def test_all_prompts_are_there_and_a_limit_takes_some_of_each():
    chosen = geneval_prompts.load_prompts()
    assert len(chosen) == 553 and [p.number for p in chosen] == list(range(553))
    tags = [p.metadata["tag"] for p in geneval_prompts.load_prompts(3)]
    assert {tag: tags.count(tag) for tag in tags} == dict.fromkeys(geneval.CATEGORIES, 3)


def test_the_rules():
    one = by_tag("single_object").metadata["include"][0]["class"]
    single = by_tag("single_object")
    assert single.matches(verdict((one, "red", 0.5, 0.5))) and not single.matches(verdict())
    # GenEval does not mind what else there is
    assert single.matches(verdict((one, "red", 0.5, 0.5), ("kite", "red", 0.2, 0.2)))
    counting = by_tag("counting", count=2)
    name = counting.metadata["include"][0]["class"]
    spots = [(name, "red", x, 0.5) for x in (0.2, 0.5, 0.8)]
    assert (
        counting.matches(verdict(*spots[:2]))
        and not counting.matches(verdict(*spots))
        and not counting.matches(verdict(spots[0]))
    )
    color = by_tag("colors")
    thing = color.metadata["include"][0]
    assert color.matches(verdict((thing["class"], thing["color"], 0.5, 0.5)))
    assert not color.matches(verdict((thing["class"], "no colour", 0.5, 0.5)))
    both = by_tag("color_attr").metadata["include"]
    right = [(t["class"], t["color"], x, 0.5) for t, x in zip(both, (0.25, 0.75), strict=True)]
    swapped = [(t["class"], o["color"], x, 0.5) for t, o, x in zip(both, both[::-1], (0.25, 0.75), strict=True)]
    assert by_tag("color_attr").matches(verdict(*right)) and not by_tag("color_attr").matches(verdict(*swapped))


def test_the_second_thing_stands_in_the_relation_to_the_first():
    prompt = next(
        p
        for p in geneval_prompts.load_prompts()
        if p.in_world and p.metadata["tag"] == "position" and p.metadata["include"][1]["position"][0] == "right of"
    )
    first, second = (thing["class"] for thing in prompt.metadata["include"])
    assert f"{second} right of" in prompt.metadata["prompt"]
    good = verdict((first, "red", 0.2, 0.5), (second, "red", 0.8, 0.5))
    assert prompt.matches(good)
    assert not prompt.matches(verdict((first, "red", 0.8, 0.5), (second, "red", 0.2, 0.5)))


def test_true_scenes_are_what_is_asked_for():
    """As facts, without the judge; and none of the four combined categories is ever trained on."""
    import random

    rng = random.Random(0)
    for prompt in geneval_prompts.load_prompts():
        assert prompt.in_world
        scene = prompt.scene(rng)
        assert isinstance(scene, Scene)
        assert prompt.matches(verdict(*((t.name, t.color, t.x, t.y) for t in scene.things))), prompt.metadata
        if prompt.metadata["tag"] in ("two_object", "position", "color_attr", "colors"):
            assert held_out.is_held_out(scene), prompt.metadata


@pytest.mark.slow
def test_folders_are_geneval_s_and_a_cut_run_goes_on(tmp_path, capsys):
    model = limner.load("nano", device="cpu")
    options = {"limit": 1, "steps": 1}
    assert geneval.evaluate(model, tmp_path, part=(0, 2), **options) is None
    assert "still to be drawn" in capsys.readouterr().out
    drawn = sorted(tmp_path.glob("*/samples/*.png"))
    assert len(drawn) == 3 * geneval.SAMPLES_PER_PROMPT
    kept = drawn[0].stat().st_mtime_ns
    drawn[1].unlink()
    results = geneval.evaluate(model, tmp_path, part=(1, 2), **options)
    assert results is None  # the first part's is missing again
    results = geneval.evaluate(model, tmp_path, **options)
    assert drawn[0].stat().st_mtime_ns == kept and results["prompts"] == 6
    assert set(compare(tmp_path, tmp_path)[-1].items()) >= {("change", 0.0), ("n", 6)}
    with pytest.raises(ValueError, match="holds answers with steps 1, this is 2; choose another folder"):
        geneval.evaluate(model, tmp_path, limit=1, steps=2)
    folder = tmp_path / "00000"
    assert json.loads((folder / "metadata.jsonl").read_text())["tag"] == "single_object"
    assert [p.name for p in sorted((folder / "samples").iterdir())] == [f"{i:04d}.png" for i in range(4)]
    assert Image.open(folder / "samples/0003.png").size == (128, 128)
    text = (tmp_path / "index.html").read_text()
    assert text.count("<img") == 24 and "a photo of a bench" in text
    assert "overall" in (tmp_path / "table.txt").read_text() and (tmp_path / "results.json").exists()


def test_bad_options(tmp_path, capsys):
    model = None
    with pytest.raises(ValueError, match="must not be negative"):
        geneval.evaluate(model, tmp_path, limit=-1)
    with pytest.raises(ValueError, match="part 4 of 3"):
        geneval.evaluate(model, tmp_path, part=(3, 3))
    assert cli.main(["eval", "geneval", "--part", "x", "--output", str(tmp_path)]) == 2
    assert "--part" in capsys.readouterr().err


def test_what_is_refused_counts_where_the_model_decides():
    task = geneval_prompts.deciding_task(10)
    tags = [p.metadata["tag"] for p in geneval_prompts.load_prompts()]
    assert len(task.prompts) == 10 and len(geneval_prompts.deciding_task(1000).prompts) == len(tags) == 553
    drawn = limner.Reply([Image.new("RGB", (8, 8))], "stop")
    good, each = task.grade(None, None, [drawn] * 9 + [limner.Reply(["I can't draw a broccoli yet."], "stop")])
    assert good == [True] * 9 + [False] and set(each) == set(tags)
    assert each[tags[0]] == 1 and each[tags[-1]] < 1

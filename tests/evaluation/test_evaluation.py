"""The world's evaluation: shared by several runs, gone on with, judged again without asking again."""

import json

import pytest
from PIL import Image

import limner
from helpers import make_limner
from limner.app.cli import main as cli
from limner.evaluation import saved_replies, tasks, world
from limner.evaluation.geneval_cases import CATEGORIES
from limner.evaluation.judge import Judge
from limner.evaluation.shapes import downscale
from limner.evaluation.task_list import all_tasks as all_measures
from limner.world.edits import KINDS


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


@pytest.mark.slow
def test_two_runs_share_a_folder_and_a_third_only_judges(nano, tmp_path, capsys, monkeypatch):
    options = {"limit": 1, "steps": 1}
    assert world.evaluate(nano, tmp_path, part=(0, 2), **options) is None
    assert "still to be done by other parts" in capsys.readouterr().out
    results = world.evaluate(nano, tmp_path, part=(1, 2), **options)
    names = [row["name"] for row in results["scores"]]
    assert names == list(all_measures(1, 1, 1))
    several = 2 * 5 + 4 + 1 + 1  # pictures a reply, stories, edits in a row, the queries, new things
    assert len(names) == 2 * len(CATEGORIES) - 1 + len(KINDS) + 10 + 6 + several + 5 + 7 + 6 + 2
    assert all(0 <= row["low"] <= row["rate"] <= row["high"] <= 1 for row in results["scores"])
    assert {row["n"] for row in results["scores"] if row["name"] != "talk/everyday"} == {1}
    assert "draw/colors/held_out" in (tmp_path / "table.txt").read_text()
    # twenty-five framed pictures in rows of eight, and up to eight more where the model chose to draw
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width == 8 * 138 and height in (4 * 138, 5 * 138)

    page = (tmp_path / "index.html").read_text()
    (edit,) = saved_replies.load_replies(tmp_path / "edit-add")
    shown, said = edit["asked"]
    assert f'src="edit-add/{shown["image"]}"' in page and said in page
    assert Image.open(tmp_path / "edit-add" / shown["image"]).size == (128, 128)

    def never(*_, **__):
        raise AssertionError("what is answered is not asked again")

    monkeypatch.setattr(limner.inference.model.Limner, "generate", never)
    assert world.evaluate(nano, tmp_path, **options)["scores"] == results["scores"]
    looked = []
    monkeypatch.setattr(Judge, "detect", lambda self, images: looked.append(images) or [NOTHING] * len(images))
    monkeypatch.setattr(world, "digest", lambda of: "another judge" if isinstance(of, Judge) else REAL(of))
    again = world.evaluate(nano, tmp_path, **options)
    assert looked and not any(r["rate"] for r in again["scores"] if r["name"].startswith(("draw/", "edit/")))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds answers with examples 1, this is 2; choose another folder"):
        world.evaluate(nano, tmp_path, limit=2, steps=1)
    other = make_limner().to(nano.mllm.dtype)
    with pytest.raises(ValueError, match="holds answers with model 'nano'"):
        world.evaluate(other, tmp_path, **options)
    other.name = nano.name
    with pytest.raises(ValueError, match="holds answers with weights"):
        world.evaluate(other, tmp_path, **options)


REAL = world.digest
NOTHING = tasks.Verdict((), "plain")


def test_a_cut_measure_goes_on_with_whole_batches(nano, tmp_path):
    task = tasks.handwritten_task("talk", 0)
    assert len(task.prompts) < tasks.BATCH_SIZE, "one batch: half of it is asked again, all of it is not"
    whole = saved_replies.generate_replies(nano, task, tmp_path)
    text = (tmp_path / saved_replies.REPLIES_FILE).read_text()
    (tmp_path / saved_replies.REPLIES_FILE).write_text(text[: len(text) // 2])
    assert len(saved_replies.load_replies(tmp_path)) < len(whole)

    def timeless(lines):
        return [{k: v for k, v in told.items() if k != "seconds"} for told in lines]

    assert timeless(saved_replies.generate_replies(nano, task, tmp_path)) == timeless(whole)
    assert timeless(saved_replies.load_replies(tmp_path)) == timeless(whole)
    replies = [saved_replies.to_reply(told, tmp_path) for told in whole]
    assert [reply.text for reply in replies] == [reply.text for reply in task.generate_batch(nano, 0)]
    (tmp_path / saved_replies.REPLIES_FILE).write_text("nonsense\n" + text)
    with pytest.raises(ValueError, match=r"replies.jsonl, line 1: .*take the folder away"):
        saved_replies.load_replies(tmp_path)


def test_the_judge_sees_a_picture_alike_alone_and_among_others():
    judge = Judge.from_pretrained(world.JUDGE_FOLDER)
    images = [tasks.render(case.scene) for case in tasks.make_cases("two_object", False, 5)]
    images.insert(2, images[0].resize((160, 96)))
    together = judge.detect(images)
    for image, verdict in zip(images, together, strict=True):
        (alone,) = judge.detect([image])
        assert alone.background == verdict.background
        assert [(d.name, d.color, d.x, d.y) for d in alone.detections] == [
            (d.name, d.color, d.x, d.y) for d in verdict.detections
        ]
    with pytest.raises(ValueError, match="sizes that 8 divides, not 100 x 100"):
        judge.detect([images[0].resize((100, 100))])


def test_several_seeds_count_once_for_the_interval_and_the_best_stands_beside():
    """Three pictures of four prompts: the first two prompts are met once each, by another picture each."""
    asked = ["a", "b", "c", "d"]

    def right(_, __, replies):
        return [reply in ("a0", "b2") for reply in replies], {"found": float(replies[0][1]), "none": None}

    def answer(_, chunk, seed):
        return [f"{said}{number // 4}" for said, number in zip(chunk, seed, strict=True)]

    thrice = tasks.with_seeds(tasks.Task("draw/x", asked, answer, right), 3)
    score = thrice.run(None, None)
    assert (score.correct, score.total) == (2, 12)
    assert score.extra == {"best_of_3": 0.5, "found": 1.0, "none": None}
    row = score.row()
    assert row["rate"] == pytest.approx(1 / 6) and row["n"] == 12
    once = tasks.Score("x", 1, 4, {}).row()
    assert (row["low"], row["high"]) == (once["low"], once["high"]), (
        "the interval is over four prompts, not twelve pictures"
    )


@pytest.mark.slow
def test_an_evaluation_with_seeds_is_not_mixed_with_one_without(nano, tmp_path, capsys):
    options = {"limit": 1, "steps": 1, "part": (0, 40)}
    assert world.evaluate(nano, tmp_path, seeds=2, **options) is None
    assert "best of 2" in capsys.readouterr().out
    assert len(saved_replies.load_replies(tmp_path / "draw-single_object-seen")) == 2
    with pytest.raises(ValueError, match="holds answers with seeds 2, this is None"):
        world.evaluate(nano, tmp_path, **options)


@pytest.mark.slow
def test_some_measures_only(nano, tmp_path, capsys):
    options = ["--limit", "1", "--steps", "1", "--output", str(tmp_path)]
    assert cli.main(["eval", "world", *options, "--only", "describe", "--only", "size/"]) == 0
    names = [row["name"] for row in json.loads((tmp_path / "results.json").read_text())["scores"]]
    assert names == [
        "describe",
        *(n for n in all_measures(1, 1, 1) if n.startswith("size/")),
        "describe/chinese",
        "describe/korean",
    ]
    assert not (tmp_path / "sheet.png").exists() and (tmp_path / "index.html").exists()
    assert cli.main(["eval", "world", *options, "--only", "paints"]) == 2
    assert "no task's name begins with 'paints'; there are draw/" in capsys.readouterr().err
    assert cli.main(["eval", "geneval", "--only", "colors", "--output", str(tmp_path / "geneval")]) == 2
    assert "--only is for world" in capsys.readouterr().err


def test_bad_options(tmp_path, capsys):
    with pytest.raises(ValueError, match="must not be negative"):
        world.evaluate(None, tmp_path, limit=-1)
    with pytest.raises(ValueError, match="part 4 of 3"):
        world.evaluate(None, tmp_path, part=(3, 3))
    assert cli.main(["eval", "world", "--part", "1", "--output", str(tmp_path)]) == 2
    assert "--part" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--seeds is 0"):
        world.evaluate(None, tmp_path, seeds=0)
    assert cli.main(["eval", "geneval", "--seeds", "2", "--output", str(tmp_path)]) == 2
    assert "--seeds is 2; GenEval takes 4 pictures" in capsys.readouterr().err


def test_a_score_says_how_sure_it_is():
    row = tasks.Score("x", 475, 500, {}).row()
    assert row["rate"] == 0.95 and row["low"] == pytest.approx(0.9273, abs=1e-3)
    assert row["high"] == pytest.approx(0.9658, abs=1e-3)  # Wilson's interval, as statsmodels gives it
    assert json.loads(json.dumps(row)) == row


def test_larger_pictures_are_judged_at_the_size_that_the_judge_knows():
    assert downscale(Image.new("RGB", (256, 256))).size == downscale(Image.new("RGB", (192, 192))).size == (128, 128)
    assert downscale(Image.new("RGB", (160, 96))).size == (160, 96)
    assert downscale(Image.new("RGB", (320, 192))).size == (168, 96)

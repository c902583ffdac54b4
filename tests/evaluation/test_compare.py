"""Two evaluations beside each other, question by question."""

import json
import math

import pytest

from limner.app.cli.main import main
from limner.evaluation import saved_replies, world
from limner.evaluation.compare import compare


def measured(folder, name, right, seeds=1, judge="j", asked=None):
    (folder / name).mkdir(parents=True)
    score = {"judge": judge, "right": right, "extra": {}, "seeds": seeds}
    (folder / name / "score.json").write_text(json.dumps(score))
    lines = [json.dumps({"asked": [asked or f"q{i % (len(right) // seeds)}"], "parts": []}) for i in range(len(right))]
    (folder / name / saved_replies.REPLIES_FILE).write_text("\n".join(lines) + "\n")


def test_what_was_lost_and_won(tmp_path, capsys):
    before, after = tmp_path / "before", tmp_path / "after"
    measured(before, "describe", [True] * 8 + [False] * 2)
    measured(after, "describe", [True] * 5 + [False] * 4 + [True])
    measured(before, "draw", [True, False, True, True], seeds=2)  # two questions, twice each
    measured(after, "draw", [False, True, True, False], seeds=2)
    measured(after, "story", [True])
    assert main(["compare", str(before), str(after)]) == 0
    told = capsys.readouterr().out
    assert "in one of them only: story" in told and "lost" in told
    rows = {row["name"]: row for row in compare(before, after)}
    described = rows["describe"]
    assert (described["lost"], described["won"], described["n"]) == (3, 1, 10)
    assert described["change"] == pytest.approx(-0.2)
    # Agresti and Min 2005: half a question in every cell of the paired table, then Wald
    lost, won, n = 3.5, 1.5, 12
    middle, half = (won - lost) / n, 1.96 * math.sqrt(lost + won - (won - lost) ** 2 / n) / n
    assert (described["low"], described["high"]) == pytest.approx((middle - half, middle + half))
    drawn = rows["draw"]  # the first question from 2 of 2 to 1 of 2, the second from 1 of 2 to 1 of 2
    assert (drawn["change"], drawn["lost"], drawn["won"], drawn["n"]) == (-0.25, 1, 0, 2)
    assert (rows["all"]["lost"], rows["all"]["won"], rows["all"]["n"]) == (4, 1, 12)


def test_geneval_s_prompts_are_compared_by_category(tmp_path):
    """Four pictures of each; a folder says itself what was asked."""
    for name, first in (("before", [True, True, False, False]), ("after", [True, True, True, True])):
        for number, tag in ((0, "colors"), (7, "colors"), (12, "counting")):
            (tmp_path / name / f"{number:05d}").mkdir(parents=True)
            (tmp_path / name / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps({"tag": tag}) + "\n")
        right = {0: first, 7: [True] * 4, 12: first[::-1]}
        (tmp_path / name / "results.json").write_text(json.dumps({"judge": "j", "right": right}))
    rows = {row["name"]: row for row in compare(tmp_path / "before", tmp_path / "after")}
    assert rows["colors"] | {"low": 0, "high": 0} == {
        "name": "colors",
        "change": 0.25,
        "low": 0,
        "high": 0,
        "lost": 0,
        "won": 1,
        "n": 2,
    }
    assert rows["counting"]["change"] == 0.5 and rows["all"]["n"] == 3


def test_nothing_is_compared_that_differs_otherwise(tmp_path, capsys):
    base = tmp_path / "base"
    measured(base, "describe", [True, False])
    for name, options, said in (
        ("questions", {"asked": "another"}, "asked other questions"),
        ("judge", {"judge": "k"}, "judged by two judges"),
    ):
        measured(tmp_path / name, "describe", [True, False], **options)
        with pytest.raises(ValueError, match=said):
            compare(base, tmp_path / name)
    measured(tmp_path / "fewer", "describe", [True])
    with pytest.raises(ValueError, match="give both the same --limit"):
        compare(base, tmp_path / "fewer")
    assert main(["compare", str(base), str(tmp_path / "none")]) == 2
    assert "no task in common" in capsys.readouterr().err


def test_languages_are_compared_with_english_question_by_question():
    done = {f"draw/paired/{code}": {"right": right} for code, right in (("en", [1, 1, 0, 0]), ("zh", [1, 0, 0, 0]))}
    beside = world.beside_english("draw/paired/zh", done)
    assert beside["less_english"] == -0.25 and beside["from"] < -0.25 < beside["to"]
    assert world.beside_english("draw/paired/en", done) == {} == world.beside_english("draw/phrasings/zh", done)
    del done["draw/paired/en"]
    assert world.beside_english("draw/paired/zh", done) == {}

"""Measures in strangers' words: what is asked is never trained on, and what it leaves open is free."""

import pytest

from limner.evaluation import tasks, validation
from limner.evaluation.judge import Detection, Verdict
from limner.inference.reply import Reply
from limner.world import strangers
from limner.world.languages import ENGLISH, LANGUAGES
from limner.world.scene import Scene, Thing, render


def verdict(*things):
    return Verdict(tuple(Detection(name, color, x, y, 1.0) for name, color, x, y in things), "plain")


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.code)
def test_requests_are_of_validation_and_stay_the_same(language, monkeypatch):
    asked = []

    class Noted(strangers.Stranger):
        def line(self, kind, **wanted):
            asked.append(super().line(kind, **wanted))
            return asked[-1]

    monkeypatch.setattr(strangers, "Stranger", Noted)
    wishes = validation.phrasings(language, 30)
    trained = {line["text"] for lines in strangers.lines(language.code, False).values() for line in lines}
    assert asked and not trained & {line["text"] for line in asked}
    assert [wish.words for wish in validation.phrasings(language, 30)] == [wish.words for wish in wishes]
    for wish in wishes:
        said = verdict(*((t.name, t.color, t.x, t.y) for t in wish.scene.things))
        assert validation.expected(wish).matches(said)
        assert validation.says(language, language.plan(wish.scene), wish.scene)
        assert not validation.says(
            language, language.plan(Scene((Thing("toilet", "pink", "large", 0.5, 0.5),))), wish.scene
        )
    assert not all(all(wish.colored) for wish in wishes) and any(wish.placed for wish in wishes)


def test_only_what_the_words_say_must_be_so():
    things = (Thing("cat", "orange", "medium", 0.26, 0.5), Thing("dog", "red", "medium", 0.74, 0.5))
    wish = strangers.Wish("a cat and a red dog", Scene(things), (False, True))
    assert validation.expected(wish).matches(verdict(("cat", "blue", 0.7, 0.5), ("dog", "red", 0.2, 0.5)))
    assert not validation.expected(wish).matches(verdict(("cat", "blue", 0.2, 0.5), ("dog", "blue", 0.7, 0.5)))
    placed = strangers.Wish("a cat left of a red dog", Scene(things), (False, True), placed=True)
    assert not validation.expected(placed).matches(verdict(("cat", "blue", 0.7, 0.5), ("dog", "red", 0.2, 0.5)))


def test_pictures_and_plans_are_graded_apart():
    task, plans = validation.phrasings_task(ENGLISH, 4), validation.planning_task(ENGLISH, 4)
    assert list(task.prompts) == list(plans.prompts)
    wishes = validation.phrasings(ENGLISH, 4)
    pictures = [render(wish.scene) for wish in wishes]

    class Judge:
        def detect(self, images):
            assert len(images) == 2
            return [verdict(*((t.name, t.color, t.x, t.y) for t in w.scene.things)) for w in (wishes[0], wishes[2])]

    told = [ENGLISH.plan(wish.scene) for wish in wishes]
    replies = [
        Reply([told[0], pictures[0]], "stop"),
        Reply([told[1]], "stop"),
        Reply([pictures[2]], "stop"),
        Reply([], "stop"),
    ]
    good, extra = task.grade(None, Judge(), replies)
    assert good == [True, False, True, False] and extra == {"plans": 1.0}, "a picture without words has no plan"
    cut = [Reply([words.rstrip(":")], "stop") for words in (*told[:3], told[0])]
    assert plans.grade(None, None, cut)[0] == [True, True, True, False]


def test_a_plan_costs_no_picture(monkeypatch):
    asked = []
    monkeypatch.setattr(tasks.Limner, "generate", lambda model, prompts, **options: asked.append(options) or [])
    validation.planning_task(LANGUAGES[1], 2).generate_batch(tasks.Limner, 0)
    assert asked[0]["max_images"] == 0 and asked[0]["stop"] == LANGUAGES[1].colon


def test_everyday_messages_want_words_and_no_picture():
    task = validation.everyday_task(5)
    talk = {line["text"] for code in ("en", "zh", "ko") for line in strangers.lines(code, True)["talk"]}
    assert len(task.prompts) == 15 and set(task.prompts) <= talk
    replies = [Reply(["Hello!"], "stop")] * 5 + [Reply([render(Scene(()))], "stop")] * 4 + [Reply([], "stop")] * 6
    good, extra = task.grade(None, None, replies)
    assert good == [True] * 5 + [False] * 10 and extra == {"english": 1.0, "chinese": 0.0, "korean": 0.0}
    assert len(validation.everyday_task(500).prompts) > 100

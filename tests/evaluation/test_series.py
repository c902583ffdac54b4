"""Replies of several pictures, counted stories, edits in a row: what counts as right."""

import itertools

import numpy as np
import pytest
from PIL import Image

from limner.evaluation import kept, series, stories, tasks
from limner.evaluation.judge import Detection, Verdict
from limner.inference.reply import Reply
from limner.world import sampling
from limner.world.scene import Scene, Thing, render


class Seen:
    """A judge that reads off scenes, which stand in for pictures."""

    def detect(self, scenes):
        return [verdict(scene) for scene in scenes]


def verdict(scene):
    return Verdict(tuple(Detection(t.name, t.color, t.x, t.y, 1.0) for t in scene.things), scene.background)


def reply(scenes, words=None):
    """Every scene after its words; pictures are looked at by `Seen` alone."""
    return Told([part for pair in zip(words or [""] * len(scenes), scenes, strict=True) for part in pair], "stop")


class Told(Reply):
    @property
    def images(self):
        return [part for part in self.parts if isinstance(part, Scene)]


@pytest.fixture(autouse=True)
def scenes_for_pictures(monkeypatch):
    monkeypatch.setattr(series, "render", lambda scene: scene)
    monkeypatch.setattr(stories, "render", lambda scene: scene)


@pytest.mark.parametrize("pictures", series.PICTURE_COUNTS)
def test_a_series_is_right_in_number_order_and_each_picture(pictures):
    task, asked = series.series_task(pictures, 40), series.series_requests(pictures, 40)
    assert list(task.prompts) == [own.prompt for own in asked] and task.name == f"draw/several/{pictures}"
    assert any(own.prompt.startswith(("the same", "a ", "an ")) or " colours" in own.prompt for own in asked)
    good, extra = task.grade(None, Seen(), [reply(own.scenes) for own in asked])
    assert all(good) and set(extra.values()) == {1.0}
    good, extra = task.grade(None, Seen(), [reply(own.scenes[:-1]) for own in asked])
    assert not any(good) and extra["right_number"] == 0 and extra["right_pictures"] == (pictures - 1) / pictures
    good, extra = task.grade(None, Seen(), [reply([*own.scenes, own.scenes[0]]) for own in asked])
    assert not any(good) and extra["right_number"] == 0 and extra["right_pictures"] == 1
    strict = [own for own in asked if len(set(own.expected)) == pictures]  # whose order is said
    assert strict and len(strict) < len(asked)
    assert not any(all(own.right_pictures(list(map(verdict, own.scenes[::-1])))) for own in strict)
    (different, *_) = (own for own in asked if own.all_different)
    again = [verdict(different.scenes[0])] * pictures
    assert different.right_pictures(again) == [True] + [False] * (pictures - 1), "the same again is not another one"


def test_a_counted_story_is_right_in_number_and_keeps_its_character():
    task = stories.counted_story_task(3, 1)
    (prompt,) = task.prompts
    color, name = next((c, n) for n in tasks.ASKING.names for c in sampling.COLOR_NAMES if f"{c} {n}" in prompt)
    assert "three" in prompt and task.name == "story/3"

    def told(*shown, said=("Once there was a {h}.", "It was happy.", "The {n} slept.")):
        words = [line.format(h=f"{color} {name}", n=name) for line in said]
        return task.grade(None, Seen(), [reply([Scene((Thing(*own, "large", 0.5, 0.5),)) for own in shown], words)])

    hero, other = (name, color), ("stop sign" if name != "stop sign" else "cat", "red")
    blue = (name, "blue" if color != "blue" else "green")
    assert told(hero, hero, hero)[0] == [True]
    assert told(hero, other, hero)[0] == [True], "its sentence does not name the character"
    good, extra = told(hero, hero, other)
    assert (
        good == [False] and extra["right_number"] == 1 and extra["pictures_with_the_character"] == pytest.approx(2 / 3)
    )
    assert told(hero, hero, blue)[0] == [False]
    assert told(hero, hero, blue, said=("A {n}.", f"It turned {blue[1]}.", "The {n} slept."))[0] == [True]
    good, extra = told(hero, hero, said=("A {n}.", "A {n}."))
    assert good == [False] and extra["right_number"] == 0 and extra["character_kept"] == 1
    assert 0 <= extra["kept_in_true_stories"] <= 1 and 0.7 < stories.true_stories(Seen(), 3, 30) <= 1
    assert task.grade(None, Seen(), [Told(["Once."], "stop")])[1]["character_kept"] == 0


def test_ten_edits_in_a_row_leave_a_thing_and_the_ground_alone():
    task = kept.kept_task(10, 3)
    assert task.name == "edits/kept/10" and kept.kept_task(1, 1, keep="exact").name == "edits/exact/1"
    chains = task.generate.keywords["chains"]
    for chain in chains:
        scenes = [chain[0].before, *(change.after for change in chain)]
        assert all(a.after == b.before for a, b in itertools.pairwise(chain)) and len(chain) == 10
        mask = kept.untouched(scenes)
        pictures = [np.array(render(scene)) for scene in scenes]
        assert all((picture == pictures[0])[mask[..., 0]].all() for picture in pictures) and 0.3 < mask.mean() < 1
        (bystander,) = set.intersection(*(set(scene.things) for scene in scenes))
        inner = kept.shrunk(mask)
        assert not (inner & ~mask).any() and inner.sum() < mask.sum()
        x, y = round(bystander.x * 128), round(bystander.y * 128)
        assert mask[y - 15 : y + 15, x - 15 : x + 15].all()


class Chats:
    """A model that gives the last picture back, brighter by two."""

    class defaults:
        history = 3

    def __init__(self):
        self.asked = []

    def draw(self, conversations, seed, **options):
        self.asked.append((conversations, seed, options))
        shown = [[p["image"] for m in told for p in m["content"] if p["type"] == "image"][-1] for told in conversations]
        return [
            Reply([Image.fromarray((np.asarray(p) // 2 * 2 + 2).clip(0, 255).astype(np.uint8))], "stop") for p in shown
        ]


def test_edits_in_a_row_are_asked_in_one_chat_and_measured_against_the_autoencoder(monkeypatch):
    task, model = kept.kept_task(10, 2, steps=7), Chats()
    replies = [told for start in range(0, 2, 16) for told in task.generate_batch(model, start)]
    assert [len(told.images) for told in replies] == [10, 10] and len(model.asked) == 10
    conversations, seed, options = model.asked[-1]
    chain = task.generate.keywords["chains"][1]
    assert seed == [0, 1] and options["num_inference_steps"] == 7 and options["keep"] == "model"
    assert [m["role"] for m in conversations[1]] == ["user", "assistant"] * 3 + ["user"], "as a chat shows them"
    assert conversations[1][-1]["content"][-1]["text"] == chain[9].instruction

    class Judge:
        def detect(self, images):
            return [verdict(own[-1].after) for own in task.generate.keywords["chains"]]

    monkeypatch.setattr(kept, "reconstruct", lambda _, pixels: (pixels.astype(int) + 4).clip(0, 255).astype(np.uint8))
    good, extra = task.grade(model, Judge(), replies)
    assert good == [False, False] and extra["last_edit_right"] == 1
    assert (
        10 < extra["db_below_the_autoencoder"] == pytest.approx(extra["autoencoder_alone"] - extra["psnr_of_the_rest"])
    )
    shown = [told[0]["content"][0]["image"] for told in model.asked[0][0]]
    good, extra = task.grade(model, Judge(), [Reply([picture], "stop") for picture in shown])
    assert good == [True, True] and extra["db_below_the_autoencoder"] == 0 and extra["psnr_of_the_rest"] == 99

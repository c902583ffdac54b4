import itertools
import random
import re

from PIL import Image

from limner.evaluation.judge import Detection, Verdict
from limner.evaluation.tasks import story_task
from limner.inference.reply import Reply
from limner.world import stories
from limner.world.held_out import is_held_out
from limner.world.stories import LENGTHS, story
from limner.world.words import facts, read_caption


def test_one_character_throughout_and_something_new_in_every_picture(monkeypatch):
    monkeypatch.setattr(stories, "casual_typing", lambda rng, words: words)  # a typing error may hit the number
    rng = random.Random(0)
    lengths, asked = set(), set()
    for _ in range(300):
        request, told = story(rng).messages
        scenes = [p["image"] for p in told["content"] if p["type"] == "image"]
        said = [p["text"] for p in told["content"] if p["type"] == "text"]
        hero = scenes[0].things[0]
        lengths.add(len(scenes))
        assert all(any((t.name, t.color) == (hero.name, hero.color) for t in s.things) for s in scenes)
        assert not any(is_held_out(s) for s in scenes) and all(a != b for a, b in itertools.pairwise(scenes))
        assert len(said) == len(scenes) + 1 and all(words.endswith(":") for words in said[:-1])
        for words, scene in zip(said, scenes, strict=False):
            assert read_caption(words.removeprefix("Once there was ").split(": ")[-1]) == facts(scene)
        words = request["content"][0]["text"]
        numbers = [n for n, name in LENGTHS.items() if re.search(rf"\b({n}|{name}) (pictures|parts)$", words)]
        assert numbers == [len(scenes)] or (not numbers and len(scenes) == 4), words
        asked |= set(numbers)
    assert lengths == asked == {3, 4, 5, 6}


def test_a_story_is_right_with_as_many_pictures_as_were_asked_for():
    """One that does not stop keeps its character in the first four, too."""
    task = story_task(1)
    color, name = re.search(r"about an? (\S+) (.+) in four", task.prompts[0]).groups()

    class Sees:
        def detect(self, images: list[Image.Image]) -> list[Verdict]:
            return [Verdict((Detection(name, color, 0.5, 0.5, 1.0),), "plain") for _ in images]

    told = [Reply([Image.new("RGB", (128, 128))] * count, "stop") for count in (3, 4, 5)]
    assert [task.grade(None, Sees(), [reply])[0] for reply in told] == [[False], [True], [False]]

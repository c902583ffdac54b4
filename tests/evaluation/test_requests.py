"""The hand-written requests: askable, checkable, and never trained on."""

import random
from collections import Counter

import pytest
from PIL import Image

from limner.evaluation.judge import Detection, Verdict
from limner.evaluation.requests import TASKS, Request, load_requests
from limner.inference.reply import Reply
from limner.world import talk
from limner.world.held_out import normalized


class Sees:
    """A judge that says what it was told."""

    def __init__(self, *things, background="plain"):
        self.verdict = Verdict(tuple(Detection(n, c, x, 0.5, 1.0) for c, n, x in things), background)

    def detect(self, images):
        return [self.verdict]


@pytest.mark.slow
def test_there_are_a_hundred_and_none_is_a_template_of_the_world():
    chosen = load_requests()
    counts = Counter(request.task for request in chosen)
    assert len(chosen) >= 200 and set(counts) == set(TASKS) and min(counts.values()) >= 10
    assert len({request.say for request in chosen}) == len(chosen)
    rng = random.Random(0)
    trained = set()
    for _ in range(20_000):
        for message in talk.conversation(rng).messages:
            trained |= {normalized(part["text"]) for part in message["content"] if part["type"] == "text"}
    assert not trained & {normalized(request.say) for request in chosen}


def test_what_counts_as_done():
    picture, cat = Image.new("RGB", (8, 8)), Sees(("red", "cat", 0.3))
    draw = Request("draw", "a red cat", ("red cat",))
    assert draw.matches(Reply([picture], "stop"), cat)
    assert not draw.matches(Reply(["A red cat."], "stop"), cat)
    assert not draw.matches(Reply([picture], "stop"), Sees(("blue", "cat", 0.3)))
    two = Request("draw", "cat left of dog", ("- cat", "- dog"), "left of")
    assert two.matches(Reply([picture], "stop"), Sees(("red", "cat", 0.2), ("blue", "dog", 0.8)))
    assert not two.matches(Reply([picture], "stop"), Sees(("red", "cat", 0.8), ("blue", "dog", 0.2)))
    night = Request("edit", "make it night", ("red cat",), shown=("red cat",), after="night")
    assert not night.matches(Reply([picture], "stop"), cat)
    assert night.matches(Reply([picture], "stop"), Sees(("red", "cat", 0.5), background="night"))
    answer = Request("answer", "how many?", shown=("red cat", "red cat"), words=("two",))
    assert answer.matches(Reply(["Two."], "stop"), cat) and not answer.matches(Reply(["Three."], "stop"), cat)
    assert answer.picture().size == (128, 128)
    refuse, talked = Request("refuse", "draw a frog"), Request("talk", "hi")
    assert refuse.matches(Reply(["I can't draw a frog yet."], "stop"), cat)
    assert not refuse.matches(Reply(["Hello!"], "stop"), cat) and talked.matches(Reply(["Hello!"], "stop"), cat)
    assert not talked.matches(Reply(["Hello!", picture], "stop"), cat)
